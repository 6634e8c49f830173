"""What lies in the folder of an export."""

from pathlib import Path

from schemas.errors import UserError


def files(folder: Path) -> tuple[Path, Path]:
    """The language model and the mmproj file. Raises `UserError` if there is not one of each."""
    mmproj = sorted(folder.glob("mmproj*.gguf"))
    language = sorted(set(folder.glob("*.gguf")) - set(mmproj))
    for found, what in ((language, "a language model"), (mmproj, "an mmproj file")):
        if len(found) != 1:
            there = ", ".join(path.name for path in found) or "none"
            raise UserError(f"{folder}: needs one GGUF file of {what}, there is {there}; see `shardmill export`")
    return language[0], mmproj[0]
