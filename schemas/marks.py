"""Marks in a text that stand for an image or a video, as tokenizers of vision-language models spell them.

A reader of samples replaces each mark by the tokens of an image. A mark without an image, or an image with two marks,
breaks the sample or shifts the images of all that follow.
"""

import re

MARK = re.compile(
    r"</?(?:image|img|video|slice|image_id)>"                          # LLaVA, MiniCPM-V, Qwen-VL
    r"|<(?:image|img|video)[_-]?\d+>"                                   # numbered, as in MiniCPM-V's fine-tune format
    r"|<\|/?\w*(?:image|img|video|vision)\w*\|>"                        # Llama, Phi, Qwen2-VL and later, GLM
    r"|<(?:image|video)_(?:soft_token|placeholder|pad|start|end|token)>"
    r"|<(?:start|end)_of_image>|<im_(?:start|end|patch)>|<ImageHere>|</?IMG(?:_CONTEXT)?>|\[IMG(?:_BREAK|_END)?\]"
)
_LINES = re.compile(rf"^[ \t]*(?:(?:{MARK.pattern})[ \t]*)+\r?\n", re.MULTILINE)
_ROUNDS = 8


def has_mark(text: str) -> bool:
    """Whether a text has a mark of an image or a video."""
    return MARK.search(text) is not None


def without_marks(text: str) -> str:
    """A text that has no marks and is otherwise the same.

    A mark at the start, at the end or alone on its line is taken out, with the white space around it. A mark inside a
    line is a word of it, and loses its brackets only: "What does <image_00> show?" becomes "What does image_00 show?".
    """
    for _ in range(_ROUNDS):  # taking out a mark can make another one: <<image>>
        if not has_mark(text):
            return text
        text = _LINES.sub("", _without_ends(text))
        text = MARK.sub(lambda mark: mark[0].strip("<>|[]/"), text)
    return text.replace("<", "").replace("[", "")  # without these no mark can be


def _without_ends(text: str) -> str:
    """A text without the marks at its start and its end."""
    spans = [mark.span() for mark in MARK.finditer(text)]
    first, last = 0, len(text)
    for start, end in spans:
        if text[first:start].strip():
            break
        first = end
    for start, end in reversed(spans):
        if start < first or text[end:last].strip():
            break
        last = start
    inner = text[first:last]
    inner = inner.lstrip() if first else inner
    return inner.rstrip() if last < len(text) else inner
