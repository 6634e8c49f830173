"""Parquet files broken along their structure: fields of footers and of headers of pages, levels, dictionaries, values.

Files are read in a process of its own, so that the death of a process is seen, and its file named.
"""

import io
import os
import random
import struct
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from support.corpora import rows_of
from support.fuzz_tables import ROWS, is_whole, text_of
from support.tar_fuzzing import peak
from support.thrift_trees import changed, find, read, written

from pipelines.engine.parquet import read_rows
from pipelines.engine.root import Corrupt, Root

CODECS = ("none", "snappy", "gzip", "brotli", "lz4", "zstd")
PARTS = ("footer", "footer", "header", "header", "body", "length")
TEXTS = (None, "PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY")  # encodings; None is a dictionary
OPTIONS = {"captions": "first", "image_column": "image", "text_column": "text"}
ALONE = 200  # files that one process reads


def small(number: int) -> bytes:
    """A small table of texts, lists and bytes, of any codec, version and encoding."""
    codec, encoding, version, checked = list(product(CODECS, TEXTS, ("1.0", "2.0"), (True, False)))[number % 96]
    texts = [text_of(number, row) for row in range(ROWS)]
    columns = {
        "image": [{"bytes": text.encode(), "path": None} for text in texts], "text": texts,
        "tags": [[*map(str, range(row % 3))] if row % 4 else None for row in range(ROWS)],
        "n": pa.array(range(ROWS)), "when": pa.array(range(ROWS), pa.timestamp("us", "UTC")),
        "exact": pa.array(range(ROWS), pa.decimal128(20)), "yes": [row % 2 == 0 for row in range(ROWS)],
    }  # fmt: skip
    buffer = io.BytesIO()
    how = {} if encoding is None else {"use_dictionary": False, "column_encoding": {"text": encoding}}
    pq.write_table(
        pa.table(columns), buffer, compression=codec, data_page_version=version, write_page_checksum=checked,
        row_group_size=10, data_page_size=200, write_page_index=number % 3 == 0, **how,
    )  # fmt: skip
    return buffer.getvalue()


def broken(data: bytes, draws: random.Random) -> tuple[bytes, str]:
    """The file with one part of it changed, and which."""
    size, part = struct.unpack("<I", data[-8:-4])[0], draws.choice(PARTS)
    body, footer = bytearray(data[: -8 - size]), read(data[-8 - size : -8])[0]
    if part == "length":
        claims = (0, size - 1, size + 1, len(data), len(data) - 12, (1 << 32) - 1, 1 << 31)
        return data[:-8] + struct.pack("<I", draws.choice(claims)) + data[-4:], part
    if part == "footer":
        for _ in range(draws.choice((1, 1, 1, 2, 5))):
            changed(footer, draws)
    else:
        group = draws.choice(find(footer, 4)[1]).value
        _break_page(body, footer, draws.choice(find(group, 1)[1]).value, part, draws)
    made = written(footer)
    return bytes(body) + made + struct.pack("<I", len(made)) + b"PAR1", part


def _break_page(body: bytearray, footer: list, chunk: list, part: str, draws: random.Random) -> None:
    """Changes a page of a column chunk. What lies behind it moves, and the footer says where to."""
    places = [find(chunk, 3, field) for field in (9, 11)]
    start = draws.choice([place for place in places if place is not None])
    header, end = read(body, start)
    size = find(header, 3)
    data = bytearray(body[end : end + size])
    if part == "header":
        for _ in range(draws.choice((1, 1, 2))):
            changed(header, draws)
    else:
        for _ in range(draws.choice((1, 1, 2, 5, 20))):
            if data:
                near = draws.choice((8, 24, len(data)))
                data[draws.randrange(min(len(data), near))] = draws.choice((0, 1, 127, 128, 255, draws.randrange(256)))
        sums = [field for field in header if field.number == 4]
        if sums and draws.random() < 0.5:  # whoever changes a page can write its checksum, too
            sums[0].value = struct.unpack("<i", struct.pack("<I", zlib.crc32(data)))[0]
    made = written(header) + bytes(data)
    grown = len(made) - (end + size - start)
    body[start : end + size] = made
    for group in find(footer, 4)[1]:
        for column in find(group.value, 1)[1]:
            for field in find(column.value, 3):
                if field.number in (9, 10, 11) and field.value > start:
                    field.value += grown
    for field in find(chunk, 3):
        if field.number == 7:
            field.value += grown


def read_one(folder: Path, name: str) -> tuple[list[str], list[str]]:
    """Reads a broken file beside a whole one, as a source and as a file of a root: what became of its rows, and what is
    wrong."""
    number = int(name.split("/")[1])
    whole = small(number)
    data, part = broken(whole, random.Random(name))
    (folder / "a.parquet").write_bytes(data)
    (folder / "b.parquet").write_bytes(whole)
    ends, wrong = [], []
    try:
        rows = rows_of("folder", folder, **OPTIONS)
    except Exception as error:
        ends.append("asked" if type(error).__name__ == "UserError" else "raised")
        if type(error).__name__ != "UserError":
            wrong.append(f"{part}: {traceback.format_exc()}")
    else:
        ends += [row["reason"] or "kept" for row in rows]
        beside = [row["text"] for row in rows[-ROWS:]]
        if beside != [text_of(number, row) for row in range(ROWS)]:
            wrong.append(f"{part}: the file beside: {beside[:2]}")
        told = any(row["reason"] for row in rows)
        texts = [row["text"] for row in rows[:-ROWS] if row["text"]]
        if part == "length" and not told and not all(map(is_whole, texts)):
            wrong.append(f"{part}: a text is misread")
    try:
        read_rows(Root(str(folder)), "a.parquet")
        ends.append("root: read")
    except Corrupt:
        ends.append("root: refused")
    except Exception:
        wrong.append(f"{part}: {traceback.format_exc()}")
    return ends, wrong


def fuzz_parquet(
    folder: Path, count: int | None = None, seconds: float = 0, seed: int = 0, one: Callable = read_one
) -> dict:
    """Reads so many broken files, or for so long, each beside a whole one. `wrong`: what was raised, files beside that
    are not equal, and processes that died."""
    began, number, ends, wrong, slowest, memory = time.monotonic(), 0, Counter(), [], 0.0, 0
    folder.mkdir(parents=True, exist_ok=True)
    while number < count if count is not None else time.monotonic() - began < seconds:
        here, there = get_context("fork").Pipe()
        until = number + ALONE if count is None else min(count, number + ALONE)
        child = get_context("fork").Process(target=_several, args=(folder, seed, number, until, one, there))
        child.start()
        there.close()
        try:
            while number < until:
                found, problems, took = here.recv()
                ends.update(found)
                wrong += [f"{seed}/{number}: {problem}" for problem in problems]
                slowest, number = max(slowest, took), number + 1
            memory = max(memory, here.recv())
        except EOFError:
            child.join()
            wrong.append(f"{seed}/{number}: the process ended with {child.exitcode}")
            number += 1
        child.join()
    return {
        "runs": number, "ends": dict(ends), "wrong": wrong, "slowest": round(slowest, 2), "memory": memory,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _several(folder: Path, seed: int, start: int, end: int, one: Callable, pipe) -> None:
    before = peak()
    for number in range(start, end):
        started = time.process_time()
        pipe.send((*one(folder, f"{seed}/{number}"), time.process_time() - started))
    pipe.send(peak() - before)
    pipe.close()
    os._exit(0)  # Arrow's threads do not outlive a fork
