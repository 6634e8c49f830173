"""The samples of a published shard, read by its index and compared with its digests."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import BinaryIO, NamedTuple

from pipelines.engine.releases import read_index
from pipelines.engine.root import Corrupt, Root, read_at
from schemas.arrow import Row
from schemas.shards import Document, ShardEntry, checked_document
from schemas.views import PREFERENCE

TOLD = {"conversation": "conversation", PREFERENCE: "pair"}  # task -> where its target is, beside `.txt`


class Sample(NamedTuple):
    name: str
    document: Document  # its JSON
    text: str | None  # its `.txt`: a caption, or the text in the image
    images: dict[str, bytes]  # by the name that each has as a file, in order


def samples(root: Root, entry: ShardEntry, task: str) -> Iterator[Sample]:
    """The samples of a shard, in its order. Raises `Corrupt` for bytes that differ from what was published, and for a
    sample that is not one of the task."""
    tar, rows = f"shards/{entry['tar']}", read_index(root, entry)
    if len(rows) != entry["samples"]:
        raise Corrupt(f"shards/{entry['index']}: {len(rows)} of {entry['samples']} samples; run `shardmill verify`")
    with _opened(root, tar) as file:
        for row in rows:
            try:
                sample = _sample(file, tar, row, task)
            except (ValueError, EOFError) as error:
                raise Corrupt(f"{tar}: {row['sample']}: {error}; run `shardmill verify`") from None
            yield sample


def _sample(file: BinaryIO, tar: str, row: Row, task: str) -> Sample:
    """One sample. Raises `ValueError` for one that is damaged, or lacks what its task needs."""
    document, text, images = None, None, {}
    for member in row["members"]:
        data = read_at(file, tar, member["byte_offset"], member["size"])
        if sha256(data).hexdigest() != member["sha256"]:
            raise ValueError(f".{member['ext']} is damaged")
        if member["ext"] == "json":
            document = checked_document(data)
        elif member["ext"] == "txt":
            text = data.decode()
        else:
            images[f"{row['sample']}.{member['ext']}"] = data
    if document is None or (text is None if task not in TOLD else TOLD[task] not in document):
        raise ValueError(f"lacks its .json, or the target of the task {task}")
    told = document.get("conversation") if task == "conversation" else None
    if len(images) != (len(told["images"]) if told else 1):
        raise ValueError(f"has {len(images)} images, which are not those of its .json")
    return Sample(row["sample"], document, text, images)


@contextmanager
def _opened(root: Root, name: str) -> Iterator[BinaryIO]:
    """A local file, to be read anywhere; a remote one is copied to a temporary file, so that it takes one request."""
    try:
        if root.is_local:
            file = root.open(name)
        else:
            copy = root.temporary("shards")
            root.fs.get_file(root.path(name), str(copy))
            file = copy.open("rb")
            copy.unlink()  # its bytes stay readable until it is closed
    except FileNotFoundError:
        raise Corrupt(f"{name}: does not exist; run `shardmill verify`") from None
    with file:
        yield file
