"""The flow from instructions to pairs. A worker runs it as `flows.build_preferences.build_preferences`."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.background import sender
from flows.build_corpus import build_corpus
from flows.parameters import check_parameters
from flows.texts import artifact_key, label, run_title
from pipelines.catalog.catalog import query
from pipelines.engine.root import Root
from schemas.config.file import read_config
from schemas.errors import UserError


def publish_cost(root: str, name: str) -> None:
    """Shows in Prefect what models were asked, by stage and by kept pair."""
    table, key = query(Root(root), "FROM cost").to_pylist(), artifact_key("cost", root)
    sender.send(key, lambda: create_table_artifact(table, key=key, description=f"{name}: calls, tokens, seconds"))
    sender.flush()


def flow_run_name() -> str:
    return f"{run_title(Path(flow_run.parameters['config']), flow_run.scheduled_start_time)} preferences"


@flow(flow_run_name=flow_run_name)
def build_preferences(config: Path, wait: float = 0.0) -> str | State:
    """Makes responses, claims, verdicts, pairs and their shards from instructions, and shows what they cost.

    It makes all stages of the configuration; what is current is not made again.
    """
    check_parameters(build_preferences)
    settings = read_config(config)
    if settings.responses is None:
        raise UserError(f'{config}: responses: missing; add the table [responses] with endpoint = "…"')
    state = build_corpus(config, None, wait, return_state=True)
    if state.is_completed():
        publish_cost(settings.root, label(config))
    return state
