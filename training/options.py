"""The options of programs: their parser, and the types of their values."""

import argparse
import math
from collections.abc import Callable


def program(name: str, about: str) -> argparse.ArgumentParser:
    """The parser of a program `python -m NAME`, whose help shows the default of each option that has one."""
    return argparse.ArgumentParser(prog=f"python -m {name}", description=about, formatter_class=_Defaults)


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default not in (None, []) and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


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
    import torch  # a program that measures memory imports this module without it

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"torch cannot use {name!r} here: {reason}; give another, or cpu") from None
    return name
