"""The rows and columns of exported tables: `huggingface`, `trl` and `rlaif-v`."""

import json
from collections.abc import Sequence

import pyarrow as pa

from pipelines.exports.columns import IMAGE, IMAGES, LINES, TURNS, TURNS_OF_PARTS, Column
from pipelines.exports.entries import MARK, Entry, Turn, content
from schemas.arrow import Row
from schemas.selection import OF_OCR, RECONSTRUCT
from schemas.shards import Card
from schemas.views import PREFERENCE

STRING, INT, FLOAT = pa.string(), pa.int64(), pa.float64()
KNOWN = ("key", "url", "width", "height", "sha256", "phash", "ocr", "ocr_verdict")  # by the sample, under these names


# huggingface


def hub_columns(task: str) -> Sequence[Column]:
    image = Column("image", IMAGE, "the picture")
    turned = Column("turned", INT, "the EXIF orientation that was applied to the picture; null: its bytes as they came")
    texts = {
        "caption": (image, Column("text", STRING, "the caption"), turned),
        "ocr": (
            image, Column("text", STRING, "the text in the picture, line by line"),
            Column("caption", STRING, "the caption"), turned,
        ),
        RECONSTRUCT: (
            image, Column("text", STRING, "the original text of the corrupted lines of the picture, line by line"),
            Column("caption", STRING, "the caption"), turned,
        ),
        "conversation": (
            Column("images", IMAGES, "the pictures, in the order of their marks"),
            Column("messages", TURNS, f"the turns; each `{MARK}` in them is the next picture"),
            Column("turned", pa.list_(INT), "the EXIF orientation that was applied to each picture; null: none"),
        ),
        PREFERENCE: (
            image, Column("question", STRING, "what was asked about the picture"),
            Column("chosen", STRING, "the better response"), Column("rejected", STRING, "the worse response"),
            Column("chosen_score", INT, "minus the rejected claims of the better response"),
            Column("rejected_score", INT, "minus the rejected claims of the worse response"),
            Column("margin", INT, "chosen_score - rejected_score"),
            Column("agreement", FLOAT, "share of labelers that prefer the better response by their own verdicts alone"),
            Column("instruction", STRING, "what the source calls the question"),
            Column("image_key", STRING, "the key of the picture"), turned,
        ),
    }[task]  # fmt: skip
    read = (
        Column("ocr", LINES, "the lines read in the picture; boxes in pixels"),
        Column("ocr_verdict", STRING, "how well they were read"),
    )
    return (
        Column("key", STRING, "the key of the sample"), *texts, Column("url", STRING, "where the picture was"),
        Column("width", INT, "pixels"), Column("height", INT, "pixels"),
        Column("sha256", STRING, "of the picture's original bytes"),
        Column("phash", STRING, "64-bit perceptual hash of the picture"), *(() if task == PREFERENCE else read),
        Column("extra", STRING, "whatever else the source says, as JSON"),
        Column("more", STRING, "whatever else the shard says, as JSON"),
    )  # fmt: skip


def hub_row(entry: Entry, task: str, card: Card) -> Row:
    document = dict(entry.document)
    row = {name: document.pop(name, None) for name in KNOWN}
    extra, caption = document.pop("extra", None), document.pop("text", None)
    for name in ("task", "conversation"):
        document.pop(name, None)
    images = [{"bytes": picture.data, "path": picture.name} for picture in entry.pictures]
    turned = [picture.turned for picture in entry.pictures]
    if task == "conversation":
        turns = [{"role": turn.role, "content": content(turn, [MARK] * len(images))} for turn in entry.turns]
        row |= {"images": images, "messages": turns, "turned": turned}
    else:
        row |= {"image": images[0], "turned": turned[0]}
    if task in ("caption", *OF_OCR):
        row |= {"text": entry.text} | ({"caption": caption} if task in OF_OCR else {})
    if task == PREFERENCE:
        row |= document.pop("pair") | answers(entry)
        row |= {"instruction": _text(document.pop("instruction", None)), "image_key": document.pop("image", None)}
    more = {name: value for name, value in document.items() if value is not None}
    return row | {"extra": _text(extra), "more": _text(more or None)}


def answers(entry: Entry) -> Row:
    """The texts of a pair, without its picture."""
    question, chosen = (turn.parts[-1] for turn in entry.turns)
    return {"question": question, "chosen": chosen, "rejected": entry.rejected}


def _text(value: object) -> str | None:
    """A value of JSON as a text."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


# trl


def trl_columns(task: str) -> Sequence[Column]:
    images = Column("images", IMAGES, "the pictures")
    if task != PREFERENCE:
        return images, Column("messages", TURNS_OF_PARTS, "the turns; each part of type `image` is the next picture")
    return (
        images, Column("prompt", TURNS, "the question; TRL puts the pictures in front of it"),
        Column("chosen", TURNS, "the better response"), Column("rejected", TURNS, "the worse response"),
    )  # fmt: skip


def trl_row(entry: Entry, task: str, card: Card) -> Row:
    row = {"images": [{"bytes": picture.data, "path": picture.name} for picture in entry.pictures]}
    if task != PREFERENCE:
        return row | {"messages": [{"role": turn.role, "content": _parts(turn)} for turn in entry.turns]}
    question, chosen, rejected = answers(entry).values()
    pair = {"prompt": ("user", question), "chosen": ("assistant", chosen), "rejected": ("assistant", rejected)}
    return row | {name: [{"role": role, "content": text}] for name, (role, text) in pair.items()}


def _parts(turn: Turn) -> list[Row]:
    """A turn in parts. Chat templates part a picture from the text behind it, so a line break there is left out."""
    parts, after_image = [], False
    for part in turn.parts:
        if isinstance(part, int):
            parts.append({"type": "image", "text": None})
        elif text := part.removeprefix("\n") if after_image else part:
            parts.append({"type": "text", "text": text})
        after_image = isinstance(part, int)
    return parts or [{"type": "text", "text": ""}]


# rlaif-v


def rlaif_v_columns(task: str) -> Sequence[Column]:
    return (
        Column("ds_name", STRING, "the shard set"), Column("image", IMAGE, "the picture"),
        Column("question", STRING, "what was asked about the picture"),
        Column("chosen", STRING, "the better response"), Column("rejected", STRING, "the worse response"),
        Column("origin_dataset", STRING, "what the source names, else the shard set"),
        Column("origin_split", STRING, "what the source names, else the release and the scores, as JSON"),
        Column("idx", STRING, "the key of the pair"), Column("image_path", STRING, "the file name of the picture"),
    )  # fmt: skip


def rlaif_v_row(entry: Entry, task: str, card: Card) -> Row:
    """`origin_dataset` and `origin_split` are the source's own where it has them, as rounds of RLAIF-V do."""
    pair, extra = entry.document["pair"], entry.document["extra"] or {}
    (picture,) = entry.pictures
    scores = {name: pair[name] for name in ("chosen_score", "rejected_score", "margin", "agreement")}
    turned = {"turned": picture.turned} if picture.turned else {}
    split = extra.get("origin_split") or {"release": card["release"], **scores, **turned}
    return {
        "ds_name": card["set"], "image": {"bytes": picture.data, "path": picture.name}, **answers(entry),
        "origin_dataset": str(extra.get("origin_dataset") or card["set"]), "origin_split": _text(split),
        "idx": entry.key, "image_path": picture.name,
    }  # fmt: skip
