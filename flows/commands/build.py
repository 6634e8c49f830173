"""Commands that build a corpus: configurations, plans, runs, retries and checks of models."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from flows.commands.arguments import Config, Engine, open_root
from flows.commands.terminal import cell, console, counted, say, table, tell
from schemas.config.templates import TEMPLATE_SOURCES, template
from schemas.errors import UserError

ENDED = {"Cancelled": 130, "Stopped": 143}  # the state of a run that a signal ended -> exit code
CONTINUE = "what was committed stays; run again to continue"


def init(
    config: Config,
    source: Annotated[str, typer.Option(help=f"Kind of source: {', '.join(TEMPLATE_SOURCES)}.")] = "webdataset",
) -> None:
    """Write a short, commented configuration."""
    if source not in TEMPLATE_SOURCES:
        raise UserError(f"--source: unknown source {source!r}; choose from {', '.join(TEMPLATE_SOURCES)}")
    try:
        with config.open("x", encoding="utf-8") as file:
            file.write(template(config, source))
    except FileExistsError:
        raise UserError(f"{config}: already exists; choose another name or remove it") from None
    except FileNotFoundError:
        raise UserError(f"{config.parent}: does not exist; create this folder first") from None
    except OSError as error:
        raise UserError(f"{config}: cannot be written: {error.strerror}") from None
    print(
        f"wrote {config}; check it (shardmill keys lists all settings), then run: shardmill plan {quote(str(config))}"
    )


def keys(
    table: Annotated[str | None, typer.Argument(metavar="TABLE", help="Show only this table, such as `fetch`.")] = None,
) -> None:
    """Show every table and key of a configuration, with its default and its meaning."""
    from schemas.config.reference import reference

    print(reference(table), end="")


def plan(
    config: Config,
    until: Annotated[str | None, typer.Option(help="Stop after this stage, such as `images`.")] = None,
    engine: Engine = None,
) -> None:
    """Show what a run would make, and why. Writes nothing."""
    from pipelines.build.corpus import open_corpus
    from pipelines.build.estimate import estimate, round_estimate
    from pipelines.build.plan import plan as plan_of
    from pipelines.stages.pairs import DrawPairs

    corpus = open_corpus(config, engine)
    planned = plan_of(corpus, until)
    _tell_unfetched(corpus)
    for path, partitions in planned.vanished:
        gone, them = counted(len(partitions), "partition"), "it" if len(partitions) == 1 else "them"
        tell(f"[bold red]vanished[/] {cell(path)}: {gone} and all made from {them} will be removed")
    _tell_hints(corpus, planned)
    shown = table("stage", "to make", "of", "rows", "why")
    for stage in planned.stages:
        why = why_of(stage.reasons())
        rows = "?" if stage.rows is None else f"{stage.rows:,}"
        shown.add_row(stage.stage, "?" if stage.open else f"{len(stage.todo):,}", f"{stage.total:,}", rows, why)
    console.print(shown)
    for asks in estimate(corpus, planned.stages):
        calls = f"calls: {asks.each}" if asks.calls is None else f"up to {asks.calls:,} calls"
        tokens = "" if asks.tokens is None else f", up to {asks.tokens:,} tokens"
        tell(f"{asks.stage} asks {', '.join(asks.endpoints)}: {calls}{tokens}")
    if of_round := round_estimate(corpus):
        calls = "; ".join(
            f"{stage} {count if isinstance(count, str) else f'about {count:,}'}"
            for stage, count in of_round.calls.items()
        )
        tell(f"a round of align asks about {of_round.instructions:,} instructions, in calls: {calls}")
    if isinstance(pairs := corpus.made.get("pairs"), DrawPairs) and pairs.config.per_instruction:
        most = counted(pairs.config.per_instruction, "pair")
        tell(f"pairs: at most {most} of an instruction; a higher limit asks no model")


def why_of(reasons: list[tuple[str, int]]) -> str:
    """Why a stage has to be made, with the number of partitions where there are several reasons."""
    if len(reasons) == 1:
        return reasons[0][0]
    more = ["…"] if len(reasons) > 4 else []
    return "; ".join([f"{reason} ({count:,})" for reason, count in reasons[:4]] + more) or "current"


def run(
    config: Config,
    until: Annotated[str | None, typer.Option(help="Stop after this stage, such as `images`.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another run of the same corpus.")] = 0.0,
    engine: Engine = None,
) -> None:
    """Make everything that is not current. Can be stopped at any moment and run again."""
    from pipelines.build.corpus import open_corpus
    from pipelines.build.plan import plan as plan_of
    from pipelines.build.run import note_nothing_to_do
    from pipelines.engine.lock import Busy, hold
    from pipelines.reports.report import REPORT

    corpus = open_corpus(config, engine)
    planned = plan_of(corpus, until)
    _tell_hints(corpus, planned)
    if planned.work():
        with hold(corpus.root, wait):  # fails at once if another run holds the root
            pass
        _tell_per_host(corpus, planned)
        _run_flow(corpus, config, until, wait, engine)
    else:
        with suppress(Busy):
            note_nothing_to_do(corpus)
        tell("everything is current: nothing to make")
    print_reports(corpus, until)
    tell(f"the corpus is {corpus.root.url}; query it: shardmill sql {quote(corpus.root.url)} 'from accounting'")
    if corpus.root.exists(REPORT):
        tell(f"report: {corpus.root.url_of(REPORT)}")


def retry(
    config: Config,
    where: Annotated[
        str | None,
        typer.Option(help="SQL condition on the failed rows; without it, retry failures that may be temporary."),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Retry only this stage.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another run of the same corpus.")] = 0.0,
    engine: Engine = None,
) -> None:
    """Make failed rows again, and what depends on them; then everything else that is not current, as `run` does."""
    from pipelines.build.corpus import open_corpus
    from pipelines.build.retry import failed_partitions
    from pipelines.build.run import to_retry
    from pipelines.engine.lock import hold

    corpus = open_corpus(config, engine)
    open_root(corpus.root.url)
    conditions = to_retry(corpus, stage, where)
    failed = {name: failed_partitions(corpus.root, name, condition) for name, condition in conditions.items()}
    chosen = {name: conditions[name] for name, partitions in failed.items() if partitions}
    if not chosen:
        tell("no row matches: nothing to retry")
        return
    with hold(corpus.root, wait):
        pass
    for name in chosen:
        rows, partitions = sum(failed[name].values()), len(failed[name])
        tell(f"{name}: retrying {counted(rows, 'row')} in {counted(partitions, 'partition')}")
    _run_flow(corpus, config, None, wait, engine, chosen)
    print_reports(corpus)


def _run_flow(
    corpus, config: Path, until: str | None, wait: float, engine: str | None, retry: dict[str, str] | None = None
) -> None:
    """Runs the flow in this process. If a gate does not hold, shows the rows of each stage before the error."""

    def load() -> Callable[[], Any]:
        from flows.build_corpus import build_corpus, given

        def begin() -> Any:
            given[config] = corpus  # the file may have changed while the server started
            return build_corpus(config, until, wait, engine, retry, return_state=True)

        return begin

    in_prefect(corpus, load, until)


def in_prefect(corpus, load: Callable[[], Callable[[], Any]], until: str | None = None) -> None:
    """Has a flow run in this process, with its server and its bars. `load` imports it, and returns what runs it and
    returns its state."""
    import httpx

    from pipelines.catalog.gates import GateFailed
    from pipelines.engine.lock import Busy

    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # `main` says what went wrong
    before = corpus.root.folders("runs")
    try:
        with ExitStack() as opened:
            with console.status("starting Prefect's server"):
                import flows.lean  # noqa: F401  before Prefect
                from flows.progress import bars
                from flows.server import server

                begin = load()
                opened.enter_context(server())
            opened.enter_context(bars())
            state = begin()
    except KeyboardInterrupt as stop:
        raise typer.Exit(say(stop, 130, f"stopped by Ctrl-C; {CONTINUE}")) from None
    except httpx.HTTPError as error:
        _tell_without_server(corpus, before, error)
        return
    if state.name == "Skipped":
        raise Busy(state.message)
    if state.name in ENDED:
        raise typer.Exit(say(None, ENDED[state.name], f"{state.message}; {CONTINUE}"))
    try:
        state.result()
    except GateFailed:
        print_reports(corpus, until)
        raise


def _tell_without_server(corpus, before: list[str], error: Exception) -> None:
    """Says what became of a run whose Prefect server went away, or refused what it was asked. Raises `NoServer` if the
    run did not complete."""
    import httpx
    from prefect.settings import PREFECT_API_URL

    from flows.errors import NoServer
    from flows.server import refusal
    from pipelines.engine.ledger import runs

    refused = isinstance(error, httpx.HTTPStatusError)
    why = refusal(str(PREFECT_API_URL.value()), error) if refused else "Prefect's server is gone"
    last = next((ledger.row() for ledger in reversed(runs(corpus.root)) if ledger.run not in before), None)
    if last is None or last["status"] != "completed":
        raise NoServer(f"{why}; what was committed stays; run again when it answers")
    tell(
        cell(
            f"{why}; it does not know that this run completed"
            if refused
            else f"{why} and does not know that this run completed"
        )
    )


def print_reports(corpus, until: str | None = None) -> None:
    """Shows the rows of each stage, and how many captions are rewritten: `captions` keeps them all."""
    from pipelines.build.run import report
    from pipelines.catalog.stats import rewritten

    shown = table("stage", "rows in", "kept", "left out, by reason")
    for name in corpus.stages(until):
        stage = report(corpus, name)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(stage.reasons).most_common())
        shown.add_row(stage.stage, f"{stage.rows:,}", f"{stage.kept:,}", reasons or "-")
    console.print(shown)
    if outcomes := rewritten(corpus.root) if "captions" in corpus.stages(until) else None:
        tell(f"captions: {', '.join(f'{count:,} {outcome}' for outcome, count in outcomes)}")
    _tell_unfetched(corpus)


def _tell_hints(corpus, planned) -> None:
    """Warns the user of what a run would do that may not be intended."""
    if not corpus.config.sets and planned.stages[-1].stage == "shards":
        tell("no shard set: to write shards, add a table \\[sets.NAME]")
    for hint in planned.hints:
        tell(cell(hint))


def _tell_per_host(corpus, planned) -> None:
    """Says how many requests each of several workers sends to one host at a time."""
    from pipelines.engine.cluster import workers_of

    if corpus.config.fetch and any(stage.stage == "images" and (stage.todo or stage.open) for stage in planned.stages):
        with suppress(ValueError):  # of a cluster that does not answer: the run says so
            workers = workers_of(corpus.config.beam.runner, corpus.config.beam.options)
            each = corpus.made["images"].among(workers).fetch.per_host
            at_most = f"at most {each} request{'s' * (each > 1)} at a time"
            if workers > 1:
                tell(f"images: each of {workers} workers sends {at_most} to one host")


def _tell_unfetched(corpus) -> None:
    """Tells the user if rows have URLs but nothing fetches them."""
    unfetched = [one for one in corpus.config.source if one.kind == "laion" and not one.image_column]
    if unfetched and not corpus.config.fetch:
        tell('URLs are not fetched: rows without bytes are left out; to fetch them, add \\[fetch] with contact = "…"')


def try_stage(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="Stage to try: `captions`.", show_default=False)],
    config: Config,
    rows: Annotated[int, typer.Option(help="Number of captions.", min=1)] = 50,
) -> None:
    """Show some captions before and after a model rewrites them. Commits nothing; the next run uses the answers."""
    from pipelines.build.corpus import open_corpus
    from pipelines.build.preview import try_captions
    from schemas.captions import ACCEPTED, ANSWERS, REASONS

    if stage != "captions":
        raise UserError(f"try: unknown stage {stage!r}; choose captions")
    shown = table("key", "why", "before", "after", show_lines=True)
    tried = try_captions(open_corpus(config), rows)
    for row in tried:
        why = row["answer"] or row["reason"]
        after = cell(row["text"])
        if why != ACCEPTED:
            said = cell(row["raw"] or row["detail"] or "")
            after = f"{said}\n" * bool(said) + f"[dim]stays: {why}: {({**REASONS, **ANSWERS}).get(why, '')}[/]"
        shown.add_row(row["key"], row["verdict"], cell(row["original"]), after)
    console.print(shown)
    counts = Counter(row["answer"] or row["reason"] for row in tried)
    outcomes = ", ".join(f"{count} {word}" for word, count in counts.most_common())
    tell(f"tried {counted(len(tried), 'caption')}: {outcomes or 'none is weak'}; nothing is committed")


def check_endpoint(
    config: Config,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Check only this endpoint: the NAME of its table \\[endpoints.NAME]."),
    ] = None,
) -> None:
    """Check whether a model answers, reads images and gives log-probabilities, and how fast it is. Fails if it cannot
    do what a stage of the configuration needs."""
    from pipelines.models.check_endpoint import check_endpoint as look_at
    from pipelines.models.check_endpoint import uses_of
    from pipelines.models.endpoints import endpoint_of
    from schemas.config.file import read_config

    settings = read_config(config)
    if not settings.endpoints:
        raise UserError(f"{config}: endpoints: missing; add a table [endpoints.NAME]")
    failed: list[str] = []
    for endpoint_name in [name] if name else settings.endpoints:
        endpoint = endpoint_of(settings, "check-endpoint", endpoint_name)
        tell(f"[bold]{endpoint_name}[/]: {cell(endpoint.config.model)} at {', '.join(endpoint.urls) or 'its command'}")
        uses = uses_of(settings, endpoint_name)
        needed = {need for use in uses for need in use.needs}
        for check, passed, finding in look_at(endpoint, uses):
            tell(f"  {check:<18} {'' if passed else '[bold red]failed:[/] '}{cell(finding)}")
            failed += [f"{endpoint_name}: {check}"] if not passed and check in needed else []
    if failed:
        raise typer.Exit(say(None, 1, f"stages of {config} need what does not work: {', '.join(failed)}"))
