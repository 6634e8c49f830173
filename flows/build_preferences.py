"""The flow from instructions to pairs. A worker runs it as `flows.build_preferences.build_preferences`."""

from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.states import State

from flows.build_corpus import build_corpus
from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from schemas.errors import UserError


@task
def publish_cost(config: Path) -> None:
    """Puts what models were asked, by stage and by kept pair, where Prefect shows it."""
    corpus = open_corpus(config)
    table = query(corpus.root, "FROM cost").to_pylist()
    create_table_artifact(table, key="shardmill-cost", description=f"{corpus.name}: calls, tokens, seconds")


@flow(flow_run_name="{config.stem}-preferences")
def build_preferences(config: Path, wait: float = 0.0) -> str | State:
    """Instructions in; responses, claims, verdicts, pairs and their shards out, and what they cost.

    The stages are those of the configuration, whose corpus they are about: what is current there is not made again.
    """
    if open_corpus(config).config.responses is None:
        raise UserError(f'{config}: responses: missing; add the table [responses] with endpoint = "…"')
    state = build_corpus(config, None, wait, return_state=True)
    if state.name != "Skipped":
        state.result()
        publish_cost(config)
    return state
