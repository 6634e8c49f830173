"""A remote root as DuckDB reads it: folders are listed once, small files are read whole, each by one request.

Files are read ahead by threads, and kept on this machine by their stamp: a file that has not changed is not read again,
whichever process asks. `XDG_CACHE_HOME` says where; files that nobody has read for a week are removed.
"""

import hashlib
import io
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import fsspec

from pipelines.engine.conditional import read_stamped, stamp
from pipelines.engine.root import Root

AHEAD = 32  # files that are read before DuckDB opens them
WEEK = 7 * 24 * 3600.0  # seconds

KEPT = {"name", "size", "type", "ETag", "etag", "mtime", "LastModified", "created"}  # of what is known of a file

Listed = dict[str, dict[str, dict[str, Any]]]  # folder -> path -> what is known of it


class WholeFiles(fsspec.AbstractFileSystem):
    """The files of a root as they are now. `listed`: what connections share between which no file changes."""

    cachable = False

    def __init__(self, root: Root, listed: "Listed | None" = None):
        super().__init__()
        self.fs, self.protocol = root.fs, root.fs.protocol
        self.listed: Listed = {} if listed is None else listed
        self.order: dict[str, int] = {}  # paths that were looked for
        self.paths: list[str] = []
        self.reading: dict[str, Future[bytes]] = {}
        self.begun: set[str] = set()  # paths that were ever read
        self.lock = threading.Lock()
        self.opened: set[str] = set()  # folders
        self.threads = ThreadPoolExecutor(16)

    def _strip_protocol(self, path: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  a class method
        return self.fs._strip_protocol(path)

    def unstrip_protocol(self, name: str) -> str:
        return self.fs.unstrip_protocol(name)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        folder = self._strip_protocol(path).rstrip("/")
        if folder not in self.listed:
            try:
                infos = self.fs.ls(folder, detail=True, refresh=True)
            except FileNotFoundError:
                infos = []
            names = {info["name"].rstrip("/"): info for info in infos}
            self.listed[folder] = {
                name: {key: value for key, value in info.items() if key in KEPT}
                for name, info in names.items() if name != folder
            }  # fmt: skip
        infos = [*self.listed[folder].values()]
        return infos if detail else [info["name"] for info in infos]

    def info(self, path: str, **options: Any) -> dict:
        path = self._strip_protocol(path).rstrip("/")
        self.ls(path.rpartition("/")[0])
        info = self.listed[path.rpartition("/")[0]].get(path)
        if info is None and self.ls(path):
            return {"name": path, "size": 0, "type": "directory"}
        if info is None:
            raise FileNotFoundError(path)
        return info

    def glob(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        found: Any = super().glob(path, maxdepth, **options)
        for name in found if not options.get("detail") else ():
            if name not in self.order:
                self.order[name] = len(self.paths)
                self.paths.append(name)
        return found

    def modified(self, path: str) -> datetime:
        return self.info(path).get("LastModified") or datetime.fromtimestamp(0, UTC)

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            raise PermissionError(f"{path}: is only read")
        path = self._strip_protocol(path)
        folder, place = path.rpartition("/")[0], self.order.get(path, 0)
        with self.lock:
            ahead = self.paths[place + 1 : place + AHEAD] if folder in self.opened else []
            self.opened.add(folder)
            names = [name for name in ahead if name.rpartition("/")[0] == folder and name not in self.begun]
            for name in (path, *names):
                if name not in self.reading:
                    self.begun.add(name)
                    self.reading[name] = self.threads.submit(self._read, name)
            reading = self.reading[path]
        data = reading.result()
        with self.lock:
            self.reading.pop(path, None)
        return io.BytesIO(data)

    def _read(self, path: str) -> bytes:
        kept = (
            _folder() / hashlib.sha256(f"{self.unstrip_protocol(path)} {stamp(self.info(path))}".encode()).hexdigest()
        )
        try:
            data = kept.read_bytes()
            os.utime(kept)
        except OSError:
            data, _ = read_stamped(self.fs, path)
            with suppress(OSError):  # a full disk: it is read again next time
                temporary = kept.with_name(f".{os.getpid()}-{kept.name}")
                temporary.write_bytes(data)
                temporary.replace(kept)
        return data


@cache
def _folder() -> Path:
    """Where files are kept. Removes those that nobody has read for a week."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardmill" / "files"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for entry in os.scandir(folder):
        with suppress(OSError):
            if entry.stat().st_mtime < time.time() - WEEK:
                os.unlink(entry)
    return folder
