"""The command line `shardmill`. A mistake of the user's is answered in one line, with exit code 2."""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from schemas.config import TEMPLATE_SOURCES, UserError, template

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Make for datasets.")
console = Console()

Config = Annotated[Path, typer.Argument(help="The configuration, a TOML file.", show_default=False)]
Engine = Annotated[
    str | None, typer.Option(help="The OCR engine of this run, whatever the configuration says: rapidocr or easyocr.")
]
RootUrl = Annotated[str, typer.Argument(metavar="ROOT", help="A corpus: its folder or URL.", show_default=False)]


def main() -> None:
    from pipelines.gates import GateFailed
    from pipelines.job import StageFailed
    from pipelines.lock import Busy
    from pipelines.parquet import Corrupt

    try:
        app()
    except UserError as error:
        sys.exit(_say(error, 2))
    except (Busy, Corrupt, GateFailed, StageFailed) as error:
        sys.exit(_say(error, 1))


def _say(error: BaseException | None, code: int, line: str = "") -> int:
    """Says in one line what went wrong.

    Drops tracebacks: Prefect keeps an error to the very end, and with its frames all that DuckDB then complains of.
    """
    print(f"shardmill: {line or error}", file=sys.stderr)
    while error:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    return code


@app.command()
def init(
    config: Config,
    source: Annotated[str, typer.Option(help=f"One of {', '.join(TEMPLATE_SOURCES)}.")] = "webdataset",
) -> None:
    """Write a short, commented configuration."""
    if source not in TEMPLATE_SOURCES:
        raise UserError(f"--source: no source {source!r}; there are {', '.join(TEMPLATE_SOURCES)}")
    try:
        with config.open("x") as file:
            file.write(template(config, source))
    except FileExistsError:
        raise UserError(f"{config}: is there already; choose another name or remove it") from None
    except FileNotFoundError:
        raise UserError(f"{config.parent}: no such folder; make it first") from None
    print(f"wrote {config}; look it through, then: shardmill plan {config}")


@app.command()
def plan(
    config: Config,
    until: Annotated[str | None, typer.Option(help="The last stage.")] = None,
    engine: Engine = None,
) -> None:
    """Say what a run would make, and why. Writes nothing."""
    from pipelines.corpus import open_corpus
    from pipelines.corpus import plan as plan_of

    planned = plan_of(open_corpus(config, engine), until)
    for path, partitions in planned.vanished:
        console.print(f"[bold red]vanished[/] {path}: {len(partitions)} partitions go, with all that was made of them")
    table = Table("stage", "to make", "of", "rows", "why", title_justify="left")
    for stage in planned.stages:
        why = "; ".join(f"{count} {reason}" for reason, count in stage.reasons()[:4]) or "current"
        rows = "?" if stage.rows is None else f"{stage.rows:,}"
        table.add_row(stage.stage, "?" if stage.open else f"{len(stage.todo):,}", f"{stage.total:,}", rows, why)
    console.print(table)


@app.command()
def run(
    config: Config,
    until: Annotated[str | None, typer.Option(help="The last stage.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another run of the same root.")] = 0.0,
    engine: Engine = None,
) -> None:
    """Make what is not current. Safe to be stopped at any moment, and to be run again."""
    from pipelines.corpus import open_corpus, report
    from pipelines.corpus import plan as plan_of
    from pipelines.lock import hold
    from pipelines.report import REPORT

    corpus = open_corpus(config, engine)
    if plan_of(corpus, until).work():
        with hold(corpus.root, wait):  # or say at once that another run does
            pass
        _run_flow(config, until, wait, engine)
    else:
        console.print("everything is current: nothing to make")
    _print_reports([report(corpus, stage) for stage in corpus.stages(until)])
    console.print(f"the corpus is {corpus.root.url}; ask it: shardmill sql {corpus.root.url} 'from accounting'")
    if corpus.root.exists(REPORT):
        console.print(f"look at it: {corpus.root.url_of(REPORT)}", soft_wrap=True)


def _run_flow(config: Path, until: str | None, wait: float, engine: str | None) -> None:
    """Runs the flow in this process."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # `main` says what went wrong
    from flows.build_corpus import build_corpus
    from flows.progress import bars
    from flows.server import server
    from pipelines.lock import Busy

    try:
        with server(), bars():
            state = build_corpus(config, until, wait, engine, return_state=True)
    except KeyboardInterrupt as stop:
        raise typer.Exit(_say(stop, 130, "stopped; what was committed stays, run again to go on")) from None
    if state.name == "Skipped":
        raise Busy(state.message)
    state.result()


def _print_reports(reports) -> None:
    table = Table("stage", "rows in", "kept", "left out, by reason")
    for stage in reports:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(stage.reasons).most_common())
        table.add_row(stage.stage, f"{stage.rows:,}", f"{stage.kept:,}", reasons or "-")
    console.print(table)


@app.command()
def stats(root: RootUrl) -> None:
    """Show what a corpus holds: rows in, kept, and each reason, stage by stage; shard sets; last runs."""
    from pipelines.stats import corpus_stats

    for title, columns, lines in corpus_stats(open_root(root)):
        table = Table(*columns, title=title, title_justify="left")
        for line in lines:
            table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line))
        console.print(table)


@app.command()
def sql(
    root: RootUrl,
    question: Annotated[str, typer.Argument(help="SQL over the catalog's views.", show_default=False)],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, whole, instead of a table.")] = False,
) -> None:
    """Ask the catalog. Its views: rows, images, ocr, selection, samples, shards, accounting, changes, runs, …"""
    from pipelines.catalog import query, refresh_catalog

    here = open_root(root)
    refresh_catalog(here)
    answer = query(here, question)
    if csv:
        import pyarrow.csv

        columns = [_flat(column) for column in answer.columns]
        pyarrow.csv.write_csv(pyarrow.Table.from_arrays(columns, answer.column_names), sys.stdout.buffer)
    else:
        _print_answer(answer)


def _flat(column):
    """A column as CSV can hold it: lists and structures as JSON."""
    import json

    from pyarrow import array, string, types

    kind = column.type
    if not (types.is_nested(kind) or types.is_binary(kind) or types.is_interval(kind)):
        return column
    texts = (None if cell is None else json.dumps(cell, ensure_ascii=False, default=str) for cell in column.to_pylist())
    return array(texts, string())


def _print_answer(answer, most: int = 100) -> None:
    table = Table(*map(_cell, answer.column_names))
    for row in zip(*(column.slice(0, most).to_pylist() for column in answer.columns), strict=True):
        table.add_row(*map(_cell, row))
    console.print(table)
    if answer.num_rows > most:
        console.print(f"the first {most} of {answer.num_rows:,} rows; --csv prints all")


def _cell(value: object) -> str:
    """A value as a terminal may show it: what a caption holds must not steer the terminal."""
    text = "" if value is None else str(value)
    return escape("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))


@app.command()
def urls(
    root: RootUrl,
    set_name: Annotated[str, typer.Argument(metavar="SET", help="A shard set, or set@release.", show_default=False)],
) -> None:
    """List a set's tars in order, for any WebDataset reader."""
    from pipelines.cards import card_names, read_card

    here = open_root(root)
    card = read_card(here, set_name)
    if card is None:
        raise UserError(f"urls: no shard set {set_name!r}; there are {', '.join(card_names(here)) or 'none yet'}")
    for entry in card["shards"]:
        print(here.url_of(f"shards/{entry['tar']}"))


@app.command()
def report(
    root: RootUrl,
    seed: Annotated[int, typer.Option(help="Another number shows other samples.")] = 0,
) -> None:
    """Write report.html anew: the funnel, distributions, samples with OCR boxes, what was left out, last changes."""
    from pipelines.report import write_report

    console.print(f"wrote {write_report(open_root(root), seed)}", soft_wrap=True)


@app.command()
def verify(root: RootUrl) -> None:
    """Check every digest, every index entry, and that every row is accounted for. Exit code 1 if something is wrong."""
    from pipelines.verify import verify_root

    found = verify_root(open_root(root), lambda stage: console.print(f"checking {stage}", style="dim"))
    for problem in found.problems:
        console.print(f"[bold red]wrong[/] {problem}", highlight=False)
    if found.garbage:
        console.print(f"{len(found.garbage)} files are named by no commit; `shardmill clean` removes them")
    console.print(f"{found.rows:,} rows, {found.bytes / 1e6:,.1f} MB of images, {found.samples:,} samples: "
                  + (f"{len(found.problems)} problems" if found.problems else "all is well"))  # fmt: skip
    if found.problems:
        raise typer.Exit(1)


@app.command()
def clean(
    root: RootUrl,
    grace: Annotated[float, typer.Option(help="Keep what is younger than this many hours.")] = 24.0,
    keep: Annotated[int, typer.Option(help="Releases of each shard set to keep.")] = 3,
) -> None:
    """Remove what no commit names: leavings of killed runs, replaced payloads, old releases."""
    from pipelines.verify import clean_root

    removed, size = clean_root(open_root(root), grace * 3600, keep)
    console.print(f"removed {removed:,} files, {size / 1e6:,.1f} MB")


@app.command()
def schedule(
    config: Config,
    cron: Annotated[str, typer.Option(help="When, in UTC, e.g. '0 3 * * *'.", show_default=False)],
    pool: Annotated[str, typer.Option(help="The work pool of the workers that run it.")] = "shardmill",
) -> None:
    """Run a configuration on a schedule, by Prefect workers."""
    from flows.schedule import schedule as deploy
    from pipelines.corpus import open_corpus

    open_corpus(config)
    name = deploy(config, cron, pool)
    print(f"deployed {name}; a worker runs it: prefect worker start --pool {pool}")


def open_root(url: str):
    """A root that is there. Raises `UserError` for a folder that is none."""
    from pipelines.root import Root
    from pipelines.rows import SETTLED

    root = Root(str(Path(url).resolve()) if "://" not in url else url)
    if not root.exists(SETTLED):
        raise UserError(f"{url}: no corpus there (no {SETTLED}); name the `root` of a configuration that was run")
    return root
