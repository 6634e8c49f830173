"""The flow from a source to shards. A worker runs it as `flows.build_corpus.build_corpus`."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, State

from flows.progress import follow
from pipelines.corpus import StageReport, begin, open_corpus, report, run_stage
from pipelines.gates import GateFailed
from pipelines.ledger import Ledger
from pipelines.lock import Busy
from schemas.config import UserError


def accounting(reports: list[StageReport]) -> list[dict]:
    """Rows in, kept, and under each reason, a line a stage and reason."""
    return [
        {"stage": stage.stage, "rows in": stage.rows, "reason": reason, "rows": count}
        for stage in reports
        for reason, count in [("kept", stage.kept), *Counter(stage.reasons).most_common()]
    ]


def can_pass(task, run, state: State) -> bool:
    """Whether trying again can help: not against a wrong configuration, nor against a gate."""
    return not isinstance(state.result(raise_on_failure=False), UserError | GateFailed)


@task(retries=2, retry_delay_seconds=[10, 60], retry_condition_fn=can_pass, task_run_name="{stage}")
def make_stage(config: Path, run: str, stage: str) -> StageReport:
    """Makes what is not current in one stage."""
    corpus = open_corpus(config)
    return run_stage(corpus, Ledger(corpus.root, run), stage, follow(stage))


@task
def publish_accounting(config: Path) -> None:
    """Puts the numbers of `shardmill stats` where Prefect shows them."""
    corpus = open_corpus(config)
    table = accounting([report(corpus, stage) for stage in corpus.stages()])
    create_table_artifact(table, key="shardmill-accounting", description=f"{corpus.name}: every row accounted for")


@flow(flow_run_name="{config}")
def build_corpus(config: Path, until: str | None = None, wait: float = 0.0):
    """A source in, shards and a catalog out. Skipped when another run holds the root longer than `wait` seconds."""
    corpus = open_corpus(config)
    try:
        with begin(corpus, wait) as ledger:
            reports = [make_stage(config, ledger.run, stage) for stage in corpus.stages(until)]
    except Busy as busy:
        return Completed(name="Skipped", message=str(busy), data=[])
    publish_accounting(config)
    return [asdict(stage) for stage in reports]
