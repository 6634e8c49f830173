"""Types of options of programs."""

import argparse
import math
from collections.abc import Callable

import torch


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number that is not below `least`, and not above `most`."""

    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"{value} is above {most}")
        return value

    return number


def between(least: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    """A number from `least` to `most`; not NaN."""

    def number(text: str) -> float:
        if not least <= (value := float(text)) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {most:g}")
        return value

    return number


def text(given: str) -> str:
    """A text; not one that UTF-8 cannot hold."""
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"is not UTF-8 at character {error.start}") from None
    return given


def device(name: str) -> str:
    """A device that torch can use here."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"torch cannot use {name!r} here: {reason}; give another, or cpu") from None
    return name
