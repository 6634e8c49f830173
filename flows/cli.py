"""The command line `shardmill`. A mistake of the user's is answered in one line, with exit code 2."""

import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from schemas.config import UserError
from schemas.templates import TEMPLATE_SOURCES, template

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
    except OSError as error:
        raise UserError(f"{config}: cannot be written: {error.strerror}") from None
    print(f"wrote {config}; look it through, then: shardmill plan {config}")


@app.command()
def plan(
    config: Config,
    until: Annotated[str | None, typer.Option(help="The last stage.")] = None,
    engine: Engine = None,
) -> None:
    """Say what a run would make, and why. Writes nothing."""
    from pipelines.corpus import open_corpus
    from pipelines.estimate import estimate
    from pipelines.plan import plan as plan_of

    corpus = open_corpus(config, engine)
    planned = plan_of(corpus, until)
    for path, partitions in planned.vanished:
        console.print(f"[bold red]vanished[/] {path}: {len(partitions)} partitions go, with all that was made of them")
    table = Table("stage", "to make", "of", "rows", "why", title_justify="left")
    for stage in planned.stages:
        why = "; ".join(f"{count} {reason}" for reason, count in stage.reasons()[:4]) or "current"
        rows = "?" if stage.rows is None else f"{stage.rows:,}"
        table.add_row(stage.stage, "?" if stage.open else f"{len(stage.todo):,}", f"{stage.total:,}", rows, why)
    console.print(table)
    for asks in estimate(corpus, planned.stages):
        calls, tokens = ("an unknown number of" if n is None else f"up to {n:,}" for n in (asks.calls, asks.tokens))
        console.print(f"{asks.stage} asks {', '.join(asks.endpoints)}: {calls} calls, {tokens} tokens")


@app.command()
def run(
    config: Config,
    until: Annotated[str | None, typer.Option(help="The last stage.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another run of the same root.")] = 0.0,
    engine: Engine = None,
) -> None:
    """Make what is not current. Safe to be stopped at any moment, and to be run again."""
    from pipelines.corpus import open_corpus
    from pipelines.lock import hold
    from pipelines.plan import plan as plan_of
    from pipelines.report import REPORT
    from pipelines.run import report

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


@app.command()
def retry(
    config: Config,
    where: Annotated[
        str | None,
        typer.Option(help="SQL on the rows of a stage, with url and host; if not given, what can pass by itself."),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Of this stage alone.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another run of the same root.")] = 0.0,
    engine: Engine = None,
) -> None:
    """Make rows anew that did not work out: those alone, and what follows from them. Then as `run`."""
    from pipelines.corpus import open_corpus
    from pipelines.lock import hold
    from pipelines.retry import failed_partitions
    from pipelines.run import report, to_retry

    corpus = open_corpus(config, engine)
    open_root(corpus.root.url)
    conditions = to_retry(corpus, stage, where)
    found = {name: failed_partitions(corpus.root, name, condition) for name, condition in conditions.items()}
    chosen = {name: conditions[name] for name, partitions in found.items() if partitions}
    if not chosen:
        console.print("no such row: nothing to make anew")
        return
    with hold(corpus.root, wait):
        pass
    for name in chosen:
        console.print(f"{name}: {sum(found[name].values()):,} rows in {len(found[name]):,} partitions are made anew")
    _run_flow(config, None, wait, engine, chosen)
    _print_reports([report(corpus, name) for name in corpus.stages()])


def _run_flow(
    config: Path, until: str | None, wait: float, engine: str | None, retry: dict[str, str] | None = None
) -> None:
    """Runs the flow in this process."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # `main` says what went wrong
    from flows.build_corpus import build_corpus
    from flows.progress import bars
    from flows.server import server
    from pipelines.lock import Busy

    try:
        with server(), bars():
            state = build_corpus(config, until, wait, engine, retry, return_state=True)
    except KeyboardInterrupt as stop:
        raise typer.Exit(_say(stop, 130, "stopped; what was committed stays, run again to go on")) from None
    if state.name == "Skipped":
        raise Busy(state.message)
    state.result()


@app.command("try")
def try_stage(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="`captions`.", show_default=False)],
    config: Config,
    rows: Annotated[int, typer.Option(help="How many captions.", min=1)] = 50,
) -> None:
    """Show what a model makes of some captions, before and after. Commits nothing; a run takes the answers over."""
    from pipelines.corpus import open_corpus
    from pipelines.trial import try_captions

    if stage != "captions":
        raise UserError(f"try: no stage {stage!r} to be tried; there is captions")
    table = Table("key", "why", "before", "after", title_justify="left", show_lines=True)
    tried = try_captions(open_corpus(config), rows)
    for row in tried:
        taken = row["answer"] == "taken"
        after = _cell(row["text"]) if taken else f"[dim]stays: {row['answer'] or row['reason']}[/]"
        table.add_row(row["key"], row["verdict"], _cell(row["original"]), after)
    console.print(table)
    counts = Counter(row["answer"] or row["reason"] for row in tried)
    said = ", ".join(f"{count} {word}" for word, count in counts.most_common())
    console.print(f"{len(tried)} captions asked for: {said or 'none is weak'}; nothing is committed")


@app.command("check-endpoint")
def check_endpoint(
    config: Config,
    name: Annotated[str | None, typer.Argument(help="Of a table [endpoints.NAME]; all of them if not given.")] = None,
) -> None:
    """Say whether a model answers, takes images, gives log-probabilities, and how fast it is."""
    from pipelines.check_endpoint import check_endpoint as look_at
    from pipelines.endpoints import endpoint_of
    from schemas.config_file import read_config

    read = read_config(config)
    if not read.endpoints:
        raise UserError(f"{config}: endpoints: missing; add a table [endpoints.NAME]")
    for one in [name] if name else read.endpoints:
        endpoint = endpoint_of(read, "check-endpoint", one)
        console.print(f"[bold]{one}[/]: {_cell(endpoint.config.model)} at {', '.join(endpoint.urls) or 'its command'}")
        for what, well, found in look_at(endpoint):
            console.print(f"  {what:<18} {'' if well else '[bold red]no[/] '}{_cell(found)}", soft_wrap=True)


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
def export_set(
    root: RootUrl,
    set_name: Annotated[str, typer.Argument(metavar="SET", help="A shard set, or set@release.", show_default=False)],
    folder: Annotated[str, typer.Argument(help="Where the files go: a folder or URL.", show_default=False)],
    form: Annotated[
        str, typer.Option(help="Pairs as `trl` or `rlaif-v`; conversations, or chosen answers, as `minicpm-v`.")
    ] = "trl",
) -> None:
    """Write a shard set in the files that another trainer reads. The same release gives the same bytes."""
    from pipelines.exports import export as write
    from pipelines.root import Root

    names = write(open_root(root), set_name, form, Root(folder if "://" in folder else str(Path(folder).resolve())))
    console.print(f"wrote {len(names):,} files to {folder}", soft_wrap=True)


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
def takedown(
    config: Config,
    wanted: Annotated[
        Path | None,
        typer.Argument(metavar="LIST", help="URLs, hosts, keys, SHA-256s; if not given, what was taken down before."),
    ] = None,
    models: Annotated[list[Path], typer.Option(help="A folder of checkpoints or exports; can be given again.")] = [],
    wait: Annotated[float, typer.Option(help="Seconds to wait for another run of the same root.")] = 0.0,
) -> None:
    """Take images and all that was said of them out of a corpus, for good, and say what was trained on them."""
    from pipelines.corpus import open_corpus
    from pipelines.takedown import read_list, take_down, trained_on
    from pipelines.taken import Taken

    corpus = open_corpus(config)
    open_root(corpus.root.url)
    for folder in models:
        if not folder.is_dir():
            raise UserError(f"--models: {folder}: no such folder")
    named = read_list(wanted) if wanted else Taken()
    done = take_down(corpus, named, lambda what: console.print(what, style="dim"), wait)
    console.print(f"{done.rows:,} rows taken down, and {done.others:,} of the same bytes or conversations")
    for one in done.near:
        line = f"near duplicate, {one.distance} bits apart, still there: {one.key} {_cell(one.url)}"
        console.print(line, soft_wrap=True)
    for stage in done.stages:
        if stage.made:
            what = "shards" if stage.stage == "shards" else "partitions"
            console.print(f"{stage.stage}: {stage.made:,} {what} made anew")
    console.print(f"{done.removed:,} files removed; every run and `shardmill verify` hold the corpus against the list")
    for folder in models:
        for path in trained_on(folder, done.releases):
            console.print(f"trained on a release that had some of it: {path}", soft_wrap=True)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A folder of the trainer's.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    quant: Annotated[str, typer.Option(help="Of the language model: F32, F16, Q8_0, Q4_K_M, IQ4_XS, …")] = "Q4_K_M",
    mmproj: Annotated[str, typer.Option(help="Of what sees: f32, f16 or Q8_0.")] = "f16",
    calibrate: Annotated[
        tuple[str, str] | None,
        typer.Option(help="ROOT SET: samples that say which weights matter.", metavar="ROOT SET"),
    ] = None,
    samples: Annotated[int, typer.Option(help="How many of them.")] = 128,
) -> None:
    """Write a checkpoint as GGUF files, which llama.cpp runs on a phone."""
    with _extra("gguf"):
        from training.export import export as write
        from training.imatrix import calibrate as look

    matter, described = look(checkpoint, *calibrate, samples) if calibrate else (None, None)
    card = write(checkpoint, out, quant, mmproj, matter, described)
    for name, file in card["files"].items():
        console.print(f"{name}  {file['bytes'] / 1e6:,.2f} MB")
    console.print(
        f"is it right? shardmill verify-gguf {out} --checkpoint {checkpoint}", soft_wrap=True
    )


@app.command()
def verify_gguf(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `export` wrote.", show_default=False)],
    checkpoint: Annotated[Path, typer.Option(help="What it was made from.", show_default=False)],
    held_out: Annotated[
        tuple[str, str] | None, typer.Option(help="ROOT SET: samples to look at.", metavar="ROOT SET")
    ] = None,
    samples: Annotated[int, typer.Option(help="How many of them.")] = 50,
    kl: Annotated[float, typer.Option(help="Most divergence from f16 of a quantised model, nats a token.")] = 0.05,
    same_top: Annotated[float, typer.Option(help="Least share of tokens that f16 holds likeliest too.")] = 0.9,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON instead of a table.")] = False,
) -> None:
    """Hold GGUF files against their checkpoint, in real llama.cpp. Exit code 1 if a bar is missed."""
    with _extra("gguf"):
        from training.verify_gguf import lines, verify

    root, name = held_out or (None, None)
    found = verify(folder, checkpoint, root, name, samples, kl, same_top, _quietly if json else _step)
    if json:
        print(_json(found))
    else:
        table = Table("check", "measured", "bar", "")
        for line in lines(found):
            table.add_row(*map(_cell, line))
        console.print(table)
    if not found["passed"]:
        raise typer.Exit(_say(None, 1, f"{folder}: missed: {', '.join(found['missed'])}"))


@app.command()
def tune_gguf(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `export` wrote.", show_default=False)],
    tokens: Annotated[int, typer.Option(help="Of an answer.")] = 64,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON instead of lines.")] = False,
) -> None:
    """Search how llama.cpp answers fastest on this device, and say what each step gained."""
    with _extra("gguf"):
        from dataclasses import asdict

        from training.tune_gguf import tune

    steps = []
    for step in tune(folder, tokens):
        steps.append(step)
        if not json:
            tried = ", ".join(f"{value} {seconds:.3f} s" for value, seconds in step.tried.items())
            console.print(f"{step.name:<12} {step.chosen:<6} {step.gain:.2f} times as fast   ({tried})", soft_wrap=True)
    if json:
        print(_json([asdict(step) for step in steps]))
    else:
        last = steps[-1]
        before = steps[0].tried[next(iter(steps[0].tried))]
        after = last.tried[last.chosen]
        console.print(
            f"an answer in {after:.3f} s instead of {before:.3f} s: llama-server {last.settings}", soft_wrap=True
        )


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


@contextmanager
def _extra(name: str):
    """Around imports that an extra brings. Raises `UserError` where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; it comes with an extra: pip install shardmill[{name}]"
        ) from None


def _step(line: str) -> None:
    console.print(line, style="dim")


def _quietly(line: str) -> None:
    pass


def _json(value: object) -> str:
    import json

    return json.dumps(value)


def open_root(url: str):
    """A root that is there. Raises `UserError` for a folder that is none."""
    from pipelines.root import Root
    from pipelines.rows import SETTLED

    root = Root(str(Path(url).resolve()) if "://" not in url else url)
    if not root.exists(SETTLED):
        raise UserError(f"{url}: no corpus there (no {SETTLED}); name the `root` of a configuration that was run")
    return root
