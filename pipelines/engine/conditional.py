"""Writes of remote files that depend on what they replace: of two writers who saw the same file, one succeeds.

S3 decides by If-Match and If-None-Match, so that no clock counts. Google Cloud Storage decides whether a file is new;
otherwise, and on other filesystems, the file is looked at right before it is written: two writers within one request
can both succeed there.
"""

import threading
from contextlib import suppress
from typing import Any

import fsspec
from fsspec.asyn import sync

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


def read_stamped(fs: Any, path: str) -> tuple[bytes, str]:
    """A whole file and its stamp; on S3 by one request. Raises `OSError`."""
    if is_s3(fs):
        from s3fs.core import _error_wrapper  # pyright: ignore[reportPrivateUsage]  as its own `cat_file` retries

        read: Any = sync(fs.loop, _error_wrapper, _get, args=(fs, path), retries=fs.retries)
        return read
    now = stamp(fs.info(path))  # before its content: of an older file than that, which fails later
    return fs.cat_file(path), now


async def _get(fs: Any, path: str) -> tuple[bytes, str]:
    bucket, key, _ = fs.split_path(path)
    answer = await fs._call_s3("get_object", Bucket=bucket, Key=key)
    async with answer["Body"] as body:
        data = await body.read()
    return data, stamp({"size": len(data), "ETag": answer["ETag"]})


def is_s3(fs: fsspec.AbstractFileSystem) -> bool:
    return "s3" in fs.protocol


def stamp(info: dict) -> str:
    """A text that changes when the file does, from an fsspec listing: its size with its etag or modification time."""
    mark = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or info.get("created")
    return f"{info['size']}-{str(mark).strip(chr(34))}"


def etag_of(stamp: str) -> str:
    return f'"{stamp.partition("-")[2]}"'
