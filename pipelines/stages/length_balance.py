"""Drops pairs in which one text is so much longer that length alone could tell which is better (RLAIF-V, arXiv
2405.17220; rule and grid are from its scripts, which look at rejected texts that are longer only).

What decides is sums over all pairs, so the pairs themselves can be gone through some at a time.
"""

from dataclasses import dataclass, field

import numpy as np

GRID = 50  # length ratios that are tried: 0, 1/50, …, 49/50


def _none() -> np.ndarray:
    return np.zeros((2, GRID), np.int64)


@dataclass
class Lengths:
    """The lengths of all pairs, in words, as far as they decide which pairs stay. In whole numbers throughout: nothing
    is rounded, and nothing divided by an empty text."""

    longer_rejected: np.ndarray = field(default_factory=_none)  # see `sums`
    longer_chosen: np.ndarray = field(default_factory=_none)  # the same with both sides exchanged
    chosen: int = 0  # words of all
    rejected: int = 0

    def add(self, chosen: np.ndarray, rejected: np.ndarray) -> None:
        """Adds some pairs. chosen, rejected: int64 [pairs]"""
        self.longer_rejected += sums(chosen, rejected)
        self.longer_chosen += sums(rejected, chosen)
        self.chosen += int(chosen.sum())
        self.rejected += int(rejected.sum())

    def staying(self, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
        """Which of some pairs stay, once all are added: bool [pairs].

        If the rejected texts are longer on the whole, it is the rule as published; else the same with both sides
        exchanged, which drops pairs whose chosen text is much longer.
        """
        if self.chosen > self.rejected:
            return positions(rejected, chosen) <= best(self.longer_chosen)
        return positions(chosen, rejected) <= best(self.longer_rejected)


def length_balance(chosen: np.ndarray, rejected: np.ndarray) -> tuple[float, np.ndarray]:
    """The length ratio r of the published rule, and which pairs stay with it: those with
    (rejected - chosen) / rejected <= r, in words.

    r is the first on the grid 0, 0.02, …, 0.98 with the smallest |mean chosen - mean rejected| / mean rejected of the
    pairs that stay.
    """
    position = best(sums(chosen, rejected))
    return position / GRID, positions(chosen, rejected) <= position


def positions(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """The position on the grid from which on each pair stays: int64 [pairs], GRID where it never does."""
    excess = np.maximum(rejected - chosen, 0)  # an empty rejected text is never longer
    return -(-excess * GRID // np.maximum(rejected, 1))


def sums(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """The words of the chosen and of the rejected texts of the pairs that begin to stay at each position: int64 [2,
    GRID]."""
    first, summed = positions(chosen, rejected), np.zeros((2, GRID + 1), np.int64)
    for side, words in enumerate((chosen, rejected)):
        np.add.at(summed[side], first, words)
    return summed[:, :GRID]


def best(summed: np.ndarray) -> int:
    """The first position with which the mean lengths of what stays are nearest, relative to the rejected ones."""
    position, least = GRID - 1, None
    for n, (better, worse) in enumerate(zip(*np.cumsum(summed, axis=1).tolist(), strict=True)):
        if worse and (least is None or abs(better - worse) * least[1] < least[0] * worse):
            position, least = n, (abs(better - worse), worse)
    return position
