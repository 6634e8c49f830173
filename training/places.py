"""What a folder holds, so that no program writes into a folder of another kind."""

from collections.abc import Callable
from pathlib import Path

from schemas.errors import UserError

CORPUS, RUN, MODEL, TOKENIZER, EXPORT = "a corpus", "a run", "a model", "a tokenizer", "an export"


def _has(*names: str) -> Callable[[Path], bool]:
    return lambda folder: all((folder / name).exists() for name in names)


def _is_model(folder: Path) -> bool:
    return (folder / "model.safetensors").exists() or _has("shape.json", "tokenizer.json")(folder)


def _is_run(folder: Path) -> bool:
    return (folder / "latest.json").exists() or (folder / "lock.json").exists()


KINDS: dict[str, Callable[[Path], bool]] = {
    CORPUS: lambda folder: (folder / "shards").is_dir(),
    RUN: _is_run,
    MODEL: _is_model,
    TOKENIZER: lambda folder: _has("tokenizer.json")(folder) and not _is_model(folder),
    EXPORT: lambda folder: any(folder.glob("*.gguf")),
}
OF_RUN = ("log.parquet", "log.jsonl", "chart.svg")


def check_place(folder: Path, kind: str) -> None:
    """Raises `UserError` if a folder to be written as `kind` is a file, or holds something else.

    A run that exists is always one, whatever else is in its folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; name another")
    if not folder.resolve().name:
        raise UserError(f"{folder}: is the root of the file system; name another folder")
    if kind == RUN and _is_run(folder) and not KINDS[CORPUS](folder):
        return
    for other, holds in KINDS.items():
        if other != kind and holds(folder):
            raise UserError(f"{folder}: is the folder of {other}, and {kind} would be written into it; name another")
    if kind == RUN and (there := [name for name in OF_RUN if (folder / name).exists()]):
        raise UserError(f"{folder}: holds {there[0]}, which is of no run and would be written over; name another")
