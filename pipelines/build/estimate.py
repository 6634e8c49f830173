"""Estimates the calls and tokens of a run from earlier runs, for `shardmill plan`."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pipelines.build.corpus import Corpus
from pipelines.build.plan import StagePlan
from pipelines.catalog.catalog import connect
from pipelines.catalog.ledger_files import ledger_files
from pipelines.engine.commit import Commit
from pipelines.models.model_stage import ModelStage
from pipelines.stages.claims import Divide
from pipelines.stages.responses import Respond
from pipelines.stages.verdicts import Judge

# For each row that has answers: what the last run that asked for it used.
TOOK = """
SELECT stage, sum(tries) AS calls, sum(tokens_in) + sum(tokens_out) AS tokens
FROM (FROM calls QUALIFY run = max(run) OVER (PARTITION BY stage, key)) GROUP BY stage
"""


class Estimate(NamedTuple):
    """A rough upper bound: which rows can be taken over is known only when they are read."""

    stage: str
    endpoints: tuple[str, ...]
    calls: int | None  # None where nothing was asked before
    tokens: int | None
    each: str  # the calls for each row that it answers


class RoundEstimate(NamedTuple):
    """What a round of an alignment asks, about."""

    instructions: int
    calls: dict[str, int | str]  # stage -> calls; before the first round in words


def each(stage: ModelStage) -> str:
    """The calls of a stage for each row that it answers, in words."""
    if isinstance(stage, Respond):
        return f"{stage.config.draws} for each instruction"
    if isinstance(stage, Divide):
        return "up to 2 for each response"
    if isinstance(stage, Judge):
        return f"{len(stage.endpoints)} for each different question about an image"
    return "1 for each row that it asks about"


def round_estimate(corpus: Corpus) -> RoundEstimate | None:
    """What the next round of an alignment asks, from what earlier rounds asked; None where nothing is known yet."""
    align, respond = corpus.config.align, corpus.made.get("responses")
    commits = corpus.commits("instructions")["instructions"].values()
    if align is None or not isinstance(respond, Respond) or not commits:
        return None
    asked = sum(commit.kept for commit in commits)
    wanted = round(align.share * (asked + sum(commit.reasons.get("later_round", 0) for commit in commits)))
    with connect(corpus.root, {"calls": ledger_files(corpus.root)["calls"]}, queries=["calls"]) as connection:
        took = {stage: calls for stage, calls, _ in connection.sql(TOOK).fetchall()}
    calls: dict[str, int | str] = {respond.name: respond.config.draws * wanted}
    for name in ("claims", "verdicts"):
        stage = corpus.made.get(name)
        if isinstance(stage, ModelStage) and stage.endpoints:
            calls[name] = round(wanted * float(took[name]) / asked) if asked and name in took else each(stage)
    return RoundEstimate(wanted, calls)


def estimate(corpus: Corpus, planned: Iterable[StagePlan]) -> list[Estimate]:
    """What each stage would use that asks models and is not current."""
    asking = [(plan, corpus.made.get(plan.stage)) for plan in planned if plan.todo]
    asking = [(plan, stage) for plan, stage in asking if isinstance(stage, ModelStage) and stage.endpoints]
    if not asking:
        return []
    with connect(corpus.root, {"calls": ledger_files(corpus.root)["calls"]}, queries=["calls"]) as connection:
        took = {stage: (calls, tokens) for stage, calls, tokens in connection.sql(TOOK).fetchall()}
    return [_estimate_of(corpus, plan, stage, took.get(stage.name)) for plan, stage in asking]


def _estimate_of(corpus: Corpus, plan: StagePlan, stage: ModelStage, took: tuple | None) -> Estimate:
    """`took`: the calls and tokens of the rows that have answers; None if nothing was asked before."""
    commits = corpus.commits("rows", "instructions", stage.name)
    rows, calls, tokens = rows_of(plan, commits["rows"], commits[stage.name]), None, None
    done = sum(commit.rows for commit in commits[stage.name].values())
    if rows is not None and done and took:
        calls, tokens = (round(rows * float(spent) / done) for spent in took)
    elif isinstance(stage, Respond) and plan.todo.keys() <= commits["instructions"].keys():
        calls = stage.config.draws * sum(commits["instructions"][p].kept for p in plan.todo)
    if calls is not None and isinstance(stage, Respond) and stage.rounds:  # those that are over are not asked again
        calls, tokens = -(-calls // len(stage.rounds)), tokens and -(-tokens // len(stage.rounds))
    return Estimate(stage.name, tuple(endpoint.name for endpoint in stage.endpoints), calls, tokens, each(stage))


def rows_of(planned: StagePlan, source: Mapping[int, Commit], own: Mapping[int, Commit]) -> int | None:
    """Estimates the rows of the partitions that a stage has to make, from those that it has."""
    made = [p for p in own if p in source]
    base = sum(source[p].rows for p in made)
    if not base or not planned.todo.keys() <= source.keys():
        return None
    share = sum(own[p].rows for p in made) / base
    return round(sum(own[p].rows if p in own else share * source[p].rows for p in planned.todo))
