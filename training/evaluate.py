"""A model's answers about generated scenes, against the truth: `python -m training.evaluate CHECKPOINT ROOT SET`.

ROOT and SET name published scenes that it was not trained on, made with another seed. Prints one line of JSON:

    true_claims                 share of the claims in its captions that are true; null where they claim nothing
    false_per_response, _mention    share of captions with a false claim, of false claims among all (arXiv 2405.17220)
    false_objects_per_…, false_text_per_…   the same of claims about objects alone, and about text alone
    recall                      share of the objects that a true claim of the caption describes
    text_recall                 share of the printed texts that the caption says in full: who leaves text out says
                                less that is false, and loses here
    words                       of a caption
    sampled_…                   the same of captions drawn at a temperature
    yes_no                      share of yes/no questions that are answered correctly
    character_errors            edits from the text it reads to the printed text, per printed character
    silent                      share of the pictures without text for which it says that there is none
    seconds                     for one caption, computed alone
    intervals                   of those that are shares or means over pictures: [low, high], see `training.figures`
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from PIL import Image

from schemas.errors import UserError, answered
from schemas.scenes.claims import check
from schemas.scenes.lessons import DESCRIBE, NOT_WRITTEN, READ
from schemas.scenes.scene import Scene, questions
from schemas.shards import Damaged, document_of
from training.checkpoint import load_model
from training.figures import caption_ratios, interval, ratio
from training.generate import GenerationRequest, Generator
from training.options import at_least, between, program
from training.pixels import decode
from training.samples import images
from training.shards import Shards

AT_ONCE = 64  # answers between two reports of progress

Progress = Callable[[str, int, int], None]  # what is asked, how many answers there are, of how many


def quiet(what: str, done: int, of: int) -> None:
    """Progress that is not shown."""


def evaluate(
    generator: Generator,
    shown: Sequence[tuple[Image.Image, Scene]],
    temperature: float = 0.7,
    asked: int = 6,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """The figures above for pictures and their scenes; `asked` is the number of yes/no questions per picture."""
    pictures, scenes = [image for image, _ in shown], [scene for _, scene in shown]

    def say(what: str, prompts: Sequence[tuple[Image.Image, str]], **how: Any) -> list[str]:
        said: list[str] = []
        for start in range(0, len(prompts), AT_ONCE):
            progress(what, start, len(prompts))
            requests = [
                GenerationRequest(generator.about(image, question), seed=start + number, **how)
                for number, (image, question) in enumerate(prompts[start : start + AT_ONCE])
            ]
            said += [answer.text.strip() for answer in generator.answer(requests)]
        progress(what, len(prompts), len(prompts))
        return said

    describe = [(image, DESCRIBE[0]) for image in pictures]
    captions = say("captions", describe, limit=128)
    sampled = say("sampled captions", describe, limit=128, temperature=temperature)
    greedy = [check(text, scene) for text, scene in zip(captions, scenes, strict=True)]
    drawn = [check(text, scene) for text, scene in zip(sampled, scenes, strict=True)]
    ratios = caption_ratios(greedy, scenes, captions)
    ratios |= {f"sampled_{_short(name)}": of for name, of in caption_ratios(drawn, scenes, sampled).items()}

    of_picture = [
        _some([q for q in questions(scene) if q.answer in ("yes", "no")], asked, number)
        for number, scene in enumerate(scenes)
    ]
    about = [(image, question) for image, some in zip(pictures, of_picture, strict=True) for question in some]
    answers = say("yes/no questions", [(image, question.question) for image, question in about], limit=4)
    right = iter(
        [reply.strip(" .").lower() == question.answer for reply, (_, question) in zip(answers, about, strict=True)]
    )
    counted = [[next(right) for _ in some] for some in of_picture]
    ratios["yes_no"] = [float(sum(some)) for some in counted], [float(len(some)) for some in counted]

    read = say("texts", [(image, READ[0]) for image in pictures], limit=32)
    printed = [(scene["printed"]["text"], reply) for scene, reply in zip(scenes, read, strict=True) if scene["printed"]]
    silent = [reply == NOT_WRITTEN for scene, reply in zip(scenes, read, strict=True) if not scene["printed"]]
    figures = {name: ratio(of) for name, of in ratios.items()}
    claims = sum(len(caption.true) + len(caption.false) for caption in greedy)
    return {
        "scenes": len(shown), "claims": claims,
        "unparsed": sum(len(caption.unparsed) for caption in greedy),
        "true_claims": 1 - figures["false_per_mention"] if claims else None, **figures, "questions": len(about),
        "character_errors": character_errors(printed),
        "texts_right": sum(text == reply for text, reply in printed) / max(1, len(printed)),
        "silent": sum(silent) / max(1, len(silent)),
        "seconds": _seconds(generator, pictures[:20]),
        "intervals": {name: interval(of) for name, of in ratios.items()},
    }  # fmt: skip


def _short(name: str) -> str:
    """The names that sampled figures had from the start: `sampled_per_response`."""
    return name.removeprefix("false_") if name in ("false_per_response", "false_per_mention") else name


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
            image = sample[images(sample)[0]]
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(f"{sample['__key__']}: is not a generated scene: its json lacks extra.scene") from None
        yield decode(image), scene


def _some(among: Sequence[Any], count: int, number: int) -> list[Any]:
    return Random(number).sample(list(among), min(count, len(among)))


def _seconds(generator: Generator, pictures: Sequence[Image.Image]) -> float:
    times = []
    for image in pictures:
        start = time.perf_counter()
        generator.answer([GenerationRequest(generator.about(image, DESCRIBE[0]), limit=128)])
        times.append(time.perf_counter() - start)
    return median(times) if times else 0.0


def tell(what: str, done: int, of: int) -> None:
    """Shows progress on standard error: a line that changes in a terminal, else a line when something is done."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done} of {of}", end="\n" if done == of else "", file=sys.stderr, flush=True)
    elif done == of:
        print(f"{what}: {of}", file=sys.stderr, flush=True)


def rounded(value: Any) -> Any:
    """A value with all of its numbers rounded to four places."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    parser = program("training.evaluate", str(__doc__).split(":")[0] + ".")
    parser.add_argument("checkpoint", help="a folder with model.safetensors")
    parser.add_argument("root", help="folder or URL of a corpus of scenes")
    parser.add_argument("set", help="a published shard set")
    parser.add_argument("--scenes", type=at_least(1), default=500, help="number of scenes")
    parser.add_argument("--temperature", type=between(0, 1e6), default=0.7, help="temperature of the sampled answers")
    parser.add_argument("--threads", type=at_least(0), default=0, help="threads of torch; all cores if 0")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with answered(FileNotFoundError, Damaged):
        generator = Generator(*load_model(options.checkpoint))
        shown = list(scenes_of(Shards(options.root, options.set), options.scenes))
        figures = evaluate(generator, shown, options.temperature, progress=tell)
    print(json.dumps({"checkpoint": Path(options.checkpoint).name, **rounded(figures)}))


if __name__ == "__main__":
    main()
