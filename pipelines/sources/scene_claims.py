"""Yes/no questions about a generated scene as the rule divider asks them: of captions of the scene itself, and of
captions of scenes that differ from it in one thing. So whoever learns from them knows every form that labelers are
asked, with answers that are true.

Questions are drawn form by form, see FORMS, with yes and no in turn. Numbers, printed words and shapes come more often:
labelers are often wrong about these.
"""

from random import Random
from typing import Any

from pipelines.text_rules.divider import divide
from schemas.scenes.claims import check
from schemas.scenes.scene import COLOURS, PLACES, SHAPES, SIZES, TEXTURES, Kinds, Scene, caption, imagine
from schemas.scenes.statements import SceneClaim

CAPTIONS = 3  # of the scene
OTHERS = 7  # captions of other scenes
ALIKE = ("0OQDCG", "1ILT7", "2Z", "3B8", "5S6", "8B", "6G", "4A", "MNWH", "VYU", "EF", "PR", "KX")  # when read badly
PRINTED = Kinds(printed=1)
FORMS = {  # what a question is about -> how often it is drawn
    "words": 3, "number": 4, "place": 2, "colour": 2, "size": 2, "shape": 3, "text": 2, "relation": 1, "total": 1,
    "ground": 1,
}  # fmt: skip


def claim_questions(scene: Scene, draws: Random, count: int) -> list[tuple[str, str]]:
    """At most `count` different questions with their answers; of each form as many yes as no, if there are enough."""
    found: dict[str, dict[str, list[str]]] = {form: {"yes": [], "no": []} for form in FORMS}
    known = set()
    for sentence in _said(scene, draws):
        for question in (claim["question"] for claim in divide(sentence).claims):
            if question not in known:
                known.add(question)
                checked = check(question, scene)
                if not checked.unparsed and checked.true + checked.false:
                    found[_form(checked.true + checked.false)]["no" if checked.false else "yes"].append(question)
    chosen: list[tuple[str, str]] = []
    turn = {form: draws.choice(("yes", "no")) for form in FORMS}
    while len(chosen) < count and any(found[form][turn[form]] for form in FORMS):
        (form,) = draws.choices(list(FORMS), list(FORMS.values()))
        said = turn[form]
        if questions := found[form][said]:
            chosen.append((questions.pop(draws.randrange(len(questions))), said))
            turn[form] = "no" if said == "yes" else "yes"
    rest = [(question, said) for answers in found.values() for said, left in answers.items() for question in left]
    return chosen + draws.sample(rest, min(count - len(chosen), len(rest)))


def _said(scene: Scene, draws: Random) -> list[str]:
    """Sentences about a scene, some of them false."""
    said = [caption(scene, draws) for _ in range(CAPTIONS)]
    said += [caption(altered(scene, draws), draws) for _ in range(OTHERS)]
    there = draws.choice(("", " in the picture"))
    said.append(f"There is no {draws.choice(scene['objects'])['shape']}{there}.")
    return said + [draws.choice(("There is no text.", "No words are visible."))] * (scene["printed"] is not None)


def _form(claims: list[SceneClaim]) -> str:
    """What a question is about, one of FORMS, by the claims that it was read as."""
    claim = next((claim for claim in claims if claim.relation), claims[-1])
    said = claim.of | claim.be
    if claim.relation:
        return "relation"
    if claim.least != 1 or claim.most is not None:
        return "number" if "colour" in said else "total"
    if said.get("shape") in ("text", "ground"):
        return "words" if "words" in said else said["shape"]
    return next(form for form in ("place", "size", "colour", "shape") if form in said)


def altered(scene: Scene, draws: Random) -> Scene:
    """A scene that differs in one thing: an object's shape, colour, size or place, a further or a missing object, the
    text, its colour or its row, or the background."""
    objects: list[Any] = [dict(thing) for thing in scene["objects"]]
    printed: Any = scene["printed"]
    ground: Any = dict(scene["ground"])
    thing = draws.choice(objects)
    free = [place for place in PLACES if place not in [other["place"] for other in objects]]
    kind = draws.choice(
        ("shape", "colour", "size", "place" if free else "size", "more", "more", "text", "text", "text", "ground")
    )
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
        part = draws.choice(("text", "text", "text", "words", "colour", "place"))
        others = {"colour": draws.choice(COLOURS), "place": draws.choice(("top", "centre", "bottom"))}
        others["text"] = printed["text"]
        while others["text"] == printed["text"] or draws.random() < 0.35:
            others["text"] = _misread(others["text"], draws)
        others["words"] = _some_print(draws)["text"]
        printed = {**printed, "text" if part == "words" else part: others[part]}
    elif kind == "text":
        printed = _some_print(draws)
    else:
        ground["texture"] = draws.choice(TEXTURES)
        ground["colour"] = draws.choice(("white", "beige", "gray", "black"))
    return {**scene, "objects": objects, "printed": printed, "ground": ground}


def _some_print(draws: Random) -> Any:
    """The text of another scene."""
    return imagine(draws, kinds=PRINTED)["printed"]


def _misread(text: str, draws: Random) -> str:
    """A text as a poor reader might read it: in one place another letter or digit, often one that looks alike, or one
    too many or too few."""
    places = [place for place, char in enumerate(text) if char.isalnum()]
    place = draws.choice(places)
    char = text[place]
    like = "0123456789" if char.isdigit() else "ABCDEFGHJKLMNPRSTUVWXYZ"
    alike = "".join(group for group in ALIKE if char.upper() in group) if draws.random() < 0.5 else ""
    other = draws.choice([char for char in alike or like if char != text[place].upper()])
    other = other.lower() if char.islower() else other
    kind = draws.choice(("other", "other", "other", "missing", "more"))
    if kind == "missing" and len(places) > 1:
        return text[:place] + text[place + 1 :]
    return text[:place] + other + text[place + (kind != "more") :]
