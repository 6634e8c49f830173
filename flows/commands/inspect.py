"""Commands that show a corpus or export its shards; they change nothing in it but the catalog and the report."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.arguments import RootUrl, open_root
from flows.commands.terminal import cell, console, counted, cut_table, fits, table, tell
from schemas.printable import printable


def stats(root: RootUrl) -> None:
    """Show what a corpus holds: the rows of each stage, kept or left out by reason; shard sets; last runs."""
    from pipelines.catalog.stats import corpus_stats

    for title, columns, lines in corpus_stats(open_root(root)):
        shown = table(*columns, title=title, title_justify="left")
        for line in lines:
            shown.add_row(*(f"{value:,}" if isinstance(value, int) else cell(value) for value in line))
        console.print(shown)


def sql(
    root: RootUrl,
    question: Annotated[
        str, typer.Argument(metavar="QUERY", help="SQL query over the views of the catalog.", show_default=False)
    ],
    csv: Annotated[bool, typer.Option("--csv", help="Print the complete answer as CSV instead of a table.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the complete answer as JSON, a row a line.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Print whole cells and all rows; where a table is too wide, row by row.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the complete answer to this file: .parquet, .csv or .jsonl.")
    ] = None,
    read: Annotated[
        list[str], typer.Option(help="File or URL outside the corpus that the query may read; can be repeated.")
    ] = [],
) -> None:
    """Query the catalog with SQL. Nothing is changed. Views: rows, images, selection, samples, shards, accounting, …"""
    from pipelines.catalog.answers import as_json, flat, write_answer
    from pipelines.catalog.catalog import query, refresh_catalog
    from pipelines.engine.root import Corrupt
    from schemas.errors import UserError

    forms = ("--csv", csv), ("--json", json), ("--full", full), ("--output", output)
    if len(chosen := [name for name, given in forms if given]) > 1:
        raise UserError(f"sql: choose one of {' and '.join(chosen)}")
    opened = open_root(root)
    with suppress(OSError, Corrupt):  # the root may be read-only; the query says what is damaged
        refresh_catalog(opened)
    if output:
        tell(f"wrote {write_answer(opened, question, output, read):,} rows to {cell(output)}")
        return
    answer = query(opened, question, read)
    if csv:
        import pyarrow.csv

        answer = flat(answer)
        pyarrow.csv.write_csv(_printable(answer) if sys.stdout.isatty() else answer, sys.stdout.buffer)
    elif json:
        for line in as_json(answer):
            print(printable(line) if sys.stdout.isatty() else line)
    elif full:
        _print_whole(answer)
    else:
        _print_cut(answer)


def _printable(answer):
    """A table whose texts are safe for a terminal."""
    from pyarrow import Table, array, string, types

    columns = [
        array([None if text is None else printable(text) for text in column.to_pylist()], string())
        if types.is_string(column.type) or types.is_large_string(column.type) or types.is_dictionary(column.type)
        else column
        for column in answer.columns
    ]  # fmt: skip
    return Table.from_arrays(columns, [printable(name) for name in answer.column_names])


def _print_cut(answer, most: int = 100) -> None:
    """Prints a table of the first rows that fits into the terminal: long cells are cut, and the columns that do not fit
    are named below it."""
    rows = [*zip(*(column.slice(0, most).to_pylist() for column in answer.columns), strict=True)]
    shown, columns = cut_table(answer.column_names, rows)
    console.print(shown)
    if left_out := answer.column_names[columns:]:
        tell(f"{len(left_out)} more columns; --full prints all: {', '.join(map(cell, left_out))}")
    if answer.num_rows > most:
        tell(f"the first {most} of {answer.num_rows:,} rows; --full, --csv and --json print all")


def _print_whole(answer) -> None:
    """Prints all rows with whole cells: as a table, or one row after the other if the terminal is too narrow."""
    names = [cell(name) for name in answer.column_names]
    rows = [*zip(*(column.to_pylist() for column in answer.columns), strict=True)]
    shown = table(*names)
    for row in rows:
        shown.add_row(*map(cell, row))
    if fits(shown):
        console.print(shown)
        return
    for number, row in enumerate(rows, 1):
        shown = table("column", "value", title=f"row {number}", title_justify="left", show_header=False)
        for name, value in zip(names, row, strict=True):
            shown.add_row(name, cell(value))
        console.print(shown)
    if not rows:
        tell(f"no rows; the columns: {', '.join(names)}")


def urls(
    root: RootUrl,
    set_name: Annotated[str, typer.Argument(metavar="SET", help="Shard set, or set@release.", show_default=False)],
    pipe: Annotated[
        str | None,
        typer.Option(help="Print this command for each tar, such as 'aws s3 cp {url} -'.", show_default=False),
    ] = None,
    presigned: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS", help="Print signed URLs that are valid for this time.", min=1, show_default=False
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print URLs for fsspec, such as s3://….")] = False,
    wids: Annotated[bool, typer.Option("--wids", help="Print the JSON index that wids reads.")] = False,
) -> None:
    """List the tar files of a shard set in order, for any WebDataset reader: paths, or `pipe:` commands that print
    objects of s3:// or gs://."""
    from pipelines.engine.releases import card_named
    from pipelines.maintain.urls import piped_urls, plain_urls, signed_urls, wids_index
    from schemas.errors import UserError

    if (pipe is not None) + (presigned is not None) + plain > 1:
        raise UserError("urls: choose one of --pipe, --presigned and --plain")
    opened = open_root(root)
    card = card_named(opened, set_name, "urls")
    if presigned is not None:
        listed = signed_urls(opened, card, presigned)
    elif plain or (wids and pipe is None):  # wids opens no pipe:
        listed = plain_urls(opened, card)
    else:
        listed = piped_urls(opened, card, pipe)
    if wids:
        print(wids_index(listed, card))
    else:
        print("".join(f"{url}\n" for url in listed), end="")


def export_set(
    root: RootUrl,
    set_name: Annotated[str, typer.Argument(metavar="SET", help="Shard set, or set@release.", show_default=False)],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder or URL to write to.", show_default=False)],
    form: Annotated[
        str,
        typer.Option(
            help="Form of the files: `huggingface`, `trl`, `llava` or `minicpm-v` for all tasks, `rlaif-v` for pairs. "
            "`llava` and `minicpm-v` have no pairs: each becomes its chosen answer."
        ),
    ] = "trl",
    question: Annotated[
        str | None,
        typer.Option(
            help='Question that captions and OCR answer, in forms with conversations. By default "Describe the '
            'image.", and for OCR "Read the text in the image."',
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a shard set in the files of another trainer, with a dataset card. The same release gives the same bytes."""
    from pipelines.engine.root import Root
    from pipelines.exports.entries import REASONS
    from pipelines.exports.export import export as write

    target = Root(folder if "://" in folder else str(Path(folder).resolve()))
    exported = write(open_root(root), set_name, form, target, question)
    samples, files = counted(exported.tally.samples, "sample"), counted(exported.files, "file")
    tell(f"wrote {samples} in {files} to {cell(folder)}")
    for reason, count in sorted(exported.tally.left_out.items()):
        tell(f"left out {counted(count, 'sample')} ({reason}): {REASONS[reason]}")
    for what, count in exported.tally.changes():
        tell(f"{count:,} {what}")


def report(
    root: RootUrl,
    seed: Annotated[int, typer.Option(help="Seed of the draw of samples.")] = 0,
) -> None:
    """Write report.html again: the funnel, distributions, samples with OCR boxes, what was left out, last changes."""
    from pipelines.reports.report import write_report

    tell(f"wrote {write_report(open_root(root), seed)}")
