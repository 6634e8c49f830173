"""Marks in a text for an image or a video, as tokenizers of vision-language models spell them.

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


def blanked(text: str) -> str:
    """A text with a blank in place of each mark: its words."""
    return MARK.sub(" ", text)


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


# What texts also say of HTML and BBCode. Inside a line such a word is spoken about; `<image>` is a mark wherever it is.
SPOKEN = re.compile(r"</?(?:img|video)>|\[IMG\]")
_END = re.compile(r"^(?:</|<\|/|\[/)|[_/]end\b|end_of_|_END", re.IGNORECASE)
_PATH = re.compile(r"[^<>\s]{1,1000}</img>")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)


def named_pictures(text: str) -> list[str]:
    """A mark for each picture that a text names, in order. <|vision_start|><|image_pad|><|vision_end|> name one.

    Marks in code (between backticks) do not count, nor do <img>, <video> and [IMG] with words on both sides in their
    line, by which texts speak about HTML; tags with attributes are never marks.
    """
    if not has_mark(text):
        return []
    text = _CODE.sub(lambda code: "\0" * len(code[0]), text)
    marks = [mark for mark in MARK.finditer(text) if not (SPOKEN.fullmatch(mark[0]) and _is_inside(text, mark))]
    runs: list[list[re.Match]] = []  # marks with nothing between them
    for mark in marks:
        if runs and runs[-1][-1].end() == mark.start():
            runs[-1].append(mark)
        else:
            runs.append([mark])
    named = []
    for run in runs:
        ends = sum(_END.search(mark[0]) is not None for mark in run)
        opening = [mark[0] for mark in run if not _END.search(mark[0])]
        named += opening[:ends] if ends else opening
    return named


def is_image(mark: str) -> bool:
    """Whether a mark is for an image, not for a video."""
    return "video" not in mark.lower()


def _is_inside(text: str, mark: re.Match) -> bool:
    """Whether there are words before and behind a mark in its line, other than Qwen-VL's <img>path</img>."""
    if _PATH.match(text, mark.end()):
        return False
    line, end = text.rfind("\n", 0, mark.start()) + 1, text.find("\n", mark.end())
    before, behind = text[line : mark.start()], text[mark.end() : end if end >= 0 else len(text)]
    return bool(before.strip() and behind.strip())
