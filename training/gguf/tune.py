"""Searches for llama.cpp's fastest settings on this device, by the configuration search of MiniCPM-V's paper.

    for step in tune(Path("phone")):
        print(step.name, step.chosen, step.gain)

One setting is searched after another (arXiv 2408.01800, section 5.3.3), with those that were chosen before it. It
changes only if another value is faster by more than two measurements of the same value differ. Each trial is a process
of its own.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training.gguf.runtime import Settings
from training.gguf.verify import speed


@dataclass(frozen=True)
class Step:
    """The search of one setting."""

    name: str
    tried: dict[str, float]  # seconds of an answer, by value
    chosen: str
    gain: float  # times faster than before this step
    settings: Settings  # from now on


def tune(folder: Path, tokens: int = 64, times: int = 3, noise: float = 0.03) -> Iterator[Step]:
    """Yields each step when it is done; the last one's `settings` are the result.

    The measured task is one picture of seven views, a question, and an answer of `tokens` tokens. A gain below `noise`
    does not count. Raises `UserError` if the folder is not an export.
    """

    def seconds(settings: Settings) -> float:
        return speed(folder, tokens=tokens, times=times, **asdict(settings))["answer"]

    settings = START
    now = seconds(settings)
    for name, values in CANDIDATES.items():
        tried = {_shown(getattr(settings, name)): now}
        best, fastest = settings, now
        for value in values(settings):
            candidate = replace(settings, **{name: value})
            if candidate == settings:
                continue
            tried[_shown(value)] = measured = seconds(candidate)
            if measured < min(fastest, now * (1 - noise)):
                best, fastest = candidate, measured
        yield Step(name, tried, _shown(getattr(best, name)), now / fastest, best)
        settings, now = best, fastest


CORES = os.cpu_count() or 1
START = Settings(threads=max(1, CORES // 2))  # as llama.cpp's own programs begin
CANDIDATES: dict[str, Callable[[Settings], list[Any]]] = {
    "threads": lambda _: sorted({1, 2, CORES // 4 or 1, CORES // 2 or 1, CORES * 3 // 4 or 1, CORES}),
    "batch": lambda _: [128, 512, 2048],
    "micro_batch": lambda settings: [size for size in (32, 64, 128, 256, 512, 1024) if size <= settings.batch],
    "flash": lambda _: [False, True],
    "kv": lambda settings: ["f32", "f16", *(["q8_0"] if settings.flash else [])],  # llama.cpp needs it for that
}


def _shown(value: Any) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
