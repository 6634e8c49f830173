"""Arguments that commands share, and how the corpus that one of them names is opened."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from schemas.errors import UserError

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration, a TOML file.", show_default=False)]
Engine = Annotated[
    str | None, typer.Option(help="OCR engine of this run, instead of the configured one: rapidocr or easyocr.")
]
RootUrl = Annotated[
    str,
    typer.Argument(metavar="ROOT", help="The corpus: its folder, its URL or its configuration.", show_default=False),
]


def open_root(url: str):
    """The root of an existing corpus, named by itself or by its configuration. Raises `UserError` if there is none."""
    from pipelines.engine.manifest import MANIFEST
    from pipelines.engine.root import Root
    from schemas.config.file import read_config

    config = url if url.endswith(".toml") else None
    if config:
        url = read_config(url).root
    root = Root(str(Path(url).resolve()) if "://" not in url else url)
    if not root.exists(MANIFEST):
        fix = (
            f"first run: shardmill run {quote(config)}" if config else "name the `root` of a configuration that was run"
        )
        raise UserError(f"{url}: no corpus found here ({MANIFEST} is missing); {fix}")
    return root
