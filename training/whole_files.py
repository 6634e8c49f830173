"""Small files that are written whole or not at all, and errors that name the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace(path: Path, data: str | bytes) -> None:
    """Replaces a file. After a kill or a loss of power it is the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    with naming(path), new.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an `OSError` that names no file, such as of a full disk, the name of this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
