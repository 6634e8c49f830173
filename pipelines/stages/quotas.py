"""Quotas of languages: from the share that each is to have, and the samples that there are, the weight of each.

The largest set in which every language has its share is drawn, so that the scarcest one is kept whole. A sample is kept
iff hash(seed, key) < weight. Weights have a few steps: while a corpus grows and no step changes, no sample is moved,
and where one changes, samples only come or only go. Samples are counted by step, since a weight of a third keeps a
third of them only on average.
"""

from collections.abc import Mapping

from schemas.selection import OTHERS

VERSION = 2  # of the way from samples to weights
STEPS = 64  # to a power of two: a step is at most 3.1 % of the weight, small or large
LEAST = 2.0**-52  # of hashes above 0


def step_above(lot: str) -> str:
    """The least weight with which a sample is kept, as SQL. `lot`: its hash as a number from 0 to 1, as SQL."""
    step = f"2.0 ** (floor(log2(greatest({lot}, {LEAST}))) + 1) / {STEPS}"
    return f"(floor({lot} / ({step})) + 1) * {step}"


def weights_by_quota(counts: Mapping[tuple[str, float], int], shares: Mapping[str, float]) -> dict[str, float]:
    """Language -> weight, for those in `shares`; OTHERS means all that it does not name.

    `counts`: samples by language and by the least weight with which they are kept. A language without samples takes no
    share from the others.
    """
    steps: dict[str, dict[float, int]] = {name: {} for name in shares}
    for (language, step), count in counts.items():
        named = language if language in shares else OTHERS
        if named in steps:
            steps[named][step] = steps[named].get(step, 0) + count
    there = {name: sum(by_step.values()) for name, by_step in steps.items()}
    total = min((there[name] / share for name, share in shares.items() if share and there[name]), default=0.0)
    return {name: _weight(steps[name], share * total) for name, share in shares.items()}


def _weight(by_step: Mapping[float, int], wanted: float) -> float:
    """The weight that keeps the number of samples nearest to the one that is wanted; of several, the largest."""
    kept, nearest, weight = 0, wanted, 0.0
    for step, count in sorted(by_step.items()):
        kept += count
        if abs(kept - wanted) <= nearest:
            nearest, weight = abs(kept - wanted), step
    return 1.0 if weight == max(by_step, default=None) else weight
