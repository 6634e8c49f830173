"""Makes untrusted text safe for a terminal: it cannot move the cursor, ring, or change the direction of a line."""


def printable(value: object, keep: str = "\n") -> str:
    """A value as text. Characters that are not printable, except those in `keep`, are written out, as `\\x1b` is.

    These are control characters (C0 and C1), marks that change the direction of a line, and halves of surrogate pairs,
    which cannot be sent to a terminal.
    """
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def printable_line(value: object) -> str:
    """A value as one printable line."""
    return printable(" ".join(str(value).split("\n")), keep="")
