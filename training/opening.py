"""What a run opens before it trains: its last checkpoint, and all stages that are left, planned and checked.

So a mistake in the last stage is found before the first one is trained, and it is said once, however many processes
there are.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from schemas.errors import UserError
from schemas.shards import Damaged
from schemas.training import StageTable
from training.begin import begin, held_out_of, samples_of, start
from training.chart import BEFORE
from training.checkpoint import LATEST, MODEL, latest, load_run, load_weights, read_tensors
from training.dpo import Pairs
from training.held_out import overlap
from training.loader import Mixture
from training.model import VisionLanguageModel
from training.pre_tokenizer import pre_tokenizer
from training.probe import Probe, scene_in
from training.progress import Progress
from training.recipe import Recipe, TrainingStage
from training.run_state import (
    BEGUN,
    batches_of,
    begun,
    check_goes_on,
    has_ended,
    of_old,
    other_samples,
    released,
    stage_entry,
)
from training.shards import Sample
from training.stage_table import table_of
from training.state_file import State, read_state
from training.tokenizer import Tokenizer
from training.world import World


class OpenStage(NamedTuple):
    """A stage that has steps left."""

    stage: TrainingStage
    samples: Mixture | Pairs
    held_out: Mixture | Pairs | None
    progress: Progress
    table: StageTable | None  # on rank 0
    entry: State  # of the run's state
    said: str | None  # what has changed since the stage began


class OpenRun(NamedTuple):
    tokenizer: Tokenizer
    model: VisionLanguageModel
    probe: Probe
    folder: Path | None  # of the last checkpoint
    state: State
    settled: State  # the part of the state that stays
    stages: list[OpenStage]


def open_run(recipe: Recipe, run: Path, world: World) -> OpenRun:
    """Raises `UserError` if the run was trained by another recipe, or if one of the stages cannot be trained."""
    tokenizer = Tokenizer(recipe.tokenizer)
    if world.rank == 0:
        warn_of(tokenizer)
    torch.manual_seed(recipe.seed)
    model, probe = start(recipe, tokenizer, world.device)
    for stage in recipe.stages:
        if stage.batch < world.ranks:
            raise UserError(f"stages.{stage.name}.batch: {stage.batch} packs a step for {world.ranks} processes; "
                            f"give each one at least")  # fmt: skip
    names, folder = [stage.name for stage in recipe.stages], latest(run)
    if folder:
        state = read_state(folder)
        check_goes_on(run, folder, state, recipe, tokenizer)
        load_weights(model, read_tensors(folder / MODEL), str(folder))
        if world.rank == 0 and not (run / LATEST).exists():
            print(f"{run / LATEST}: is missing; the run goes on from {folder.name}, its one checkpoint", flush=True)
    else:
        state = {"stage": names[0], "step": 0, "total": 0, "releases": begin(recipe, model, tokenizer)}
        state |= begun(recipe, tokenizer)
    settled = {key: state[key] for key in BEGUN if key in state}
    if "stages" not in settled:
        settled = of_old(recipe, tokenizer, state["stage"]) | settled
        if world.rank == 0:
            (run / BEFORE).unlink(missing_ok=True)  # its chart
            print(
                f"{run}: its state is of an older version and lacks its recipe, so nothing was compared; it goes on "
                f"as if it had begun with this recipe, batch included", flush=True,
            )  # fmt: skip
    stages = []
    for stage in recipe.stages[names.index(state["stage"]) :]:
        if stage.name == state["stage"] and state["step"] and has_ended(stage, state):
            if folder:
                load_run(folder, model, {"probe": probe}, [])
        else:
            stages.append(_open_stage(recipe, stage, tokenizer, model, world, run, state))
    return OpenRun(tokenizer, model, probe, folder, state, settled, stages)


def _open_stage(
    recipe: Recipe, stage: TrainingStage, tokenizer: Tokenizer, model: VisionLanguageModel, world: World, run: Path,
    state: State,
) -> OpenStage:  # fmt: skip
    step = state["step"] if stage.name == state["stage"] else 0
    trained = state.get("packs", step * stage.batch) if step else 0  # packs of this stage
    samples = samples_of(recipe, stage, tokenizer, model, world, run / "packs")
    held_out = held_out_of(recipe, stage, tokenizer, model, world, run / "packs")
    of_sets = [shards.release for shards in samples.shards]
    if not step:
        check_gives(stage, samples)
    elif state["mixture"] != samples.identity:
        raise other_samples(run, state, stage, of_sets, {name: recipe.data[name].root for name in stage.sets})
    progress = Progress(stage, samples.order.total, step, trained)
    measured = held_out.shards[0].release if held_out else None
    table = None
    if world.rank == 0:
        both = overlap(held_out.shards, samples.shards) if held_out else 0
        table = table_of(samples, progress, of_sets, both, model.shape.vision.side, measured)
    entry = stage_entry(recipe, stage, sorted({*of_sets}), progress.ends)
    entry["batches"] = batches_of(stage, step, state.get("stages", []))
    entry |= {"held_out_release": measured} if measured else {}
    was = next((one.get("held_out_release") for one in state.get("stages", []) if one["name"] == stage.name), None)
    said = None
    if step and measured and was and released(was) == released(measured) and was != measured:
        said = f"held_out: was {was}, is now {measured}: losses before and after are not of the same samples"
    return OpenStage(stage, samples, held_out, progress, table, entry, said)


def check_gives(stage: TrainingStage, samples: Mixture | Pairs) -> None:
    """Raises `UserError` if one of a stage's sets gives nothing to what the stage trains."""
    for number, name in enumerate(stage.sets):
        if "language" not in stage.trains and not samples.has_images(number):
            raise UserError(f"stages.{stage.name}.sets: {name} has no image, so {' and '.join(stage.trains)} "
                            f"would learn nothing of it; take the set out, or train language too")  # fmt: skip
        if stage.truth and isinstance(samples, Mixture):
            try:
                scene_in(next(_readable(samples, number)))
            except StopIteration:
                continue  # its samples are counted as damaged
            except UserError as error:
                raise UserError(f"stages.{stage.name}.truth: {name}: {error}") from None


def _readable(samples: Mixture, number: int) -> Iterator[Sample]:
    """The samples of a set's first pack that can be read."""
    for row in samples.planned[number][0]:
        try:
            place = row["tar"], row["sample"], row["byte_offset"], row["size"]
            yield samples.shards[number].read(*place, row["members"])
        except Damaged:
            continue


def warn_of(tokenizer: Tokenizer) -> None:
    """Says before the training if its model cannot be exported."""
    try:
        pre_tokenizer(tokenizer)
    except UserError as error:
        print(f"warning: the model can be trained, but not exported: {error}", flush=True)
