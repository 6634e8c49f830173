"""What an empty text is, for Python and SQL alike: one in which nothing can be seen."""

import re

# Unicode's White_Space and Default_Ignorable_Code_Point, control characters, marks of annotations, Braille's blank
_INVISIBLE = (
    (0x00, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x1680, 0x1680),
    (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F), (0x2800, 0x2800),
    (0x3000, 0x3000), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB),
    (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
)  # fmt: skip
_SEEN = re.compile("[^" + "".join(f"\\U{first:08X}-\\U{last:08X}" for first, last in _INVISIBLE) + "]")
_SEEN_SQL = "[^" + "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in _INVISIBLE) + "]"


def is_empty(text: str | None) -> bool:
    """Whether nothing of a text can be seen."""
    return not text or _SEEN.search(text) is None


def not_empty_sql(text: str) -> str:
    """The condition in DuckDB's SQL for an expression not to be an empty text; false for null."""
    return f"coalesce(regexp_matches({text}, '{_SEEN_SQL}'), false)"


def is_wide(text: str) -> bool:
    """Whether a text is UTF-16 or UTF-32 that was read as UTF-8: at least a third of it is null characters."""
    return 0 < len(text) <= 3 * text.count("\0")


def wide(text: str) -> str:
    """What is wrong with a text that `is_wide`."""
    return f"holds {text.count(chr(0))} null characters among {len(text)}, as UTF-16 does without its mark"
