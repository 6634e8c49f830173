"""Files of any fsspec filesystem, as bytes. fsspec's own types leave open whether a file gives text."""

from typing import Any, BinaryIO

import fsspec


def open_bytes(fs: fsspec.AbstractFileSystem, path: str, **options: Any) -> BinaryIO:
    """A file, opened to be read. `options` are those of its filesystem. Raises `OSError`."""
    return fs.open(path, "rb", **options)  # pyright: ignore[reportReturnType]  typed as if "rb" might give text


def read_bytes(fs: fsspec.AbstractFileSystem, path: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of a file, or those from `start` to `end`. Raises `OSError`."""
    return fs.cat_file(path, start=start, end=end)  # pyright: ignore[reportReturnType]  likewise
