"""Mutated tables: which of their rows are neither as they were written nor have a reason."""

import csv
import gzip
import io
import json
import random
import re
import time
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from support.corpora import rows_of
from support.fuzzing import mutated
from support.tar_fuzzing import peak

KINDS = ("parquet", "plain.parquet", "csv", "tsv", "jsonl", "jsonl.gz", "held.parquet")
ROWS = 30


def text_of(number: int, row: int) -> str:
    """A text that says whether it is whole."""
    body = f"text {row} of {number}, " + "word " * (row % 7)
    return f"{body}#{zlib.crc32(body.encode())}"


def is_whole(text: str) -> bool:
    body, _, check = text.rpartition("#")
    return check == str(zlib.crc32(body.encode()))


def table(kind: str, number: int) -> bytes:
    """A table of 30 captions in a format."""
    texts = [text_of(number, row) for row in range(ROWS)]
    columns = {"image": [f"{row}.png" for row in range(ROWS)], "text": texts, "n": list(range(ROWS))}
    buffer = io.BytesIO()
    if kind.endswith("parquet"):
        if kind == "held.parquet":
            columns["image"] = [{"bytes": text.encode(), "path": None} for text in texts]
        how = {"use_dictionary": False, "compression": "none"} if kind.startswith("plain") else {"compression": "zstd"}
        pq.write_table(pa.table(columns), buffer, row_group_size=10, write_page_checksum=True, **how)
        return buffer.getvalue()
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if kind.startswith("jsonl"):
        data = "".join(json.dumps(record) + "\n" for record in records).encode()
        return gzip.compress(data, mtime=0) if kind.endswith("gz") else data
    lines = io.StringIO(newline="")
    csv.writer(lines, delimiter="\t" if kind == "tsv" else ",").writerows(
        [[*columns], *zip(*columns.values(), strict=True)]
    )
    return lines.getvalue().encode()


def fuzz_tables(folder: Path, count: int | None = None, seconds: float = 0, seed: int = 0) -> dict:
    """Reads so many mutated tables, or for so long. `silent`: rows of tables with checksums that are neither whole nor
    have a reason; `crashes`: what was raised."""
    draws, reasons, silent, crashes, slowest = random.Random(seed), Counter(), [], [], 0.0
    number, began, before = -1, time.monotonic(), peak()
    while (number + 1 < count) if count is not None else (time.monotonic() - began < seconds):
        number += 1
        kind = KINDS[number % len(KINDS)]
        whole = table(kind, number)
        data, _ = mutated(whole, draws)
        path = folder / f"{number}.{kind}"
        path.write_bytes(data)
        started = time.process_time()
        try:
            rows = rows_of("folder", path, encoding="utf-8", captions="first", image_column="image", text_column="text")
        except Exception as error:
            if type(error).__name__ != "UserError":
                crashes.append(f"{path.name}: {error!r}")
            reasons["asked"] += type(error).__name__ == "UserError"
            continue
        finally:
            slowest = max(slowest, time.process_time() - started)
            path.unlink()
        reasons.update(row["reason"] or "kept" for row in rows)
        checked = kind.endswith("parquet") or kind.endswith("gz")
        told = any(row["reason"] in ("damaged", "unreadable_file", "bad_text") for row in rows)
        for row in rows:
            if row["text"] and checked and not told and not is_whole(row["text"]):
                silent.append(f"{path.name}: {row['text']!r}")
        lines = len([*filter(None, re.split(rb"[\r\n]+", data))]) - 1 if kind in ("csv", "tsv") else 0
        lines -= sum((row["text"] or "").count("\n") for row in rows)  # a text between quotes has several
        if lines > len(rows) and not told:  # no line is a part of another
            silent.append(f"{path.name}: {lines} lines, {len(rows)} rows")
        if data == whole and len(rows) != ROWS:
            silent.append(f"{path.name}: {len(rows)} rows")
        if checked and data and not told and len(rows) < ROWS:
            silent.append(f"{path.name}: {len(rows)} rows, and no reason")
    return {
        "runs": number + 1, "reasons": dict(reasons), "silent": silent, "crashes": crashes, "wrong": silent + crashes,
        "slowest": round(slowest, 2), "memory": peak() - before, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
