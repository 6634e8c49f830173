"""The flow from a source to shards. A worker runs it as `flows.build_corpus.build_corpus`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import prefect.flow_engine
from prefect import flow, get_run_logger, task
from prefect._internal.control_listener import get_intent
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Completed, Failed

import flows.forks
import flows.progress  # not its names: what a module's own names reach is cleared at exit, DuckDB included
from flows.assets import announce_releases
from flows.background import sender
from flows.backlog import cancel_missed
from flows.errors import WithoutTraceback, line_of
from flows.parameters import check_parameters
from flows.texts import artifact_key, label, run_line, run_title, stage_line
from pipelines.build.corpus import Corpus, open_corpus
from pipelines.build.plan import has_work
from pipelines.build.run import StageReport, begin, check_retries, note_nothing_to_do, open_runs, run_stage
from pipelines.catalog.gates import GateFailed
from pipelines.catalog.stats import corpus_stats
from pipelines.engine.ledger import ending
from pipelines.engine.lock import Busy
from pipelines.engine.parquet import Corrupt
from pipelines.engine.root import Root, fault
from pipelines.engine.secrets import hidden, hiding
from pipelines.engine.worker import Stopped
from schemas.errors import UserError
from schemas.printable import printable_line

for name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(name).addFilter(WithoutTraceback())

_maintain = prefect.flow_engine.maintain_concurrency_lease  # pyright: ignore[reportPrivateImportUsage]  is replaced


def maintain_lease(lease: Any, seconds: float, **options: Any) -> Any:
    """Prefect ends a run whose place it cannot renew, such as while its server is gone. The lock of the root keeps runs
    apart without it."""
    return _maintain(lease, seconds, suppress_warnings=True)


prefect.flow_engine.maintain_concurrency_lease = maintain_lease  # pyright: ignore[reportPrivateImportUsage]


def can_pass(task, run, state: State) -> bool:
    """Whether another try can help; if so, tells the user. It cannot mend a wrong setting or key, a gate, or damage."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, UserError | GateFailed | Corrupt | Stopped) or fault(error):
        return False
    flows.progress.tell(f"{error}; trying again")
    return True


@task(retries=2, retry_delay_seconds=[10, 60], retry_condition_fn=can_pass, task_run_name="{stage}")
def make_stage(run: str, stage: str, again: str | None) -> StageReport:
    """Makes what is not current in one stage of a run that is open in this process, and its failed rows for which the
    condition `again` holds."""
    opened = open_runs[run]
    with flows.progress.follow(stage, artifact_key("progress", opened.corpus.root.url, stage)) as progress:
        report = run_stage(opened, stage, progress, again)
    get_run_logger().info("%s", stage_line(report))
    return report


@contextmanager
def showing(what: str) -> Iterator[None]:
    """Shows something in Prefect. What cannot be shown is a warning in the log: it does not change how a run ends."""
    try:
        yield
    except Exception as error:
        with suppress(Exception):
            get_run_logger().warning("%s cannot be shown in Prefect: %s", what, error)


def publish_accounting(root: Root, name: str, ended: str) -> None:
    """Shows the table of `shardmill stats` in Prefect, below how the run ended."""
    with showing("the accounting"):
        (_, columns, lines), *_ = corpus_stats(root)
        table = [dict(zip(columns, line, strict=True)) for line in lines]
        described = f"{ended}\n\n{name}: {'every row accounted for' if table else 'no rows yet'}"
        key = artifact_key("accounting", root.url)
        sender.send(key, lambda: create_table_artifact(table, key=key, description=described))


STOPPED = "Stopped"  # the state of a run that SIGTERM ended
given: dict[Path, Corpus] = {}  # what the command line has read already, for the next run of this process


def flow_run_name() -> str:
    return run_title(Path(flow_run.parameters["config"]), flow_run.scheduled_start_time)


@flow(flow_run_name=flow_run_name)
def build_corpus(
    config: Path,
    until: str | None = None,
    wait: float = 0.0,
    engine: str | None = None,
    retry: dict[str, str] | None = None,
) -> str | State:
    """Makes shards and a report from a source. Skipped if another run holds the root for longer than `wait` seconds.

    `until`: the last stage. `retry`: stage -> a condition on its failed rows, which are then made again.
    """
    missed = cancel_missed(deployment.id, flow_run.name) if deployment.id else 0
    name = label(config)
    try:
        check_parameters(build_corpus)
        corpus = given.pop(config, None) or open_corpus(config, engine)
    except UserError as error:
        return failed(error, str(error))
    try:
        with hiding():
            reports = make_stages(corpus, until, wait, retry or {})
    except Busy as busy:
        return Cancelled(name="Skipped", message=str(busy))
    except (KeyboardInterrupt, TerminationSignal) as stop:
        if deployment.id:  # Prefect knows why it stops the runs of a worker
            raise
        return stopped(stop)
    except Exception as error:
        if (expected := line_of(error)) is None:
            raise
        publish_accounting(corpus.root, name, expected[1])
        sender.flush()
        return failed(error, expected[1])
    ended = run_line(reports) + (f"; it made up for {missed} missed runs" if missed else "")
    publish_accounting(corpus.root, name, ended)
    sender.flush()
    return Completed(message=ended, data=corpus.root.url)


def stopped(stop: BaseException) -> State:
    """How a run of the command line ended that a signal stopped, as its ledger says."""
    status, why = ending(stop)
    return (
        Cancelled(message=why) if status == "cancelled" else Failed(name=STOPPED, message=why, data=RuntimeError(why))
    )


def failed(error: Exception, line: str) -> State:
    """A state that begins with the line to be known. Failed gates have a state of their own, for alerts."""
    name = "GateFailed" if isinstance(error, GateFailed) else "Failed"
    return Failed(name=name, message=printable_line(hidden(line)), data=error)


def make_stages(corpus: Corpus, until: str | None, wait: float, retry: dict[str, str]) -> list[StageReport]:
    """Makes the stages one after another. Raises `UserError` for a stage or a condition that there is not, before
    anything begins."""
    stages = corpus.stages(until)
    check_retries(corpus, stages, retry)
    if not retry and not has_work(corpus, until):
        note_nothing_to_do(corpus, wait)
        get_run_logger().info("nothing to make: everything is current")
        return []
    with begin(corpus, wait, lambda: get_intent() == "cancel") as run:
        reports = [make_stage(run.ledger.run, stage, retry.get(stage)) for stage in stages]
    if stages[-1] == "shards":
        with showing("the releases"):
            announce_releases(corpus, run.ledger.run)
    return reports
