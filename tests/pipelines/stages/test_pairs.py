"""Which responses are paired: as the public scripts do it where they say how, and never by a guess."""

import json
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.preferences import Response, commits_of, write_answers, yes_or_no

from pipelines.catalog.catalog import connect, stage_files
from pipelines.engine.ledger import Ledger
from pipelines.engine.manifest import write_manifest
from pipelines.engine.parquet import read_rows
from pipelines.engine.root import Root
from pipelines.stages.length_balance import length_balance
from pipelines.stages.pairs import DrawPairs, candidates, lot, read_scores
from schemas.pairs import REASONS, PairsConfig, pair_key
from schemas.stages import STAGES

DRAWN = PairsConfig()
ALL = PairsConfig(per_instruction=0)  # with the draw off
NO_BALANCE = PairsConfig(per_instruction=0, length_balance=False)


@pytest.fixture
def root(tmp_path) -> Root:
    root = Root(str(tmp_path / "root"))
    root.create()
    return root


def pairs_of(root: Root, config: PairsConfig = DRAWN) -> list[dict]:
    """All rows of the step, in order."""
    DrawPairs(config).run(root, Ledger(root, "a-run"), commits_of(root))
    return [row for name in root.files("pairs") if name[0].isdigit() for row in read_rows(root, f"pairs/{name}")]


def ask(root: Root, question: str) -> list[dict]:
    with connect(
        root, stage_files(root, [STAGES[name] for name in ("responses", "claims", "verdicts", "pairs")])
    ) as connection:
        return connection.sql(question).to_arrow_table().to_pylist()


def kept(rows: list[dict]) -> set[tuple[str, str]]:
    return {(row["chosen"], row["rejected"]) for row in rows if row["chosen"] and not row["reason"]}


def scored(score: int, text: str) -> Response:
    """A response of so many rejected claims, and a true one."""
    return Response(text, yes_or_no(True, *-score * [False]))


# The public scripts


@pytest.fixture
def public(shared, root) -> tuple[dict, Root, dict[int, str]]:
    """What the public scripts make of random verdicts; the same verdicts as ours; and their numbers as our keys.

    The scripts compare both probabilities, however small: here they are scaled to a sum of 1, which no floor drops.
    """
    said = json.loads((shared / "rlaifv/pair_reference.json").read_text())
    keys, instructions = {}, {}
    for one in said["instructions"]:
        responses = instructions[one["instruction_id"]] = []
        for response in one["responses"]:
            keys[response["response_id"]] = f"{one['instruction_id']}_{len(responses):02d}"
            both = [(claim["p_yes"], claim["p_no"]) for claim in response["claims"]]
            verdicts = [{"labeler": (yes / (yes + no), no / (yes + no))} for yes, no in both]
            responses.append(Response(response["text"], verdicts))
    names = sorted(instructions)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    write_answers(root, {p: {name: instructions[name] for name in half} for p, half in enumerate(halves)})
    return said["expected"], root, keys


def test_the_candidates_and_their_scores_are_those_of_the_public_scripts(public):
    expected, root, keys = public
    rows = pairs_of(root, NO_BALANCE)
    said = {
        (row["chosen"], row["rejected"], row["chosen_score"], row["rejected_score"])
        for row in rows if row["chosen"]
    }  # fmt: skip
    assert said == {
        (keys[p["chosen"]], keys[p["rejected"]], p["chosen_score"], p["rejected_score"])
        for p in expected["candidate_pairs"]
    }
    assert len(said) == len(expected["candidate_pairs"]) == 1194


def test_the_length_ratio_and_the_kept_pairs_are_those_of_the_public_scripts(public):
    expected, root, keys = public
    rows = pairs_of(root, ALL)
    assert kept(rows) == {(keys[chosen], keys[rejected]) for _, chosen, rejected in expected["balanced_pairs"]}
    assert len(kept(rows)) == len(expected["balanced_pairs"]) == 908
    found = read_scores(root, [0, 1])
    every = candidates(found)
    ratio, _ = length_balance(found.words[every.chosen], found.words[every.rejected])
    assert ratio == expected["length_ratio"]
    words = dict(zip(found.keys, found.words.tolist(), strict=True))
    left = [row for row in rows if row["reason"] == "unbalanced"]
    assert {row["detail"] for row in left} == {
        f"{words[row['chosen']]} words chosen, {words[row['rejected']]} rejected" for row in left
    }


@pytest.mark.slow
def test_pairs_do_not_depend_on_how_many_partitions_are_read_at_once_nor_on_who_writes_them(public, monkeypatch):
    """Lengths are balanced over all partitions, which only their sums can tell when they are read one by one."""
    _, root, _ = public
    together = pairs_of(root, ALL)
    assert {"unbalanced", None} <= {row["reason"] for row in together}
    read = []
    monkeypatch.setattr("pipelines.catalog.groups.MOST", 1)
    monkeypatch.setattr(
        "pipelines.stages.pairs.read_scores", lambda *given: (read.append(given[1]), read_scores(*given))[1]
    )
    assert pairs_of(root, ALL) == together and read == [[0], [1]]
    for name in [name for name in root.files("pairs") if name[0].isdigit()]:
        root.remove(f"pairs/{name}")
    written = []

    def by_workers(work, pieces):
        for piece in pieces:
            written.append(piece.partitions)
            work.make(piece)

    monkeypatch.setattr("pipelines.engine.corpus_stage.PIECE", 1)
    DrawPairs(ALL).run(root, Ledger(root, "a-run"), commits_of(root), by_workers)
    assert written == [(0,), (1,)] and not root.folders("pairs")
    assert [row for p in (0, 1) for row in read_rows(root, f"pairs/0000{p}.parquet")] == together


def test_at_most_two_pairs_are_drawn_of_an_instruction_and_a_seed_draws_its_own(public):
    _, root, _ = public
    every = kept(pairs_of(root, NO_BALANCE))
    drawn = [kept(pairs_of(root, PairsConfig(length_balance=False, seed=seed))) for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
    for some in drawn:
        assert some < every
        assert set(Counter(chosen.split("_")[0] for chosen, _ in some).values()) == {2}


# Scores


def test_a_tie_rejects_and_a_response_with_a_failed_verdict_is_unscored(root):
    write_answers(root, {0: {"a" * 16: [
        Response("good", yes_or_no(True, True)),
        Response("a tie", [{"labeler": (0.4, 0.4)}, *yes_or_no(True)]),
        Response("unsure", yes_or_no(True, None, False)),
        Response(None),
        Response("Lovely!"),
        Response("half divided", [None, *yes_or_no(True)]),
    ]}})  # fmt: skip
    scores = ask(root, "SELECT draw, claims, score, why_not FROM scores ORDER BY draw")
    assert [tuple(row.values()) for row in scores] == [
        (0, 2, 0, None),
        (1, 2, -1, None),
        (2, 3, None, "verdicts: no_yes_no"),
        (3, 0, None, "responses: timeout"),
        (4, 0, None, "claims: no_claims"),
        (5, 0, None, "claims: not_divided"),
    ]
    rows = {row["key"][-2:]: (row["reason"], row["detail"]) for row in pairs_of(root) if not row["chosen"]}
    assert rows == {
        "02": ("unscored", "verdicts: no_yes_no"), "03": ("upstream", "responses: timeout"),
        "04": ("unscored", "claims: no_claims"), "05": ("unscored", "claims: not_divided"),
    }  # fmt: skip


@pytest.mark.parametrize("stage", ["claims", "verdicts"])
def test_what_is_missing_leaves_a_response_unscored(root, stage):
    key = "a" * 16
    write_answers(root, {0: {key: [Response("one", yes_or_no(True, True)), Response("two", yes_or_no(False))]}})
    assert len(kept(pairs_of(root))) == 1
    left = {"claims": "key != '{}_00'", "verdicts": "key != '{}_00_001_labeler'"}[stage].format(key)
    with connect(root, stage_files(root, [STAGES[name] for name in ("responses", "claims", "verdicts")])) as connection:
        connection.execute(f"ALTER VIEW {stage} RENAME TO every_one")
        connection.execute(f"CREATE VIEW {stage} AS FROM every_one WHERE {left}")
        found = connection.sql("SELECT score, why_not FROM scores ORDER BY key").fetchall()
    assert found == [(None, f"{stage}: missing"), (-1, None)]


def test_of_several_labelers_most_decide_and_a_pair_says_how_many_agree(root):
    yes, no = (0.9, 0.1), (0.1, 0.9)
    by = [dict(zip("ABC", said, strict=True)) for said in ((yes, yes, no), (yes, no, no), (yes, yes, yes))]
    write_answers(root, {0: {"a" * 16: [
        Response("split", [by[0], by[1]]),
        Response("sure", [by[2], by[2]]),
    ]}})  # fmt: skip
    assert ask(root, "SELECT score, by_labeler FROM scores ORDER BY key") == [
        {
            "score": -1,
            "by_labeler": [{"labeler": name, "score": score} for name, score in zip("ABC", (0, -1, -2), strict=True)],
        },
        {"score": 0, "by_labeler": [{"labeler": name, "score": 0} for name in "ABC"]},
    ]
    (row,) = pairs_of(root)
    assert (row["chosen"][-2:], row["margin"], row["agreement"]) == ("01", 1, pytest.approx(2 / 3))


def test_two_labelers_that_disagree_reject(root):
    split = {"A": (0.9, 0.1), "B": (0.1, 0.9)}
    write_answers(root, {0: {"a" * 16: [Response("one", [split]), Response("two", [{"A": (0.9, 0), "B": (0.9, 0)}])]}})
    assert [row["score"] for row in ask(root, "SELECT score FROM scores ORDER BY key")] == [-1, 0]


def test_no_response_is_lost(root):
    """Each stands in a pair, or has a row of its own with a declared reason."""
    write_answers(root, {0: {
        "a" * 16: [scored(0, "same"), scored(-1, " same\n"), scored(-1, "other"), scored(-1, "third")],
        "b" * 16: [scored(-1, "one"), scored(-1, "two")],
        "c" * 16: [],
    }, 3: {"d" * 16: [scored(0, "one"), scored(-2, "two"), scored(-4, "three"), Response(None)]}})  # fmt: skip
    rows = pairs_of(root, PairsConfig(per_instruction=1, length_balance=False))
    assert {row["key"]: (row["reason"], row["detail"]) for row in rows} | {"pairs": None} == {
        "a" * 16 + "_01": ("no_candidate", None),
        **{row["key"]: (None, None) for row in rows if row["chosen"]},
        **{f"{'a' * 16}_{n:02d}": ("not_drawn", None) for n in (2, 3) if not any(
            row["rejected"] == f"{'a' * 16}_{n:02d}" for row in rows)},
        **{f"{'b' * 16}_{n:02d}": ("no_candidate", None) for n in (0, 1)},
        "c" * 16: ("upstream", "responses: upstream"),
        **{f"{'d' * 16}_{n:02d}": ("not_drawn", None) for n in range(3) if not any(
            f"{'d' * 16}_{n:02d}" in (row["chosen"], row["rejected"]) for row in rows)},
        "d" * 16 + "_03": ("upstream", "responses: timeout"),
        "pairs": None,
    }  # fmt: skip
    there = {key for row in rows for key in (row["chosen"], row["rejected"], None if row["chosen"] else row["key"])}
    assert there - {None} == {row["key"] for row in ask(root, "SELECT key FROM responses")}
    assert len(kept(rows)) == 2


def test_an_instruction_that_changes_leaves_the_draws_of_all_others(root):
    def instructions(failed: bool) -> dict[str, list[Response]]:
        return {f"{n:016x}": [Response(None) if failed and n == 3 and not draw else scored(-draw, f"text {n} {draw}")
                              for draw in range(6)] for n in range(8)}  # fmt: skip

    write_answers(root, {0: instructions(failed=False)})
    before = kept(pairs_of(root, PairsConfig(length_balance=False)))
    write_answers(root, {0: instructions(failed=True)})
    after = kept(pairs_of(root, PairsConfig(length_balance=False)))
    changed = {chosen[:16] for chosen, _ in before ^ after}
    assert changed <= {f"{3:016x}"}
    assert not any(f"{3:016x}_00" in pair for pair in after)


def test_a_larger_margin_can_be_asked_for(root):
    write_answers(root, {0: {"a" * 16: [scored(0, "one"), scored(-1, "two"), scored(-3, "three")]}})
    rows = pairs_of(root, PairsConfig(per_instruction=0, min_margin=2, length_balance=False))
    assert {row["margin"] for row in rows if row["chosen"]} == {2, 3}


def test_no_responses_are_no_pairs(root):
    write_answers(root, {0: {}, 1: {"a" * 16: []}})
    assert [(row["key"], row["reason"]) for row in pairs_of(root)] == [("a" * 16, "upstream")]
    assert sorted(name for name in root.files("pairs") if name[0].isdigit()) == ["00000.parquet", "00001.parquet"]


# Equal pairs, cut responses, improbable verdicts, denials


def test_of_pairs_with_equal_texts_one_is_drawn_and_the_draw_goes_on_to_others(root):
    sure = [scored(0, "a red car"), scored(-1, "a green dog")] * 5
    write_answers(root, {0: {
        "a" * 16: sure,
        "b" * 16: [*sure, scored(-2, "a blue cat, and a cow")],
        "c" * 16: [scored(0, "x"), scored(0, " x\n"), scored(-1, "y"), scored(-1, "z")],
    }})  # fmt: skip
    for per_instruction in (2, 0):
        rows = pairs_of(root, PairsConfig(per_instruction=per_instruction, length_balance=False))
        drawn = Counter(chosen[:1] for chosen, _ in kept(rows))
        assert drawn == {"a": 1, "b": per_instruction or 3, "c": 2}
        alone = [row["reason"] for row in rows if row["key"].startswith("a" * 16) and not row["chosen"]]
        assert alone == ["equal_pair"] * 8


def test_which_of_equal_pairs_is_drawn_is_the_one_that_was_drawn_first_before(root):
    """Corpora of before keep the pairs that are no repetition."""
    write_answers(root, {0: {"a" * 16: [scored(0, "one"), scored(0, "one"), scored(-1, "two"), scored(-2, "three")]}})
    rows = pairs_of(root, PairsConfig(per_instruction=1, length_balance=False))
    found = read_scores(root, [0])
    every = [(found.keys[chosen], found.keys[rejected]) for chosen, rejected in zip(*candidates(found), strict=True)]
    assert kept(rows) == {min(every, key=lambda pair: lot(0, pair_key(*pair)))}


def test_a_response_that_was_cut_off_is_in_no_pair(root):
    """Also one of a version that did not say so itself."""
    write_answers(root, {0: {"a" * 16: [
        Response("a car and behind the", yes_or_no(True), cut=True), scored(-1, "a car. a dog."), scored(-2, "a cow."),
    ]}})  # fmt: skip
    rows = pairs_of(root, NO_BALANCE)
    assert kept(rows) == {("a" * 16 + "_01", "a" * 16 + "_02")}
    (alone,) = [row for row in rows if not row["chosen"]]
    assert (alone["reason"], alone["detail"]) == ("upstream", "responses: cut")
    assert ask(root, "SELECT cut, score FROM scores ORDER BY key")[0] == {"cut": True, "score": None}


@pytest.mark.parametrize(("min_mass", "scores"), [(0.5, [0, None, None]), (0.1, [0, -1, None]), (0.0, [0, -1, -1])])
def test_whether_an_improbable_yes_or_no_counts_is_decided_by_the_view(root, min_mass, scores):
    write_answers(root, {0: {"a" * 16: [
        Response("sure", [{"labeler": (0.3, 0.2)}]), Response("begins a sentence", [{"labeler": (0.1, 0.2)}]),
        Response("the tail", [{"labeler": (4e-4, 5e-4)}]),
    ]}})  # fmt: skip
    if min_mass != 0.5:
        write_manifest(root, [], [], [], min_mass)
    why = ["verdicts: no_yes_no" if score is None else None for score in scores]
    found = ask(root, "SELECT score, why_not FROM scores ORDER BY key")
    assert found == [{"score": score, "why_not": reason} for score, reason in zip(scores, why, strict=True)]
    identity = DrawPairs(DRAWN, min_mass=min_mass).identity()
    assert (identity == DrawPairs(DRAWN).identity()) == (min_mass == 0.5)


def test_yes_to_what_a_claim_denies_rejects_the_claim(root):
    verdicts = [{"labeler": (0.9, 0.1)}, {"labeler": (0.1, 0.9)}, {"labeler": (0.4, 0.4)}]
    write_answers(root, {0: {"a" * 16: [Response("one", verdicts, denied=(0, 1, 2)), Response("two", verdicts)]}})
    assert [row["score"] for row in ask(root, "SELECT score FROM scores ORDER BY key")] == [-2, -2]
    accepted = ask(root, "SELECT accepted FROM verdicts ORDER BY key")
    assert [row["accepted"] for row in accepted] == [False, True, False, True, False, False]


# The share of rejected claims


def test_a_share_of_rejected_claims_does_not_prefer_who_says_less(root):
    long = Response("three sentences, two of them true", yes_or_no(True, True, True, False))
    short = Response("one claim, and it is false", yes_or_no(False))
    little = Response("little, and true", yes_or_no(True))
    write_answers(root, {0: {"a" * 16: [long, short], "b" * 16: [long, little]}})
    by_count = kept(pairs_of(root, NO_BALANCE))
    by_share = kept(pairs_of(root, PairsConfig(per_instruction=0, length_balance=False, score="share")))
    assert by_count == {("b" * 16 + "_01", "b" * 16 + "_00")}, "one false claim each"
    assert by_share == {("a" * 16 + "_00", "a" * 16 + "_01"), ("b" * 16 + "_01", "b" * 16 + "_00")}
    far = PairsConfig(per_instruction=0, length_balance=False, score="share", min_share=0.5)
    assert kept(pairs_of(root, far)) == {("a" * 16 + "_00", "a" * 16 + "_01")}


@pytest.mark.parametrize("unused", [{"min_share": 0.2}, {"score": "share", "min_margin": 2}])
def test_a_margin_of_the_other_score_is_refused(unused):
    with pytest.raises(ValueError, match="is not used with score"):
        PairsConfig(**unused)


# Properties


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(-3, 0), st.sampled_from(["a", " a ", "a b", "", "c d e"])), max_size=6),
                max_size=5))  # fmt: skip
def test_candidates_are_all_pairs_of_an_instruction_that_differ_in_score_and_text(tmp_path_factory, instructions):
    root = Root(str(tmp_path_factory.mktemp("pairs")))
    made = {f"{n:016x}": [scored(*one) for one in some] for n, some in enumerate(instructions)}
    write_answers(root, {0: made})
    expected = set()
    for key, some in zip(made, instructions, strict=False):
        for (i, (score, text)), (j, (score2, text2)) in combinations(enumerate(some), 2):
            if score != score2 and text.strip() != text2.strip():
                better, worse = (i, j) if score > score2 else (j, i)
                expected.add((f"{key}_{better:02d}", f"{key}_{worse:02d}"))
    rows = pairs_of(root, NO_BALANCE)

    def said(pair: tuple[str, str]) -> tuple[str, ...]:
        key = pair[0][:16]
        return key, *(made[key][int(side[-2:])].text.strip() for side in pair)

    assert kept(rows) <= expected
    assert sorted(map(said, kept(rows))) == sorted({*map(said, expected)}), "one for each two texts"
    assert {row["reason"] for row in rows} <= {None, "upstream", *REASONS}
