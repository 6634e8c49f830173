"""Patterns with `*` for any text, matched in time that grows with the length of pattern and text only."""

from collections.abc import Sequence


def fits(parts: Sequence[str], text: str, whole: bool) -> bool:
    """Whether a text begins with `parts`, in this order and with anything between them. `whole`: the last part ends it.

    Each part is taken where it comes first: if any choice fits, this one does, and none is tried again.
    """
    first, *others = parts
    if not text.startswith(first):
        return False
    end = len(first)
    if whole and not others:
        return end == len(text)
    for part in others:
        start = text.find(part, end)
        if start < 0:
            return False
        end = start + len(part)
    return not whole or text.endswith(parts[-1])
