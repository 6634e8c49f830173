"""The samples of a published shard, read by its index and compared with its digests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import NamedTuple

from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.root import Root
from schemas.arrow import Row
from schemas.shards import ShardEntry, document_of


class Sample(NamedTuple):
    name: str
    document: Row  # its JSON
    text: str | None  # its `.txt`: a caption, or the text in the image
    images: dict[str, bytes]  # by the name that each has as a file, in order


def samples(root: Root, entry: ShardEntry) -> Iterator[Sample]:
    """The samples of a shard, in its order. Raises `Corrupt` for bytes that differ from what was published."""
    tar, rows = f"shards/{entry['tar']}", read_rows(root, f"shards/{entry['index']}")
    if len(rows) != entry["samples"]:
        raise Corrupt(f"shards/{entry['index']}: {len(rows)} of {entry['samples']} samples; run `shardmill verify`")
    with _opened(root, tar) as file:
        for row in rows:
            document, text, images = {}, None, {}
            for member in row["members"]:
                data = os.pread(file, member["size"], member["byte_offset"])
                if sha256(data).hexdigest() != member["sha256"]:
                    raise Corrupt(f"{tar}: {row['sample']}.{member['ext']} is damaged; run `shardmill verify`")
                if member["ext"] == "json":
                    document = document_of(data)
                elif member["ext"] == "txt":
                    text = data.decode()
                else:
                    images[f"{row['sample']}.{member['ext']}"] = data
            yield Sample(row["sample"], document, text, images)


@contextmanager
def _opened(root: Root, name: str) -> Iterator[int]:
    """A descriptor of a file; a remote one is copied to a temporary file, so that it takes one request."""
    path = root.path(name) if root.is_local else root.temporary("shards")
    try:
        if not root.is_local:
            root.fs.get_file(root.path(name), str(path))
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise Corrupt(f"{name}: does not exist; run `shardmill verify`") from None
    try:
        if not root.is_local:
            os.unlink(path)  # its bytes stay readable until it is closed
        yield descriptor
    finally:
        os.close(descriptor)
