"""Tables as the Hub has them."""

import os
from pathlib import Path

import pytest
from support.corpora import picture

os.environ["HF_HUB_OFFLINE"] = "1"
datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

PICTURES = [picture(number)[0] for number in range(4)]
IMAGE = datasets.Image()
TEXT = datasets.Value("string")
TURNS = [{"role": TEXT, "content": TEXT}]


def dataset(features: dict, **columns: list) -> "datasets.Dataset":
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def held(*numbers: int) -> list[dict]:
    return [{"bytes": PICTURES[number], "path": f"{number}.png"} for number in numbers]


def pixels(root, row: dict) -> bytes:
    """The bytes kept of a row."""
    tar = Path(root.url) / "images" / row["payload"]
    return tar.read_bytes()[row["byte_offset"] : row["byte_offset"] + row["size"]]


CAPTIONED = {"image": IMAGE, "caption": TEXT, "score": datasets.Value("float32")}
TOML = '[source]\nkind = "huggingface"\npath = "hub"\n[sets.train]\n'
