"""Text that a terminal shows as text: what strangers wrote cannot move the cursor, ring, or turn the line around."""


def printable(value: object, keep: str = "\n") -> str:
    """A value as text in which every character that is not printable is spelled, such as `\\x1b`, but those of `keep`.

    That holds for control characters (C0 and C1), for marks that change the direction of a line, and for halves of
    surrogate pairs, which no terminal can be sent.
    """
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def printable_line(value: object) -> str:
    """A value as one printable line."""
    return printable(" ".join(str(value).split("\n")), keep="")
