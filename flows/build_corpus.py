"""The flow from a source to shards. A worker runs it as `flows.build_corpus.build_corpus`."""

from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, State

import flows.forks
import flows.progress  # not its names: what a module's own names reach is cleared at exit, DuckDB included
from pipelines.build.corpus import open_corpus
from pipelines.build.run import begin, open_runs, run_stage
from pipelines.catalog.gates import GateFailed
from pipelines.catalog.stats import corpus_stats
from pipelines.engine.lock import Busy
from pipelines.engine.parquet import Corrupt
from pipelines.engine.root import Root, fault
from pipelines.engine.secrets import hiding
from pipelines.engine.worker import Stopped
from schemas.errors import UserError


def can_pass(task, run, state: State) -> bool:
    """Whether trying again can help; if so, tells the user. A wrong configuration or key, a gate or damage stays."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, UserError | GateFailed | Corrupt | Stopped) or fault(error):
        return False
    flows.progress.tell(f"{error}; trying again")
    return True


@task(retries=2, retry_delay_seconds=[10, 60], retry_condition_fn=can_pass, task_run_name="{stage}")
def make_stage(run: str, stage: str, again: str | None) -> None:
    """Makes what is not current in one stage of a run that is open in this process, and again its failed rows for which
    the condition `again` holds."""
    with flows.progress.follow(stage) as progress:
        run_stage(open_runs[run], stage, progress, again)


@task
def publish_accounting(root: str, name: str) -> None:
    """Shows the table of `shardmill stats` in Prefect."""
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
    """Makes shards and a report from a source. Skipped if another run holds the root for longer than `wait` seconds.

    `retry`: stage -> a condition on its failed rows, which are then made again.
    """
    corpus = open_corpus(config, engine)
    try:
        with hiding(), begin(corpus, wait) as run:
            for stage in corpus.stages(until):
                make_stage(run.ledger.run, stage, (retry or {}).get(stage))
    except Busy as busy:
        return Completed(name="Skipped", message=str(busy))
    publish_accounting(corpus.root.url, corpus.name)
    return corpus.root.url
