"""What commands show, and how they say what went wrong."""

import sys
from typing import Any

from rich.console import Console
from rich.markup import escape

console = Console()


def say(error: BaseException | None, code: int, line: str = "") -> int:
    """Says in one line what went wrong.

    Drops tracebacks: Prefect keeps an error to the very end, and with its frames all that DuckDB then complains of.
    """
    print(f"shardmill: {line or error}", file=sys.stderr)
    while error:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    return code


def tell(line: str, **how: Any) -> None:
    """Shows a line as it is, however narrow the terminal: paths and commands in it can be copied."""
    console.print(line, soft_wrap=True, **how)


def cell(value: object) -> str:
    """A value as a terminal may show it: what a caption holds must not steer the terminal."""
    text = "" if value is None else str(value)
    return escape("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))
