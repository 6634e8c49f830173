"""Files and folders that are written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
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


@contextmanager
def filled(folder: Path, last: str) -> Iterator[Path]:
    """A new folder that becomes `folder` at the end. If that exists, the files replace its own; others there stay.

    `last` is the file without which the folder says nothing: it is taken away first, and put there last, so that a kill
    never leaves a folder that looks whole with new files beside old ones. Raises `UserError` if `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; name another")
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
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
