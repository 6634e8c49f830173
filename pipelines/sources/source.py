"""The base of all sources: they list their files, read the files' rows, and load a row's bytes."""

import json
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, Generic, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.engine.conditional import stamp
from pipelines.engine.root import open_url
from pipelines.sources.files import Info, TooLarge, find, is_no_data, stem_of, suffix
from pipelines.sources.opening import open_file, read_file, read_range
from schemas.arrow import Row
from schemas.checked import LEVELS, too_deep
from schemas.config.sources import FilesTable, SourceTable
from schemas.errors import UserError

WILD = re.compile(r"[*?\[]")
LARGEST = 1 << 28  # bytes of an image that are read where no setting says otherwise
LONGEST_TEXT = 1 << 24  # bytes of a text or a JSON beside an image
MOST_VALUES = 1_000_000  # of a line of JSON or of the JSON beside an image; an empty list takes 70 bytes of memory
IMAGE_SUFFIXES = (
    "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jfif", "jpe", "pjpeg", "avif", "heic", "heif", "jxl",
)  # fmt: skip
READ_BY = {
    **dict.fromkeys(IMAGE_SUFFIXES, "folder"), "csv": "folder", "tsv": "folder", "tar": "webdataset",
    "parquet": "huggingface", "arrow": "huggingface", "json": "conversations", "jsonl": "conversations",
}  # suffix -> a kind that reads such files  # fmt: skip


class FileStamp(NamedTuple):
    path: str  # relative to the source
    stamp: str  # changes when the file does


AnySource = TypeVar("AnySource", bound=SourceTable)
AnyFiles = TypeVar("AnyFiles", bound=FilesTable)


@dataclass(frozen=True)
class Source(Generic[AnySource]):
    """Where rows and bytes come from, as its table of the configuration says. Pickles to workers."""

    config: AnySource

    def files(self) -> list[FileStamp]:
        """The source's files, in order of their paths. Raises `UserError` when there are none."""
        raise NotImplementedError

    def count(self, file: str) -> int | None:
        """About how many rows a new file has; None if it is one partition, whatever it holds."""
        raise NotImplementedError

    def rows(self, file: str) -> Iterator[Row]:
        """The rows of a file, in its order: any columns of `SourceRow`, and `names`, from which the key is made."""
        raise NotImplementedError

    def check(self, file: str) -> None:
        """Raises `UserError` if a file cannot be read as configured."""

    def reads_all(self, file: str) -> bool:
        """Whether `check` and `count` read all of a file, and not only what it says of itself."""
        return False

    def notes(self) -> list[str]:
        """What the user should know about files that are not rows, a line each."""
        return []

    def load(self, row: Row, limit: int = LARGEST) -> bytes:
        """The bytes of a row's image.

        Raises `TooLarge` before anything is read if there are more than `limit`, `FileNotFoundError`, `Unreadable` for
        what is not a regular file, or `EOFError` when its file is cut.
        """
        raise NotImplementedError

    def loads(self, rows: Iterable[Row], limit: int = LARGEST) -> Iterator[tuple[Row, bytes | Exception]]:
        """The bytes, or the error of `load`, of rows whose file can only be read from beginning to end. Other rows are
        left to `load`."""
        return iter(())

    @property
    def is_local(self) -> bool:
        """Whether what it reads is on this machine."""
        return True

    def __getstate__(self) -> dict:
        return {"config": self.config}


class FileSource(Source[AnyFiles]):
    """A source over a local path or fsspec URL."""

    def notes(self) -> list[str]:
        read = {file.path for file in self.files()}
        stems = {stem_of(path) for path in read}
        others = [file.path for file in self.listing if file.path not in read and stem_of(file.path) not in stems]
        others = [path for path in others if not is_no_data(path) and suffix(path) not in IMAGE_SUFFIXES]
        if not others:
            return []
        count = f"{len(others):,} files are" if len(others) > 1 else "1 file is"
        return [f'{count} not read by kind = "{self.config.kind}"; the first is {others[0]}']

    def nothing(self, wanted: str) -> UserError:
        """The error for a path without files of this kind: what is there instead, and which kind reads that."""
        others = [file.path for file in self.listing if not is_no_data(file.path)]
        has = f"; it has {', '.join(others[:3])}" + (", …" if len(others) > 3 else "") if others else ""
        kinds = (READ_BY.get(suffix(path)) for path in others)
        kind = next((kind for kind in kinds if kind and kind != self.config.kind), None)
        hint = f'; kind = "{kind}" reads such files' if kind else ""
        return UserError(f"source.path: no {wanted} under {self.config.path}{has}{hint}")

    def load(self, row: Row, limit: int = LARGEST) -> bytes:
        fs, folder = self._image_folder
        path, start, size = f"{folder}/{row['file']}", row["byte_offset"], row["size"]
        if start is None:
            return read_file(fs, path, row["file"], limit, size)
        if size > limit:
            raise TooLarge(size, limit)
        data = read_range(fs, path, row["file"], start, size)
        if len(data) != size:
            raise EOFError(f"{row['file']}: expected {size} bytes, found {len(data)}")
        return data

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        return open_url(self.config.path, "source.path")

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return self._opened[0]

    def check_images(self) -> None:
        """Raises `UserError` if the folder that `source.images` names does not exist."""
        fs, folder = self._image_folder
        if self.images_url and not fs.isdir(folder or "/"):
            raise UserError(f"source.images: {self.images_url} {_why_missing(fs, folder or '/')}")

    @property
    def images_url(self) -> str | None:
        """`source.images`, which not every kind of files has."""
        return getattr(self.config, "images", None)

    @cached_property
    def _image_folder(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """Where the image files of rows are: in `source.images`, or else beside the source's own files."""
        images = self.images_url
        if images is None:
            return self.fs, self.base
        return open_url(images, "source.images")

    @cached_property
    def _path(self) -> str:
        return self._opened[1]

    @cached_property
    def _is_pattern(self) -> bool:
        """Whether the path has wildcards and is not the name of an existing file or folder, such as `photos [2024]`."""
        return bool(WILD.search(self._path)) and not self.fs.exists(self._path)

    @cached_property
    def base(self) -> str:
        """The folder to which paths are relative: the part before any wildcard, or the folder of a single file."""
        if self._is_pattern:
            return WILD.split(self._path)[0].rpartition("/")[0]
        is_odd = (
            self.is_local and os.path.lexists(self._path) and not os.path.isdir(self._path)
        )  # a pipe, a broken link
        return self._path.rpartition("/")[0] if is_odd or self.fs.isfile(self._path) else self._path

    def find(self, suffixes: tuple[str, ...]) -> list[FileStamp]:
        """The files with one of these suffixes that the path names: the file itself, those under it, or its matches.

        A suffix also means that of a compressed file: `jsonl` for `a.jsonl.gz`.
        """
        return [file for file in self.listing if suffix(file.path) in suffixes]

    @property
    def listing(self) -> list[FileStamp]:
        """All files that the path names, in order of their paths. Raises `UserError` if there is no such path."""
        path = self._path
        try:
            infos = find(self.fs, path, self._is_pattern)
        except (FileNotFoundError, NotADirectoryError):
            infos = {}
        except PermissionError as error:
            raise UserError(f"source.path: {error.filename}: {error.strerror}") from None
        if not infos and not self.fs.exists(self.base):
            raise UserError(f"source.path: {self.config.path} {_why_missing(self.fs, self.base)}")
        return self.stamps(infos)

    def stamps(self, infos: dict[str, Info]) -> list[FileStamp]:
        """Files below the base, as they were found."""
        found = ((name[len(self.base) + 1 :], info) for name, info in infos.items())
        return [FileStamp(name, stamp(info)) for name, info in found if not _is_made_by_tools(name)]

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def open(self, file: str) -> BinaryIO:
        """A reader of a file's bytes, decompressed if they are of gzip or zstd.

        Raises `Unreadable`, here or while reading, which `rows` need not catch: the rest of the file is then one row
        that says why.
        """
        return open_file(self.fs, f"{self.base}/{file}", file)

    def resolve(self, path: str | None, file: str) -> str:
        """The file that a record's image path means, relative to the folder of images, for the column `file`.

        A relative path starts at `source.images`, or else at the folder of the record's own `file` if it is there, or
        at that of the source. An absolute path, or a file:// URL, must lie in the folder of images.
        Raises `ValueError`, which says what to do, for any other path.
        """
        if not path:
            raise ValueError(f"is {path!r}")
        fs, folder = self._image_folder
        asked = unquote(urlsplit(path).path) if path.startswith("file://") else path
        if ".." in asked.split("/"):
            raise ValueError(f"is {path[:200]!r}, which leaves its folder by ..; write the path without it")
        if asked.startswith("/"):
            inside = _inside(fs, folder, posixpath.normpath(asked))
            if inside is None:
                place = posixpath.dirname(asked)[:200]
                raise ValueError(
                    f"is {path[:200]!r}, which is not in the folder {folder or '/'}; "
                    f'write images = "{place}" or a folder above it in [source]'
                )
            return inside
        own = posixpath.dirname(file)
        if own and not self.images_url:
            there = f"{own}/{asked}"
            if os.path.lexists(f"{folder}/{there}") if self.is_local else there in self._remote_names:
                return there
        return asked

    @cached_property
    def _remote_names(self) -> set[str]:
        """The files under the base, so that a remote place is not asked for each."""
        return {file.path for file in self.stamps(find(self.fs, self.base))}


class Overfull(ValueError):
    """JSON of more levels or values than are read; the message says which."""


def value_of(text: str) -> Any:
    """The value of a text of JSON. Raises `ValueError`, and `Overfull` before much memory is taken."""
    if sum(map(text.count, "[{,")) > MOST_VALUES:
        raise Overfull(f"has more than {MOST_VALUES} values")
    try:
        value = json.loads(text, strict="\0" not in text)  # a null character is kept, as in other files
    except RecursionError:
        raise Overfull(f"has more than {LEVELS} levels") from None
    if too_deep(value):
        raise Overfull(f"has more than {LEVELS} levels")
    return value


def object_of(text: str) -> dict[str, Any]:
    """The JSON object in a text; a text that is not an object is kept as it is under `json`. Raises `Overfull`."""
    try:
        value = value_of(text)
    except Overfull:
        raise
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"json": text}


def _why_missing(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """Why nothing is found under a path. To fsspec, a file of a web server that does not answer is missing too."""
    try:
        fs.info(path)
    except FileNotFoundError as error:
        cause = error.__cause__
        if cause and getattr(cause, "status", 0) != 404:
            return f"cannot be read: {cause}"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return "does not exist" + ("; patterns are of * and ?, write {00000..00009} as *" if "{" in path else "")


def _is_made_by_tools(path: str) -> bool:
    """Whether a file is not part of a data set: macOS's copies of attributes (`._a.jpg`), and notes of an export."""
    name = path.rpartition("/")[2]
    return name.startswith("._") or name == ".export.json"


def _inside(fs: fsspec.AbstractFileSystem, folder: str, path: str) -> str | None:
    """An absolute path relative to a folder that contains it, as written or with all links followed, else None."""
    if path.startswith(f"{folder}/"):
        return path[len(folder) + 1 :]
    if isinstance(fs, LocalFileSystem):
        folder, above = os.path.realpath(folder), os.path.realpath(posixpath.dirname(path))
        if f"{above}/".startswith(f"{folder}/"):
            return f"{above}/{posixpath.basename(path)}"[len(folder) + 1 :]
    return None
