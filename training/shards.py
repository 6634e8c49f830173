"""A published shard set as a sequence of samples, read directly from its tars by index.

    samples = Shards("my-corpus", "train")      # or s3://…; or one release of the set, "train@3f2a9c81d04e"
    samples[17]["__key__"], samples[17]["jpg"], samples[17]["txt"]

It needs only the set's card, the indexes that the card names, and the tars, see `schemas.shards`. A sample is the same
as plain `webdataset` reads from these tars: its name under `__key__`, the bytes of each member under its suffix.
"""

import json
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
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from schemas.errors import UserError
from schemas.shards import Card, Damaged, ShardEntry

Sample = dict[str, Any]  # its name, a str, under `__key__`; the bytes of each member under its suffix
PIECE = 1 << 24  # bytes requested from an object store at once


class Shards:
    """The samples of a set, in order. With `check`, each member that is read is compared with its digest.

    Raises `FileNotFoundError` if the set is not published, and `Damaged` if a sample's bytes have changed.
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
        try:
            if isinstance(self.fs, LocalFileSystem):
                data = os.pread(_opened(path).fileno(), size, start)
            else:
                data = cast(bytes, self.fs.cat_file(path, start=start, end=start + size))
        except FileNotFoundError:
            raise UserError(f"{path}: is gone, with {name} in it; train on a release that exists") from None
        return self.unpack(data, tar, name, start, members)

    def unpack(self, data: bytes, tar: str, name: str, start: int, members: Sequence[Mapping[str, Any]]) -> Sample:
        """A sample with its members, cut from its bytes."""
        sample: Sample = {"__key__": name}
        for member in members:
            offset = member["byte_offset"] - start
            payload = sample[member["ext"]] = data[offset : offset + member["size"]]
            if len(payload) != member["size"] or (self.check and sha256(payload).hexdigest() != member["sha256"]):
                raise Damaged(f"{self.folder}/{tar}: {member['ext']} of {name} is not what was published")
        return sample

    def _card(self, name: str) -> Card:
        try:
            return json.loads(self.fs.cat_file(f"{self.folder}/{name}.json"))
        except FileNotFoundError:
            cards = sorted(str(path).rsplit("/", 1)[-1] for path in self.fs.glob(f"{self.folder}/*.json"))
            names = ", ".join(card.removesuffix(".json") for card in cards) or "none"
            raise FileNotFoundError(f"{self.folder}: unknown shard set {name!r}; published: {names}") from None


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
        with self.of.fs.open(self.tar, "rb", block_size=PIECE) as file:
            for name, start, size, members in zip(*(column.to_pylist() for column in self.index), strict=True):
                file.seek(start)
                data = cast(bytes, file.read(size))
                try:
                    yield self.of.unpack(data, self.entry["tar"], name, start, members)
                except Damaged as damaged:
                    yield damaged

    @cached_property
    def index(self) -> list[pa.Array]:
        data = cast(bytes, self.of.fs.cat_file(self.file))
        if self.of.check and sha256(data).hexdigest() != self.entry["index_sha256"]:
            raise Damaged(f"{self.file}: is not the index that was published; remove it, `shardmill run` makes it anew")
        columns = ["sample", "byte_offset", "size", "members"]
        return [c.combine_chunks() for c in pq.ParquetFile(BytesIO(data)).read(columns, use_threads=False).columns]


@lru_cache(maxsize=256)
def _file_system(root: str, process: int) -> fsspec.AbstractFileSystem:
    return fsspec.core.url_to_fs(root)[0]


@lru_cache(maxsize=256)
def _opened(path: str) -> BinaryIO:
    """An open tar, closed when it leaves the cache. Names hold digests, so a tar never becomes another one."""
    return open(path, "rb", buffering=0)
