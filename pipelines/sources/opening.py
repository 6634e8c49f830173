"""Opens the files of a source with any compression; checks the size of a file before reading it."""

import gzip
import io
import os
import re
import stat
import tempfile
import threading
import zlib
from functools import lru_cache
from shutil import copyfileobj
from typing import Any, BinaryIO, NamedTuple

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from pipelines.engine.remote import open_bytes, read_bytes
from pipelines.sources.files import TooLarge, Unreadable, info_of

CODECS = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"\x28\xb5\x2f\xfd": lambda raw: pa.CompressedInputStream(raw, "zstd"),
}  # by the first bytes of a file
OTHER_CODECS = re.compile(rb"BZh[1-9]1AY|\xfd7zXZ|PK\x03\x04|7z\xbc\xaf|Rar!")
DAMAGED = (EOFError, zlib.error, pa.ArrowException, OSError)  # raised for damaged compressed bytes
PLAIN_FIX = "write it without compression"
SMALL, RATIO = 1 << 30, 200  # bytes, and times its size: a compressed file may expand to the larger of both


def open_file(fs: fsspec.AbstractFileSystem, path: str, name: str, holes: bool = False) -> BinaryIO:
    """A reader of a file's bytes, decompressed if its first bytes are those of gzip or zstd.

    A file that is not compressed can be sought in. `name` is what errors call the file. `holes`: whether a file that is
    almost only a hole may be opened. Raises `Unreadable`, here or while reading, also for a broken link, for what is
    not a regular file, and for damaged compressed bytes.
    """
    raw = open_raw(fs, path, name)
    if not holes and isinstance(fs, LocalFileSystem) and _is_hole(os.fstat(raw.fileno())):
        raise Unreadable(f"{name}: is almost entirely a hole of {os.fstat(raw.fileno()).st_size} bytes")
    head = raw.read(8)
    raw.seek(0)
    if OTHER_CODECS.match(head):
        raise Unreadable(f"{name}: is an archive or compression that is not read; write it as .gz, .zst or .tar")
    codec = next((codec for begin, codec in CODECS.items() if head.startswith(begin)), None)
    return io.BufferedReader(_Expanded(raw, codec, name), 1 << 20) if codec else raw


def _is_hole(info: os.stat_result) -> bool:
    """Whether a large file takes almost no room on the disk, as one that `truncate` made."""
    return info.st_size > SMALL and info.st_blocks * 512 * 1000 < info.st_size


def open_raw(fs: fsspec.AbstractFileSystem, path: str, name: str) -> BinaryIO:
    """A reader of a file's bytes as they are, which can be sought in. Raises `Unreadable`."""
    if isinstance(fs, LocalFileSystem):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe nobody writes to would block otherwise
        except FileNotFoundError:
            raise Unreadable(f"{name}: does not exist" + ("; a broken link" if os.path.islink(path) else "")) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Unreadable(f"{name}: is not a regular file")
        return os.fdopen(descriptor, "rb")
    return open_bytes(fs, path) if has_ranges(fs, path) else _copy(fs, path)


class Archive(NamedTuple):
    """An archive, open for any place in it; expanded, if it is compressed."""

    file: BinaryIO
    damage: str | None  # why not all of it could be expanded
    packed: int | None = None  # bytes of the file, if it is compressed


class Archives(threading.local):
    """The archive that a thread has opened last, which stays open."""

    key: tuple | None = None
    archive: Archive | None = None

    def open(self, fs: fsspec.AbstractFileSystem, path: str, name: str) -> Archive:
        """Raises `Unreadable` for a broken link and for anything but a regular file."""
        mark = ()
        if isinstance(fs, LocalFileSystem):
            info = info_of(path)
            mark = (info.get("ino"), info["size"], info["mtime"])
        key = (os.getpid(), *fs.protocol, path, *mark)
        archive = self.archive
        if archive is None or self.key != key:
            if archive:
                archive.file.close()
            self.key = self.archive = None
            archive = _expanded(open_file(fs, path, name, holes=True))
            self.archive, self.key = archive, key
        return archive


archives = Archives()


def read_range(fs: fsspec.AbstractFileSystem, path: str, name: str, start: int, size: int) -> bytes:
    """`size` bytes from `start` of an archive, expanded if it is compressed; fewer where it ends."""
    if isinstance(fs, LocalFileSystem) or "http" in fs.protocol or _is_compressed(fs, path):
        file = archives.open(fs, path, name).file
        if hasattr(file, "fileno"):
            return os.pread(file.fileno(), size, start)
    return read_bytes(fs, path, start, start + size)


@lru_cache(maxsize=1000)
def _is_compressed(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    return read_bytes(fs, path, 0, 8).startswith(tuple(CODECS))


def _expanded(file: BinaryIO) -> Archive:
    """A file, or a temporary one of its decompressed bytes."""
    if not (isinstance(file, io.BufferedReader) and isinstance(file.raw, _Expanded)):
        return Archive(file, None)
    copy, damage, packed = tempfile.TemporaryFile(), None, packed_size(file)
    try:
        with file:
            while chunk := file.read1(1 << 20):
                copy.write(chunk)
    except Unreadable as error:
        damage = str(error)
    copy.flush()
    return Archive(copy, damage, packed)


def has_ranges(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    """Whether parts of a file can be asked for; some web servers always send all of it."""
    if "http" not in fs.protocol:
        return True
    with open_bytes(fs, path, cache_type="none") as probe:
        try:
            probe.seek(min(1, getattr(probe, "size", None) or 0))
            probe.read(1)
        except (ValueError, OSError):
            return False
    return True


def _copy(fs: fsspec.AbstractFileSystem, path: str) -> BinaryIO:
    """The whole of a remote file, in a temporary file."""
    copy = tempfile.TemporaryFile()
    with open_bytes(fs, path, block_size=0) as stream:
        copyfileobj(stream, copy, 1 << 20)
    copy.seek(0)
    return copy


class _Expanded(io.RawIOBase):
    """The decompressed bytes of a file, to its very end. Raises `Unreadable` where they are cut or damaged."""

    def __init__(self, raw: BinaryIO, codec: Any, name: str) -> None:
        self.raw, self.name = raw, name
        self.packed = raw.seek(0, os.SEEK_END)  # bytes
        self.left = self.limit = max(SMALL, RATIO * self.packed)  # bytes that it may expand to
        raw.seek(0)
        self.stream = codec(raw)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        try:
            data = self.stream.read(len(buffer))
        except DAMAGED as error:
            raise Unreadable(f"{self.name}: is cut or damaged: {' '.join(str(error).split())[:200]}") from None
        self.left -= len(data)
        if self.left < 0:
            raise Unreadable(f"{self.name}: expands to more than {self.limit} bytes; {PLAIN_FIX}")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
            self.raw.close()
        super().close()


def packed_size(file: BinaryIO) -> int | None:
    """The bytes of a compressed file, given its reader of `open_file`; None if it is not compressed."""
    raw = getattr(file, "raw", None)
    return raw.packed if isinstance(raw, _Expanded) else None


def read_file(fs: fsspec.AbstractFileSystem, path: str, name: str, limit: int, size: int | None = None) -> bytes:
    """All bytes of a file that has at most `limit`. `size`: from a listing, so that no request is needed for it.

    Its size is looked at before anything is read. Raises `TooLarge`, `FileNotFoundError`, and `Unreadable` for what is
    not a regular file.
    """
    if isinstance(fs, LocalFileSystem):
        if not os.path.exists(path):
            raise FileNotFoundError(name)
        with open_raw(fs, path, name) as file:
            return _bounded(file, limit, os.fstat(file.fileno()).st_size)
    if "http" in fs.protocol:
        with open_bytes(fs, path, block_size=0) as stream:
            return _bounded(stream, limit, size)
    size = fs.info(path)["size"] if size is None else size
    if size > limit:
        raise TooLarge(size, limit)
    return read_bytes(fs, path)


def _bounded(stream: BinaryIO, limit: int, size: int | None) -> bytes:
    """All that a stream has, if that is at most `limit` bytes."""
    data = bytearray()
    while (size or 0) <= limit and len(data) <= limit:
        more = stream.read(min(limit + 1 - len(data), 1 << 24))
        if not more:
            return bytes(data)
        data += more
    raise TooLarge(size, limit)
