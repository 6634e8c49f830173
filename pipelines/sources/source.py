"""The base of all sources: they list their files, read the files' rows, and load a row's bytes."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import fsspec

from pipelines.engine.root import stamp
from schemas.arrow import Row
from schemas.config.sources import SourceConfig
from schemas.errors import UserError

WILD = re.compile(r"[*?\[]")
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


class FileStamp(NamedTuple):
    path: str  # relative to the source
    stamp: str  # changes when the file does


@dataclass(frozen=True)
class Source:
    """A source over a local path or fsspec URL. Pickles to workers."""

    config: SourceConfig

    def files(self) -> list[FileStamp]:
        """The source's files, in order of their paths. Raises `UserError` when there are none."""
        raise NotImplementedError

    def buckets(self, file: str) -> int:
        """The number of partitions over which a new file is split."""
        raise NotImplementedError

    def rows(self, file: str) -> Iterator[Row]:
        """The rows of a file, in its order: any columns of `SourceRow`, and `names`, from which the key is made."""
        raise NotImplementedError

    def check(self, file: str) -> None:
        """Raises `UserError` if a file cannot be read as configured."""

    def load(self, row: Row) -> bytes:
        """The bytes of a row's image. Raises `FileNotFoundError`, or `EOFError` when its file is cut."""
        fs, folder = self._image_folder
        start, size = row["byte_offset"], row["size"]
        end = None if size is None else (start or 0) + size
        data = fs.cat_file(f"{folder}/{row['file']}", start=start, end=end)
        if size is not None and len(data) != size:
            raise EOFError(f"{row['file']}: {size} bytes wanted, {len(data)} there")
        return data

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            return fsspec.core.url_to_fs(self.config.path)
        except (ValueError, ImportError) as error:  # no such protocol, or its package is not installed
            raise UserError(f"source.path: {self.config.path}: {error}") from None

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return self._opened[0]

    def check_images(self) -> None:
        """Raises `UserError` if the folder that `source.images` names does not exist."""
        fs, folder = self._image_folder
        if getattr(self.config, "images", None) and not fs.isdir(folder):
            raise UserError(f"source.images: {self.config.images} does not exist")

    @cached_property
    def _image_folder(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """Where the image files of rows are: in `source.images`, or else beside the source's own files."""
        images = getattr(self.config, "images", None)
        if images is None:
            return self.fs, self.base
        try:
            fs, path = fsspec.core.url_to_fs(images)
        except (ValueError, ImportError) as error:
            raise UserError(f"source.images: {images}: {error}") from None
        return fs, path.rstrip("/")

    @cached_property
    def _path(self) -> str:
        return self._opened[1].rstrip("/")

    @cached_property
    def _is_pattern(self) -> bool:
        """Whether the path has wildcards and is not the name of an existing file or folder, such as `photos [2024]`."""
        return bool(WILD.search(self._path)) and not self.fs.exists(self._path)

    @cached_property
    def base(self) -> str:
        """The folder to which paths are relative: the part before any wildcard, or the folder of a single file."""
        if self._is_pattern:
            return WILD.split(self._path)[0].rpartition("/")[0]
        return self._path.rpartition("/")[0] if self.fs.isfile(self._path) else self._path

    def find(self, suffixes: tuple[str, ...]) -> list[FileStamp]:
        """The files with one of these suffixes that the path names: the file itself, those under it, or its matches."""
        path = self._path
        try:
            if self._is_pattern:
                infos = self.fs.glob(path, detail=True)
            elif self.base == path:
                infos = self.fs.find(path, detail=True)
            else:
                infos = {path: self.fs.info(path)}
        except FileNotFoundError:
            raise UserError(f"source.path: {self.config.path} does not exist") from None
        if not infos and not self.fs.exists(self.base):
            hint = "; patterns are of * and ?, write {00000..00009} as *" if "{" in path else ""
            raise UserError(f"source.path: {self.config.path} does not exist{hint}")
        files = {name: info for name, info in infos.items() if info["type"] == "file" and suffix(name) in suffixes}
        return [FileStamp(name[len(self.base) + 1 :], stamp(info)) for name, info in sorted(files.items())]

    def __getstate__(self) -> dict:
        return {"config": self.config}


def object_of(text: str) -> dict[str, Any]:
    """The JSON object in a text; a text that is no object is kept as it is under `json`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"json": text}


def suffix(name: str) -> str:
    return name.rsplit(".", 1)[-1].lower()
