"""What a Parquet file says of its parts: the footer, and the headers of its pages, which have the last word.

Both are read by hand. Arrow's own objects of a column chunk end the process when its fields contradict each other
(25.0), and Arrow takes a KB for a chunk of few bytes, so that a large footer is read here before Arrow opens its file.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from schemas.thrift import I32, I64, LIST, Struct

HEAD, LARGEST = 1 << 12, 16 << 20  # bytes of a page's header that are read first, and at most, as Arrow does
COLUMNS = 10_000  # of a file, with those that hold others: Arrow takes 0.1 ms for each
# Numbers of fields. Of a page: its bytes, uncompressed and compressed, and the head of its data, in two versions
PAGE = {2: I32, 3: I32, 5: {1: I32, 2: I32}, 8: {1: I32, 4: I32}}
CHUNK = {2: LIST, 3: LIST, 5: I64, 6: I64, 7: I64, 9: I64, 11: I64}
FILE = {2: {}, 3: I64, 4: {1: {3: CHUNK}, 2: I64, 3: I64}}


class Chunk(NamedTuple):
    """A column of a row group, as the footer describes it."""

    values: int
    unpacked: int  # bytes in memory
    stored: int  # bytes in the file
    start: int  # of its first page
    path: str  # of its column
    encodings: frozenset[int]


class Group(NamedTuple):
    """A row group, as the footer describes it."""

    rows: int
    size: int  # bytes in memory
    chunks: list[Chunk]


class Pages(NamedTuple):
    """The pages of a column chunk, as their headers describe them."""

    unpacked: int  # bytes in memory
    largest: int  # bytes of one page in memory: no value is larger
    values: int
    encodings: frozenset[int]  # of values


def footer_size(raw: BinaryIO) -> int:
    """How long the footer of a file is. Raises `ArrowInvalid` if it has none."""
    length = raw.seek(0, 2)
    raw.seek(max(0, length - 8))
    tail = raw.read(8)
    if tail[4:] != b"PAR1":
        raise pa.ArrowInvalid("is not Parquet, or was cut")
    (size,) = struct.unpack("<I", tail[:4])
    if size > length - 12:
        raise pa.ArrowInvalid(f"has {length} bytes, and claims a footer of {size}")
    return size


def read_footer(raw: BinaryIO) -> list[Group]:
    """The row groups of a file. Raises `ArrowInvalid` for a footer that is damaged, and for claims that no file of this
    length can keep."""
    size = footer_size(raw)
    length = raw.seek(0, 2)
    raw.seek(length - 8 - size)
    rows, groups = _parsed(raw.read(size))
    for group in groups:
        for chunk in group.chunks:
            if chunk.start + chunk.stored > length:
                place = f"{chunk.stored} bytes at {chunk.start} of {length}"
                raise pa.ArrowInvalid(f"claims that column {chunk.path:.100} has {place}")
    if sum(group.rows for group in groups) != rows:
        raise pa.ArrowInvalid(f"claims {rows} rows, and row groups of {sum(group.rows for group in groups)}")
    return groups


@lru_cache(maxsize=2)  # each partition of a file reads its footer
def _parsed(footer: bytes) -> tuple[int, list[Group]]:
    """How many rows a footer claims, and its row groups."""
    try:
        fields = Struct(footer).read(FILE)
        columns = len(fields[2]) - 1  # without the root
        rows, groups = fields[3], [_group(group) for group in fields[4]]
    except (ValueError, EOFError) as error:
        raise pa.ArrowInvalid(f"has a damaged footer: it {error}") from None
    except KeyError:
        raise pa.ArrowInvalid("has a damaged footer: a field is missing") from None
    if columns > COLUMNS:
        raise pa.ArrowInvalid(f"has {columns:,} columns; at most {COLUMNS:,} are read")
    if any(min(group[:2]) < 0 or any(min(chunk[:4]) < 0 for chunk in group.chunks) for group in groups):
        raise pa.ArrowInvalid("has a damaged footer: a number is below 0")
    return rows, groups


def _group(group: dict) -> Group:
    chunks = []
    for column in group[1]:
        chunk = column[3]
        path = b".".join(chunk[3]).decode("utf-8", "replace")
        start, dictionary = chunk[9], chunk.get(11) or 0
        start = dictionary if 0 < dictionary < start else start
        chunks.append(Chunk(chunk[5], chunk[6], chunk[7], start, path, frozenset(chunk[2])))
    return Group(group[3], group[2], chunks)


def read_pages(raw: BinaryIO, chunk: Chunk) -> Pages:
    """What the pages of a column chunk are in memory. Headers behind a damaged one are not counted: Arrow stops there
    too."""
    sizes, values, encodings = [0], 0, set[int]()
    for page in _headers(raw, chunk):
        sizes.append(page[2])
        for field, encoding in ((5, 2), (8, 4)):
            values += max(0, page.get(field, {}).get(1, 0))
            encodings |= {page[field].get(encoding, -1)} if field in page else set()
    return Pages(sum(sizes), max(sizes), values, frozenset(encodings))


def _headers(raw: BinaryIO, chunk: Chunk) -> Iterator[dict]:
    at, end = chunk.start, chunk.start + chunk.stored
    while at < end:
        for most in (HEAD, LARGEST):
            raw.seek(at)
            header = Struct(raw.read(min(most, end - at)))
            try:
                page = header.read(PAGE)
                break
            except EOFError:
                if most == LARGEST:
                    return
            except ValueError:
                return
        if min(page.get(2, -1), page.get(3, -1)) < 0:
            return
        yield page
        at += header.at + page[3]
