"""The flow from instructions to pairs. A worker runs it as `flows.build_preferences.build_preferences`."""

from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.states import State

from flows.build_corpus import build_corpus
from pipelines.catalog.catalog import query
from pipelines.engine.root import Root
from schemas.config.file import read_config
from schemas.errors import UserError


@task
def publish_cost(root: str, name: str) -> None:
    """Shows in Prefect what models were asked, by stage and by kept pair."""
    table = query(Root(root), "FROM cost").to_pylist()
    create_table_artifact(table, key="shardmill-cost", description=f"{name}: calls, tokens, seconds")


@flow(flow_run_name="{config.stem}-preferences")
def build_preferences(config: Path, wait: float = 0.0) -> str | State:
    """Makes responses, claims, verdicts, pairs and their shards from instructions, and shows what they cost.

    It makes all stages of the configuration; what is current is not made again.
    """
    if read_config(config).responses is None:
        raise UserError(f'{config}: responses: missing; add the table [responses] with endpoint = "…"')
    state = build_corpus(config, None, wait, return_state=True)
    if state.name != "Skipped":
        publish_cost(state.result(), config.name)
    return state
