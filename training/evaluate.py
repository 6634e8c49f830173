"""A model's answers about generated scenes, against the truth: `python -m training.evaluate CHECKPOINT ROOT SET`.

ROOT and SET name published scenes that it was not trained on, made with another seed. Prints one line of JSON:

    true_claims                 share of the claims in its captions that are true
    false_per_response, _mention    share of captions with a false claim, of false claims among all (arXiv 2405.17220)
    sampled_per_response, _mention  the same of captions drawn at a temperature
    recall                      share of the objects that a true claim of the caption describes
    yes_no                      share of yes/no questions that are answered correctly
    character_errors            edits from the text it reads to the printed text, per printed character
    silent                      share of the pictures without text for which it says that there is none
    seconds                     for one caption, computed alone
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from PIL import Image

from schemas.errors import UserError
from schemas.scenes.claims import Checked, check, hallucination
from schemas.scenes.lessons import DESCRIBE, NOT_WRITTEN, READ
from schemas.scenes.scene import Scene, questions
from schemas.shards import Damaged, document_of
from training.checkpoint import load_model
from training.generate import GenerationRequest, Generator
from training.pixels import decode
from training.samples import images
from training.shards import Shards

OBJECT = ("shape", "colour", "size")


def evaluate(
    generator: Generator, shown: Sequence[tuple[Image.Image, Scene]], temperature: float = 0.7, asked: int = 6
) -> dict[str, Any]:
    """The figures above for pictures and their scenes; `asked` is the number of yes/no questions per picture."""
    pictures, scenes = [image for image, _ in shown], [scene for _, scene in shown]

    def say(prompts: Sequence[tuple[Image.Image, str]], **how: Any) -> list[str]:
        requests = [
            GenerationRequest(generator.about(image, question), seed=number, **how)
            for number, (image, question) in enumerate(prompts)
        ]
        return [answer.text.strip() for answer in generator.answer(requests)]

    captions = say([(image, DESCRIBE[0]) for image in pictures], limit=128)
    sampled = say([(image, DESCRIBE[0]) for image in pictures], limit=128, temperature=temperature)
    greedy = [check(text, scene) for text, scene in zip(captions, scenes)]
    described = hallucination(greedy)
    drawn = hallucination(check(text, scene) for text, scene in zip(sampled, scenes))

    about = [
        (image, question)
        for number, (image, scene) in enumerate(shown)
        for question in _some([q for q in questions(scene) if q.answer in ("yes", "no")], asked, number)
    ]
    answers = say([(image, question.question) for image, question in about], limit=4)
    right = [reply.strip(" .").lower() == question.answer for reply, (_, question) in zip(answers, about)]

    read = say([(image, READ[0]) for image in pictures], limit=32)
    printed = [(scene["printed"]["text"], reply) for scene, reply in zip(scenes, read) if scene["printed"]]
    silent = [reply == NOT_WRITTEN for scene, reply in zip(scenes, read) if not scene["printed"]]
    return {
        "scenes": len(shown), "claims": described["claims"], "unparsed": described["unparsed"],
        "true_claims": 1 - described["per_mention"],
        "false_per_response": described["per_response"], "false_per_mention": described["per_mention"],
        "sampled_per_response": drawn["per_response"], "sampled_per_mention": drawn["per_mention"],
        "recall": recall(greedy, scenes),
        "yes_no": sum(right) / max(1, len(right)), "questions": len(right),
        "character_errors": character_errors(printed),
        "texts_right": sum(text == reply for text, reply in printed) / max(1, len(printed)),
        "silent": sum(silent) / max(1, len(silent)),
        "seconds": _seconds(generator, pictures[:20]),
    }  # fmt: skip


def recall(checked: Sequence[Checked], scenes: Sequence[Scene]) -> float:
    """The share of all objects that a true claim mentions: its words include a shape, and all fit the object."""
    objects = [(caption, thing) for caption, scene in zip(checked, scenes) for thing in scene["objects"]]
    return sum(_mentioned(caption, thing) for caption, thing in objects) / max(1, len(objects))


def _mentioned(caption: Checked, thing: Any) -> bool:
    return any(
        not claim.negated and "shape" in (words := claim.of | claim.be)
        and all(words[key] == thing[key] for key in OBJECT if key in words)
        for claim in caption.true
    )  # fmt: skip


def character_errors(pairs: Sequence[tuple[str, str]]) -> float:
    """Insertions, deletions and replacements from the text that was read to the printed one, per printed character."""
    return sum(edits(text, read) for text, read in pairs) / max(1, sum(len(text) for text, _ in pairs))


def edits(one: str, other: str) -> int:
    """The Levenshtein distance of two texts."""
    row = list(range(len(other) + 1))
    for number, char in enumerate(one, 1):
        before, row[0] = row[0], number
        for column, wanted in enumerate(other, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (char != wanted))
    return row[-1]


def scenes_of(shards: Shards, most: int | None = None) -> Iterator[tuple[Image.Image, Scene]]:
    """The pictures of a set with their scenes. Raises `UserError` for a sample that is not a generated scene."""
    for number, sample in enumerate(shards):
        if number == most:
            return
        try:
            scene = document_of(sample["json"])["extra"]["scene"]
            yield decode(sample[images(sample)[0]]), scene
        except (KeyError, IndexError, TypeError):
            raise UserError(f"{sample['__key__']}: is not a generated scene: its json lacks extra.scene") from None


def _some(among: Sequence[Any], count: int, number: int) -> list[Any]:
    return Random(number).sample(list(among), min(count, len(among)))


def _seconds(generator: Generator, pictures: Sequence[Image.Image]) -> float:
    times = []
    for image in pictures:
        start = time.perf_counter()
        generator.answer([GenerationRequest(generator.about(image, DESCRIBE[0]), limit=128)])
        times.append(time.perf_counter() - start)
    return median(times) if times else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=str(__doc__).split(":")[0] + ".")
    parser.add_argument("checkpoint", help="a folder with model.safetensors")
    parser.add_argument("root", help="folder or URL of a corpus of scenes")
    parser.add_argument("set", help="a published shard set")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; all cores if 0")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        generator = Generator(*load_model(options.checkpoint))
        shown = list(scenes_of(Shards(options.root, options.set), options.scenes))
        figures = evaluate(generator, shown, options.temperature)
    except (UserError, FileNotFoundError, Damaged) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    figures = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"checkpoint": Path(options.checkpoint).name, **figures}))


if __name__ == "__main__":
    main()
