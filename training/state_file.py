"""`state.json`, in a run's checkpoint and beside a model's weights: what they were trained on.

All programs read it here, so a damaged one is one line everywhere. `training.run_state` says what is in it.
"""

import json
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from schemas.checked import Count, checked, read_file
from schemas.errors import UserError
from training.shapes import Shape, difference
from training.tokenizer import Tokenizer

STATE = "state.json"
MOST = 64 << 20  # bytes
OPEN = ConfigDict(extra="allow")

State = dict[str, Any]


@with_config(OPEN)
class _Stage(TypedDict):
    name: str
    steps: NotRequired[Count | None]
    ends: NotRequired[Count]
    batch: NotRequired[Count]
    batches: NotRequired[dict[str, Count]]
    sets: NotRequired[dict[str, float]]
    data: NotRequired[dict[str, str]]
    roots: NotRequired[dict[str, str]]
    releases: NotRequired[list[str]]
    plan: NotRequired[str]
    side: NotRequired[Count | None]


@with_config(OPEN)
class _Model(TypedDict):
    releases: NotRequired[list[str] | dict[str, str]]
    stage: NotRequired[str]
    step: NotRequired[Count]
    stages: NotRequired[list[_Stage]]
    tokenizer: NotRequired[str]
    shape: NotRequired[dict[str, Any]]


class _Begun(_Stage):  # of a run that goes on
    batch: Count
    sets: dict[str, float]
    data: dict[str, str]
    releases: list[str]


@with_config(OPEN)
class _Run(TypedDict):
    stage: str
    step: Count
    total: Count
    packs: NotRequired[Count]
    mixture: NotRequired[str]
    releases: NotRequired[list[str] | dict[str, str]]
    seed: NotRequired[Annotated[int, Field(strict=True)]]
    instructions: NotRequired[dict[str, str]]
    tokenizer: NotRequired[str]
    shape: NotRequired[dict[str, Any]]
    start: NotRequired[dict[str, str]]
    start_paths: NotRequired[dict[str, str]]
    stages: NotRequired[list[_Begun]]
    tensors: NotRequired[Count]


def read_state(folder: Path) -> State:
    """The state of a run's checkpoint. Raises `UserError` if it cannot be read."""
    return _read(folder / STATE, _Run, f"restore it, or begin another run from {folder}")


def state_beside(folder: Path) -> State:
    """The state beside a model's weights; empty if there is none. Raises `UserError` if it is damaged."""
    if not (folder / STATE).exists():
        return {}
    return _read(folder / STATE, _Model, "restore it, or remove it: it says what the model was trained on")


def _read(path: Path, kind: Any, fix: str) -> State:
    try:
        state = json.loads(read_file(path, MOST))
        checked(kind, state)
    except (OSError, ValueError, RecursionError) as error:
        wrong = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path}: cannot be read: {wrong}; {fix}") from None
    return state


def check_beside(folder: Path, tokenizer: Tokenizer, shape: Shape) -> State:
    """The state beside a model's weights. Raises `UserError` if the model was trained with another tokenizer or shape
    than those that its folder now holds. What a state of an older version does not say is not compared."""
    state = state_beside(folder)
    if state.get("tokenizer", tokenizer.identity) != tokenizer.identity:
        raise UserError(f"{tokenizer.path}: is not the tokenizer that the model was trained with, as {STATE} beside it "
                        f"says; put it back")  # fmt: skip
    if "shape" in state and (changed := difference(state["shape"], shape.as_dict())):
        raise UserError(f"{folder}: its shape is not the one that it was trained with: {changed}; put it back")
    return state


def unfinished(state: State) -> str | None:
    """A line about the stage in which a run ended, if that has more steps."""
    ends = end_of(state)
    if ends is None or state["step"] >= ends:
        return None
    return f"stage {state['stage']} is not finished: its learning rate has not come to its end"


def end_of(state: State) -> int | None:
    """The last step of the stage that a state is in, if it says so."""
    entry = next((one for one in state.get("stages", []) if one["name"] == state.get("stage")), {})
    return (entry.get("ends") or entry.get("steps")) if "step" in state else None
