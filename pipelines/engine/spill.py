"""A spill: the rows of a source file on disk, sorted by range of partitions, so that the file is read only once.

It is zstd frames of JSON lines. A line that is a list holds the long texts of a frame, which its rows name by number: a
text that many rows share is stored once. The frames of a range follow each other, so that it is read by one request.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from pipelines.engine.root import Corrupt, Root, new_file
from schemas.arrow import Row
from schemas.errors import naming

WAITING = 64 << 20  # characters of rows that wait in memory to be written
LONG = 200  # characters of a text that a frame holds once


@dataclass
class Frame:
    """Rows of one range that wait to be written."""

    texts: dict[str, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def add(self, row: Row) -> int:
        """Adds a row; returns about how many characters that takes."""
        size, kept = 0, {}
        for name, value in row.items():
            if isinstance(value, str) and len(value) > LONG:
                size += 0 if value in self.texts else len(value)
                value = {"text": self.texts.setdefault(value, len(self.texts))}
            kept[name] = value
        self.lines.append(json.dumps(kept))
        return size + len(self.lines[-1])

    def packed(self) -> bytes:
        lines = "\n".join([json.dumps([*self.texts]), *self.lines, ""])
        return pa.Codec("zstd").compress(lines.encode(), asbytes=True)


class Spill:
    """A spill that is being written. `file`: takes the frames in the order in which they are full."""

    def __init__(self, file: BinaryIO, ranges: int):
        self.file, self.waiting, self.characters = file, dict[int, Frame](), 0
        self.places: list[list[tuple[int, int]]] = [[] for _ in range(ranges)]  # (offset, size) of each one's frames

    def add(self, number: int, row: Row) -> None:
        """Adds a row to a range. Its values are texts, numbers, null, and lists of these or of objects of these."""
        self.characters += self.waiting.setdefault(number, Frame()).add(row)
        if self.characters >= WAITING:
            self._write()

    def _write(self) -> None:
        for number, frame in sorted(self.waiting.items()):
            data = frame.packed()
            self.places[number].append((self.file.tell(), len(data)))
            self.file.write(data)
        self.waiting, self.characters = {}, 0

    def put(self, root: Root, name: str, temporary: Path) -> list[int]:
        """Commits the frames, range by range, under `name`. Returns where each range ends, in bytes."""
        self._write()
        ends, size = [], 0
        with naming(temporary), new_file(temporary) as sorted_file:
            for places in self.places:
                for offset, length in places:
                    self.file.seek(offset)
                    sorted_file.write(self.file.read(length))
                    size += length
                ends.append(size)
        root.put(temporary, name)
        return ends


def read_spill(root: Root, name: str, start: int, end: int) -> Iterator[Row]:
    """The rows of a range, in the order in which they were added. Raises `Corrupt`."""
    known: dict[str, str] = {}  # equal texts of several frames are one object in memory
    texts: list[str] = []
    try:
        packed = pa.BufferReader(root.read_range(name, start, end - start))
        for line in io.BufferedReader(pa.CompressedInputStream(packed, "zstd")) if end > start else ():
            value = json.loads(line)
            if isinstance(value, list):
                texts = [known.setdefault(text, text) for text in value]
            else:
                yield {n: texts[v["text"]] if isinstance(v, dict) else v for n, v in value.items()}
    except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network failed
        raise Corrupt(f"{name}: is damaged; remove it and run again: {error}") from None
