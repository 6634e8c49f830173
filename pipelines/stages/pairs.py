"""Pairs of a better and a worse response to one instruction.

A corpus step over the scores of all responses from the view `scores`: minus the number of claims that the labelers
reject, or minus their share. Of the pairs of an instruction whose scores differ, a few are drawn, no two with equal
texts. From those, pairs are dropped in which one text is much longer, see `pipelines.stages.length_balance`. With
[align] each round's pairs are balanced by themselves, so that a later round changes none of an earlier one.

Pairs are drawn from some partitions at a time, and wait on disk until the lengths of all are known.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from itertools import pairwise
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.catalog.catalog import connect, one_line, stage_files
from pipelines.catalog.groups import groups
from pipelines.engine.commit import digest
from pipelines.engine.corpus_stage import CorpusStage, Upstream
from pipelines.engine.ledger import Ledger
from pipelines.engine.parquet import Corrupt
from pipelines.engine.partition_stage import UPSTREAM
from pipelines.engine.root import Root
from pipelines.engine.workers import Workers
from pipelines.stages.brought import BringPairs
from pipelines.stages.length_balance import Lengths
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.pairs import STAGE, PairsConfig, pair_key
from schemas.stage import Columns
from schemas.stages import STAGES
from schemas.verdicts import MIN_MASS

SCORED = [STAGES[name] for name in ("responses", "claims", "verdicts")]
OTHERS = "verdicts: not all partitions are by the same labelers; run again"


class ScoredResponses(NamedTuple):
    """The columns that decide about n responses, in the order of (partition, key)."""

    partition: np.ndarray  # int32 [n]
    instruction: np.ndarray  # int64 [n], numbered in that order
    score: np.ndarray  # int64 [n]: minus the rejected claims
    claims: np.ndarray  # int64 [n], at least 1
    failed: np.ndarray  # bool [n]: there is no score
    words: np.ndarray  # int64 [n], of the text
    text: np.ndarray  # uint64 [n], a hash of the text without white space around it
    by_labeler: np.ndarray  # int64 [n, labelers], the score by each alone
    keys: list[str]
    instructions: list[str]  # keys, one a response
    why_not: list[str | None]  # why there is no score
    round: np.ndarray  # int64 [n], of [align]; 0 without it
    labelers: set[int]  # how many; none if there is no verdict


class PairIndices(NamedTuple):
    """Pairs, by the numbers of their responses."""

    chosen: np.ndarray  # int64 [pairs]
    rejected: np.ndarray  # int64 [pairs]


@dataclass(frozen=True)
class DrawPairs(CorpusStage):
    config: PairsConfig
    min_mass: float = MIN_MASS  # of verdicts
    in_rounds: bool = False  # of [align]

    info = STAGE

    @property
    def reads(self) -> Mapping[str, Columns]:
        return {**STAGE.reads, "instructions": ("key", "round")} if self.in_rounds else STAGE.reads

    def settings(self) -> dict[str, Any]:
        return self.config.recorded() | ({"min_mass": self.min_mass} if self.min_mass != MIN_MASS else {})

    def decide(
        self, root: Root, ledger: Ledger, upstream: Upstream, workers: Workers | None = None
    ) -> Iterator[pa.Table]:  # fmt: skip
        lengths, labelers = defaultdict[int, Lengths](Lengths), set[int]()
        with TemporaryDirectory(prefix="shardmill-") as folder:
            drawn = list[str]()
            for some in groups(upstream["responses"], upstream["responses"]):
                responses = read_scores(root, some, self.in_rounds)
                if len(responses.keys):
                    labelers |= responses.labelers
                    table = self._drawn(responses)
                    for number, of_round in _by_round(table):
                        lengths[number].add(*_words(table.filter(pa.array(of_round))))
                    drawn.append(f"{folder}/{some[0]}.parquet")
                    pq.write_table(table, drawn[-1])
            if len(labelers) > 1:
                raise Corrupt(OTHERS)
            for file in drawn:
                yield self._balanced(pq.read_table(file), lengths)

    def finished(self, decided: list[Row]) -> list[Row]:
        return [_finished(self, {name: row[name] for name in STAGE.fields if name in row}) for row in decided]

    def _drawn(self, responses: ScoredResponses) -> pa.Table:
        """DRAWN: the rows of some partitions, before pairs are dropped for their lengths."""
        config, shares = self.config, self.config.score == "share"
        every = candidates(responses, config.min_share if shares else config.min_margin, shares)
        unequal = distinct(responses, every, config.seed)
        drawn = draw(responses, unequal, config.per_instruction, config.seed)
        agreement = agreements(responses, drawn, shares)
        comparable, differing, paired = (np.zeros(len(responses.keys), bool) for _ in range(3))
        comparable[np.concatenate(every)] = True
        differing[np.concatenate(unequal)] = True
        paired[np.concatenate(drawn)] = True
        cuts = np.flatnonzero(np.diff(responses.partition, prepend=-1, append=-1)).tolist()
        pair_cuts = np.searchsorted(drawn.chosen, cuts).tolist()
        rows = list[Row]()
        for (start, end), (first, last) in zip(pairwise(cuts), pairwise(pair_cuts), strict=True):
            alone = (n for n in range(start, end) if not paired[n])
            here = [self._alone(responses, n, bool(comparable[n]), bool(differing[n])) for n in alone]
            for n in range(first, last):
                here.append(self._pair(responses, int(drawn.chosen[n]), int(drawn.rejected[n]), float(agreement[n])))
            partition = int(responses.partition[start])
            rows += [{"partition": partition} | row for row in here]
        return pa.Table.from_pylist(rows, DRAWN)

    def _balanced(self, table: pa.Table, lengths: Mapping[int, Lengths]) -> pa.Table:
        """The rows of some partitions, once the lengths of all pairs are known."""
        reasons, details = table["reason"].to_pylist(), table["detail"].to_pylist()
        for number, of_round in _by_round(table) if self.config.length_balance else ():
            chosen, rejected = _words(table.filter(pa.array(of_round)))
            leaving = ~lengths[number].staying(chosen, rejected)
            left = [column[leaving].tolist() for column in (np.flatnonzero(of_round), chosen, rejected)]
            for index, better, worse in zip(*left, strict=True):
                reasons[index], details[index] = "unbalanced", f"{better} words chosen, {worse} rejected"
        for name, values in (("reason", reasons), ("detail", details)):
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
        return table.drop_columns(["round", "words_chosen", "words_rejected"])

    def _alone(self, responses: ScoredResponses, number: int, comparable: bool, differing: bool) -> Row:
        """The row of a response that is in no pair: `comparable` if it could be in one, `differing` if in one whose
        texts no other pair stands for."""
        why = responses.why_not[number]
        reason = "not_drawn" if differing else "equal_pair" if comparable else "no_candidate"
        if why:
            reason = UPSTREAM if why.startswith("responses: ") else "unscored"
        return {
            "key": responses.keys[number], "instruction": responses.instructions[number], "reason": reason,
            "detail": why,
        }  # fmt: skip

    def _pair(self, responses: ScoredResponses, chosen: int, rejected: int, agreement: float) -> Row:
        better, worse = (responses.keys[number] for number in (chosen, rejected))
        scores = [int(responses.score[number]) for number in (chosen, rejected)]
        return {
            "key": pair_key(better, worse), "instruction": responses.instructions[chosen], "chosen": better,
            "rejected": worse, "chosen_score": scores[0], "rejected_score": scores[1], "margin": scores[0] - scores[1],
            "agreement": agreement, "round": int(responses.round[chosen]),
            "words_chosen": int(responses.words[chosen]), "words_rejected": int(responses.words[rejected]),
        }  # fmt: skip


# The rows of partitions whose pairs are drawn; words are of pairs alone
DRAWN = pa.schema([
    pa.field("partition", pa.int32()), *(field for field in STAGE.schema if field.name != "made_from"),
    *(pa.field(name, pa.int64()) for name in ("round", "words_chosen", "words_rejected")),
])  # fmt: skip


def _by_round(table: pa.Table) -> Iterator[tuple[int, np.ndarray]]:
    """(round, which rows are its pairs) of DRAWN."""
    rounds = table["round"].fill_null(-1).to_numpy()
    for number in np.unique(rounds[rounds >= 0]).tolist():
        yield number, rounds == number


def _words(pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The words of the chosen and of the rejected texts of some pairs."""
    return pairs["words_chosen"].to_numpy(), pairs["words_rejected"].to_numpy()


def _finished(step: DrawPairs, row: Row) -> Row:
    """A row with all of its fields, and the hash of what it says."""
    row = dict.fromkeys(STAGE.fields) | row
    return row | {"made_from": digest([step.name, step.version, *row.values()])}


# Reading

SCORES = """
SELECT partition, key, instruction, score, claims, why_not, text, [entry.score FOR entry IN by_labeler] AS by_labeler,
       {round} AS round
FROM scores ORDER BY partition, key"""
OF_IMAGE = "(SELECT i.round FROM instructions i WHERE i.partition = scores.partition AND i.key = scores.instruction)"


def read_scores(root: Root, partitions: Sequence[int], in_rounds: bool = False) -> ScoredResponses:
    """The columns that decide about the responses of some partitions, with the rounds of their instructions if they
    have any.

    Raises `Corrupt` for a file that DuckDB cannot read, or verdicts by different labelers.
    """
    columns: dict[str, list] = {
        name: [] for name in ("partition", "key", "instruction", "score", "claims", "why_not", "by_labeler", "round")
    }
    words, hashes = [], []
    stages = [STAGES["instructions"], *SCORED] if in_rounds else SCORED
    query = SCORES.format(round=f"coalesce({OF_IMAGE}, 0)" if in_rounds else "0")
    with connect(root, stage_files(root, stages, partitions), queries=[query]) as connection:
        try:
            for batch in connection.sql(query).to_arrow_reader(10_000):
                for name, values in columns.items():
                    values += batch[name].to_pylist()
                texts = [text or "" for text in batch["text"].to_pylist()]
                words += [len(text.split()) for text in texts]
                hashes += [text_hash(text) for text in texts]
        except duckdb.Error as error:
            raise Corrupt(f"pairs: {one_line(error)}") from None
    labelers = {len(by) for by in columns["by_labeler"] if by is not None}
    if len(labelers) > 1:
        raise Corrupt(OTHERS)
    nobody = [0] * max(labelers, default=0)
    keys = columns["instruction"]
    return ScoredResponses(
        partition=np.array(columns["partition"], np.int32),
        instruction=np.cumsum([0, *(a != b for a, b in pairwise(keys))])[: len(keys)],
        score=np.array([score or 0 for score in columns["score"]], np.int64),
        claims=np.array([max(1, claims or 0) for claims in columns["claims"]], np.int64),
        failed=np.array([score is None for score in columns["score"]], bool),
        words=np.array(words, np.int64),
        text=np.array(hashes, np.uint64),
        by_labeler=np.array([by or nobody for by in columns["by_labeler"]], np.int64).reshape(len(keys), len(nobody)),
        keys=columns["key"],
        instructions=keys,
        why_not=columns["why_not"],
        round=np.array(columns["round"], np.int64),
        labelers=labelers,
    )


def text_hash(text: str) -> int:
    """64 bits, equal for texts that differ only in white space at their ends."""
    return int.from_bytes(blake2b(text.strip().encode(), digest_size=8).digest())


# Choosing


def candidates(responses: ScoredResponses, least: float = 1, shares: bool = False) -> PairIndices:
    """All pairs of scored responses to one instruction whose texts differ, and whose scores differ by at least `least`:
    numbers of rejected claims, or with `shares` their shares of all claims."""
    chosen, rejected = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    scored = np.flatnonzero(~responses.failed)
    instruction, score, text = (column[scored] for column in (responses.instruction, responses.score, responses.text))
    of = responses.claims[scored] if shares else np.ones(len(scored), np.int64)  # scores are numbers of this many
    for apart in range(1, len(scored)):
        same = instruction[apart:] == instruction[:-apart]
        if not same.any():  # no instruction has more responses
            break
        margin = score[:-apart] * of[apart:] - score[apart:] * of[:-apart]  # in whole numbers: of both, multiplied
        far = (abs(margin) >= least * of[:-apart] * of[apart:] - 1e-9) & (margin != 0)
        first = np.flatnonzero(same & far & (text[:-apart] != text[apart:]))
        better = margin[first] > 0
        chosen.append(scored[np.where(better, first, first + apart)])
        rejected.append(scored[np.where(better, first + apart, first)])
    return _in_order(np.concatenate(chosen), np.concatenate(rejected))


def distinct(responses: ScoredResponses, pairs: PairIndices, seed: int) -> PairIndices:
    """Of the pairs of an instruction with equal texts the one with the smallest hash(seed, pair): the surer a policy
    is, the more often its draws say the same, and the same pair would be trained that often."""
    instruction, better, worse = responses.instruction, *(responses.text[side] for side in pairs)
    instruction = instruction[pairs.chosen]
    order = np.lexsort((_lots(responses, pairs, seed), worse, better, instruction))
    columns = [column[order] for column in (instruction, better, worse)]
    new = np.any([np.diff(column, prepend=column[:1]) != 0 for column in columns], axis=0)
    new[:1] = True
    return _in_order(pairs.chosen[order[new]], pairs.rejected[order[new]])


def draw(responses: ScoredResponses, pairs: PairIndices, per_instruction: int, seed: int) -> PairIndices:
    """At most `per_instruction` pairs of each instruction, or all if 0: those with the smallest hash(seed, pair).

    So what is drawn for one instruction does not depend on any other.
    """
    if not per_instruction:
        return pairs
    instruction = responses.instruction[pairs.chosen]
    order = np.lexsort((_lots(responses, pairs, seed), instruction))
    nth = np.arange(len(order)) - np.searchsorted(instruction[order], instruction[order])
    drawn = order[nth < per_instruction]
    return _in_order(pairs.chosen[drawn], pairs.rejected[drawn])


def _lots(responses: ScoredResponses, pairs: PairIndices, seed: int) -> np.ndarray:
    """uint64 [pairs]"""
    keys, sides = responses.keys, zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)
    return np.array([lot(seed, pair_key(keys[chosen], keys[rejected])) for chosen, rejected in sides], np.uint64)


def lot(seed: int, pair: str) -> int:
    return int.from_bytes(sha256(f"{seed}/{pair}".encode()).digest()[:8])


def agreements(responses: ScoredResponses, pairs: PairIndices, shares: bool = False) -> np.ndarray:
    """float64 [pairs]: the share of labelers by whose verdicts alone the chosen response has the higher score."""
    chosen, rejected = (responses.by_labeler[side] for side in pairs)
    if shares:
        of_chosen, of_rejected = (responses.claims[side][:, None] for side in pairs)
        chosen, rejected = chosen * of_rejected, rejected * of_chosen
    return (chosen > rejected).mean(axis=1) if len(chosen) else np.empty(0)


def _in_order(chosen: np.ndarray, rejected: np.ndarray) -> PairIndices:
    order = np.lexsort((rejected, chosen))
    return PairIndices(chosen[order], rejected[order])


def open_stage(config: Config) -> DrawPairs | BringPairs | None:
    if config.are_pairs_brought:
        return BringPairs()
    min_mass = config.verdicts.min_mass if config.verdicts else MIN_MASS
    return DrawPairs(config.pairs, min_mass=min_mass, in_rounds=bool(config.align)) if config.responses else None
