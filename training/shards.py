"""A published shard set as a sequence of samples, read directly from its tars by index.

    samples = Shards("my-corpus", "train")      # or s3://…; or one release of the set, "train@3f2a9c81d04e"
    samples[17]["__key__"], samples[17]["jpg"], samples[17]["txt"]

It needs only the set's card, the indexes that the card names, and the tars, see `schemas.shards`. A sample is the same
as plain `webdataset` reads from these tars: its name under `__key__`, the bytes of each member under its suffix.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from hashlib import sha256
from io import BytesIO
from itertools import accumulate
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from schemas.checked import bytes_at, checked, is_name, open_file, plain_json, read_file, read_remote
from schemas.errors import UserError
from schemas.parquet import ParquetTable, checked_table
from schemas.shards import SAMPLES, Card, Damaged, Member, ShardEntry, wrong_member

Sample = dict[str, Any]  # its name, a str, under `__key__`; the bytes of each member under its suffix
PIECE = 1 << 24  # bytes requested from an object store at once
MOST = 256 << 20  # bytes of a card or an index; more is not what Shardmill writes
MOST_OF_SAMPLE = 1 << 30  # bytes
COLUMNS = ("sample", "byte_offset", "size", "members")  # of an index


class Shards:
    """The samples of a set, in order. With `check`, each member that is read is compared with its digest.

    A stranger may have written any of its files: all of them are checked against their declared types and sizes.

    Raises `FileNotFoundError` if the set is not published, `UserError` if its card is damaged, and `Damaged` if a
    sample's bytes, or the index that names them, have changed.
    """

    def __init__(self, root: str, name: str, check: bool = True):
        self.root = str(root)
        path = fsspec.core.url_to_fs(self.root)[1]
        self.folder, self.check = f"{path.rstrip('/')}/shards", check
        self.card = self._card(name)
        self.shards = [Shard(self, entry) for entry in self.card["shards"]]
        self.ends = list(accumulate(len(shard) for shard in self.shards))

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The file system of this process: a forked worker cannot use its parent's connections to an object store."""
        return _file_system(self.root, os.getpid())

    @property
    def release(self) -> str:
        """The release that is read, even if another is published later: `train@3f2a9c81d04e`."""
        return f"{self.card['set']}@{self.card['release']}"

    def __len__(self) -> int:
        return self.card["samples"]

    def __getitem__(self, number: int) -> Sample:
        number = range(len(self))[number]
        shard = bisect_right(self.ends, number)
        return self.shards[shard].sample(number - self.ends[shard] + len(self.shards[shard]))

    def __iter__(self) -> Iterator[Sample]:
        return (shard.sample(number) for shard in self.shards for number in range(len(shard)))

    def read(self, tar: str, name: str, start: int, size: int, members: Sequence[Mapping[str, Any]]) -> Sample:
        """A complete sample in one read, at the place in the index."""
        path = f"{self.folder}/{tar}"
        if not is_name(tar):
            raise Damaged(f"{self.folder}: {tar!r:.200} is not the name of a file beside the card")
        self.check_place(tar, name, start, size)
        try:
            if self.is_local:
                data = bytes_at(_opened(path).fileno(), start, size)
            else:
                data = cast(bytes, self.fs.cat_file(path, start=start, end=start + size))
        except FileNotFoundError:
            raise UserError(f"{path}: is gone, with {name} in it; train on a release that exists") from None
        except ValueError as error:
            raise Damaged(str(error)) from None
        return self.unpack(data, tar, name, start, members)

    def unpack(self, data: bytes, tar: str, name: str, start: int, members: Sequence[Mapping[str, Any]]) -> Sample:
        """A sample with its members, cut from its bytes."""
        sample: Sample = {"__key__": name}
        for member in members:
            wrong = wrong_member(name, cast(Member, member))
            if wrong or member["ext"] in sample:
                raise Damaged(f"{self.folder}/{tar}: {name}: {wrong or 'has two members of one name'}")
            offset = member["byte_offset"] - start
            payload = sample[member["ext"]] = data[offset : offset + member["size"]] if offset >= 0 else b""
            if len(payload) != member["size"] or (self.check and sha256(payload).hexdigest() != member["sha256"]):
                raise Damaged(f"{self.folder}/{tar}: {member['ext']} of {name} is not what was published")
        return sample

    def check_place(self, tar: str, name: str, start: int, size: int) -> None:
        """Raises `Damaged` if a sample cannot be where the index says it is."""
        if not (0 <= start < 1 << 53 and 0 <= size <= MOST_OF_SAMPLE):
            raise Damaged(f"{self.folder}/{tar}: {name}: {size} bytes at {start} are not a sample")

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def whole(self, path: str) -> bytes:
        """A whole file. Raises `FileNotFoundError`, and `ValueError` unless it is a regular file of bounded size."""
        if self.is_local:
            return read_file(path, MOST)
        if len(data := read_remote(self.fs, path, MOST + 1)) > MOST:
            raise ValueError(f"{path}: has more than {MOST:,} bytes")
        return data

    def _card(self, name: str) -> Card:
        path = f"{self.folder}/{name}.json"
        try:
            card = checked(Card, plain_json(self.whole(path)))
            if card["samples"] != sum(entry["samples"] for entry in card["shards"]):
                raise ValueError("samples: are not the sum of those of its shards")
            return card
        except FileNotFoundError:
            cards = sorted(str(path).rsplit("/", 1)[-1] for path in self.fs.glob(f"{self.folder}/*.json"))
            if not cards:
                raise FileNotFoundError(f"{self.folder}: no shard set is published here; is it the corpus?") from None
            names = ", ".join(card.removesuffix(".json") for card in cards)
            raise FileNotFoundError(f"{self.folder}: unknown shard set {name!r}; published: {names}") from None
        except ValueError as error:
            wrong = str(error).removeprefix(f"{path}: ")
            raise UserError(f"{path}: is damaged: {wrong}; `shardmill verify` says more") from None


class Shard:
    """The samples of one tar.

    The index is read when it is first needed, and kept in Arrow's format: small, in memory that forked workers share.
    """

    def __init__(self, of: Shards, entry: ShardEntry):
        self.of, self.entry = of, entry
        self.tar, self.file = (f"{of.folder}/{entry[name]}" for name in ("tar", "index"))

    def __len__(self) -> int:
        return self.entry["samples"]

    def sample(self, number: int) -> Sample:
        return self.of.read(self.entry["tar"], *(column[number].as_py() for column in self.index))

    def each(self) -> Iterator[Sample | Damaged]:
        """All samples in order, read in large pieces; for a damaged one, the `Damaged` instead."""
        with self._opened_tar() as file:
            for name, start, size, members in zip(*(column.to_pylist() for column in self.index), strict=True):
                try:
                    self.of.check_place(self.entry["tar"], name, start, size)
                    file.seek(start)
                    data = cast(bytes, file.read(size))
                    yield self.of.unpack(data, self.entry["tar"], name, start, members)
                except Damaged as damaged:
                    yield damaged

    def _opened_tar(self) -> BinaryIO:
        try:
            if self.of.is_local:
                return open(open_file(self.tar), "rb")
            return cast(BinaryIO, self.of.fs.open(self.tar, "rb", block_size=PIECE))
        except FileNotFoundError:
            raise Damaged(f"{self.tar}: is gone; train on a release that exists") from None
        except ValueError as error:
            raise Damaged(str(error)) from None

    @cached_property
    def index(self) -> list[pa.Array]:
        return self.columns(COLUMNS)

    def columns(self, names: Sequence[str]) -> list[pa.Array]:
        """Columns of the index, which is not kept. Raises `Damaged` if it is not what was published."""
        try:
            data = self.of.whole(self.file)
            if self.of.check and sha256(data).hexdigest() != self.entry["index_sha256"]:
                raise ValueError("is not the index that was published; remove it, and `shardmill run` makes it again")
            with ParquetTable(BytesIO(data)) as file:
                table = checked_table(file, names, pa.schema([SAMPLES.field(name) for name in names]))
            table.validate(full=True)
            if len(table) != len(self):
                raise ValueError(f"has {len(table)} samples, the card says {len(self)}")
        except FileNotFoundError:
            raise Damaged(f"{self.file}: is gone; train on a release that exists") from None
        except (pa.ArrowException, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            wrong = " ".join(str(error).split()).removeprefix(f"{self.file}: ")
            raise Damaged(f"{self.file}: {wrong}") from None
        return [table[name].combine_chunks() for name in names]


@lru_cache(maxsize=256)
def _file_system(root: str, process: int) -> fsspec.AbstractFileSystem:
    return fsspec.core.url_to_fs(root)[0]


@lru_cache(maxsize=256)
def _opened(path: str) -> BinaryIO:
    """An open tar, closed when it leaves the cache. Names hold digests, so a tar never becomes another one."""
    return open(open_file(path), "rb", buffering=0)
