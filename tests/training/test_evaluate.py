"""The evaluation: a speaker that knows the truth is told right, one that lies is told wrong."""

import json
import subprocess
import sys
from random import Random

import pytest
import torch
from PIL import Image
from support.releases import publish, small_tokenizer
from support.small_models import tiny

from schemas.scenes.claims import check
from schemas.scenes.lessons import DESCRIBE, READ, reading
from schemas.scenes.scene import caption, imagine, questions
from training.checkpoint import save_model
from training.evaluate import character_errors, edits, evaluate, recall
from training.generate import Generated, Prompt


class Witness:
    """Answers as the truth would have it, or of another scene than it is shown."""

    def __init__(self, shown, honest: bool = True):
        scenes = [scene for _, scene in shown]
        self.scene = {
            id(image): scene for (image, _), scene in zip(shown, scenes if honest else scenes[1:] + scenes[:1])
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


def test_recall_counts_objects_that_a_true_claim_is_about():
    thing = {"shape": "circle", "colour": "red", "size": "large", "place": "left"}
    scene = {
        "objects": [thing, {**thing, "shape": "star", "place": "top"}], "printed": None,
        "ground": {"colour": "white", "texture": "plain"},
    }  # fmt: skip

    def of(text: str) -> float:
        return recall([check(text, scene)], [scene])

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
    assert figures["scenes"] == 3 and figures["checkpoint"] == "model" and 0 <= figures["true_claims"] <= 1


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
