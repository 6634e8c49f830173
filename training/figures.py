"""What captions of scenes are worth, as figures with intervals: false claims, recall, length.

A figure is a ratio of two sums over pictures. Its interval is that of a bootstrap: pictures are drawn again with
replacement, a thousand times, by a fixed seed, and 95 % of the ratios lie in it.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from schemas.scenes.claims import Checked
from schemas.scenes.scene import Scene
from schemas.scenes.statements import SceneClaim

OBJECT = ("shape", "colour", "size")
RESAMPLED, COVERED = 1000, 0.95

Ratio = tuple[Sequence[float], Sequence[float]]  # what is counted and of how many, a number a picture each


def about(claim: SceneClaim) -> str:
    """What a claim is about: "objects", "text" or "ground"."""
    shape = (claim.of | claim.be).get("shape")
    return {"text": "text", "ground": "ground"}.get(shape or "", "objects")


def caption_ratios(checked: Sequence[Checked], scenes: Sequence[Scene], texts: Sequence[str]) -> dict[str, Ratio]:
    """The figures of captions: false claims a response and a mention, over all and of a kind; recall; length."""
    ones, ratios = [1.0] * len(checked), {}
    for name in ("", "objects", "text"):
        false = [[claim for claim in caption.false if name in ("", about(claim))] for caption in checked]
        true = [[claim for claim in caption.true if name in ("", about(claim))] for caption in checked]
        kind = f"false_{name}_" if name else "false_"
        ratios[f"{kind}per_response"] = [float(bool(claims)) for claims in false], ones
        wrong = [float(len(claims)) for claims in false]
        ratios[f"{kind}per_mention"] = wrong, [count + len(claims) for count, claims in zip(wrong, true, strict=True)]
    found = [
        sum(mentioned(caption, thing) for thing in scene["objects"])
        for caption, scene in zip(checked, scenes, strict=True)
    ]
    ratios["recall"] = found, [len(scene["objects"]) for scene in scenes]
    printed = [scene["printed"] is not None for scene in scenes]
    read = [is_read(caption, scene) for caption, scene in zip(checked, scenes, strict=True)]
    ratios["text_recall"] = [float(yes) for yes in read], [float(yes) for yes in printed]
    ratios["words"] = [float(len(text.split())) for text in texts], ones
    return ratios


def mentioned(caption: Checked, thing: Mapping[str, Any]) -> bool:
    """Whether a true claim mentions an object: its words, a shape among them, all fit the object."""
    return any(
        not claim.negated and "shape" in (words := claim.of | claim.be)
        and all(words[key] == thing[key] for key in OBJECT if key in words)
        for claim in caption.true
    )  # fmt: skip


def is_read(caption: Checked, scene: Scene) -> bool:
    """Whether a true claim says all that is printed."""
    if not scene["printed"]:
        return False
    said = [(claim.of | claim.be).get("words") for claim in caption.true if not claim.negated]
    return _plain(scene["printed"]["text"]) in {_plain(words) for words in said if words}


def ratio(counted: Ratio) -> float:
    return float(sum(counted[0]) / max(1.0, sum(counted[1])))


def interval(counted: Ratio, seed: int = 0) -> list[float]:
    """[low, high] of a ratio, by a bootstrap over pictures."""
    parts, of = (np.array(side, np.float64) for side in counted)
    if not len(of) or not of.sum():
        return [0.0, 0.0]
    times = np.random.default_rng(seed).multinomial(len(of), [1 / len(of)] * len(of), RESAMPLED)
    sums = times @ of
    ratios = (times @ parts)[sums > 0] / sums[sums > 0]
    outside = (1 - COVERED) / 2
    return [float(bound) for bound in np.quantile(ratios, (outside, 1 - outside))]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFC", text).casefold()))
