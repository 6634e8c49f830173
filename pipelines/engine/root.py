"""Where a corpus lives: a local folder or any fsspec URL, written only by whole, atomic commits.

Local: temporary name, fsync, rename, fsync of the folder. Elsewhere: one PUT. A reader sees the old file or the
new one, never half of one.
"""

import os
import signal
import tempfile
import time
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from schemas.errors import UserError

FSYNC = True


def point(name: str) -> None:
    """A named moment of a commit. The crash tests set SHARDMILL_KILL_AT to die here as a power cut would."""
    if os.environ.get("SHARDMILL_KILL_AT") == name:
        os.killpg(0, signal.SIGKILL)


class Entry(NamedTuple):
    size: int  # bytes
    stamp: str  # changes when the file does: size and etag, or size and time


@dataclass(frozen=True)
class Root:
    """A folder of files named by relative paths with forward slashes."""

    url: str

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            fs, path = fsspec.core.url_to_fs(self.url, use_listings_cache=False)  # workers write beside this process
        except (ValueError, ImportError) as error:  # no such protocol, or its package is not installed
            raise UserError(f"{self.url}: {error}") from None
        return fs, path.rstrip("/")

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return self._opened[0]

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """The full path of a file, as its filesystem takes it."""
        return f"{self._opened[1]}/{name}"

    def url_of(self, name: str) -> str:
        """The full URL of a file, as DuckDB and plain readers take it."""
        return self.path(name) if self.is_local else self.fs.unstrip_protocol(self.path(name))

    def __getstate__(self) -> dict:
        return {"url": self.url}

    # Reading

    def exists(self, name: str) -> bool:
        return self.fs.exists(self.path(name))

    def stamp_of(self, name: str) -> str:
        """A text that changes when a file does. Raises `FileNotFoundError`."""
        return stamp(self.fs.info(self.path(name)))

    def read(self, name: str) -> bytes:
        return self.fs.cat_file(self.path(name))

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`. Raises `EOFError` when the file is shorter."""
        if self.is_local:
            descriptor = os.open(self.path(name), os.O_RDONLY)
            try:
                data = os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)
        else:
            data = self.fs.cat_file(self.path(name), start=offset, end=offset + size)
        if len(data) != size:
            raise EOFError(f"{name}: expected {size} bytes at {offset}, found {len(data)}")
        return data

    def files(self, folder: str, *, hidden: bool = False) -> dict[str, Entry]:
        """The files directly in a folder, by name; temporary ones, whose names begin with a dot, only with `hidden`."""
        entries = {}
        if self.is_local:
            try:
                with os.scandir(self.path(folder)) as scanned:
                    for file in scanned:
                        if file.is_file():
                            stat = file.stat()
                            entries[file.name] = Entry(stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")
            except FileNotFoundError:
                pass
        else:
            try:
                infos = self.fs.ls(self.path(folder), detail=True, refresh=True)
            except FileNotFoundError:
                infos = []
            for info in infos:
                if info["type"] == "file":
                    entries[info["name"].rsplit("/", 1)[-1]] = Entry(info["size"], stamp(info))
        return {name: entries[name] for name in sorted(entries) if name and (hidden or not name.startswith("."))}

    def age(self, name: str) -> float:
        """Seconds since a file was written."""
        return time.time() - self.fs.modified(self.path(name)).timestamp()

    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly in a folder."""
        try:
            infos = self.fs.ls(self.path(folder), detail=True, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(info["name"].rstrip("/").rsplit("/", 1)[-1] for info in infos if info["type"] == "directory")

    # Writing

    def temporary(self, folder: str) -> Path:
        """A new local path for a large file; if the root is local, on the same disk."""
        if not self.is_local:
            return Path(tempfile.gettempdir()) / f".shardmill-{uuid.uuid4().hex}"
        os.makedirs(self.path(folder), exist_ok=True)
        return Path(self.path(folder)) / f".tmp-{uuid.uuid4().hex}"

    def write(self, name: str, data: bytes) -> None:
        """Commits `data` under `name` in one step, replacing the file that was there."""
        if not self.is_local:
            self.fs.pipe_file(self.path(name), data)
            return
        temporary = self.temporary(os.path.dirname(name))
        temporary.write_bytes(data)
        self.put(temporary, name)

    def put(self, temporary: Path, name: str) -> None:
        """Commits a local file under `name` in one step; the local file is gone afterwards."""
        if not self.is_local:
            self.fs.put_file(str(temporary), self.path(name))
            temporary.unlink()
            return
        if FSYNC:
            _fsync(temporary)
        os.replace(temporary, self.path(name))
        if FSYNC:
            _fsync(os.path.dirname(self.path(name)))

    def remove(self, name: str) -> None:
        try:
            self.fs.rm_file(self.path(name))
        except FileNotFoundError:
            pass

    def remove_folder(self, folder: str) -> None:
        """Removes an empty local folder; object stores have none."""
        if self.is_local:
            try:
                os.rmdir(self.path(folder))
            except OSError:
                pass


def stamp(info: dict) -> str:
    """A text that changes when the file does, from an fsspec listing: its size with its etag or modification time."""
    mark = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or info.get("created")
    return f"{info['size']}-{str(mark).strip(chr(34))}"


def _fsync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
