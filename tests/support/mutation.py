"""Changes a value of JSON at random, for fuzzing."""

import random
from collections.abc import Sequence
from typing import Any


def mutated(
    value: Any, draws: random.Random, odd: Sequence[Any], names: Sequence[str], hows: int,
    repeats: tuple[float, Sequence[int]],
) -> Any:  # fmt: skip
    """A value in which one place is one of `odd` values, gone, or repeated; or has one of `names` more.

    One in `hows` objects loses a name, as many gain one. `repeats`: how often an item is repeated, and how many times.
    """
    if draws.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return draws.choice(odd)
    if isinstance(value, dict):
        key = draws.choice(list(value))
        how = draws.randrange(hows)
        if how == 0:
            return {name: inner for name, inner in value.items() if name != key}
        if how == 1:
            return {**value, draws.choice(names): draws.choice(odd)}
        return {**value, key: mutated(value[key], draws, odd, names, hows, repeats)}
    at = draws.randrange(len(value))
    share, times = repeats
    if draws.random() < share:
        return value + [value[at]] * draws.choice(times)
    return [*value[:at], mutated(value[at], draws, odd, names, hows, repeats), *value[at + 1 :]]
