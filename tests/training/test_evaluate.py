"""The evaluation: a speaker that knows the truth is told right, one that lies is told wrong."""

import json
import subprocess
import sys
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from support.releases import publish, small_tokenizer
from support.small_models import tiny

from schemas.scenes.claims import check
from schemas.scenes.lessons import DESCRIBE, READ, reading
from schemas.scenes.scene import caption, imagine, questions
from training.checkpoint import save_model
from training.evaluate import character_errors, edits, evaluate
from training.figures import caption_ratios, interval, ratio
from training.generate import Generated, Prompt


class Witness:
    """Answers as the truth would have it, or of another scene than it is shown."""

    def __init__(self, shown, honest: bool = True):
        scenes = [scene for _, scene in shown]
        self.scene = {
            id(image): scene
            for (image, _), scene in zip(shown, scenes if honest else scenes[1:] + scenes[:1], strict=False)
        }

    def about(self, image, question) -> Prompt:
        return Prompt((image, question), [])

    def answer(self, asks) -> list[Generated]:
        return [Generated(text=self._said(*ask.prompt.ids)) for ask in asks]

    def _said(self, image, question) -> str:
        scene = self.scene[id(image)]
        if question in DESCRIBE:
            return caption(scene, Random(str(scene)))
        if question in READ:
            return reading(scene)
        known = {one.question: one.answer for one in questions(scene)}
        return known.get(question, "no")


@pytest.fixture(scope="module")
def shown():
    return [(Image.new("RGB", (8, 8)), imagine(Random(number))) for number in range(60)]


def test_who_tells_the_truth_makes_no_error(shown):
    figures = evaluate(Witness(shown), shown)
    assert figures["true_claims"] == figures["yes_no"] == figures["silent"] == figures["texts_right"] == 1
    assert figures["false_per_response"] == figures["sampled_per_mention"] == figures["character_errors"] == 0
    assert figures["scenes"] == 60 and figures["questions"] == 360 and figures["unparsed"] == 0
    assert 0.6 < figures["recall"] < 1  # captions leave things out now and then


def test_who_speaks_of_another_scene_is_found_out(shown):
    figures = evaluate(Witness(shown, honest=False), shown)
    assert figures["true_claims"] < 0.5 and figures["false_per_response"] > 0.8
    assert figures["yes_no"] < 0.9 and figures["character_errors"] > 0.6 and figures["recall"] < 0.3


def test_a_policy_that_leaves_text_out_does_not_look_better(shown):
    """Without its sentence about text a caption says less that is false, and text recall says so."""

    class Silent(Witness):
        def _said(self, image, question) -> str:
            scene = self.scene[id(image)]
            silent = {**scene, "printed": None}
            if question not in DESCRIBE:
                return super()._said(image, question)
            return (
                caption(silent, Random(str(scene)))
                .replace("no text", "a shape")
                .replace("No words are", "One shape is")
            )

    honest, silent = evaluate(Witness(shown), shown), evaluate(Silent(shown), shown)
    assert honest["text_recall"] > 0.6 and silent["text_recall"] == 0
    assert silent["words"] < honest["words"] and silent["false_text_per_response"] == 0


def test_a_policy_that_claims_nothing_has_no_share_of_true_claims(shown):
    class Mute(Witness):
        def _said(self, image, question) -> str:
            return "" if question in DESCRIBE else super()._said(image, question)

    figures = evaluate(Mute(shown), shown)
    assert figures["claims"] == figures["recall"] == 0 and figures["true_claims"] is None


def test_false_claims_are_told_apart_by_what_they_are_about():
    thing = {"shape": "circle", "colour": "red", "size": "large", "place": "left"}
    scene = {
        "objects": [thing], "printed": {"text": "NO PARKING", "script": "latin", "colour": "red", "place": "top"},
        "ground": {"colour": "white", "texture": "plain"},
    }  # fmt: skip
    texts = ['A red circle and the words "NO PARKING".', 'A blue circle. The sign says "NO".', 'The sign says "EXIT".',
             "A red circle on a black background."]  # fmt: skip
    ratios = caption_ratios([check(text, scene) for text in texts], [scene] * 4, texts)
    assert ratios["false_per_response"][0] == [0, 1, 1, 1]
    assert ratios["false_objects_per_response"][0] == [0, 1, 0, 0]
    assert ratios["false_text_per_response"][0] == [0, 0, 1, 0]
    assert ratios["text_recall"] == ([1, 0, 0, 0], [1, 1, 1, 1]), "a part of a text is not all of it"
    assert ratio(ratios["recall"]) == 0.5 and ratio(ratios["words"]) == pytest.approx(26 / 4)


def test_an_interval_is_that_of_the_normal_distribution_where_there_are_many_pictures():
    draws = np.random.default_rng(3)
    counted = (draws.random(2000) < 0.3).astype(float), np.ones(2000)
    low, high = interval(counted)
    share = ratio(counted)
    half = 1.96 * (share * (1 - share) / 2000) ** 0.5
    assert (low, high) == (pytest.approx(share - half, abs=0.003), pytest.approx(share + half, abs=0.003))
    assert interval(counted) == [low, high], "of a fixed seed"
    assert interval(([], [])) == interval(([0.0], [0.0])) == [0, 0]


def test_progress_is_told_to_the_end(shown):
    told = []
    evaluate(Witness(shown), shown, progress=lambda *how: told.append(how))
    assert [how for how in told if how[1] == how[2]] == [
        ("captions", 60, 60), ("sampled captions", 60, 60), ("yes/no questions", 360, 360), ("texts", 60, 60),
    ]  # fmt: skip
    assert ("yes/no questions", 64, 360) in told


def test_recall_counts_objects_that_a_true_claim_is_about():
    thing = {"shape": "circle", "colour": "red", "size": "large", "place": "left"}
    scene = {
        "objects": [thing, {**thing, "shape": "star", "place": "top"}], "printed": None,
        "ground": {"colour": "white", "texture": "plain"},
    }  # fmt: skip

    def of(text: str) -> float:
        return ratio(caption_ratios([check(text, scene)], [scene], [text])["recall"])

    assert of("A red circle.") == 0.5
    assert of("A red circle and a large red star.") == 1
    assert of("A blue circle.") == 0  # a false claim
    assert of("There is no heart.") == 0  # a denial
    assert of("Two shapes.") == 0  # of no shape


def test_edits_are_counted():
    assert [edits(*pair) for pair in (("", ""), ("abc", ""), ("kitten", "sitting"), ("OPEN", "OPEN"))] == [0, 3, 3, 0]
    assert character_errors([("OPEN", "OPEN"), ("TAXI", "TAX"), ("AB 12", "AB 13")]) == pytest.approx(2 / 13)
    assert character_errors([]) == 0


def scenes_set(root, count: int = 3):
    def samples():
        for number in range(count):
            scene, picture = imagine(Random(number)), Image.new("RGB", (56, 56), (number, 9, 9))
            from support.releases import encoded

            members = {"png": encoded(picture, "PNG"), "json": json.dumps({"extra": {"scene": scene}}).encode()}
            yield f"{number:016x}-caption", {**members, "txt": b"x"}

    return publish(root, "held_out", samples(), each=10)


@pytest.mark.slow
def test_the_command_prints_one_line_of_json(tmp_path):
    root = scenes_set(tmp_path / "corpus")
    save_model(tmp_path / "model", tiny(), small_tokenizer(tmp_path / "tokenizer"))
    command = [
        sys.executable,
        "-m",
        "training.evaluate",
        "--threads",
        "1",
        str(tmp_path / "model"),
        str(root),
        "held_out",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    figures = json.loads(line)
    assert figures["scenes"] == 3 and figures["checkpoint"] == "model"
    assert figures["true_claims"] is None if not figures["claims"] else 0 <= figures["true_claims"] <= 1


@pytest.mark.slow
def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "training.evaluate", str(tmp_path), str(tmp_path), "x"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert str(tmp_path) in done.stderr


def test_weights_are_saved_and_read_back_without_pickle(tmp_path):
    from training.checkpoint import load_model

    model, tokenizer = tiny(), small_tokenizer(tmp_path / "tokenizer")
    save_model(tmp_path / "model", model, tokenizer)
    again, same = load_model(tmp_path / "model")
    assert again.shape == model.shape and same.identity == tokenizer.identity
    for (name, one), (_, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert {path.suffix for path in (tmp_path / "model").iterdir()} == {".json", ".safetensors"}
    save_model(tmp_path / "half", model, tokenizer, torch.float16)
    assert (tmp_path / "half/model.safetensors").stat().st_size < 0.51 * (
        tmp_path / "model/model.safetensors"
    ).stat().st_size
