"""Images to keep out of a corpus, such as a benchmark's test set: folders of images, or lists of hashes.

A list is a text file with a hash at the beginning of each line (64 hex digits: the SHA-256 of a file, 16: a perceptual
hash, see `pipelines.stages.images`), or Parquet with columns `sha256` and `phash`, as in a corpus under `images/`.
"""

import hashlib
import io
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import fsspec
import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.commit import digest
from pipelines.engine.conditional import stamp
from pipelines.engine.remote import read_bytes
from pipelines.engine.root import open_url
from pipelines.sources.files import find, suffix
from pipelines.sources.source import IMAGE_SUFFIXES
from schemas.errors import UserError
from schemas.pictures import open_image, upright

HASH = re.compile(r"(?:([0-9a-f]{64})|([0-9a-f]{16}))(?![^\s,;])", re.IGNORECASE)
KINDS_OF_HASH = "SHA-256 (64 hex digits) or perceptual hash (16)"

Entry = tuple[str | None, str | None]  # SHA-256 and perceptual hash of an image; None if unknown


class Listed(NamedTuple):
    """An image to keep out, or a file with hashes of such images."""

    name: str  # path that begins with the folder that the configuration names
    stamp: str
    fs: fsspec.AbstractFileSystem
    path: str

    def read(self) -> bytes:
        try:
            return read_bytes(self.fs, self.path)
        except OSError as error:
            raise self.error(f"cannot be read: {error}") from None

    def error(self, message: object) -> UserError:
        return UserError(f"duplicates.exclude: {self.name}: {' '.join(str(message).split())[:200]}")


class Hashes(NamedTuple):
    """The hashes of n images to keep out. Arrays of shape (n,), except `sha256`; 0 where a hash is unknown."""

    name: np.ndarray  # int64, index into `Excluded.files`
    sha256: np.ndarray  # uint64 of shape (n, 2): the first half of the SHA-256
    has_sha256: np.ndarray  # bool
    phash: np.ndarray  # uint64
    has_phash: np.ndarray  # bool


@dataclass(frozen=True)
class Excluded:
    """All images to keep out. Its properties raise `UserError` for a file that cannot be read."""

    files: tuple[Listed, ...]

    @cached_property
    def digest(self) -> str:
        """A digest of the files' names and contents, not of their folder."""
        return digest(sorted([file.name, hashlib.sha256(file.read()).hexdigest()] for file in self.files))

    @cached_property
    def hashes(self) -> Hashes:
        entries = [(n, *entry) for n, file in enumerate(self.files) for entry in _entries(file)]
        names, sha256s, phashes = zip(*entries, strict=True) if entries else ((), (), ())
        high, low = (
            np.array([int((sha256 or "0" * 64)[part], 16) for sha256 in sha256s], np.uint64)
            for part in (slice(16), slice(16, 32))
        )
        return Hashes(
            name=np.array(names, np.int64),
            sha256=np.stack([high, low], axis=1),
            has_sha256=np.array([sha256 is not None for sha256 in sha256s], bool),
            phash=np.array([int(phash or "0", 16) for phash in phashes], np.uint64),
            has_phash=np.array([phash is not None for phash in phashes], bool),
        )


def find_excluded(places: Iterable[str]) -> tuple[Listed, ...]:
    """The files at places (paths, patterns), in order of their names. Raises `UserError` for a place without files."""
    by_path = {file.path: file for place in places for file in _files(place)}
    return tuple(sorted(by_path.values(), key=lambda file: (file.name, file.path)))


def _files(place: str) -> Iterator[Listed]:
    """The images in a folder, or the files of any kind that a path or pattern names."""
    fs, path = open_url(place, "duplicates.exclude")
    fixed = re.split(r"[*?\[]", path)[0]
    is_folder, is_pattern = fs.isdir(path), fixed != path and not fs.exists(path)
    above = fixed.rsplit("/", 2)[0] if is_pattern else path.rsplit("/", 1)[0]
    try:
        infos = find(fs, path, is_pattern)
    except FileNotFoundError:
        infos = {}
    if is_folder or is_pattern:  # in folders only images, of what a pattern names itself all files
        depth = 0 if is_folder else path.count("/") if "**" not in path else sys.maxsize
        infos = {n: info for n, info in infos.items() if suffix(n) in IMAGE_SUFFIXES or n.count("/") <= depth}
    if is_folder and not infos:
        raise UserError(f"duplicates.exclude: {place}: has no images; name lists of hashes by their files")
    infos = {name: info for name, info in infos.items() if name.rsplit("/", 1)[-1][0] not in "._"}
    if not infos:
        raise UserError(f"duplicates.exclude: {place}: no such file or folder")
    if odd := [name for name, info in infos.items() if info["type"] != "file"]:
        raise UserError(f"duplicates.exclude: {odd[0]}: is a broken link or no plain file; remove it")
    yield from (Listed(name[len(above) :].lstrip("/"), stamp(info), fs, name) for name, info in infos.items())


def _entries(file: Listed) -> Iterator[Entry]:
    kind = suffix(file.path)
    if kind in IMAGE_SUFFIXES:
        yield _image(file)
    else:
        yield from _table(file) if kind == "parquet" else _lines(file)


@lru_cache(maxsize=1_000_000)  # a run opens its configuration more than once, and decoding images takes time
def _image(file: Listed) -> Entry:
    data = file.read()
    try:
        return hashlib.sha256(data).hexdigest(), str(imagehash.phash(upright(open_image(data))))
    except Exception as error:  # decoders may raise anything
        raise file.error(f"cannot be decoded as an image ({error}); remove it, or list its SHA-256") from None


def _lines(file: Listed) -> Iterator[Entry]:
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise file.error("is not an image, Parquet or text") from None
    if all(not line.strip() or line.startswith("#") for line in text.splitlines()):
        raise file.error("has no line with a SHA-256 (64 hex digits) or perceptual hash (16)")
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        if not (match := HASH.match(line)):
            raise file.error(f"line {number}: {line[:70]!r} is not a {KINDS_OF_HASH}")
        yield match[1], match[2]


def _table(file: Listed) -> Iterator[Entry]:
    try:
        with pq.ParquetFile(io.BytesIO(file.read())) as table:
            names = [name for name in ("sha256", "phash") if name in table.schema_arrow.names]
            rows = table.read(columns=names, use_threads=False)
            columns = {name: rows[name].cast(pa.string()).to_pylist() for name in names}
    except pa.ArrowException as error:
        raise file.error(f"is not Parquet with hashes: {error}") from None
    if not columns:
        raise file.error("has neither a column sha256 nor a column phash")
    nothing = [None] * rows.num_rows
    for number, entry in enumerate(zip(columns.get("sha256", nothing), columns.get("phash", nothing), strict=True), 1):
        for digits, value in zip((64, 16), entry, strict=True):
            if value is not None and (len(value) != digits or not HASH.fullmatch(value)):
                raise file.error(f"row {number}: {value[:70]!r} is not a {KINDS_OF_HASH}")
        if entry != (None, None):
            yield entry
