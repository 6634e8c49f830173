"""Writes of remote files that depend on what they replace: of two writers who saw the same file, one succeeds.

S3 decides by If-Match and If-None-Match, so that no clock counts. Google Cloud Storage decides whether a file is new;
otherwise, and on other filesystems, the file is looked at right before it is written: two writers within one request
can both succeed there.
"""

import hashlib
import io
import threading
from contextlib import suppress
from typing import Any

import fsspec
from fsspec.asyn import sync

PIECE = 1 << 20  # bytes
REFUSED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}  # S3's codes

writing = threading.Lock()  # of files whose filesystem has no conditional writes


class Replaced(Exception):
    """A file is no longer the one that was to be replaced."""


def write_if(fs: fsspec.AbstractFileSystem, path: str, data: bytes, expected: str | None) -> str:
    """Writes a file if it still has the stamp `expected`, or does not exist if that is None; returns its new stamp.

    A file that already has this content counts as written: a writer whose answer got lost tries again. Raises
    `Replaced` if it is another file, `OSError` if it cannot be written.
    """
    try:
        return _put_s3(fs, path, data, expected) if is_s3(fs) else _put(fs, path, data, expected)
    except Replaced:
        with suppress(FileNotFoundError):
            now, at = read_stamped(fs, path)
            if now == data:
                return at
        raise


def _put_s3(fs: Any, path: str, data: bytes, expected: str | None) -> str:
    condition = {"IfMatch": etag_of(expected)} if expected else {"mode": "create"}
    try:
        answer = fs.pipe_file(path, data, **condition)
    except OSError as error:
        code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", "")
        absent = expected and isinstance(error, FileNotFoundError) and code != "NoSuchBucket"
        if absent or code in REFUSED or isinstance(error, FileExistsError):
            raise Replaced(path) from None
        raise
    return stamp({"size": len(data), "ETag": answer["ETag"]})


def _put(fs: fsspec.AbstractFileSystem, path: str, data: bytes, expected: str | None) -> str:
    with writing:
        try:
            now = stamp(fs.info(path))
        except FileNotFoundError:
            now = None
        if now != expected:
            raise Replaced(path)
        try:
            fs.pipe_file(path, data, mode="overwrite" if expected else "create")
        except FileExistsError:
            raise Replaced(path) from None
        return stamp(fs.info(path))


def read_stamped(fs: Any, path: str, most: int | None = None) -> tuple[bytes, str]:
    """A whole file, or its first `most` bytes, and its stamp; on S3 by one request. Raises `OSError`."""
    if is_s3(fs):
        return get(fs, path, most=most)
    info = fs.info(path)  # before its content: of an older file than that, which fails later
    return fs.cat_file(path, end=most if most is not None and info["size"] > most else None), stamp(info)


def get(fs: Any, path: str, most: int | None = None, last: int | None = None) -> tuple[bytes, str]:
    """A file of S3 by one request: all of it, or its first `most`, or its `last` bytes; and its stamp."""
    from s3fs.core import _error_wrapper  # pyright: ignore[reportPrivateUsage]  as its own `cat_file` retries

    read: Any = sync(fs.loop, _error_wrapper, _get, args=(fs, path, most, last), retries=fs.retries)
    return read


async def _get(fs: Any, path: str, most: int | None, last: int | None) -> tuple[bytes, str]:
    bucket, key, _ = fs.split_path(path)
    part = {} if last is None else {"Range": f"bytes=-{last}"}
    answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **part)
    data = bytearray()
    async with answer["Body"] as body:
        while (most is None or len(data) < most) and (piece := await body.read(PIECE)):
            data += piece
    size = answer.get("ContentRange", f"/{answer['ContentLength']}").rpartition("/")[2]
    return bytes(data[:most]), stamp({"size": int(size), "ETag": answer["ETag"]})


def remove_s3(fs: Any, paths: list[str]) -> None:
    """Removes up to a thousand files by one request; those that do not exist, too."""
    if paths:
        sync(fs.loop, fs._bulk_delete, paths)


def is_s3(fs: fsspec.AbstractFileSystem) -> bool:
    return "s3" in fs.protocol


def stamp(info: dict) -> str:
    """A text that changes when the file does, from an fsspec listing: its size with its etag or modification time."""
    mark = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or info.get("created")
    return f"{info['size']}-{str(mark).strip(chr(34))}"


def stamp_of(data: bytes) -> str:
    """The stamp of a file with this content, in a store whose etags are MD5s: S3's are, unless it encrypts by keys of
    its own. A file that has this stamp has this content."""
    return f"{len(data)}-{hashlib.md5(data, usedforsecurity=False).hexdigest()}"


def etag_of(stamp: str) -> str:
    return f'"{stamp.partition("-")[2]}"'


class FileEnd(io.RawIOBase):
    """A file of which only the end was read. Raises `Unread` where more is asked for."""

    def __init__(self, data: bytes, size: int):
        self.data, self.size, self.at = data, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self.at = max(0, offset + (0, self.at, self.size)[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, size: int | None = -1, /) -> bytes:
        start = self.at - (self.size - len(self.data))
        if start < 0 and size:
            raise Unread(f"byte {self.at} was not read")
        data = self.data[start:] if size is None or size < 0 else self.data[start : start + size]
        self.at += len(data)
        return data


class Unread(Exception):
    """A part of a file is asked for that was not read."""
