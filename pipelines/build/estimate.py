"""What a run would ask of models, by what it took before: for `shardmill plan`."""

from collections.abc import Iterable
from typing import NamedTuple

from pipelines.build.corpus import Corpus
from pipelines.build.plan import StagePlan
from pipelines.catalog.catalog import open_catalog
from pipelines.engine.commit import Commit
from pipelines.models.model_stage import ModelStage
from pipelines.stages.responses import Respond

# Of each row that has answers, what the run took that asked for it last.
TOOK = """
SELECT stage, sum(tries) AS calls, sum(tokens_in) + sum(tokens_out) AS tokens
FROM (FROM calls QUALIFY run = max(run) OVER (PARTITION BY stage, key)) GROUP BY stage
"""


class Estimate(NamedTuple):
    """At most, about: rows that can be taken over are known only when they are looked at."""

    stage: str
    endpoints: tuple[str, ...]
    calls: int | None  # None where nothing was asked before
    tokens: int | None


def estimate(corpus: Corpus, planned: Iterable[StagePlan]) -> list[Estimate]:
    """What each stage that asks, and has something to make, would take."""
    asking = [(one, corpus.made.get(one.stage)) for one in planned if one.todo]
    asking = [(one, stage) for one, stage in asking if isinstance(stage, ModelStage) and stage.endpoints]
    if not asking:
        return []
    with open_catalog(corpus.root) as connection:
        took = {stage: (calls, tokens) for stage, calls, tokens in connection.sql(TOOK).fetchall()}
    found = []
    for one, stage in asking:
        commits = corpus.commits("rows", "instructions", stage.name)
        rows, calls, tokens = rows_of(one, commits["rows"], commits[stage.name]), None, None
        done = sum(commit.rows for commit in commits[stage.name].values())
        if rows is not None and done and stage.name in took:
            calls, tokens = (round(rows * float(spent) / done) for spent in took[stage.name])
        elif isinstance(stage, Respond) and one.todo.keys() <= commits["instructions"].keys():
            calls = stage.config.draws * sum(commits["instructions"][p].kept for p in one.todo)
        found.append(Estimate(stage.name, tuple(endpoint.name for endpoint in stage.endpoints), calls, tokens))
    return found


def rows_of(planned: StagePlan, source: dict[int, Commit], own: dict[int, Commit]) -> int | None:
    """How many rows a stage will have in the partitions that it is to make, by those that it has."""
    there = [p for p in own if p in source]
    base = sum(source[p].rows for p in there)
    if not base or not planned.todo.keys() <= source.keys():
        return None
    share = sum(own[p].rows for p in there) / base
    return round(sum(own[p].rows if p in own else share * source[p].rows for p in planned.todo))
