"""The files of a source: found through links, and opened whatever their compression.

A link is the file or the folder that it leads to. A link to a folder that contains the link itself is not followed. A
broken link, and what is neither a file nor a folder (a pipe, a device), are listed too, so that they get a reason.
"""

import gzip
import io
import os
import re
import stat
import tempfile
import threading
import zlib
from collections.abc import Iterator
from functools import lru_cache
from shutil import copyfileobj
from typing import Any, BinaryIO, NamedTuple

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from schemas.errors import UserError

Info = dict[str, Any]  # as fsspec lists a file: "type", "size", and what changes with it

CODECS = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"\x28\xb5\x2f\xfd": lambda raw: pa.CompressedInputStream(raw, "zstd"),
}  # by the first bytes of a file
OTHER_CODECS = re.compile(rb"BZh[1-9]1AY|\xfd7zXZ|PK\x03\x04|7z\xbc\xaf|Rar!")
COMPRESSED = ("gz", "zst")
OTHER_NAMES = {"tgz": "tar", "ndjson": "jsonl"}  # of suffixes
NO_DATA = {"md", "toml", "crc", "db", "ini", "lock"}  # suffixes of files without samples
NO_DATA_NAMES = re.compile(
    r"(readme|licen[cs]e|_success|_metadata|_common_metadata)\b.*|.*_stats\.json|dataset_infos?\.json|state\.json",
    re.IGNORECASE,
)
DAMAGED = (EOFError, zlib.error, pa.ArrowException, OSError)  # raised for damaged compressed bytes
SMALL, RATIO = 1 << 30, 200  # bytes, and times its size: an archive may expand to the larger of both
LISTED = 100  # how often links may lead to one folder


class Unreadable(ValueError):
    """A file of a source, or the rest of it, cannot be read: a row says why. The message names the file."""


def suffix(name: str) -> str:
    """The suffix of a file's name in lower case, without that of a compression: `jsonl` for `a.JSONL.gz`."""
    stem, _, last = name.rpartition(".")
    if last.lower() in COMPRESSED and "." in stem.rpartition("/")[2]:
        last = stem.rpartition(".")[2]
    return OTHER_NAMES.get(last.lower(), last.lower())


def is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def is_no_data(path: str) -> bool:
    """Whether a file says something about a data set, or belongs to a tool: it is passed over."""
    return is_hidden(path) or suffix(path) in NO_DATA or bool(NO_DATA_NAMES.fullmatch(path.rpartition("/")[2]))


def stem_of(path: str) -> str:
    """A file's path without its suffix."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}"


# Finding


def find(fs: fsspec.AbstractFileSystem, path: str, pattern: bool = False) -> dict[str, Info]:
    """Path -> info of the files under a folder, of one file, or of the matches of a pattern and all that is under them.

    In order of their paths. Raises `FileNotFoundError`.
    """
    if not isinstance(fs, LocalFileSystem):
        if pattern:
            infos = fs.glob(path, detail=True)
            for folder in [name for name, info in infos.items() if info["type"] == "directory"]:
                infos |= fs.find(folder, detail=True)
        else:
            infos = {path: fs.info(path)} if fs.isfile(path) else fs.find(path, detail=True)
        return {name: info for name, info in sorted(infos.items()) if info["type"] != "directory"}
    if pattern:
        return dict(sorted(_matches(path)))
    if os.path.isdir(path):
        return dict(sorted((file, info) for file, info in _walk(path) if info["type"] != "directory"))
    return {path: _info(path)}


def _matches(pattern: str) -> Iterator[tuple[str, Info]]:
    """The local files that match a pattern, and those under the folders that do."""
    fixed = re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]
    depth = None if "**" in pattern else pattern[len(fixed) + 1 :].count("/") + 1
    matches = re.compile(glob_translate(pattern)).match
    for path, info in _walk(fixed or "/", depth):
        if matches(path):
            yield from _walk(path) if info["type"] == "directory" else [(path, info)]


def _walk(top: str, depth: int | None = None) -> Iterator[tuple[str, Info]]:
    """All that is under a local folder, to a depth. Raises `UserError` where links lead to one folder too often."""
    top_stat = os.stat(top)
    folders = [(top, ((top_stat.st_dev, top_stat.st_ino), None), 1)]  # path, chain of the folders above it, depth
    listed: dict[tuple[int, int], int] = {}
    while folders:
        folder, above, level = folders.pop()
        listed[above[0]] = listed.get(above[0], 0) + 1
        if listed[above[0]] > LISTED:
            raise UserError(f"source.path: {folder}: links lead to this folder more than {LISTED} times; remove some")
        for name in os.listdir(folder):
            path = f"{folder.rstrip('/')}/{name}"
            info = _info(path)
            if info["type"] == "directory":
                place = (info["device"], info["ino"])
                if info["islink"] and place in _chain(above):
                    continue
                if depth is None or level < depth:
                    folders.append((path, (place, above), level + 1))
            yield path, info


def _chain(node: tuple | None) -> Iterator[tuple[int, int]]:
    while node:
        yield node[0]
        node = node[1]


def _info(path: str) -> Info:
    """What is at a local path, as fsspec says it, but of what a link leads to. Raises `FileNotFoundError`."""
    before = os.lstat(path)
    link = stat.S_ISLNK(before.st_mode)
    try:
        there = os.stat(path) if link else before
    except OSError:  # leads nowhere, or to itself
        return {"type": "broken", "size": 0, "mtime": before.st_mtime, "islink": True}
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file"}
    kind = kinds.get(stat.S_IFMT(there.st_mode), "special")
    size = there.st_size if kind == "file" else 0
    mark = {"ino": there.st_ino, "device": there.st_dev, "mtime": there.st_mtime if kind == "file" else 0}
    return {"type": kind, "size": size, "islink": link, **mark}


# Opening


def open_file(fs: fsspec.AbstractFileSystem, path: str, name: str) -> BinaryIO:
    """A reader of a file's bytes, decompressed if its first bytes are those of gzip or zstd.

    A file that is not compressed can be sought in. `name` is what errors call the file. Raises `Unreadable`, here or
    while reading, for a broken link, what is no plain file, and damaged compressed bytes.
    """
    raw = open_raw(fs, path, name)
    head = raw.read(8)
    raw.seek(0)
    if OTHER_CODECS.match(head):
        raise Unreadable(f"{name}: is an archive or compression that is not read; write it as .gz, .zst or .tar")
    codec = next((codec for begin, codec in CODECS.items() if head.startswith(begin)), None)
    return io.BufferedReader(_Expanded(raw, codec, name), 1 << 20) if codec else raw


def open_raw(fs: fsspec.AbstractFileSystem, path: str, name: str) -> BinaryIO:
    """A reader of a file's bytes as they are, which can be sought in. Raises `Unreadable`."""
    if isinstance(fs, LocalFileSystem):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe nobody writes to would block otherwise
        except FileNotFoundError:
            raise Unreadable(f"{name}: is not there" + ("; a broken link" if os.path.islink(path) else "")) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Unreadable(f"{name}: is no plain file")
        return os.fdopen(descriptor, "rb")
    return fs.open(path, "rb") if has_ranges(fs, path) else _copy(fs, path)


class Archive(NamedTuple):
    """An archive, open for any place in it; expanded, if it is compressed."""

    file: BinaryIO
    damage: str | None  # why not all of it could be expanded


class Archives(threading.local):
    """The archive that a thread has opened last, which stays open."""

    key: tuple | None = None
    archive: Archive | None = None

    def open(self, fs: fsspec.AbstractFileSystem, path: str, name: str) -> Archive:
        """Raises `Unreadable` for a broken link and for what is no plain file."""
        mark = ()
        if isinstance(fs, LocalFileSystem):
            info = _info(path)
            mark = (info.get("ino"), info["size"], info["mtime"])
        key = (os.getpid(), *fs.protocol, path, *mark)
        if self.key != key:
            if self.archive:
                self.archive.file.close()
            self.key = self.archive = None
            self.archive, self.key = _expanded(open_file(fs, path, name), name), key
        return self.archive


archives = Archives()


def read_range(fs: fsspec.AbstractFileSystem, path: str, name: str, start: int, size: int) -> bytes:
    """`size` bytes from `start` of an archive, expanded if it is compressed; fewer where it ends."""
    if isinstance(fs, LocalFileSystem) or "http" in fs.protocol or _is_compressed(fs, path):
        file = archives.open(fs, path, name).file
        if hasattr(file, "fileno"):
            return os.pread(file.fileno(), size, start)
    return fs.cat_file(path, start=start, end=start + size)


@lru_cache(maxsize=1000)
def _is_compressed(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    return fs.cat_file(path, start=0, end=8).startswith(tuple(CODECS))


def _expanded(file: BinaryIO, name: str) -> Archive:
    """A file, or a temporary one of its decompressed bytes."""
    if not isinstance(getattr(file, "raw", None), _Expanded):
        return Archive(file, None)
    copy, size, damage = tempfile.TemporaryFile(), 0, None
    limit = max(SMALL, RATIO * file.raw.compressed)
    try:
        with file:
            while chunk := file.read1(1 << 20):
                size += len(chunk)
                if size > limit:
                    raise Unreadable(f"{name}: expands to more than {limit} bytes; write it as a .tar")
                copy.write(chunk)
    except Unreadable as error:
        damage = str(error)
    copy.flush()
    return Archive(copy, damage)


def has_ranges(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    """Whether parts of a file can be asked for; some web servers always send all of it."""
    if "http" not in fs.protocol:
        return True
    with fs.open(path, "rb", cache_type="none") as probe:
        try:
            probe.seek(min(1, probe.size or 0))
            probe.read(1)
        except (ValueError, OSError):
            return False
    return True


def _copy(fs: fsspec.AbstractFileSystem, path: str) -> BinaryIO:
    """The whole of a remote file, in a temporary file."""
    copy = tempfile.TemporaryFile()
    with fs.open(path, "rb", block_size=0) as stream:
        copyfileobj(stream, copy, 1 << 20)
    copy.seek(0)
    return copy


class _Expanded(io.RawIOBase):
    """The decompressed bytes of a file, to its very end. Raises `Unreadable` where they are cut or damaged."""

    def __init__(self, raw: BinaryIO, codec: Any, name: str) -> None:
        self.raw, self.name = raw, name
        self.compressed = raw.seek(0, os.SEEK_END)  # bytes
        raw.seek(0)
        self.stream = codec(raw)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        try:
            data = self.stream.read(len(buffer))
        except DAMAGED as error:
            raise Unreadable(f"{self.name}: is cut or damaged: {' '.join(str(error).split())[:200]}") from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
            self.raw.close()
        super().close()


class TooLarge(ValueError):
    """A file has more bytes than may be read."""

    def __init__(self, size: int | None, limit: int) -> None:
        super().__init__(f"more than {limit} bytes" if size is None else f"{size} bytes")
        self.size = size  # None if it is not known


def read_file(fs: fsspec.AbstractFileSystem, path: str, name: str, limit: int, size: int | None = None) -> bytes:
    """All bytes of a file that has at most `limit`. `size`: as a listing says, so that nobody has to be asked for it.

    Its size is looked at before anything is read. Raises `TooLarge`, `FileNotFoundError`, and `Unreadable` for what is
    no plain file.
    """
    if isinstance(fs, LocalFileSystem):
        if not os.path.exists(path):
            raise FileNotFoundError(name)
        with open_raw(fs, path, name) as file:
            return _bounded(file, limit, os.fstat(file.fileno()).st_size)
    if "http" in fs.protocol:
        with fs.open(path, "rb", block_size=0) as stream:
            return _bounded(stream, limit, size)
    size = fs.size(path) if size is None else size
    if size > limit:
        raise TooLarge(size, limit)
    return fs.cat_file(path)


def _bounded(stream: BinaryIO, limit: int, size: int | None) -> bytes:
    """All that a stream has, if that is at most `limit` bytes."""
    data = bytearray()
    while (size or 0) <= limit and len(data) <= limit:
        more = stream.read(min(limit + 1 - len(data), 1 << 24))
        if not more:
            return bytes(data)
        data += more
    raise TooLarge(size, limit)
