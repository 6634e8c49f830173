"""Conversations about generated scenes, in which every answer is true: a small model learns from them to see.

Many short questions about a picture teach more than one caption. So a conversation asks to describe the picture, to
read its text, to answer questions about it, and to rewrite its noisy alt text, in any order.
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
TOLD_HOW, CLAIMS_TOLD_HOW = 0.3, 0.7  # shares of yes/no questions and of claims that end so, as labelers are asked
IMAGE = "<image>"


def conversation(
    scene: Scene, draws: Random, turns: int, quiz: bool = False, claims: Sequence[tuple[str, str]] = ()
) -> list[Lesson]:
    """A conversation of `turns` questions with their answers; the image stands in front of the first question.

    A quiz has only questions with short answers; `claims`, further such questions with their answers, are all in it.
    """
    asked = [(draws.choice(DESCRIBE), caption(scene, draws)), (draws.choice(READ), reading(scene))]
    asked.append((draws.choice(REWRITE).format(alt_text(scene, draws, 0.8)[0]), caption(scene, draws)))
    draws.shuffle(asked)
    asked = asked[: 0 if quiz else max(1, turns // 3)]
    asked += claims
    known = {question for question, _ in claims}
    short = [(each.question, each.answer) for each in questions(scene) if each.question not in known]
    asked += draws.sample(short, min(turns - len(asked), len(short)))
    draws.shuffle(asked)
    told = [(question, answer, CLAIMS_TOLD_HOW if question in known else TOLD_HOW) for question, answer in asked]
    return spoken([(_at_times_told_how(question, answer, draws, share), answer) for question, answer, share in told])


def reading(scene: Scene) -> str:
    """The printed text, or the sentence that there is none."""
    return scene["printed"]["text"] if scene["printed"] else NOT_WRITTEN


def spoken(asked: Sequence[tuple[str, str]]) -> list[Lesson]:
    """Questions and answers as turns; the image stands in front of the first question."""
    lessons: list[Lesson] = []
    for question, answer in asked:
        lessons.append(Lesson(role="user", content=question if lessons else IMAGE + question))
        lessons.append(Lesson(role="assistant", content=answer))
    return lessons


def _at_times_told_how(question: str, answer: str, draws: Random, share: float) -> str:
    return question + YES_OR_NO if answer in ("yes", "no") and draws.random() < share else question
