"""Arguments that commands share, and how the corpus that one of them names is opened."""

from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import UserError

Config = Annotated[Path, typer.Argument(help="Configuration, a TOML file.", show_default=False)]
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

    if url.endswith(".toml"):
        url = read_config(url).root
    root = Root(str(Path(url).resolve()) if "://" not in url else url)
    if not root.exists(MANIFEST):
        raise UserError(
            f"{url}: no corpus found here ({MANIFEST} is missing); name the `root` of a configuration that was run"
        )
    return root
