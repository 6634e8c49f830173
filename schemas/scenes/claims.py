"""Reads sentences about scenes as claims, and holds each against the truth.

The reader (`schemas.scenes.reader`) understands only what English says about scenes. Where people differ, it decides:

- "a red circle" claims at least one, "two red circles" exactly two, "red circles" at least two, "several" three.
- "the circle is red" claims a red circle; "the circles are red" claims that there are circles and all of them are red.
  A thing that is mentioned is claimed to be there, also by "the circle is not red".
- A shade counts as its colour (crimson is red); a shade between two colours is not read (teal).
- A ball, disc or dot is a circle. A pentagon is read, and never there; a rectangle is not read, as a square is one.
- "on the left" is the left column, all three rows of it; "in the middle" is the one cell in the middle.
- Something stands above another if its row is higher, left of it if its column is further left. A relation is a claim
  of its own, besides the claims that the two things are there.
- A claim about text is true if the text contains the claimed words in one run; case and punctuation do not count.
- Words that claim nothing by themselves ("there is", "a photo of") are skipped. Everything else that was not read is
  handed back in `unparsed`, run by run: opinions, unknown nouns and their colours, comparisons. A sentence with an
  exception, a condition, or an "or" that no negation covers is handed back as a whole: half of it would be false.
"""

import re
import unicodedata
from typing import NamedTuple

from schemas.scenes.reader import parse
from schemas.scenes.scene import Scene, cell
from schemas.scenes.statements import Pattern, SceneClaim


class Checked(NamedTuple):
    true: list[SceneClaim]
    false: list[SceneClaim]
    unparsed: list[str]


def check(text: str, scene: Scene) -> Checked:
    """The claims of a text, parted into those that are true of a scene and those that are false."""
    claims, unparsed = parse(text)
    things = _things(scene)
    judged = [(claim, _holds(claim, things)) for claim in claims]
    return Checked(
        true=[claim for claim, true in judged if true],
        false=[claim for claim, true in judged if not true],
        unparsed=unparsed,
    )


def judge(claim: SceneClaim, scene: Scene) -> bool:
    """Whether a claim is true of a scene."""
    return _holds(claim, _things(scene))


def answer(question: str, scene: Scene) -> bool | None:
    """Whether yes is the answer to a yes/no question; None if not all of it was understood."""
    checked = check(question, scene)
    return None if checked.unparsed or not checked.true + checked.false else not checked.false


def _things(scene: Scene) -> list[Pattern]:
    """Objects, text and background, all as things with a shape."""
    row_names, column_names = ("top", "middle", "bottom"), ("left", "middle", "right")
    ground, printed = scene["ground"], scene["printed"]
    things: list[Pattern] = [dict(thing) for thing in scene["objects"]]
    if printed:
        things.append({**printed, "shape": "text", "words": _plain(printed["text"])})
    for thing in things:
        row, column = cell(thing["place"])
        thing |= {"place": (row_names[row], column_names[column]), "at": (row, column)}
    return [*things, {**ground, "shape": "ground"}]


def _holds(claim: SceneClaim, things: list[Pattern]) -> bool:
    subjects = _all(things, claim.of)
    if claim.every:
        return (bool(subjects) and all(_is(thing, claim.be) for thing in subjects)) != claim.negated
    fitting = [thing for thing in subjects if _is(thing, claim.be)]
    if claim.relation:
        neighbours = _all(things, claim.to)
        fitting = [thing for thing in fitting if any(_stands(thing, claim.relation, to) for to in neighbours)]
    return (claim.least <= len(fitting) and (claim.most is None or len(fitting) <= claim.most)) != claim.negated


def _all(things: list[Pattern], pattern: Pattern) -> list[Pattern]:
    """The things that fit a pattern. Text and background fit only if named: "three shapes" does not count them."""
    return [
        thing for thing in things
        if _is(thing, pattern) and ("shape" in pattern or thing["shape"] not in ("text", "ground"))
    ]


def _is(thing: Pattern, pattern: Pattern) -> bool:
    """Whether a thing fits a pattern."""
    for key, wanted in pattern.items():
        value = thing.get(key)
        if key == "place":
            if value is None or any(want not in (None, have) for want, have in zip(wanted, value, strict=False)):
                return False
        elif key == "words":
            if value is None or f" {_plain(wanted)} " not in f" {value} ":
                return False
        elif value != wanted:
            return False
    return True


def _stands(thing: Pattern, relation: str, other: Pattern) -> bool:
    if "at" not in thing or "at" not in other:
        return False
    (row, column), (row2, column2) = thing["at"], other["at"]
    holds = {"above": row < row2, "below": row > row2, "left of": column < column2, "right of": column > column2}
    return holds[relation]


def _plain(text: str) -> str:
    """The words of a text in lower case, without punctuation."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFC", text).casefold()))
