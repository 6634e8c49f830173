"""How commands show their results and errors."""

import os
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from pipelines.engine.secrets import hidden
from schemas.printable import printable, printable_line

# A file or pipe has no width: output to it is not wrapped.
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100_000)


def say(error: BaseException | None, code: int, line: str = "") -> int:
    """Says in one line what went wrong.

    Drops tracebacks: Prefect keeps an error until the process ends, and its frames keep DuckDB's objects, which then
    complain.
    """
    print(f"shardmill: {printable_line(hidden(line or str(error)))}", file=sys.stderr)
    while error:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    return code


def tell(line: str, **how: Any) -> None:
    """Shows a line as it is, however narrow the terminal: paths and commands in it can be copied."""
    console.print(printable(line), soft_wrap=True, **how)


class PrintableTable(Table):
    """A table whose cells cannot control the terminal."""

    def add_row(self, *cells: str, **how: Any) -> None:
        super().add_row(*map(printable, cells), **how)


def table(*columns: str, **how: Any) -> Table:
    """A table that wraps what does not fit into the terminal instead of cutting it."""
    return PrintableTable(*(Column(printable(column), overflow="fold") for column in columns), **how)


def fits(shown: Table) -> bool:
    """Whether the terminal is wide enough to show a table without breaking words."""
    return console.measure(shown, options=console.options.update(width=100_000)).minimum <= console.width


def cell(value: object) -> str:
    """A value as text without control characters and without markup, so that a caption cannot steer the terminal."""
    return escape(printable(value))
