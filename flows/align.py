"""The flow that aligns a policy in rounds. A worker runs it as `flows.align.align`.

A round asks the best policy so far about images of its own, divides and judges its responses, draws pairs, trains on
them, and evaluates what came of it. The labelers stay the same. (RLAIF-V, arXiv 2405.17220, section 3.3)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Completed

import flows.progress
from flows.background import sender
from flows.build_corpus import build_corpus, failed, stopped
from flows.errors import line_of
from flows.parameters import check_parameters
from flows.rounds import aligning, begin_round, end_round, evaluate_start, is_over, settings_of, train_policy
from flows.texts import artifact_key, label, run_title
from pipelines.build.corpus import open_corpus
from pipelines.engine.lock import Busy
from pipelines.engine.secrets import hiding
from pipelines.reports.rounds import table_of
from schemas.errors import UserError

STEPS: dict[str, Callable[..., Any]] = {
    "evaluate start": evaluate_start, "begin": begin_round, "train": train_policy, "evaluate": end_round,
}  # fmt: skip


@task(task_run_name="{step}")
def do(step: str, config: Path) -> Any:
    """One step of a round, from what is on disk now."""
    done = STEPS[step](open_corpus(config), flows.progress.tell)
    if isinstance(done, str):
        get_run_logger().info("%s", done)
        flows.progress.tell(done)
    return done


def publish_rounds(root: Any, name: str) -> None:
    """Shows the table of the rounds in Prefect."""
    columns, lines = table_of(root)
    table, key = [dict(zip(columns, line, strict=True)) for line in lines], artifact_key("rounds", root.url)
    sender.send(key, lambda: create_table_artifact(table, key=key, description=f"{name}: the policy, round by round"))
    sender.flush()


def flow_run_name() -> str:
    return f"{run_title(Path(flow_run.parameters['config']), flow_run.scheduled_start_time)} align"


@flow(flow_run_name=flow_run_name)
def align(config: Path, rounds: int | None = None, wait: float = 0.0) -> str | State:
    """Aligns the policy of a configuration until it has made `rounds` rounds, or a round stops it.

    Goes on where it was killed. Skipped if another run holds the root for longer than `wait` seconds.
    """
    try:
        check_parameters(align)
        corpus = open_corpus(config)
        wanted = rounds or settings_of(corpus).rounds
        if wanted * settings_of(corpus).share > 1 + 1e-9:
            raise UserError(f"{config}: align.share: {wanted} rounds need more than all images; lower it, or --rounds")
        with aligning(corpus), hiding():
            do("evaluate start", config)
            while not is_over(corpus, wanted):
                do("begin", config)
                state = build_corpus(config, None, wait, return_state=True)
                if not state.is_completed():
                    return state
                do("train", config)
                do("evaluate", config)
                publish_rounds(corpus.root, label(config))
    except Busy as busy:
        return Cancelled(name="Skipped", message=str(busy))
    except (KeyboardInterrupt, TerminationSignal) as stop:
        if deployment.id:
            raise
        return stopped(stop)
    except Exception as error:
        if (expected := line_of(error)) is None:
            raise
        return failed(error, expected[1])
    return Completed(message=f"{wanted} rounds", data=corpus.root.url)
