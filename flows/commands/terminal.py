"""How commands show their results and errors."""

import os
import sys
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from flows.commands.streams import open_streams
from pipelines.engine.secrets import hidden
from schemas.printable import printable, printable_line

LEAST = 16  # signs of a column that is cut

open_streams()

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


def cut_table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[Table, int]:
    """A table of as many columns, from the left, as the terminal has room for, and how many these are. A cell is one
    line; where it is too long, it is cut and ends with `…`."""
    lines = [[printable_line("" if value is None else value) for value in row] for row in rows]
    heads = [printable_line(name) for name in names]
    widths = [max(map(cell_len, column)) for column in zip(heads, *lines, strict=True)]
    columns, room = len(heads), console.width - 1  # each column has three signs beside its text, and the table one
    while columns > 1 and sum(min(width, LEAST) + 3 for width in widths[:columns]) > room:
        columns -= 1
    widths, room = widths[:columns], room - 3 * columns
    most = bisect_right(range(room), room, key=lambda most: sum(min(width, most) for width in widths)) - 1
    shown = PrintableTable()
    for head, width in zip(heads, widths, strict=False):
        shown.add_column(escape(head), no_wrap=True, overflow="ellipsis", width=max(1, min(width, most)))
    for line in lines:
        shown.add_row(*map(escape, line[:columns]))
    return shown, columns


def fits(shown: Table) -> bool:
    """Whether the terminal is wide enough to show a table without breaking words."""
    return console.measure(shown, options=console.options.update(width=100_000)).minimum <= console.width


def cell(value: object) -> str:
    """A value as text without control characters and without markup, so that a caption cannot steer the terminal."""
    return escape(printable(value))


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 file", "2,000 files"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size_text(size: int) -> str:
    """A number of bytes: "10 bytes", "15 kB", "1.5 MB"."""
    if size < 1_000:
        return counted(size, "byte")
    return f"{size / 1e6:,.1f} MB" if size >= 1_000_000 else f"{size / 1e3:,.0f} kB"
