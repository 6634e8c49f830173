"""Quotas of languages: from the share that each is to have, and how many samples there are, the weight of each.

The largest set in which every language has its share is drawn, so that the scarcest one is kept whole. A sample is kept
iff hash(seed, key) < weight. Weights are rounded to a few steps: while a corpus grows and no step changes, no sample is
moved, and where one changes, samples only come or only go.
"""

from collections.abc import Mapping
from math import frexp, ldexp

from schemas.selection import OTHERS

STEPS = 64  # to a power of two: a step is at most 1.6 % of the weight, small or large


def weights_by_quota(counts: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, float]:
    """Language -> weight, for those in `shares`; OTHERS means all that it does not name.

    `counts`: samples by language. A language without samples takes no share from the others.
    """
    there = dict.fromkeys(shares, 0)
    for language, count in counts.items():
        named = language if language in shares else OTHERS
        if named in there:
            there[named] += count
    total = min((there[name] / share for name, share in shares.items() if share and there[name]), default=0.0)
    return {name: stepped(share * total / there[name]) if there[name] else 0.0 for name, share in shares.items()}


def stepped(weight: float) -> float:
    """A weight from 0 to 1, rounded to a multiple of 1/64 of the power of two above it."""
    mantissa, exponent = frexp(weight)
    return min(1.0, ldexp(round(mantissa * STEPS) / STEPS, exponent))
