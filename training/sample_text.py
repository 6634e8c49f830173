"""The texts in a sample of a shard."""

from collections.abc import Iterator
from typing import Any

from schemas.selection import OF_OCR
from schemas.shards import document_of
from training.layout import SampleRejected
from training.shards import Sample

CAPTIONS = ("caption", *OF_OCR)  # tasks whose text answers an instruction, if the recipe gives one
PAIRS = ("preference", "pair")


def task_of(sample: Sample) -> str:
    """The task of a sample, from its name `<key>-<task>`."""
    return sample["__key__"].partition("-")[2]


def texts(sample: Sample) -> Iterator[str]:
    """The texts in a sample, for a tokenizer to learn from."""
    if task_of(sample) == "conversation":
        yield from (message["content"] for message in conversation_of(sample)["turns"])
    elif task_of(sample) in PAIRS:
        yield from pair_of(sample)
    elif "txt" in sample:
        yield text_of(sample, "txt")


def text_of(sample: Sample, name: str) -> str:
    """A member as text. Raises `SampleRejected` if it is missing or not UTF-8."""
    try:
        return sample[name].decode()
    except (KeyError, UnicodeDecodeError) as error:
        raise SampleRejected("unreadable_text", f"{name}: {error!r}") from error


def pair_of(sample: Sample) -> tuple[str, str, str]:
    """Question, chosen and rejected answer of a pair. Raises `SampleRejected` if it has none."""
    try:
        document = document_of(sample["json"])
        if "pair" not in document:
            raise SampleRejected("unreadable_text", f"json: a sample of the task {task_of(sample)!r:.60} holds no pair")
        pair = document["pair"]
        question, chosen, rejected = (pair[name] for name in ("question", "chosen", "rejected"))
        if not all(isinstance(text, str) for text in (question, chosen, rejected)):
            raise TypeError("question, chosen or rejected is not a string")
        "".join((question, chosen, rejected)).encode()  # half a surrogate pair is no text
    except (KeyError, ValueError, TypeError) as error:
        raise SampleRejected("unreadable_text", f"json: holds no pair: {error!r}") from error
    return question, chosen, rejected


def conversation_of(sample: Sample) -> dict[str, Any]:
    """A conversation's turns, and its marks for images in order. Raises `SampleRejected` if it has none."""
    try:
        conversation = document_of(text_of(sample, "json"))["conversation"]
        if not all(isinstance(turn[name], str) for turn in conversation["turns"] for name in ("role", "content")):
            raise TypeError("a role or a content is not text")
        "".join(turn[name] for turn in conversation["turns"] for name in ("role", "content")).encode()  # no halves
        if not all(isinstance(mark, str) for mark in conversation["images"]):
            raise TypeError("the mark of an image is not text")
        return {"turns": conversation["turns"], "images": list(conversation["images"])}
    except (ValueError, KeyError, TypeError) as error:
        raise SampleRejected("unreadable_text", f"json: not a conversation: {error!r}") from error
