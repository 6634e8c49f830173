"""The entries of exported JSON: `llava` and `minicpm-v`. Their images are files beside it."""

from pipelines.exports.entries import MARK, Entry, alternating, content
from schemas.arrow import Row
from schemas.shards import Card


def llava_row(entry: Entry, task: str, card: Card) -> Row:
    roles = {"user": "human", "assistant": "gpt"}
    marks = [MARK] * len(entry.pictures)
    turns = [{"from": roles[turn.role], "value": content(turn, marks)} for turn in alternating(entry.turns)]
    names = [picture.name for picture in entry.pictures]
    image = {"image": names[0] if len(names) == 1 else names} if names else {}
    return {"id": entry.key, **image, "conversations": turns, **_turned(entry)}


def minicpm_v_row(entry: Entry, task: str, card: Card) -> Row:
    """One picture of the first turn is `<image>`; others have numbered marks: the source's own, if all are numbered."""
    turns, count = alternating(entry.turns), len(entry.pictures)
    marks = entry.marks
    if not marks or MARK in marks:
        marks = [f"<image_{number:02d}>" for number in range(count)]
    if count == 1 and 0 in turns[0].parts:
        marks = [MARK]
    said = {"id": entry.key, "conversations": [{"role": turn.role, "content": content(turn, marks)} for turn in turns]}
    names = [picture.name for picture in entry.pictures]
    if names:
        said["image"] = names[0] if marks[0] == MARK else dict(zip(marks, names, strict=True))
    return said | _turned(entry)


def _turned(entry: Entry) -> Row:
    """Which pictures were turned upright, and by which EXIF orientation."""
    turned = {picture.name: picture.turned for picture in entry.pictures if picture.turned}
    return {"turned": turned} if turned else {}
