"""Small sources of each kind that is split into partitions, and corpora of them."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from support.corpora import ONE_PROCESS, data_files

from pipelines.sources.conversations import Conversations
from pipelines.sources.instructions import Instructions
from pipelines.sources.tables import Tables

ROWS = 120
LONG = "a long text that many rows share " * 20


def caption(number: int) -> str:
    return {0: LONG, 1: "half a pair \ud83d", 2: "caption"}.get(number % 7, f"caption {number} é\n\t\0")


def write_laion(folder: Path, name: str = "a.parquet", rows: int = ROWS) -> None:
    texts = [caption(n).encode("utf-8", "replace").decode() for n in range(rows)]
    urls = [f"http://{name}/{n % 100}" for n in range(rows)]  # some rows have the same name
    table = {"url": urls, "caption": texts, "similarity": [n / 7 if n % 5 else float("nan") for n in range(rows)]}
    pq.write_table(pa.table(table), folder / name, row_group_size=16)


def write_csv(folder: Path) -> None:
    with (folder / "a.csv").open("w", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerows([("image", "caption"), *((f"{n}.png", caption(n)) for n in range(ROWS))])


def write_jsonl(folder: Path) -> None:
    lines = [json.dumps({"image": f"{n}.png", "caption": caption(n), "more": [n, {"a": None}]}) for n in range(ROWS)]
    (folder / "a.jsonl").write_text("\n".join([*lines, "{cut"]))


def write_conversations(folder: Path) -> None:
    entries = []
    for n in range(ROWS):
        said = [("user", f"<image_00> <image_01> {caption(n)}"), ("assistant", LONG)]
        turns = [{"role": role, "content": text} for role, text in said]
        images = {"<image_00>": f"{n}.png", "<image_01>": "b.png"}
        entries.append({"id": n % 100, "image": images, "conversations": turns})
    (folder / "a.json").write_text(json.dumps(entries))


def write_instructions(folder: Path) -> None:
    lines = [json.dumps({"image": f"{n % 90}.png", "question": f"what is {n}?", "id": n}) for n in range(ROWS)]
    (folder / "a.jsonl").write_text("\n".join(lines))


KINDS = {
    "laion": ("laion", write_laion, Tables),
    "csv": ("folder", write_csv, Tables),
    "jsonl": ("folder", write_jsonl, Tables),
    "conversations": ("conversations", write_conversations, Conversations),
    "instructions": ("instructions", write_instructions, Instructions),
}


def write_corpus(folder: Path, kind: str, root: str, size: str = "rows_per_partition = 4\n") -> Path:
    config = folder / f"{root}.toml"
    config.write_text(f'root = "{root}"\n[source]\nkind = "{kind}"\npath = "source"\n{size}{ONE_PROCESS}')
    return config


def rows_of(root: Path) -> dict[str, str]:
    return {name: sha256 for name, sha256 in data_files(root).items() if name.startswith("rows/")}
