"""The place of a corpus: a local folder or any fsspec URL, written only by whole, atomic commits.

Local: temporary name, fsync, rename, fsync of the folder. Elsewhere: one PUT. A reader sees the old file or the
new one, never half of one.

A root may come from a stranger. Names lead to files inside it, or are refused; its folders are real folders, not
links; a file that is a link can be read, and is replaced or removed itself, never what it leads to.
"""

import errno
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.engine.conditional import FileEnd, Replaced, get, is_s3, read_stamped, remove_s3, stamp, write_if
from pipelines.engine.remote import open_bytes, read_bytes
from schemas.checked import bytes_at, is_name, open_file, plain_json, read_remote
from schemas.errors import UserError, naming
from schemas.extras import EXTRAS, not_installed

FSYNC = True
MOST = 256 << 20  # bytes of a file that is read as a whole; more is not what Shardmill writes


class Corrupt(Exception):
    """Bytes under the root differ from what was committed."""


def point(name: str) -> None:
    """A named moment of a commit. The crash tests set SHARDMILL_KILL_AT to die here as a power cut would."""
    if os.environ.get("SHARDMILL_KILL_AT") == name:
        os.killpg(0, signal.SIGKILL)


class Entry(NamedTuple):
    size: int  # bytes
    stamp: str  # changes when the file does: size and etag, or size and time


def open_url(url: str, field: str = "", **options: Any) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URL, and the path in it, without a slash at its end.

    Raises `UserError` for an unknown protocol, or one whose package is not installed. `field`: where it was written.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        package = getattr(error.__cause__, "name", None)
        why = not_installed(package) if package in EXTRAS else error
        raise UserError(f"{f'{field}: ' if field else ''}{url}: {why}") from None
    return fs, path.rstrip("/")


@dataclass(frozen=True)
class Root:
    """A folder of files named by relative paths with forward slashes."""

    url: str

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        return open_url(self.url, use_listings_cache=False)  # workers write beside this process

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return self._opened[0]

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """The full path of a file, as its filesystem takes it.

        Raises `Corrupt` for a name that leads out of the root, and `UserError` if a folder on its way is a link.
        """
        parts = name.rstrip("/").split("/") if name else []
        if not all(map(is_name, parts)):
            raise Corrupt(f"{self.url}: {name!r:.200} is not the name of a file of a corpus")
        if self.is_local:
            for count in range(1, len(parts) + name.endswith("/")):
                self._check_folder("/".join(parts[:count]))
        return f"{self._opened[1]}/{name}"

    def _check_folder(self, folder: str) -> None:
        path = f"{self._opened[1]}/{folder}"
        if os.path.islink(path):
            raise UserError(f"{path}: is a link; the folders of a corpus are real folders: move it here, or mount it")

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

    def read(self, name: str, most: int = MOST) -> bytes:
        """A whole file. Raises `Corrupt` if it has more than `most` bytes."""
        if self.is_local:
            with open(self._open(name), "rb") as file:
                data = file.read(most + 1)
        else:
            path = self.path(name)
            data = get(self.fs, path, most + 1)[0] if is_s3(self.fs) else read_remote(self.fs, path, most + 1)
        if len(data) > most:
            raise Corrupt(f"{name}: has more than {most:,} bytes")
        return data

    def read_stamped(self, name: str) -> tuple[bytes, str]:
        """A whole file, and the stamp that it has in a listing. Raises `FileNotFoundError`."""
        if not self.is_local:
            return read_stamped(self.fs, self.path(name))
        with open(self._open(name), "rb") as file:
            return file.read(), local_stamp(os.fstat(file.fileno()))

    def read_json(self, name: str) -> Any:
        """The JSON in a file. Raises `ValueError` if it is not plain JSON."""
        try:
            return plain_json(self.read(name))
        except Corrupt as error:
            raise ValueError(str(error)) from None

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`. Raises `EOFError` when the file is shorter."""
        if self.is_local:
            with open(self._open(name), "rb", buffering=0) as file:
                return read_at(file, name, offset, size)
        if offset < 0 or size < 0:
            raise EOFError(f"{name}: expected {size} bytes at {offset}")
        data = read_bytes(self.fs, self.path(name), offset, offset + size)
        if len(data) != size:
            raise EOFError(f"{name}: expected {size} bytes at {offset}, found {len(data)}")
        return data

    def _open(self, name: str) -> int:
        """A descriptor of a local file. Raises `Corrupt` unless it is a regular file: a pipe never ends."""
        try:
            return open_file(self.path(name))
        except ValueError:
            raise Corrupt(f"{name}: is not a file; remove it") from None

    def open(self, name: str) -> BinaryIO:
        """A file to be read piece by piece. Raises `FileNotFoundError`, and `Corrupt` unless it is a regular file."""
        return open(self._open(name), "rb") if self.is_local else open_bytes(self.fs, self.path(name))

    def open_at_once(self, name: str, last: int | None = None) -> BinaryIO:
        """A small file, of S3 by one request. `last`: how many bytes at its end are needed."""
        if self.is_local or not is_s3(self.fs):
            return self.open(name)
        data, stamp = get(self.fs, self.path(name), last=last)
        end: Any = FileEnd(data, int(stamp.partition("-")[0]))
        return end

    def copy_to(self, name: str, path: Path) -> None:
        """Copies a file of a remote root to this machine."""
        self.fs.get_file(self.path(name), str(path))

    def check_file(self, name: str) -> None:
        """Raises `Corrupt` for a path that exists but is not a file, such as a pipe or a device."""
        if self.is_local and os.path.exists(path := self.path(name)) and not os.path.isfile(path):
            raise Corrupt(f"{name}: is not a file; remove it")

    def files(self, folder: str, *, hidden: bool = False) -> dict[str, Entry]:
        """The files directly in a folder, by name; temporary ones, whose names begin with a dot, only with `hidden`."""
        entries = {}
        if self.is_local:
            try:
                with os.scandir(self.path(f"{folder}/" if folder else "")) as scanned:
                    for file in scanned:
                        if file.is_file():
                            info = file.stat()
                            entries[file.name] = Entry(info.st_size, local_stamp(info))
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

    def stamps(self, folder: str) -> Iterator[tuple[str, str]]:
        """The names and stamps of the files directly in a folder, in any order: for folders of very many files."""
        if not self.is_local:
            yield from ((name, entry.stamp) for name, entry in self.files(folder).items())
            return
        with suppress(FileNotFoundError), os.scandir(self.path(f"{folder}/" if folder else "")) as scanned:
            for file in scanned:
                if file.is_file():
                    yield file.name, local_stamp(file.stat())

    def age(self, name: str) -> float:
        """Seconds since a file was written."""
        if self.is_local:  # of a link itself
            return time.time() - os.lstat(self.path(name)).st_mtime
        return time.time() - self.fs.modified(self.path(name)).timestamp()

    def size(self, name: str) -> int:
        """Bytes of a file; of a link itself."""
        return os.lstat(self.path(name)).st_size if self.is_local else self.fs.info(self.path(name))["size"]

    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly in a folder."""
        if self.is_local:
            try:
                with os.scandir(self.path(f"{folder}/" if folder else "")) as scanned:
                    return sorted(entry.name for entry in scanned if entry.is_dir(follow_symlinks=False))
            except FileNotFoundError:
                return []
        try:
            infos = self.fs.ls(self.path(folder), detail=True, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(info["name"].rstrip("/").rsplit("/", 1)[-1] for info in infos if info["type"] == "directory")

    # Writing

    def create(self) -> None:
        """Makes the folder of a local root. Nothing else does: a root that was moved is not begun again by a run."""
        if self.is_local:
            os.makedirs(self.path(""), exist_ok=True)

    def temporary(self, folder: str) -> Path:
        """A new local path for a large file; if the root is local, on the same disk. Open it as a new file (`xb`)."""
        if not self.is_local:
            return Path(tempfile.gettempdir()) / f".shardmill-{uuid.uuid4().hex}"
        self._make_folder(folder)
        return Path(self.path(folder)) / f".tmp-{uuid.uuid4().hex}"

    def _make_folder(self, folder: str) -> None:
        """Makes a folder of a local root, and those above it, but not the root itself."""
        parts = folder.split("/") if folder else []
        for count in range(1, len(parts) + 1):
            with suppress(FileExistsError):
                os.mkdir(self.path("/".join(parts[:count])))

    def write(self, name: str, data: bytes) -> None:
        """Commits `data` under `name` in one step, replacing the file that was there."""
        if not self.is_local:
            self.fs.pipe_file(self.path(name), data)
            return
        temporary = self.temporary(os.path.dirname(name))
        with naming(self.path(name)), new_file(temporary) as file:
            file.write(data)
        self.put(temporary, name)

    def write_if(self, name: str, data: bytes, expected: str | None) -> str:
        """Commits `data` under `name` if the file there still has the stamp `expected`, or does not exist if that is
        None. Returns its new stamp.

        Raises `Replaced` if it is another file. On a local root another process can still come in between the check
        and the rename, which are microseconds apart.
        """
        if not self.is_local:
            return write_if(self.fs, self.path(name), data, expected)
        temporary = self.temporary(os.path.dirname(name))
        with naming(self.path(name)), new_file(temporary) as file:
            file.write(data)
        now = local_stamp(os.lstat(temporary))
        self.put(temporary, name, lambda: self._check_stamp(name, expected))
        return now

    def _check_stamp(self, name: str, expected: str | None) -> None:
        try:
            now = local_stamp(os.stat(self.path(name)))
        except FileNotFoundError:
            now = None
        if now != expected:
            raise Replaced(name)

    def put(self, temporary: Path, name: str, check: Callable[[], None] = lambda: None) -> None:
        """Commits a local file under `name` in one step; the local file is gone afterwards. `check` is called right
        before a rename; if it raises, nothing is committed."""
        if not self.is_local:
            self.fs.put_file(str(temporary), self.path(name))
            temporary.unlink()
            return
        if FSYNC:
            _fsync(temporary)
        try:
            check()
        except BaseException:
            temporary.unlink()
            raise
        os.replace(temporary, self.path(name))
        if FSYNC:
            _fsync(os.path.dirname(self.path(name)))

    def remove(self, name: str) -> None:
        """Removes a file, or a link itself. Does nothing if it is absent."""
        try:
            if self.is_local:
                os.unlink(self.path(name))
            else:
                self.fs.rm_file(self.path(name))
        except FileNotFoundError:
            pass

    def remove_all(self, names: Sequence[str]) -> None:
        """Removes files; of S3 a thousand by one request."""
        if is_s3(self.fs):
            for start in range(0, len(names), 1000):
                remove_s3(self.fs, [self.path(name) for name in names[start : start + 1000]])
        else:
            for name in names:
                self.remove(name)

    def remove_files(self, folder: str, hidden: bool = False) -> None:
        """Removes the files of a folder, and the folder if nothing is left in it. `hidden`: see `files`."""
        self.remove_all([f"{folder}/{name}" for name in self.files(folder, hidden=hidden)])
        self.remove_folder(folder)

    def remove_folder(self, folder: str) -> None:
        """Removes an empty local folder; object stores have none."""
        if self.is_local:
            with suppress(OSError):
                os.rmdir(self.path(folder))


def local_stamp(info: os.stat_result) -> str:
    """The stamp of a local file."""
    return f"{info.st_size}-{info.st_mtime_ns}"


def read_at(file: BinaryIO, name: str, offset: int, size: int) -> bytes:
    """`size` bytes of an open local file from `offset`; reads no more than there is. Raises `EOFError` naming the file
    when that is less."""
    data = bytes_at(file.fileno(), offset, size)
    if len(data) != size:
        raise EOFError(f"{name}: expected {size} bytes at {offset}, found {len(data)}")
    return data


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that did not exist, opened for writing and reading; it is removed if writing fails."""
    with open(path, "x+b") as file:
        try:
            yield file
            file.flush()  # what does not fit shows here, and not when the file is closed
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise


def fault(error: BaseException) -> str | None:
    """An error of the system, such as a full disk or a folder that was moved, in one line; None for other errors."""
    if not isinstance(error, OSError) or error.errno is None:
        return None
    hint = HINTS.get(error.errno)
    if not (hint or error.filename):
        return None
    return ": ".join(filter(None, (error.filename and str(error.filename), error.strerror, hint)))


HINTS = {
    errno.ENOSPC: "make room and run again; what was committed stays",
    errno.EDQUOT: "make room and run again; what was committed stays",
    errno.EFBIG: "files may not be so large here; raise the limit and run again",
    errno.EROFS: "run again when it can be written",
    errno.EACCES: "run again when this is allowed",
    errno.EPERM: "run again when this is allowed",
    errno.ENOENT: "was it moved or removed? put it back and run again",
}


def _fsync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
