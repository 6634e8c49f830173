"""Reads sentences about scenes as claims, and holds each against the truth.

The reader (`schemas.scenes.reader`) knows English about scenes, not English. Where people differ, it decides:

- "a red circle" claims at least one, "two red circles" exactly two, "red circles" at least two, "several" three.
- "the circle is red" claims a red circle; "the circles are red" that there are circles, all of them red. A thing that
  is spoken of is claimed to be there, also by "the circle is not red".
- Shades count as the colour that they are a shade of (crimson is red); one between two colours is not read (teal).
- A ball, disc or dot is a circle. A pentagon is read, and never there; a rectangle is not read, as a square is one.
- "on the left" is the left column, all three rows of it; "in the middle" is the one cell in the middle.
- Something stands above another if its row is higher, left of it if its column is further left. A relation is a claim
  of its own, beside those that the two things are there.
- Text is as claimed if it contains the claimed words in one run; case and punctuation do not count.
- Words that claim nothing by themselves ("there is", "a photo of") are passed over. All else that was not read is
  handed back in `unparsed`, run by run: opinions, unknown nouns and their colours, comparisons. So is the whole of a
  sentence with an exception, a condition, or an "or" that no negation covers: half of it would be false.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from schemas.scenes.reader import Pattern, SceneClaim, parse
from schemas.scenes.scene import Scene, cell


class Checked(NamedTuple):
    true: list[SceneClaim]
    false: list[SceneClaim]
    unparsed: list[str]


def check(text: str, scene: Scene) -> Checked:
    """The claims of a text, by whether they are true of a scene."""
    claims, unparsed = parse(text)
    things = _things(scene)
    judged = [(claim, _holds(claim, things)) for claim in claims]
    return Checked([c for c, true in judged if true], [c for c, true in judged if not true], unparsed)


def judge(claim: SceneClaim, scene: Scene) -> bool:
    return _holds(claim, _things(scene))


def answer(question: str, scene: Scene) -> bool | None:
    """Whether yes is the answer to a yes/no question; None if not all of it was understood."""
    checked = check(question, scene)
    return None if checked.unparsed or not checked.true + checked.false else not checked.false


def hallucination(checked: Iterable[Checked]) -> dict[str, float]:
    """Share of responses with a false claim, and of false claims among all (the two measures of arXiv 2405.17220).

    Beside them how much stands behind these figures: responses, claims, and what was not parsed.
    """
    checked = list(checked)
    false, claims = sum(len(c.false) for c in checked), sum(len(c.true) + len(c.false) for c in checked)
    return {
        "per_response": sum(bool(c.false) for c in checked) / max(1, len(checked)),
        "per_mention": false / max(1, claims),
        "responses": len(checked), "claims": claims, "unparsed": sum(len(c.unparsed) for c in checked),
    }


def _things(scene: Scene) -> list[Pattern]:
    """Objects, text and background, all as things with a shape."""
    middle = {0: "top", 1: "middle", 2: "bottom"}, {0: "left", 1: "middle", 2: "right"}
    ground, printed = scene["ground"], scene["printed"]
    things: list[Pattern] = [dict(thing) for thing in scene["objects"]]
    if printed:
        things.append({**printed, "shape": "text", "words": _plain(printed["text"])})
    for thing in things:
        row, column = cell(thing["place"])
        thing |= {"place": (middle[0][row], middle[1][column]), "at": (row, column)}
    return [*things, {**ground, "shape": "ground"}]


def _holds(claim: SceneClaim, things: list[Pattern]) -> bool:
    found = _all(things, claim.of)
    if claim.every:
        return (bool(found) and all(_is(thing, claim.be) for thing in found)) != claim.negated
    found = [thing for thing in found if _is(thing, claim.be)]
    if claim.relation:
        others = _all(things, claim.to)
        found = [thing for thing in found if any(_stands(thing, claim.relation, other) for other in others)]
    return (claim.least <= len(found) and (claim.most is None or len(found) <= claim.most)) != claim.negated


def _all(things: list[Pattern], pattern: Pattern) -> list[Pattern]:
    """The things that are so. Text and background are none unless named: there are "three shapes" without them."""
    return [
        thing for thing in things
        if _is(thing, pattern) and ("shape" in pattern or thing["shape"] not in ("text", "ground"))
    ]


def _is(thing: Pattern, pattern: Pattern) -> bool:
    for key, wanted in pattern.items():
        there = thing.get(key)
        if key == "place":
            if there is None or any(want not in (None, have) for want, have in zip(wanted, there)):
                return False
        elif key == "words":
            if there is None or f" {_plain(wanted)} " not in f" {there} ":
                return False
        elif there != wanted:
            return False
    return True


def _stands(thing: Pattern, relation: str, other: Pattern) -> bool:
    if "at" not in thing or "at" not in other:
        return False
    (row, column), (row2, column2) = thing["at"], other["at"]
    stands = {"above": row < row2, "below": row > row2, "left of": column < column2, "right of": column > column2}
    return stands[relation]


def _plain(text: str) -> str:
    """Words alone, without case."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFC", text).casefold()))
