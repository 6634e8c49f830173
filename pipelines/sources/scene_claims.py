"""Yes/no questions about a generated scene as the rule divider asks them: of captions of the scene itself, and of
captions of scenes that differ from it in one thing. So whoever learns from them knows every form that labelers are
asked, with answers that are true.
"""

from random import Random
from typing import Any

from pipelines.text_rules.divider import divide
from schemas.scenes.claims import answer
from schemas.scenes.scene import COLOURS, PLACES, SHAPES, SIZES, TEXTURES, Scene, caption

CAPTIONS = 4  # of the scene, and of others


def claim_questions(scene: Scene, draws: Random, count: int) -> list[tuple[str, str]]:
    """At most `count` different questions with their answers, yes as often as no if there are enough of both."""
    by_answer: dict[str, dict[str, None]] = {"yes": {}, "no": {}}
    for number in range(3 * CAPTIONS):
        shown = scene if number < CAPTIONS else altered(scene, draws)
        for claim in divide(caption(shown, draws)).claims:
            truth = answer(claim["question"], scene)
            if truth is not None:
                by_answer["yes" if truth else "no"][claim["question"]] = None
    chosen = []
    for said, questions in by_answer.items():
        others = sum(len(more) for reply, more in by_answer.items() if reply != said)
        wanted = min(len(questions), max(count // 2, count - others))
        chosen += [(question, said) for question in draws.sample(list(questions), wanted)]
    return draws.sample(chosen, min(count, len(chosen)))


def altered(scene: Scene, draws: Random) -> Scene:
    """A scene that differs in one thing: an object's shape, colour, size or place, a further or a missing object, the
    text, its colour or its row, or the background."""
    objects: list[Any] = [dict(thing) for thing in scene["objects"]]
    printed: Any = scene["printed"]
    ground: Any = dict(scene["ground"])
    thing = draws.choice(objects)
    free = [place for place in PLACES if place not in [other["place"] for other in objects]]
    kind = draws.choice(("shape", "colour", "size", "place" if free else "size", "more", "text", "text", "ground"))
    if kind in ("shape", "colour", "size"):
        values = {"shape": SHAPES, "colour": COLOURS, "size": SIZES}[kind]
        thing[kind] = draws.choice([value for value in values if value != thing[kind]])
    elif kind == "place":
        thing["place"] = draws.choice(free)
    elif kind == "more" and len(objects) > 1 and (not free or draws.random() < 0.5):
        objects.remove(thing)
    elif kind == "more":
        objects.append({**thing, "place": draws.choice(free)})
    elif kind == "text" and printed:
        printed = dict(printed)
        part = draws.choice(("text", "text", "colour", "place"))
        others = {"text": _misread(printed["text"], draws), "colour": draws.choice(COLOURS)}
        printed[part] = others.get(part) or draws.choice(("top", "centre", "bottom"))
    elif kind == "text":
        printed = None
    else:
        ground["texture"] = draws.choice(TEXTURES)
        ground["colour"] = draws.choice(("white", "beige", "gray", "black"))
    return {**scene, "objects": objects, "printed": printed, "ground": ground}


def _misread(text: str, draws: Random) -> str:
    """A text as a poor reader might read it: another letter or digit in one place."""
    places = [place for place, char in enumerate(text) if char.isalnum()]
    place = draws.choice(places)
    like = "0123456789" if text[place].isdigit() else "ABCDEFGHJKLMNPRSTUVWXYZ"
    other = draws.choice([char for char in like if char != text[place].upper()])
    return text[:place] + (other if text[place].isupper() or other.isdigit() else other.lower()) + text[place + 1 :]
