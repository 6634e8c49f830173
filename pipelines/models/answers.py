"""What answers hold: lists, as JSON or bullets, and the probability of a word."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

BULLET = re.compile(r"\s*(?:[-*•–]|\(?\d{1,3}[.)])\s+(.+)")
FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.S)
CANDIDATES = 20  # whose probabilities are asked for: the most that servers give
BLANK = " \t\n▁Ġ"  # what tokenizers put in front of a word


def schema_of(name: str, count: int | None = None) -> dict[str, Any]:
    """What makes a server answer with {name: [texts]}, so many of them if a count is given."""
    many = {"type": "array", "items": {"type": "string"}} | ({"minItems": count, "maxItems": count} if count else {})
    shape = {"type": "object", "properties": {name: many}, "required": [name], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": shape}}


def read_list(text: str, name: str) -> list[str] | None:
    """The lines of an answer: of JSON, or bullets; None if it is neither."""
    fenced = FENCE.fullmatch(text)
    try:
        said = json.loads(fenced[1] if fenced else text)
        said = said[name] if isinstance(said, dict) else said
        if isinstance(said, list) and all(isinstance(one, str) for one in said):
            return [" ".join(one.split()) for one in said if one.strip()]
    except (ValueError, KeyError):
        pass
    lines = [found[1].strip() for line in text.splitlines() if (found := BULLET.fullmatch(line))]
    return lines or None


def probability(top: Iterable[tuple[str, float]], word: str) -> float | None:
    """The probability that the first token is a word, small or with a capital; None if it is no candidate."""
    found = [math.exp(logprob) for token, logprob in top if token.strip(BLANK) in (word, word.capitalize())]
    return math.fsum(found) if found else None
