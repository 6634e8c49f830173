"""Files and folders that are written whole or not at all."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import UserError, naming


def replace(path: Path, data: str | bytes) -> None:
    """Replaces a file. After a kill or a loss of power it is the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    with naming(path), new.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def is_of(folder: Path, names: Collection[str]) -> bool:
    """Whether a folder holds nothing but files of these names, and what a killed writer of them has left."""
    return folder.is_dir() and all(name in names or name.startswith(".tmp") for name in os.listdir(folder))


def clear(folder: Path, names: Collection[str]) -> None:
    """Removes a folder of such files, if it is there. Raises `UserError` if it holds others."""
    if not folder.exists():
        return
    if not is_of(folder, names):
        raise UserError(f"{folder}: holds other files than those that are written there; move it away")
    shutil.rmtree(folder)


@contextmanager
def filled(folder: Path, last: str, names: Collection[str]) -> Iterator[Path]:
    """A new folder that becomes `folder` at the end. If that exists, the files replace its own; others there stay.

    `last` is the file without which the folder says nothing: it is taken away first, and put there last, so that a kill
    never leaves a folder that looks whole with new files beside old ones. `names` are those of all files that may be
    written.
    """
    folder = folder.resolve()
    new = folder.with_name(f".{folder.name}.new")
    clear(new, names)
    try:
        yield new
        if not folder.exists():
            new.rename(folder)
            return
        (folder / last).unlink(missing_ok=True)
        for path in sorted(new.iterdir(), key=lambda path: path.name == last):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
