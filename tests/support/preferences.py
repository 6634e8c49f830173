"""Responses, claims and verdicts made up for tests, put where the stages that ask models put theirs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

from support.corpora import build

from pipelines.build.corpus import Corpus, open_corpus
from pipelines.engine.commit import digest, file_of, replace_rows
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.corpus_stage import CorpusStage, Upstream
from pipelines.engine.ledger import Ledger
from pipelines.engine.parquet import read_rows
from pipelines.engine.root import Root
from schemas.arrow import Row
from schemas.responses import response_key
from schemas.stage import StageInfo
from schemas.stages import STAGES
from schemas.verdicts import verdict_key

Verdict = tuple[float, float] | None  # p_yes and p_no; None: the labeler failed
ASKED = ("responses", "claims", "verdicts")
ASKING = """
[endpoints.model]
model = "a-model"
url = "http://127.0.0.1:9/v1"
[responses]
endpoint = "model"
[verdicts]
labelers = ["model"]
"""


@dataclass
class Response:
    """What the policy says, and what each labeler makes of each claim."""

    text: str | None  # None: the policy failed
    claims: list[dict[str, Verdict] | None] = field(default_factory=list)  # None: a sentence that was not divided
    cut: bool = False
    denied: tuple[int, ...] = ()  # claims that deny what their question asks for


def yes_or_no(*accepted: bool | None) -> list[dict[str, Verdict]]:
    """The verdicts of one labeler; None for one that failed."""
    return [{"labeler": None if yes is None else (0.9, 0.1) if yes else (0.1, 0.9)} for yes in accepted]


@dataclass(frozen=True)
class MadeUp(CorpusStage):
    """A stage that asks no model but a function from an instruction's row to responses."""

    stage: str
    answer: Callable[[Row], Sequence[Response]] | None = None

    @property
    def info(self) -> StageInfo:
        return replace(STAGES[self.stage], reads={})

    def make(self, root: Root, upstream: Upstream) -> Iterator[tuple[int, list[Row]]]:
        for partition in upstream["instructions"]:
            asked = read_rows(root, file_of("instructions", partition))
            said = {row["key"]: [] if row["reason"] else self.answer(row) for row in asked}
            yield partition, rows_of(said)[self.name]


def build_preferences(config: Path, answer: Callable[[Row], Sequence[Response]]) -> Root:
    """A whole run, as `corpora.build` does it, whose models are a function."""

    def opened(path: Path, *more) -> Corpus:
        corpus = open_corpus(path, *more)
        made_up = {name: MadeUp(name, answer, earlier=corpus.made[name].earlier) for name in ASKED}
        return replace(corpus, made=corpus.made | made_up)

    with patch("pipelines.build.run.open_corpus", opened):
        return build(config)


def rows_of(instructions: Mapping[str, Sequence[Response]]) -> dict[str, list[Row]]:
    """The rows of the stages that ask, for instructions by their keys; one without responses was left out."""
    rows: dict[str, list[Row]] = {name: [] for name in ASKED}

    def add(stage: str, key: str, **said) -> None:
        schema = MadeUp(stage).schema
        row = dict.fromkeys(schema.names) | {"key": key} | said
        rows[stage].append(row | {"made_from": digest([stage, key, said])})

    def left_out(key: str, instruction: str, why: str, *stages: str) -> None:
        for stage in stages:
            more = {"claims": {"claims": []}, "verdicts": {"response": key}}.get(stage, {})
            add(stage, key, instruction=instruction, reason="upstream", detail=why, **more)

    for instruction, said in instructions.items():
        if not said:
            left_out(instruction, instruction, "instructions: no_question", *ASKED)
        for draw, response in enumerate(said):
            key, of = response_key(instruction, draw), {"instruction": instruction}
            if response.text is None:
                add("responses", key, **of, draw=draw, reason="timeout", detail="after 3 tries")
                left_out(key, instruction, "responses: timeout", "claims", "verdicts")
                continue
            add("responses", key, **of, draw=draw, text=response.text, cut=response.cut)
            if not response.claims or None in response.claims:
                reason = "not_divided" if response.claims else "no_claims"
                add("claims", key, **of, claims=[], reason=reason)
                left_out(key, instruction, f"claims: {reason}", "verdicts")
                continue
            divided = [{"claim": f"Claim {n}.", "question": f"Is it claim {n}?"} for n in range(len(response.claims))]
            add("claims", key, **of, claims=divided)
            for number, by_labeler in enumerate(response.claims):
                for labeler, verdict in by_labeler.items():
                    of_claim = of | {"response": key, "number": number, "labeler": labeler}
                    of_claim["denied"] = number in response.denied or None
                    judged = {"reason": "no_yes_no", "detail": "Maybe"}
                    if verdict:
                        judged = dict(zip(("p_yes", "p_no"), verdict, strict=True))
                    add("verdicts", verdict_key(key, number, labeler), **of_claim, **judged)
    return rows


def write_answers(root: Root, partitions: Mapping[int, Mapping[str, Sequence[Response]]]) -> None:
    """Commits what was made up, partition by partition."""
    ledger = Ledger.start(root, "my.toml", "0")
    for partition, instructions in partitions.items():
        for stage, rows in rows_of(instructions).items():
            replace_rows(root, ledger, MadeUp(stage), partition, rows)
    ledger.end("completed")


def commits_of(root: Root) -> dict[str, dict]:
    """What a step over these stages sees, where there is no corpus beside them."""
    commits = {stage: read_commits(root, stage) for stage in ASKED}
    return commits | {"rows": commits["responses"]}
