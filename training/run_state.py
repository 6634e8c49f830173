"""Checks by a run's `state.json` whether a recipe may continue the run.

What decided the run so far must not change: each key of a stage that has begun, the tokenizer, the shape, the seed, the
instructions, and the weights that it started from. Only `batch`, `micro` and the number of processes may change, since
the run continues after the last pack that it has trained; `held_out`, from which nothing is learned; and, in the middle
of a stage, `steps`, if the rates of the steps that are done stay the same.

    {"stage", "step", "total", "mixture", "releases",       where it is
     "packs": packs that the stage has trained,
     "seed", "instructions", "tokenizer": digest, "shape": its sizes,
     "start": {what: digest of its weights}, "start_paths": {what: folder},
     "stages": [{"name", every key of the stage, "data": {name: its set}, "roots": {name: its root}, "releases": [...],
                 "batches": {first step: batch}, "ends": its last step, if it counts epochs}, of all that have begun],
     "tensors": how many the state of the optimizer and the probe has}
"""

from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.errors import UserError
from training.recipe import Recipe, TrainingStage
from training.shapes import SHAPE, difference, read_shape
from training.state_file import STATE, State
from training.tokenizer import Tokenizer

FREE = ("batch", "micro", "held_out")  # what may change at any time

BEGUN = ("seed", "instructions", "tokenizer", "shape", "start", "start_paths", "stages")  # what `begun` gives


def begun(recipe: Recipe, tokenizer: Tokenizer) -> State:
    """The part of a run's state that is set from its first step on."""
    start = {what: _digest(Path(folder)) for what, folder in recipe.start.model_dump(exclude_none=True).items()}
    paths = recipe.start.model_dump(exclude_none=True)
    shape = {"shape": recipe.model_shape().as_dict()}
    return _of_all(recipe, tokenizer) | shape | {"start": start, "start_paths": paths, "stages": []}


def _of_all(recipe: Recipe, tokenizer: Tokenizer) -> State:
    return {"seed": recipe.seed, "instructions": recipe.instructions, "tokenizer": tokenizer.identity}


def stage_entry(recipe: Recipe, stage: TrainingStage, releases: list[str], ends: int) -> State:
    """The part of a run's state about a stage that has begun, and that ends with step `ends`."""
    more = {"roots": _roots(recipe, stage), "releases": releases}
    return _settings(recipe, stage) | more | ({"ends": ends} if stage.epochs else {})


def of_old(recipe: Recipe, tokenizer: Tokenizer, stage: str) -> State:
    """What `begun` gives, for a run of 0.1 in a `stage`, whose state does not have it: as the recipe says now."""
    names = [one.name for one in recipe.stages]
    passed = recipe.stages[: names.index(stage) + 1]
    return begun(recipe, tokenizer) | {"stages": [stage_entry(recipe, one, [], 0) for one in passed]}


def has_ended(stage: TrainingStage, state: Mapping[str, Any]) -> bool:
    """Whether a run's current stage has no step left."""
    if stage.steps:
        return state["step"] >= stage.steps
    return any(entry["name"] == stage.name and state["step"] >= entry["ends"] for entry in state.get("stages", []))


def _settings(recipe: Recipe, stage: TrainingStage) -> State:
    data = {name: recipe.data[name].set for name in sorted(stage.sets)}
    return stage.model_dump(mode="json") | {"data": data}


def _roots(recipe: Recipe, stage: TrainingStage) -> dict[str, str]:
    return {name: recipe.data[name].root for name in sorted(stage.sets)}


def check_goes_on(run: Path, folder: Path, state: Mapping[str, Any], recipe: Recipe, tokenizer: Tokenizer) -> None:
    """Raises `UserError`, naming the key, if the run's checkpoint in `folder` was trained by another recipe.

    Fields that an older version did not write are not compared.
    """
    other = "put it back, or begin another run"
    if Tokenizer(folder, tokenizer.names).identity != tokenizer.identity:
        raise UserError(f"{run}: tokenizer: {recipe.tokenizer} is not the one that the run was trained with; {other}")
    if changed := difference(read_shape(folder / SHAPE).as_dict(), recipe.model_shape().as_dict()):
        raise UserError(f"{run}: shape: {changed}; {other}")
    for key, now in _of_all(recipe, tokenizer).items():
        if state.get(key, now) != now:
            raise UserError(f"{run}: {key}: the run began with {state[key]!r}, the recipe says {now!r}; {other}")
    _check_start(run, state, recipe)
    names = [stage.name for stage in recipe.stages]
    if state["stage"] not in names:
        raise UserError(f"{run}: is in stage {state['stage']}, which the recipe lacks; it has {', '.join(names)}")
    entries = state.get("stages", [])
    before = [entry["name"] for entry in entries]
    if before != names[: len(before)]:
        raise UserError(f"{run}: has trained {', '.join(before)}, in this order; the recipe has {', '.join(names)}")
    for entry, stage in zip(entries, recipe.stages, strict=False):
        _check_stage(run, folder, entry, stage, state, recipe)


def _check_stage(
    run: Path, folder: Path, entry: State, stage: TrainingStage, state: Mapping[str, Any], recipe: Recipe
) -> None:
    ends = entry["ends"] if "ends" in entry else entry["steps"]
    step = state["step"] if stage.name == state["stage"] else ends
    where = "has ended" if step >= ends else f"is at step {step}"
    try:
        was = TrainingStage.model_validate({key: entry[key] for key in TrainingStage.model_fields if key in entry})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{folder / STATE}: stage {stage.name}: {key}: {first['input']!r:.80}: {first['msg']}; "
                        f"restore it, or begin another run from {folder}") from None  # fmt: skip
    then = was.model_dump(mode="json") | {"data": entry["data"]}
    for key, now in _settings(recipe, stage).items():
        if key in FREE or then[key] == now or (key == "data" and _same_sets(then[key], now, entry["releases"])):
            continue
        if key == "steps" and step < ends and _same_rates(was, stage, step):
            continue
        before, after = ("not given" if value is None else value for value in (then[key], now))
        raise UserError(
            f"{run}: stages.{stage.name}.{key}: was {before}, the recipe says {after}, and the stage {where}; "
            f"put it back, or begin another run"
        )


def other_samples(
    run: Path, state: Mapping[str, Any], stage: TrainingStage, releases: Collection[str], roots: Mapping[str, str]
) -> UserError:
    """The error of a stage whose sets now give other samples; `releases` are those of its sets now, in their order, and
    `roots` those of its data."""
    entry = next((one for one in state.get("stages", []) if one["name"] == stage.name), None)
    line = f"{run}: is at step {state['step']} of {stage.name}, with other samples than those of the recipe now"
    if entry and [*entry["sets"]] != [*stage.sets]:
        was, now = (", ".join(sets) for sets in (entry["sets"], stage.sets))
        return UserError(f"{line}: stages.{stage.name}.sets: the order was {was}, and is now {now}; put it back")
    before = (entry or {}).get("roots", {})
    moved = {
        name: f"was {before[name]}, is now {root}" for name, root in roots.items() if before.get(name, root) != root
    }
    for name, now in zip(stage.sets, releases, strict=True):
        same = [one for one in (entry or {}).get("releases", ()) if released(one) == released(now)]
        if not same or now in same:
            continue
        if name in moved:
            return UserError(f"{line}: data.{name}.root: {moved[name]}, with {now} and not {same[0]}; put it back")
        return UserError(f'{line}: data.{name}: was {same[0]}, is now {now}; say set = "{same[0]}"; if that is not '
                         f"there any more, begin another run")  # fmt: skip
    for name, what in moved.items():
        return UserError(f"{line}: data.{name}.root: {what}; put it back")
    return UserError(f"{line}; name the release it began with in [data], or begin another run")


def released(release: str) -> str:
    """The set of a release, which is named `<set>@<digest>`."""
    return release.partition("@")[0]


def batches_of(stage: TrainingStage, step: int, entries: list[State]) -> dict[str, int]:
    """The first step of each batch that a stage, which is at `step`, has had -> the batch."""
    was = next((entry for entry in entries if step and entry["name"] == stage.name), None)
    batches = was.get("batches", {"1": was["batch"]}) if was else {}
    return batches if [*batches.values()][-1:] == [stage.batch] else {**batches, str(step + 1): stage.batch}


def _same_sets(was: Mapping[str, str], now: Mapping[str, str], releases: Collection[str]) -> bool:
    """Whether sets differ only because one names the release that the stage was trained on."""
    return was.keys() == now.keys() and all(
        was[name] == now[name] or (released(was[name]) == released(now[name]) and {was[name], now[name]} & {*releases})
        for name in was
    )


def _same_rates(was: TrainingStage, now: TrainingStage, step: int) -> bool:
    """Whether the steps that are done would have had the same learning rates."""
    if not was.steps or not now.steps:
        return False
    return now.steps > step and all(was.rate_at(done) == now.rate_at(done) for done in range(step))


def _check_start(run: Path, state: Mapping[str, Any], recipe: Recipe) -> None:
    was, named = state.get("start"), recipe.start.model_dump(exclude_none=True)
    if was is None:
        return
    if was.keys() != named.keys():
        began, says = (", ".join(sorted(keys)) or "fresh weights" for keys in (was, named))
        raise UserError(f"{run}: start: the run began with {began}, the recipe says {says}; begin another run")
    for what, folder in named.items():
        if Path(folder).exists() and _digest(Path(folder)) != was[what]:
            raise UserError(f"{run}: start.{what}: {folder} has other weights than the run began with")


def _digest(folder: Path) -> str:
    """A digest of the weights in a folder."""
    digest = sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
    return digest.hexdigest()[:32]
