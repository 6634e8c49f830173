"""Whether a claim denies what its question asks for: "There is no cup." beside "Is there a cup?"."""

import re

from schemas.claims import Claim

DENIAL = re.compile(
    r"\b(?:no|not|none|never|neither|nor|nobody|nothing|nowhere|without|cannot|lacks?|lacking|missing|absent)\b|n['’]t\b"
)
QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|(?<!\w)'[^']*'(?!\w)")


def denies(claim: Claim) -> bool:
    """Whether a claim has a word that denies, and its question has none: yes to the question then rejects the claim."""
    return _has_denial(claim["claim"]) and not _has_denial(claim["question"])


def _has_denial(sentence: str) -> bool:
    return bool(DENIAL.search(QUOTED.sub('""', sentence).lower()))
