"""Alignment in rounds: the table [align], and what `align.json` in a root says about the rounds that have begun.

Each round asks the best policy so far about images that no other round has; see `flows.align`.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from schemas.config.table import Location, Table
from schemas.errors import UserError

RECALLS = {"recall": "recall_margin", "text_recall": "text_recall_margin"}  # figure -> the setting of its largest fall
SHOWN = (  # figures in tables, as far as a round has them: name, heading, whether it is a share
    ("false_per_response", "false claim", True),
    ("false_objects_per_response", "false object", True),
    ("sampled_false_objects_per_response", "false object at 0.7", True),
    ("recall", "recall", True),
    ("text_recall", "text recall", True),
    ("yes_no", "yes/no", True),
    ("words", "words", False),
)
MARKS = {"policy_command": "{policy}", "train_command": "{out}", "evaluate_command": "{policy}"}  # that they need
LARGEST = 1e300  # of a figure
CHECKPOINT = re.compile(r".*/round-([0-9]{1,9})/checkpoint", re.S)
Outcome = Literal["best", "worse", "stopped"]
BEST: Outcome = "best"
WORSE: Outcome = "worse"
STOPPED: Outcome = "stopped"


class AlignConfig(Table):
    """Aligns the policy in rounds, by `shardmill align`. The policy is the endpoint of [responses]."""

    checkpoints: Location                               # local folder for the checkpoints of the rounds
    rounds: int = Field(default=2, ge=1)                # number of rounds; `--rounds` replaces it
    share: float = Field(default=0.25, gt=0, le=1)      # share of the images that a round asks about, by hash(seed,
                                                        # image); no image is in two rounds
    seed: int = 0
    where: str | None = None                            # SQL over `preferences`: which pairs a round is trained on
    recipe: Location | None = None                      # file with [[stages]] for training.train; default: one of DPO
    held_out: Location | None = None                    # corpus of scenes that training.evaluate shows to each policy
    held_out_set: str = "held_out"                      # its shard set
    best: str = "false_objects_per_response"            # figure that is lowest for the best policy
    recall_margin: float = Field(default=0.03, ge=0, le=1)      # largest fall of recall from the start; more ends the
                                                        # rounds
    text_recall_margin: float = Field(default=0.05, ge=0, le=1) # the same of text_recall
    policy_command: str | None = None                   # makes the servers of the policy's url serve {policy}
    train_command: str | None = None                    # trains {policy} on {pairs}, a folder of TRL's form, into {out}
    evaluate_command: str | None = None                 # prints the figures of {policy} as one line of JSON

    @model_validator(mode="after")
    def _is_evaluated(self) -> Self:
        if (self.held_out is None) == (self.evaluate_command is None):
            raise PydanticCustomError("align", "write either held_out or evaluate_command")
        if self.recipe and self.train_command:
            raise PydanticCustomError("align", "write either recipe or train_command")
        for name, mark in MARKS.items():
            command = getattr(self, name)
            if command is not None and mark not in command:
                raise PydanticCustomError("align", "{name}: write {mark} in it", {"name": name, "mark": mark})
        return self


class Policy(TypedDict):
    model: str | None       # path of a checkpoint; None: the model of the endpoint in the configuration
    revision: str | None    # hash of its weights


def checkpoint_of(config: AlignConfig, policy: Policy) -> str | None:
    """The path of a policy's checkpoint, in the folder that the configuration names; None for the first policy. Of the
    path in align.json, which a stranger may have written, only the number of the round counts. Raises `UserError`."""
    if policy["model"] is None:
        return None
    if not (made := CHECKPOINT.fullmatch(policy["model"])):
        raise UserError(f"align.json: {policy['model']!r:.200} is not the checkpoint of a round; restore the file")
    return str(Path(config.checkpoints) / f"round-{int(made[1])}/checkpoint")


Figure = Annotated[float, Field(strict=True, ge=-LARGEST, le=LARGEST)]


class Figures(TypedDict):
    values: dict[str, Figure]
    intervals: dict[str, Annotated[list[Figure], Field(min_length=2, max_length=2)]]    # [low, high] of some of them


class Round(TypedDict):
    """A round that has begun. What follows `policy` is null until it is known."""

    policy: Policy              # which answers
    release: str | None         # of its pairs, which it trains on
    checkpoint: Policy | None   # what it trained
    figures: Figures | None     # of its checkpoint
    outcome: Outcome | None     # ends the round
    why: str | None


class Alignment(TypedDict):
    start: Figures | None   # of the policy in the configuration
    rounds: Annotated[list[Round], Field(max_length=10_000)]    # the first is round 1


def nothing_begun() -> Alignment:
    return {"start": None, "rounds": []}


def new_round(policy: Policy) -> Round:
    return {
        "policy": policy, "release": None, "checkpoint": None, "figures": None, "outcome": None, "why": None,
    }  # fmt: skip


def best_policy(alignment: Alignment) -> tuple[Policy, Figures | None]:
    """The best policy so far, with its figures."""
    for one in reversed(alignment["rounds"]):
        if one["outcome"] == BEST and one["checkpoint"]:
            return one["checkpoint"], one["figures"]
    return {"model": None, "revision": None}, alignment["start"]


def figures_of(printed: dict[str, Any]) -> Figures:
    """The figures in a line of JSON as `training.evaluate` prints it: its numbers, and intervals of some of them."""
    values = {name: float(value) for name, value in printed.items() if _is_number(value)}
    given = printed.get("intervals")
    intervals = {
        name: [float(bound) for bound in bounds]
        for name, bounds in (given.items() if isinstance(given, dict) else ())
        if isinstance(bounds, list) and len(bounds) == 2 and all(map(_is_number, bounds))
    }
    return {"values": values, "intervals": intervals}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def outcome(config: AlignConfig, alignment: Alignment, figures: Figures) -> tuple[Outcome, str]:
    """What becomes of a checkpoint, and why. Raises `UserError` if it lacks the figure that decides."""
    if alignment["start"] is None:
        raise ValueError("the policy at the start has no figures")
    start, now = alignment["start"]["values"], figures["values"]
    best = (best_policy(alignment)[1] or alignment["start"])["values"]
    if config.best not in best or config.best not in now:
        known = ", ".join(sorted(now)) or "none"
        raise UserError(f"align.best: the evaluation gives no figure {config.best!r}; choose from {known}")
    for name, setting in RECALLS.items():
        margin = getattr(config, setting)
        if name in start and name in now and start[name] - now[name] > margin + 1e-9:
            fell = f"{name} fell from {100 * start[name]:.1f} to {100 * now[name]:.1f} %"
            return STOPPED, f"{fell}, by more than {100 * margin:g} points ({setting})"
    said = f"{config.best}: {100 * best[config.best]:.1f} % before, {100 * now[config.best]:.1f} % now"
    return (BEST if now[config.best] < best[config.best] else WORSE), said
