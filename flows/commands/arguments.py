"""The arguments that commands share, and the corpus that one of them names."""

from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import UserError

Config = Annotated[Path, typer.Argument(help="The configuration, a TOML file.", show_default=False)]
Engine = Annotated[
    str | None, typer.Option(help="The OCR engine of this run, whatever the configuration says: rapidocr or easyocr.")
]
RootUrl = Annotated[
    str, typer.Argument(metavar="ROOT", help="A corpus: its folder or URL, or its configuration.", show_default=False)
]


def open_root(url: str):
    """A root that is there, named by itself or by its configuration. Raises `UserError` for a folder that is none."""
    from pipelines.engine.manifest import MANIFEST
    from pipelines.engine.root import Root
    from schemas.config.file import read_config

    if url.endswith(".toml"):
        url = read_config(url).root
    root = Root(str(Path(url).resolve()) if "://" not in url else url)
    if not root.exists(MANIFEST):
        raise UserError(f"{url}: no corpus there (no {MANIFEST}); name the `root` of a configuration that was run")
    return root
