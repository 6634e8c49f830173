"""Conversations about generated scenes, all that is answered true: what a small model learns to see from.

Many short questions a picture teach more than one caption; so a picture is described, read, asked about, and its noisy
alt text rewritten, in any order.
"""

from collections.abc import Sequence
from random import Random
from typing import TypedDict

from schemas.scenes.scene import Scene, alt_text, caption, questions


class Lesson(TypedDict):
    role: str               # "user" or "assistant"
    content: str


DESCRIBE = ("Describe the image.", "Describe this picture.", "What is in the image?", "Write a caption for the image.")
READ = ("What does the text say?", "Read the text.", "What is written in the image?")
NOT_WRITTEN = "There is no text."
REWRITE = ("Rewrite this alt text so that it describes the image: {}", "What is a better caption than this: {}")
YES_OR_NO = " Please answer yes or no."
IMAGE = "<image>"


def conversation(scene: Scene, draws: Random, turns: int, quiz: bool = False) -> list[Lesson]:
    """So many questions and their answers; the image stands in front of the first. A quiz asks for short ones alone."""
    asked = [(draws.choice(DESCRIBE), caption(scene, draws)), (draws.choice(READ), reading(scene))]
    asked.append((draws.choice(REWRITE).format(alt_text(scene, draws, 0.8)[0]), caption(scene, draws)))
    draws.shuffle(asked)
    asked = asked[: 0 if quiz else max(1, turns // 3)]
    about = [(one.question, one.answer) for one in questions(scene)]
    asked += draws.sample(about, min(turns - len(asked), len(about)))
    draws.shuffle(asked)
    return spoken([(_at_times_told_how(question, answer, draws), answer) for question, answer in asked])


def reading(scene: Scene) -> str:
    return scene["printed"]["text"] if scene["printed"] else NOT_WRITTEN


def spoken(asked: Sequence[tuple[str, str]]) -> list[Lesson]:
    """Questions and answers as turns; the image in front of the first question."""
    said: list[Lesson] = []
    for question, answer in asked:
        said.append(Lesson(role="user", content=question if said else IMAGE + question))
        said.append(Lesson(role="assistant", content=answer))
    return said


def _at_times_told_how(question: str, answer: str, draws: Random) -> str:
    return question + YES_OR_NO if answer in ("yes", "no") and draws.random() < 0.3 else question
