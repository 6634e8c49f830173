"""The forms of an export: for each, which tasks it can hold, and how an entry is written in it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipelines.exports.columns import Column
from pipelines.exports.conversations import llava_row, minicpm_v_row
from pipelines.exports.entries import Entry
from pipelines.exports.tables import (
    hub_columns,
    hub_row,
    rlaif_v_columns,
    rlaif_v_row,
    trl_columns,
    trl_row,
)
from schemas.arrow import Row
from schemas.selection import RECONSTRUCT
from schemas.shards import Card
from schemas.views import PREFERENCE

TASKS = ("caption", "ocr", RECONSTRUCT, "conversation", PREFERENCE)


class Form(NamedTuple):
    row: Callable[[Entry, str, Card], Row]  # of an entry, its task and the card of its set
    usage: str  # how it is loaded
    columns: Callable[[str], Sequence[Column]] | None = None  # of a table, by task; a form without them is JSON
    tasks: tuple[str, ...] = TASKS
    asks: bool = True  # whether it holds conversations, in which captions and OCR answer a question


LOAD = """```python
from datasets import load_dataset

dataset = load_dataset("FOLDER", split="train")
```"""

FORMS = {
    "huggingface": Form(hub_row, LOAD, hub_columns, asks=False),
    "trl": Form(
        trl_row, f"{LOAD}\n\n`SFTTrainer`, or `DPOTrainer` for pairs, takes it as its `train_dataset`.", trl_columns
    ),
    "rlaif-v": Form(rlaif_v_row, LOAD, rlaif_v_columns, (PREFERENCE,)),
    "llava": Form(llava_row, "LLaVA's scripts take `--data_path FOLDER/conversations.json --image_folder FOLDER`."),
    "minicpm-v": Form(
        minicpm_v_row,
        "MiniCPM-V's fine-tuning takes `--data_path conversations.json`. Start it in this folder: the paths of images "
        "begin here.",
    ),
}
