"""Commands that make a corpus: its configuration, what a run would do, runs, and the models that they ask."""

import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from flows.commands.arguments import Config, Engine, open_root
from flows.commands.terminal import cell, console, say, table, tell
from schemas.config.templates import TEMPLATE_SOURCES, template
from schemas.errors import UserError


def init(
    config: Config,
    source: Annotated[str, typer.Option(help=f"One of {', '.join(TEMPLATE_SOURCES)}.")] = "webdataset",
) -> None:
    """Write a short, commented configuration."""
    if source not in TEMPLATE_SOURCES:
        raise UserError(f"--source: no source {source!r}; there are {', '.join(TEMPLATE_SOURCES)}")
    try:
        with config.open("x", encoding="utf-8") as file:
            file.write(template(config, source))
    except FileExistsError:
        raise UserError(f"{config}: is there already; choose another name or remove it") from None
    except FileNotFoundError:
        raise UserError(f"{config.parent}: no such folder; make it first") from None
    except OSError as error:
        raise UserError(f"{config}: cannot be written: {error.strerror}") from None
    print(
        f"wrote {config}; look it through (all it may say: shardmill keys), then: shardmill plan {quote(str(config))}"
    )


def keys(
    table: Annotated[str | None, typer.Argument(help="A table, as `fetch`; all of them if not given.")] = None,
) -> None:
    """Show every table and key of a configuration, with its default and its meaning."""
    from schemas.config.reference import reference

    print(reference(table), end="")


def plan(
    config: Config,
    until: Annotated[str | None, typer.Option(help="The last stage.")] = None,
    engine: Engine = None,
) -> None:
    """Say what a run would make, and why. Writes nothing."""
    from pipelines.build.corpus import open_corpus
    from pipelines.build.estimate import estimate
    from pipelines.build.plan import plan as plan_of

    corpus = open_corpus(config, engine)
    planned = plan_of(corpus, until)
    _tell_unfetched(corpus)
    for path, partitions in planned.vanished:
        tell(f"[bold red]vanished[/] {cell(path)}: {len(partitions)} partitions go, with all that was made of them")
    shown = table("stage", "to make", "of", "rows", "why")
    for stage in planned.stages:
        why = "; ".join(f"{count} {reason}" for reason, count in stage.reasons()[:4]) or "current"
        rows = "?" if stage.rows is None else f"{stage.rows:,}"
        shown.add_row(stage.stage, "?" if stage.open else f"{len(stage.todo):,}", f"{stage.total:,}", rows, why)
    console.print(shown)
    for asks in estimate(corpus, planned.stages):
        calls, tokens = ("an unknown number of" if n is None else f"up to {n:,}" for n in (asks.calls, asks.tokens))
        tell(f"{asks.stage} asks {', '.join(asks.endpoints)}: {calls} calls, {tokens} tokens")


def run(
    config: Config,
    until: Annotated[str | None, typer.Option(help="The last stage.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another run of the same root.")] = 0.0,
    engine: Engine = None,
) -> None:
    """Make what is not current. Safe to be stopped at any moment, and to be run again."""
    from pipelines.build.corpus import open_corpus
    from pipelines.build.plan import plan as plan_of
    from pipelines.engine.lock import hold
    from pipelines.reports.report import REPORT

    corpus = open_corpus(config, engine)
    if plan_of(corpus, until).work():
        with hold(corpus.root, wait):  # or say at once that another run does
            pass
        _run_flow(corpus, config, until, wait, engine)
    else:
        tell("everything is current: nothing to make")
    _print_reports(corpus, until)
    tell(f"the corpus is {corpus.root.url}; ask it: shardmill sql {quote(corpus.root.url)} 'from accounting'")
    if corpus.root.exists(REPORT):
        tell(f"look at it: {corpus.root.url_of(REPORT)}")


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
    from pipelines.build.corpus import open_corpus
    from pipelines.build.retry import failed_partitions
    from pipelines.build.run import to_retry
    from pipelines.engine.lock import hold

    corpus = open_corpus(config, engine)
    open_root(corpus.root.url)
    conditions = to_retry(corpus, stage, where)
    found = {name: failed_partitions(corpus.root, name, condition) for name, condition in conditions.items()}
    chosen = {name: conditions[name] for name, partitions in found.items() if partitions}
    if not chosen:
        tell("no such row: nothing to make anew")
        return
    with hold(corpus.root, wait):
        pass
    for name in chosen:
        tell(f"{name}: {sum(found[name].values()):,} rows in {len(found[name]):,} partitions are made anew")
    _run_flow(corpus, config, None, wait, engine, chosen)
    _print_reports(corpus)


def _run_flow(
    corpus, config: Path, until: str | None, wait: float, engine: str | None, retry: dict[str, str] | None = None
) -> None:
    """Runs the flow in this process. Where a gate does not hold, shows what led to it first."""
    from pipelines.catalog.gates import GateFailed
    from pipelines.engine.lock import Busy

    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # `main` says what went wrong
    try:
        with ExitStack() as opened:
            with console.status("starting Prefect's server"):
                from flows.build_corpus import build_corpus
                from flows.progress import bars
                from flows.server import server

                opened.enter_context(server())
            opened.enter_context(bars())
            state = build_corpus(config, until, wait, engine, retry, return_state=True)
    except KeyboardInterrupt as stop:
        raise typer.Exit(say(stop, 130, "stopped; what was committed stays, run again to go on")) from None
    if state.name == "Skipped":
        raise Busy(state.message)
    try:
        state.result()
    except GateFailed:
        _print_reports(corpus, until)
        raise


def _print_reports(corpus, until: str | None = None) -> None:
    """The table of what the stages have; of `captions`, where all are kept, also how many are rewritten."""
    from pipelines.build.run import report
    from pipelines.catalog.stats import rewritten

    shown = table("stage", "rows in", "kept", "left out, by reason")
    for name in corpus.stages(until):
        stage = report(corpus, name)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(stage.reasons).most_common())
        shown.add_row(stage.stage, f"{stage.rows:,}", f"{stage.kept:,}", reasons or "-")
    console.print(shown)
    if found := rewritten(corpus.root) if "captions" in corpus.stages(until) else None:
        tell(f"captions: {', '.join(f'{count:,} {what}' for what, count in found)}")
    _tell_unfetched(corpus)


def _tell_unfetched(corpus) -> None:
    """Says so where rows have URLs that nobody asks for."""
    if corpus.config.source.kind == "laion" and not (corpus.config.fetch or corpus.config.source.image_column):
        tell('no URL is asked for: what is not fetched yet is left out; to fetch it add \\[fetch] with contact = "…"')


def try_stage(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="`captions`.", show_default=False)],
    config: Config,
    rows: Annotated[int, typer.Option(help="How many captions.", min=1)] = 50,
) -> None:
    """Show what a model makes of some captions, before and after. Commits nothing; a run takes the answers over."""
    from pipelines.build.corpus import open_corpus
    from pipelines.build.preview import try_captions

    if stage != "captions":
        raise UserError(f"try: no stage {stage!r} to be tried; there is captions")
    shown = table("key", "why", "before", "after", show_lines=True)
    tried = try_captions(open_corpus(config), rows)
    for row in tried:
        taken = row["answer"] == "taken"
        after = cell(row["text"]) if taken else f"[dim]stays: {row['answer'] or row['reason']}[/]"
        shown.add_row(row["key"], row["verdict"], cell(row["original"]), after)
    console.print(shown)
    counts = Counter(row["answer"] or row["reason"] for row in tried)
    said = ", ".join(f"{count} {word}" for word, count in counts.most_common())
    tell(f"{len(tried)} captions asked for: {said or 'none is weak'}; nothing is committed")


def check_endpoint(
    config: Config,
    name: Annotated[str | None, typer.Argument(help="Of a table [endpoints.NAME]; all of them if not given.")] = None,
) -> None:
    """Say whether a model answers, takes images, gives log-probabilities, and how fast it is."""
    from pipelines.models.check_endpoint import check_endpoint as look_at
    from pipelines.models.endpoints import endpoint_of
    from schemas.config.file import read_config

    read = read_config(config)
    if not read.endpoints:
        raise UserError(f"{config}: endpoints: missing; add a table [endpoints.NAME]")
    for one in [name] if name else read.endpoints:
        endpoint = endpoint_of(read, "check-endpoint", one)
        tell(f"[bold]{one}[/]: {cell(endpoint.config.model)} at {', '.join(endpoint.urls) or 'its command'}")
        for what, well, found in look_at(endpoint):
            tell(f"  {what:<18} {'' if well else '[bold red]no[/] '}{cell(found)}")


def schedule(
    config: Config,
    cron: Annotated[str, typer.Option(help="When, in UTC, e.g. '0 3 * * *'.", show_default=False)],
    pool: Annotated[str, typer.Option(help="The work pool of the workers that run it.")] = "shardmill",
) -> None:
    """Run a configuration on a schedule, by Prefect workers."""
    from flows.schedule import schedule as deploy
    from pipelines.build.corpus import open_corpus

    open_corpus(config)
    name = deploy(config, cron, pool)
    print(f"deployed {name}; a worker runs it: prefect worker start --pool {pool}")
