"""The flow from a source to shards. A worker runs it as `flows.build_corpus.build_corpus`."""

from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, State

import flows.progress  # by its whole name: what a module's own names reach is cleared at exit, DuckDB included
from pipelines.build.corpus import open_corpus
from pipelines.build.run import begin, open_runs, run_stage
from pipelines.catalog.gates import GateFailed
from pipelines.catalog.stats import corpus_stats
from pipelines.engine.lock import Busy
from pipelines.engine.parquet import Corrupt
from pipelines.engine.root import Root
from pipelines.engine.worker import Stopped
from schemas.errors import UserError


def can_pass(task, run, state: State) -> bool:
    """Whether trying again can help: not against a wrong configuration or key, a gate or damage. Says so if it can."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, UserError | GateFailed | Corrupt | Stopped):
        return False
    flows.progress.tell(f"{error}; trying again")
    return True


@task(retries=2, retry_delay_seconds=[10, 60], retry_condition_fn=can_pass, task_run_name="{stage}")
def make_stage(run: str, stage: str, again: str | None) -> None:
    """Makes what is not current in one stage of a run that is open in this process, and anew what did not work out, if
    told so by a condition."""
    with flows.progress.follow(stage) as progress:
        run_stage(open_runs[run], stage, progress, again)


@task
def publish_accounting(root: str, name: str) -> None:
    """Puts the table of `shardmill stats` where Prefect shows it."""
    (_, columns, lines), *_ = corpus_stats(Root(root))
    table = [dict(zip(columns, line, strict=True)) for line in lines]
    create_table_artifact(table, key="shardmill-accounting", description=f"{name}: every row accounted for")


@flow(flow_run_name="{config.stem}")
def build_corpus(
    config: Path,
    until: str | None = None,
    wait: float = 0.0,
    engine: str | None = None,
    retry: dict[str, str] | None = None,
) -> str | State:
    """A source in, shards and a report out. Skipped when another run holds the root longer than `wait` seconds.

    `retry`: stage -> a condition on its rows that did not work out, which are made anew.
    """
    corpus = open_corpus(config, engine)
    try:
        with begin(corpus, wait) as run:
            for stage in corpus.stages(until):
                make_stage(run.ledger.run, stage, (retry or {}).get(stage))
    except Busy as busy:
        return Completed(name="Skipped", message=str(busy))
    publish_accounting(corpus.root.url, corpus.name)
    return corpus.root.url
