"""Small sets for training, and recipes that read them."""

import json
from functools import partial
from pathlib import Path
from random import Random

import pytest
from support.releases import encoded, publish, small_tokenizer
from support.training_runs import SHAPE, recipe_of

from pipelines.sources.scenes import draw
from schemas.scenes.lessons import conversation
from schemas.scenes.scene import imagine


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A tokenizer, a shape, a set of conversations about scenes, and one of pairs."""
    folder = tmp_path_factory.mktemp("training")
    scenes = [imagine(Random(number)) for number in range(12)]
    pictures = [encoded(draw(scene, Random(number), 56), "PNG") for number, scene in enumerate(scenes)]
    turns = [conversation(scene, Random(number), 2) for number, scene in enumerate(scenes)]
    small_tokenizer(folder / "tokenizer", [turn["content"] for one in turns for turn in one])
    (folder / "shape.json").write_text(json.dumps(SHAPE.as_dict()))

    def lessons():
        for number, (scene, picture, said) in enumerate(zip(scenes, pictures, turns, strict=False)):
            document = {"conversation": {"turns": said, "images": ["<image>"]}, "extra": {"scene": scene}}
            yield f"{number:016x}-conversation", {"png": picture, "json": json.dumps(document).encode()}

    def pairs():
        for number, picture in enumerate(pictures[:6]):
            pair = {
                "question": "What is there?",
                "chosen": f"A star {number}.",
                "rejected": "Two red circles at the top.",
            }
            yield f"{number:016x}-pair", {"png": picture, "json": json.dumps({"pair": pair}).encode()}

    publish(folder / "corpus", "lessons", lessons(), each=5)
    publish(folder / "corpus", "pairs", pairs(), each=5)
    return folder


@pytest.fixture
def recipe(folder):
    return partial(recipe_of, folder)
