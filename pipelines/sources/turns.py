"""Reads turns of conversations, and the images that their texts name, in common formats.

MiniCPM-V: {role, content}, and an image or an object from marks to images. LLaVA and ShareGPT: {from, value}, where
`<image>` stands for the next image of a list. The Hub: `messages` whose content may be a list of parts, and lists of
{user, assistant}.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.sources.source import value_of
from schemas.marks import named_pictures
from schemas.texts import is_empty

ROLES = {"system", "user", "assistant"}
FROM = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
MARK = re.compile(r"<image(?:_\d+)?>")
PLACE = "<image>"  # where LLaVA puts the next image

Turn = dict[str, str]


def compact(value: Any) -> str:
    """JSON that is the same for equal values, not escaped: a lone surrogate stays as it is, and is replaced later."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def read_conversation(turns: Any, image: Any, system: Any = None) -> tuple[list[Turn], dict[str, Any]]:
    """The turns, and mark -> image. `image`: one, a list of them, {mark: image}, or none. `system`: the system's text
    beside the turns, as LLaMA-Factory has it.

    Raises `ValueError` for what no format allows, and where marks and images do not fit.
    """
    made = turns_of(turns)
    if system:
        first = _turns({"role": "system", "content": system})
        made = made if made[:1] == first else first + made
    if all(turn["role"] != "assistant" for turn in made):
        raise ValueError("no turn of the assistant: nothing to learn")
    if any(turn["role"] == "assistant" and is_empty(turn["content"]) for turn in made):
        raise ValueError("a turn of the assistant is empty")
    if isinstance(image, Sequence) and not isinstance(image, str | bytes) and len(image) > 1:
        made, images = _placed(made, list(image))
    else:
        images = _images_of(image)
    _check_marks(made, images)
    _check_questions(made, images)
    return made, images


def _check_questions(turns: Sequence[Turn], images: Mapping[str, Any]) -> None:
    """Raises `ValueError` if a turn of the user says nothing. Images without a mark are put into the first one."""
    asked = [turn["content"] for turn in turns if turn["role"] == "user"]
    shown = asked and any(all(mark not in content for content in asked) for mark in images)
    if any(is_empty(content) for content in (asked[1:] if shown else asked)):
        raise ValueError("a turn of the user is empty")


def turns_of(turns: Any) -> list[Turn]:
    """Turns as {role, content}, of any of the formats. Raises `ValueError`."""
    if isinstance(turns, str):
        try:
            turns = value_of(turns)  # as some sets of the Hub store them
        except ValueError:
            turns = None
    if not isinstance(turns, list) or not turns:
        raise ValueError("conversations is not a list of turns")
    return [turn for entry in turns for turn in _turns(entry)]


def _turns(entry: Any) -> list[Turn]:
    if not isinstance(entry, dict):
        raise _no_turn(entry)
    if "user" in entry and "assistant" in entry and "role" not in entry:
        said = [("user", entry["user"]), ("assistant", entry["assistant"])]
    elif "from" in entry:
        said = [(FROM.get(entry["from"]) if isinstance(entry["from"], str) else None, entry.get("value"))]
    else:
        said = [(entry.get("role"), content_of(entry.get("content")))]
    turns: list[Turn] = []
    for role, content in said:
        if not isinstance(role, str) or role not in ROLES or not isinstance(content, str):
            raise _no_turn(entry)
        turns.append({"role": role, "content": content})
    return turns


def _no_turn(entry: Any) -> ValueError:
    return ValueError(f"a turn is not {{role, content}}: {str(entry)[:200]}")


def content_of(content: Any) -> Any:
    """The content of a turn; of a list of parts, their texts, and `<image>` for each image.

    A line break comes behind an image that the turn begins with, and between two texts. Inside a text nothing does:
    "Is ", an image, "?" is "Is <image>?".
    """
    if not isinstance(content, list):
        return content
    text, before = "", ""
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            piece = part["text"]
        elif kind in ("image", "image_url"):
            piece = PLACE
        else:
            raise ValueError(f"a part of a turn is neither a text nor an image: {str(part)[:200]}")
        begins = not text.replace(PLACE, "").strip()
        if text and not piece[:1].isspace() and (begins or PLACE not in (before, piece)):
            text += "\n"
        text, before = text + piece, piece
    return text


def _placed(turns: list[Turn], images: list[Any]) -> tuple[list[Turn], dict[str, Any]]:
    """Turns in which the n-th `<image>` is the mark of the n-th of several images. Without marks, all come first."""
    marks = [f"<image_{number:02d}>" for number in range(len(images))]
    places = sum(turn["content"].count(PLACE) for turn in turns)
    if places not in (0, len(images)) and not any(MARK.search(turn["content"].replace(PLACE, "")) for turn in turns):
        raise ValueError(f"{places} marks of images in the text, {len(images)} images")
    following = iter(marks)
    if places == len(images):
        turns = [turn | {"content": re.sub(PLACE, lambda _: next(following), turn["content"])} for turn in turns]
    return turns, dict(zip(marks, images, strict=True))


def _images_of(image: Any) -> dict[str, Any]:
    """mark -> image, of one image, a list of at most one, or an object."""
    if isinstance(image, Mapping):
        if wrong := [mark for mark in image if not isinstance(mark, str) or not MARK.fullmatch(mark)]:
            raise ValueError(f"{wrong[0]!r} is not a mark of an image; write <image_00>")
        return dict(image)
    if isinstance(image, Sequence) and not isinstance(image, str | bytes):
        return dict(zip([PLACE], image, strict=False))
    return {PLACE: image} if image is not None and image != "" else {}


def _check_marks(turns: list[Turn], images: Mapping[str, Any]) -> None:
    """Raises `ValueError` if a text names an image that there is not, or one of them twice, or if an answer does."""
    marks = [mark for turn in turns for mark in MARK.findall(turn["content"])] if images else []
    if unknown := [mark for mark in marks if mark not in images]:
        raise ValueError(f"{unknown[0]} is in the text, but no image has that mark")
    if repeated := [mark for mark in images if marks.count(mark) > 1]:
        raise ValueError(f"{repeated[0]} is in the text more than once")
    for turn in turns:
        answers = turn["role"] == "assistant"
        for mark in [*named_pictures(turn["content"]), *(MARK.findall(turn["content"]) if answers and images else ())]:
            if mark not in images:
                raise ValueError(f"{mark} is in the text, but the entry brings nothing for it")
            if answers:
                raise ValueError(f"{mark} is in an answer; images belong in questions")
