"""llama.cpp's log: collected for callers instead of printed on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import llama_cpp
from llama_cpp import mtmd_cpp

WARN, ERROR, GOES_ON = 3, 4, 5  # ggml's levels


@dataclass
class LogText:
    """Whole lines, by severity."""

    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


_listeners: list[LogText] = []
_level = [0]


@llama_cpp.llama_log_callback
def _hear(level: int, text: bytes, _: object) -> None:
    """Stays installed as long as the process lives, since llama.cpp may be calling it on another thread."""
    _level[0] = level = _level[0] if level == GOES_ON else level
    if level in (WARN, ERROR) and (line := text.decode("utf-8", "replace").strip()):
        for log in _listeners:
            (log.warnings if level == WARN else log.errors).append(line)


@contextmanager
def listening() -> Iterator[LogText]:
    """Collects everything that llama.cpp and its image library log meanwhile."""
    log = LogText()
    _listeners.append(log)
    try:
        yield log
    finally:
        _listeners[:] = [listener for listener in _listeners if listener is not log]


llama_cpp.llama_log_set(_hear, None)
mtmd_cpp.mtmd_helper_log_set(_hear, None)
