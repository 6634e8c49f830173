"""What a model says of generated scenes against what is there: `python -m training.evaluate CHECKPOINT ROOT SET`.

ROOT and SET name published scenes that it was not trained on: another seed. One JSON in one line:

    true_claims                 share of the claims in its captions that are true
    false_per_response, _mention    share of captions with a false claim, of false claims among all (arXiv 2405.17220)
    sampled_per_response, _mention  the same of captions drawn at a temperature
    recall                      share of the objects that a true claim of the caption is about
    yes_no                      share of yes/no questions that are answered right
    character_errors            edits needed to make what it reads what is printed, a printed character
    silent                      share of pictures without text of which it says so
    seconds                     of one caption, by itself
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
from schemas.shards import Damaged
from training.checkpoint import load_model
from training.generate import GenerationRequest, Generator
from training.pixels import decode
from training.samples import images
from training.shards import Shards

OBJECT = ("shape", "colour", "size")


def evaluate(
    speaker: Generator, shown: Sequence[tuple[Image.Image, Scene]], temperature: float = 0.7, asked: int = 6
) -> dict[str, Any]:
    """The figures above, of pictures and their scenes; with so many yes/no questions a picture."""
    pictures, scenes = [image for image, _ in shown], [scene for _, scene in shown]

    def say(prompts: Sequence[tuple[Image.Image, str]], **how: Any) -> list[str]:
        asks = [
            GenerationRequest(speaker.about(image, said), seed=number, **how)
            for number, (image, said) in enumerate(prompts)
        ]
        return [answer.text.strip() for answer in speaker.answer(asks)]

    captions = say([(image, DESCRIBE[0]) for image in pictures], limit=128)
    sampled = say([(image, DESCRIBE[0]) for image in pictures], limit=128, temperature=temperature)
    greedy = [check(text, scene) for text, scene in zip(captions, scenes)]
    found = hallucination(greedy)
    drawn = hallucination(check(text, scene) for text, scene in zip(sampled, scenes))

    about = [
        (image, one)
        for number, (image, scene) in enumerate(shown)
        for one in _some([one for one in questions(scene) if one.answer in ("yes", "no")], asked, number)
    ]
    answers = say([(image, one.question) for image, one in about], limit=4)
    right = [said.strip(" .").lower() == one.answer for said, (_, one) in zip(answers, about)]

    read = say([(image, READ[0]) for image in pictures], limit=32)
    printed = [(scene["printed"]["text"], said) for scene, said in zip(scenes, read) if scene["printed"]]
    silent = [said == NOT_WRITTEN for scene, said in zip(scenes, read) if not scene["printed"]]
    return {
        "scenes": len(shown), "claims": found["claims"], "unparsed": found["unparsed"],
        "true_claims": 1 - found["per_mention"],
        "false_per_response": found["per_response"], "false_per_mention": found["per_mention"],
        "sampled_per_response": drawn["per_response"], "sampled_per_mention": drawn["per_mention"],
        "recall": recall(greedy, scenes),
        "yes_no": sum(right) / max(1, len(right)), "questions": len(right),
        "character_errors": character_errors(printed),
        "texts_right": sum(text == said for text, said in printed) / max(1, len(printed)),
        "silent": sum(silent) / max(1, len(silent)),
        "seconds": _seconds(speaker, pictures[:20]),
    }  # fmt: skip


def recall(checked: Sequence[Checked], scenes: Sequence[Scene]) -> float:
    """Of all objects, the share that some true claim says is there: its words fit the object, a shape among them."""
    objects = [(one, thing) for one, scene in zip(checked, scenes) for thing in scene["objects"]]
    return sum(_mentioned(one, thing) for one, thing in objects) / max(1, len(objects))


def _mentioned(one: Checked, thing: Any) -> bool:
    return any(
        not claim.negated and "shape" in (said := claim.of | claim.be)
        and all(said[key] == thing[key] for key in OBJECT if key in said)
        for claim in one.true
    )  # fmt: skip


def character_errors(pairs: Sequence[tuple[str, str]]) -> float:
    """Insertions, deletions and replacements that lead from what was read to what is printed, a printed character."""
    return sum(edits(text, read) for text, read in pairs) / max(1, sum(len(text) for text, _ in pairs))


def edits(one: str, other: str) -> int:
    """The Levenshtein distance."""
    row = list(range(len(other) + 1))
    for number, char in enumerate(one, 1):
        before, row[0] = row[0], number
        for at, wanted in enumerate(other, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (char != wanted))
    return row[-1]


def scenes_of(shards: Shards, most: int | None = None) -> Iterator[tuple[Image.Image, Scene]]:
    """Pictures of a set with their truth. Raises `UserError` for samples that are no scenes."""
    for number, sample in enumerate(shards):
        if number == most:
            return
        try:
            scene = json.loads(sample["json"])["extra"]["scene"]
            yield decode(sample[images(sample)[0]]), scene
        except (KeyError, IndexError, TypeError):
            raise UserError(f"{sample['__key__']}: is no generated scene: its json has no extra.scene") from None


def _some(among: Sequence[Any], count: int, number: int) -> list[Any]:
    return Random(number).sample(list(among), min(count, len(among)))


def _seconds(speaker: Generator, pictures: Sequence[Image.Image]) -> float:
    times = []
    for image in pictures:
        start = time.perf_counter()
        speaker.answer([GenerationRequest(speaker.about(image, DESCRIBE[0]), limit=128)])
        times.append(time.perf_counter() - start)
    return median(times) if times else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__.split(":")[0] + ".")
    parser.add_argument("checkpoint", help="a folder with model.safetensors")
    parser.add_argument("root", help="folder or URL of a corpus of scenes")
    parser.add_argument("set", help="a published shard set")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--threads", type=int, default=0, help="of torch; all cores if 0")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        speaker = Generator(*load_model(options.checkpoint))
        shown = list(scenes_of(Shards(options.root, options.set), options.scenes))
        figures = evaluate(speaker, shown, options.temperature)
    except (UserError, FileNotFoundError, Damaged) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    figures = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"checkpoint": Path(options.checkpoint).name, **figures}))


if __name__ == "__main__":
    main()
