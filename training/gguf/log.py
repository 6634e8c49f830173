"""What llama.cpp says while it works: kept for who asks, instead of printed on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import llama_cpp
from llama_cpp import mtmd_cpp

WARN, ERROR, GOES_ON = 3, 4, 5  # ggml's levels


@dataclass
class LogText:
    """Whole lines, by how grave they are."""

    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


_ears: list[LogText] = []
_level = [0]


@llama_cpp.llama_log_callback
def _hear(level: int, text: bytes, _: object) -> None:
    """One for the whole life of the process, since llama.cpp may be in the middle of a call to it on another thread."""
    _level[0] = level = _level[0] if level == GOES_ON else level
    if level in (WARN, ERROR) and (line := text.decode("utf-8", "replace").strip()):
        for said in _ears:
            (said.warnings if level == WARN else said.errors).append(line)


@contextmanager
def listening() -> Iterator[LogText]:
    """Everything that llama.cpp and its image part say meanwhile."""
    said = LogText()
    _ears.append(said)
    try:
        yield said
    finally:
        _ears[:] = [one for one in _ears if one is not said]


llama_cpp.llama_log_set(_hear, None)
mtmd_cpp.mtmd_helper_log_set(_hear, None)
