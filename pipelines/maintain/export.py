"""A published shard set in the files that other trainers read: `shardmill export-set ROOT SET FOLDER --form trl`.

`trl`: Parquet of pairs in TRL's vision DPO schema. `rlaif-v`: Parquet of pairs in RLAIF-V-Dataset's. `minicpm-v`:
MiniCPM-V's fine-tune JSON of conversations, with a folder of images beside it; a pair becomes the question and the
chosen answer. Image bytes are copied as they came.
The same release gives the same bytes; files are named so that `datasets` finds them. A hidden note beside them says
which release they are, for those who have to find where a sample went.
"""

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.releases import card_named
from pipelines.engine.root import Root
from schemas.arrow import Row
from schemas.errors import UserError
from schemas.shards import Card, ShardEntry
from schemas.views import PREFERENCE

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
TURNS = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
TEXT = {"dtype": "string", "_type": "Value"}
TURN = {"_type": "List", "feature": {"role": TEXT, "content": TEXT}}
NOTE = ".export.json"
NAMES = ("ds_name", "question", "chosen", "rejected", "origin_dataset", "origin_split", "idx", "image_path")


class Sample(NamedTuple):
    name: str
    document: Row  # its JSON
    images: dict[str, bytes]  # by the name that each has as a file, in order


class Form(NamedTuple):
    schema: pa.Schema
    row: Callable[[Sample, Card], Row]


def export(root: Root, set_name: str, form: str, folder: Root) -> list[str]:
    """Writes a shard set, or a release `set@release`, into a folder; returns the names of its data files.

    Raises `UserError` for an unknown set or a set with a task that does not fit, and `Corrupt` for a damaged shard.
    """
    if form not in FORM_NAMES:
        raise UserError(f"--form: unknown form {form!r}; choose from {', '.join(FORM_NAMES)}")
    card = card_named(root, set_name, "export-set")
    tasks = ("conversation", PREFERENCE) if form == MINICPM_V else (PREFERENCE,)
    if card["task"] not in tasks:
        raise UserError(f"export-set: {set_name} has the task {card['task']!r}; {form} needs {' or '.join(tasks)}")
    names = list(_fine_tune(root, card, folder) if form == MINICPM_V else _tables(root, card, FORMS[form], folder))
    for name in folder.files("").keys() - names:  # of an earlier release with another number of shards
        if re.fullmatch(r"train-\d{5}-of-\d{5}\.parquet", name):
            folder.remove(name)
    folder.write(NOTE, json.dumps({"set": card["set"], "release": card["release"], "form": form}).encode())
    return names


def samples(root: Root, entry: ShardEntry) -> Iterator[Sample]:
    """The samples of a shard, by its index."""
    for row in read_rows(root, f"shards/{entry['index']}"):
        images, document = {}, {}
        for member in row["members"]:
            try:
                data = root.read_range(f"shards/{entry['tar']}", member["byte_offset"], member["size"])
            except (FileNotFoundError, EOFError) as error:
                raise Corrupt(f"shards/{entry['tar']}: {error}; run `shardmill verify`") from None
            if member["ext"] == "json":
                document = json.loads(data)
            elif member["ext"] != "txt":
                images[f"{row['sample']}.{member['ext']}"] = data
        yield Sample(row["sample"], document, images)


# Parquet, a file a shard


def _tables(root: Root, card: Card, form: Form, folder: Root) -> Iterator[str]:
    of = len(card["shards"])
    for number, entry in enumerate(card["shards"]):
        rows = [form.row(sample, card) for sample in samples(root, entry)]
        buffer = io.BytesIO()
        table = pa.Table.from_pylist(rows, schema=form.schema)
        pq.write_table(table, buffer, compression="zstd", row_group_size=100, store_schema=True)
        name = f"train-{number:05d}-of-{of:05d}.parquet"
        folder.write(name, buffer.getvalue())
        yield name


def _schema(columns: dict[str, pa.DataType], features: Row) -> pa.Schema:
    """A schema with the metadata by which `datasets` knows the features of columns, so that it decodes images."""
    named = {name: features.get(name, TEXT) for name in columns}
    schema = pa.schema([pa.field(name, kind) for name, kind in columns.items()])
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": named}})})


def _trl(sample: Sample, card: Card) -> Row:
    pair = sample.document["pair"]
    return {
        "images": [{"bytes": data, "path": name} for name, data in sample.images.items()],
        "prompt": [{"role": "user", "content": pair["question"]}],
        "chosen": [{"role": "assistant", "content": pair["chosen"]}],
        "rejected": [{"role": "assistant", "content": pair["rejected"]}],
    }


def _rlaif_v(sample: Sample, card: Card) -> Row:
    """`origin_dataset` and `origin_split` are the source's own where it has them, as rounds of RLAIF-V do."""
    pair, extra = sample.document["pair"], sample.document["extra"] or {}
    ((name, data),) = sample.images.items()
    scores = {name: pair[name] for name in ("chosen_score", "rejected_score", "margin", "agreement")}
    split = extra.get("origin_split") or {"release": card["release"], **scores}
    return {
        "ds_name": card["set"],
        "image": {"bytes": data, "path": name},
        "question": pair["question"], "chosen": pair["chosen"], "rejected": pair["rejected"],
        "origin_dataset": str(extra.get("origin_dataset") or card["set"]),
        "origin_split": split if isinstance(split, str) else json.dumps(split, sort_keys=True),
        "idx": sample.document["key"], "image_path": name,
    }  # fmt: skip


FORMS = {
    "trl": Form(
        _schema(
            {"images": pa.list_(IMAGE), "prompt": TURNS, "chosen": TURNS, "rejected": TURNS},
            {
                "images": {"_type": "List", "feature": {"_type": "Image"}},
                **dict.fromkeys(("prompt", "chosen", "rejected"), TURN),
            },
        ),
        _trl,
    ),
    "rlaif-v": Form(
        _schema(
            {"ds_name": pa.string(), "image": IMAGE, **dict.fromkeys(NAMES[1:], pa.string())},
            {"image": {"_type": "Image"}},
        ),
        _rlaif_v,
    ),
}
MINICPM_V = "minicpm-v"
FORM_NAMES = (*FORMS, MINICPM_V)


# JSON, with images in files


def _fine_tune(root: Root, card: Card, folder: Root) -> Iterator[str]:
    """`conversations.json`, and a file for each image in `images/`. The JSON is written last, when its images exist."""
    entries = []
    for shard in card["shards"]:
        for sample in samples(root, shard):
            conversation = sample.document.get("conversation") or _chosen(sample.document["pair"])
            names = [f"images/{name}" for name in sample.images]
            for name, data in sample.images.items():
                folder.write(f"images/{name}", data)
            marks = dict(zip(conversation["images"], names, strict=True))
            entry = {"id": sample.document["key"], "conversations": conversation["turns"]}
            if marks:
                entry["image"] = marks["<image>"] if [*marks] == ["<image>"] else marks
            entries.append(entry)
            yield from names
    folder.write("conversations.json", json.dumps(entries, indent=1, ensure_ascii=False).encode())
    yield "conversations.json"


def _chosen(pair: Row) -> Row:
    """The better answer of a pair, as a conversation."""
    turns = [("user", f"<image>\n{pair['question']}"), ("assistant", pair["chosen"])]
    return {"turns": [{"role": role, "content": content} for role, content in turns], "images": ["<image>"]}
