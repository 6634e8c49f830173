"""Lessons: whatever a scene's conversation answers is true of it, and of all that is asked there is enough."""

import json
import re
from collections import Counter, defaultdict
from random import Random

import pytest

from pipelines.sources.scene_claims import altered, claim_questions
from pipelines.sources.scenes import Scenes
from pipelines.text_rules.divider import divide
from schemas.config.sources import ScenesConfig
from schemas.scenes.claims import answer, check
from schemas.scenes.lessons import DESCRIBE, IMAGE, NOT_WRITTEN, READ, REWRITE, YES_OR_NO, conversation
from schemas.scenes.scene import COLOURS, SHAPES, Kinds, Scene, caption, imagine, questions


def turns(scene: Scene, seed: int, count: int = 9, quiz: bool = False) -> list[tuple[str, str]]:
    """Questions and answers, the image taken away."""
    said = conversation(scene, Random(seed), count, quiz)
    assert [turn["role"] for turn in said] == ["user", "assistant"] * (len(said) // 2)
    asked = [turn["content"] for turn in said]
    assert asked[0].startswith(IMAGE) and not any(IMAGE in one for one in asked[1:])
    return list(zip([asked[0].removeprefix(IMAGE), *asked[2::2]], asked[1::2], strict=False))


@pytest.mark.parametrize("seed", range(200))
def test_every_answer_is_true_of_its_scene(seed):
    scene = imagine(Random(seed))
    known = {one.question: one.answer for one in questions(scene)}
    for question, said in turns(scene, seed):
        question = question.removesuffix(YES_OR_NO)
        if question in READ and (question not in known or said == NOT_WRITTEN):
            assert said == (scene["printed"]["text"] if scene["printed"] else NOT_WRITTEN)
        elif question in known:
            assert said == known[question]
            if said in ("yes", "no"):
                assert answer(question, scene) is (said == "yes")
        else:
            assert question in DESCRIBE or question.startswith(tuple(one.partition("{")[0] for one in REWRITE))
            checked = check(said, scene)
            assert checked.true and not checked.false and not checked.unparsed


def test_there_are_as_many_turns_as_asked_for_and_of_all_kinds():
    kinds, firsts = Counter(), Counter()
    for seed in range(300):
        said = turns(imagine(Random(seed)), seed)
        assert len(said) == 9 and len(turns(imagine(Random(seed)), seed, 3)) == 3
        for number, (question, reply) in enumerate(said):
            kind = "describe" if question in DESCRIBE else "read" if question in READ else "ask"
            kind = "rewrite" if question.startswith(tuple(one.partition("{")[0] for one in REWRITE)) else kind
            kinds[kind if kind != "ask" else reply if reply in ("yes", "no") else "which"] += 1
            firsts[kind] += number == 0
    assert min(kinds[one] for one in ("describe", "read", "rewrite", "which")) >= 250
    assert 0.7 < kinds["yes"] / kinds["no"] < 1.3
    assert min(firsts.values()) >= 20  # anything may be asked first


def test_a_quiz_asks_what_a_word_or_two_answer_and_never_the_same_twice():
    for seed in range(200):
        scene = imagine(Random(seed))
        known = {one.question: one.answer for one in questions(scene)}
        said = [(question.removesuffix(YES_OR_NO), reply) for question, reply in turns(scene, seed, 12, quiz=True)]
        assert len(dict(said)) == len(said) == 12 and all(known[question] == reply for question, reply in said)


def test_the_same_draws_say_the_same():
    scene = imagine(Random(1))
    assert conversation(scene, Random(2), 6) == conversation(scene, Random(2), 6) != conversation(scene, Random(3), 6)


def test_rows_of_scenes_have_conversations_if_questions_are_asked_for():
    quiet, asked = (Scenes(ScenesConfig(count=4, seed=3, planted=0, questions=n)) for n in (0, 5))
    for before, row in zip(quiet.rows("000000000"), asked.rows("000000000"), strict=True):
        assert before["conversation"] is None and {**row, "conversation": None} == before
        said = json.loads(row["conversation"])
        assert said["images"] == [IMAGE] and len(said["turns"]) == 10
    quiz = Scenes(ScenesConfig(count=4, seed=3, planted=0, questions=5, quiz=True))
    for before, row in zip(asked.rows("000000000"), quiz.rows("000000000"), strict=True):
        assert row["conversation"] != before["conversation"]
        assert {**row, "conversation": before["conversation"]} == before
    assert len({str(one.files()) for one in (quiet, asked, quiz)}) == 3


@pytest.mark.slow
def test_a_quiz_of_claims_has_every_form_that_the_divider_asks_and_true_answers():
    quiz = Scenes(ScenesConfig(count=600, seed=3, planted=0, questions=16, quiz=True, claims=True))
    forms = {
        "existence": "Is there an? [a-z]+ [a-z]+\\?", "with a size": "Is there a (large|big|small|little|tiny) ",
        "with a place": "Is there an? [a-z]+ [a-z]+ (in|at|on) the ",
        "counting": "Are there (two|three|2|3) [a-z]+ [a-z]+s\\?",
        "all shapes": "Are there (two|three|four) shapes\\?", "text": 'Does the (text|sign) say "',
        "a sign": "Is there a sign that says ",
        "text colour": f"Is the text ({'|'.join(COLOURS)})\\?", "text place": "Is the text at the |written at the ",
        "relation": "Is the .* (above|below|to the left of|to the right of) the ", "background": "Is the background ",
        "property": f"Is the [a-z]+ ({'|'.join(COLOURS)})\\?", "denial": "Is there an? [a-z]+\\?",
    }  # fmt: skip
    seen = {form: set() for form in forms}
    for row in quiz.rows("000000000"):
        said = json.loads(row["conversation"])["turns"]
        asked = [turn["content"].removeprefix("<image>").removesuffix(YES_OR_NO) for turn in said[::2]]
        assert len(set(asked)) == len(asked) == 16
        for question, reply in zip(asked, (turn["content"] for turn in said[1::2]), strict=False):
            if reply not in ("yes", "no"):
                continue
            assert answer(question, row["extra"]["scene"]) in (None, reply == "yes"), question
            for form, pattern in forms.items():
                if re.match(pattern, question):
                    seen[form].add(reply)
    assert [form for form, replies in seen.items() if replies != {"yes", "no"}] == []


@pytest.mark.slow
def test_what_the_divider_makes_of_a_caption_has_been_asked_in_a_quiz():
    """Without colours, places and words: the forms alone."""

    def form(question: str) -> str:
        words = re.sub('"[^"]*"', "TEXT", question.lower().replace(" an ", " a "))
        sizes, numbers = ["large", "big", "small", "little", "tiny"], ["two", "three", "four", "2", "3", "4"]
        kinds = {"COLOUR": COLOURS, "SHAPE": [*SHAPES, "disc", "shape"], "SIZE": sizes, "N": numbers}
        for name, known in kinds.items():
            words = re.sub(rf"\b({'|'.join(known)})(es|s)?\b", name, words)
        return re.sub(r"(in|at|on) the [a-z ]+", "PLACE", words)

    quiz = Scenes(ScenesConfig(count=300, seed=1, planted=0, questions=16, quiz=True, claims=True))
    rows = [json.loads(row["conversation"])["turns"] for row in quiz.rows("000000000")]
    known = {form(t["content"].removeprefix("<image>").removesuffix(YES_OR_NO)) for turns in rows for t in turns[::2]}
    draws = Random(77)
    asked = [claim["question"] for _ in range(200) for claim in divide(caption(imagine(draws), draws)).claims]
    unknown = [question for question in asked if form(question) not in known]
    assert len(unknown) < 0.01 * len(asked), unknown[:5]


def test_claims_are_questions_of_a_quiz():
    with pytest.raises(ValueError, match="add quiz = true"):
        ScenesConfig(claims=True, questions=3)


def test_a_scene_that_is_full_can_be_altered():
    draws = Random(0)
    full = imagine(draws, kinds=Kinds(objects=(9, 9), printed=0))
    for _ in range(200):
        assert altered(full, draws)["objects"]


@pytest.mark.slow
def test_no_question_gives_its_answer_away():
    """Asked often enough, each is answered by yes and by no: none can be answered without the picture."""
    said = defaultdict(Counter)
    for seed in range(300):
        scene = imagine(Random(seed))
        for asked, reply in claim_questions(scene, Random(seed), 12):
            said[asked][reply] += 1
    for asked in ("Is there any text?", "Are any words visible?", "Is there a circle?", "Is there a sign?",
                  "Is there a star in the picture?", "Are there two shapes?", "Is the background plain?"):  # fmt: skip
        assert min(said[asked]["yes"], said[asked]["no"]) >= 0.15 * said[asked].total() > 0, asked


@pytest.mark.slow
def test_numbers_and_printed_words_are_asked_for_often_with_near_misses():
    said = {"Are there ": Counter(), 'say(s|) "': Counter()}
    misread = Counter()
    for seed in range(150):
        scene = imagine(Random(seed))
        for asked, reply in claim_questions(scene, Random(seed), 12):
            for form in said:
                said[form][reply] += bool(re.search(form, asked))
            if scene["printed"] and (words := re.search('"(.*)"', asked)) and reply == "no":
                kind = len(words[1]) - len(scene["printed"]["text"])
                misread["another" if abs(kind) > 1 else kind] += 1
    assert all(min(replies["yes"], replies["no"]) > 50 for replies in said.values()), said
    assert {-1, 0, 1, "another"} <= misread.keys()


def test_a_scene_is_altered_into_one_without_text_and_into_one_with_text():
    with_text, without = (imagine(Random(1), kinds=Kinds(printed=share)) for share in (1, 0))
    draws = Random(0)
    others = {altered(without, draws)["printed"] is None for _ in range(60)}
    texts = {altered(with_text, draws)["printed"]["text"] for _ in range(120)}  # pyright: ignore[reportOptionalSubscript]
    assert others == {True, False} and len(texts) > 10


def test_questions_of_claims_end_as_labelers_are_asked():
    quiz = Scenes(ScenesConfig(count=60, seed=3, planted=0, questions=16, quiz=True, claims=True))
    asked = [turn for row in quiz.rows("000000000") for turn in json.loads(row["conversation"])["turns"]]
    told = [turn["content"].endswith(YES_OR_NO) for turn in asked if turn["role"] == "user"]
    assert 0.5 < sum(told) / len(told) < 0.7  # most of the claims, and some of the rest
