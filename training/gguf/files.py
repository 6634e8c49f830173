"""The files in the folder of an export."""

from pathlib import Path

from schemas.errors import UserError


def files(folder: Path) -> tuple[Path, Path]:
    """The language model and the mmproj file. Raises `UserError` if there is not one of each."""
    mmproj = sorted(folder.glob("mmproj*.gguf"))
    language = sorted(set(folder.glob("*.gguf")) - set(mmproj))
    for paths, what in ((language, "a language model"), (mmproj, "an mmproj file")):
        if len(paths) != 1:
            names = ", ".join(path.name for path in paths) or "none"
            raise UserError(f"{folder}: needs one GGUF file of {what}, found {names}; see `shardmill export`")
    return language[0], mmproj[0]
