"""What a run begins with: a model, the weights that it starts from, and the samples of a stage."""

from pathlib import Path

import torch

from schemas.errors import UserError
from training.checkpoint import MODEL, SHAPE, load_weights, read_tensors
from training.divergence import check_loaded
from training.dpo import Pairs
from training.loader import Mixture, Part
from training.model import VisionLanguageModel
from training.pretrained import load_public
from training.probe import Probe
from training.recipe import Recipe, TrainingStage
from training.samples import SampleEncoder, Slicing
from training.shapes import BUCKETS, Shape, read_checkpoint_shape
from training.state_file import check_beside
from training.tokenizer import Tokenizer, marks_in
from training.world import World


def start(recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> tuple[VisionLanguageModel, Probe]:
    """A model and a probe with fresh weights. Raises `UserError` if the shape has no room for the tokenizer."""
    shape = recipe.model_shape()
    tokenizer.check_room(shape.language.vocab)
    model, probe = VisionLanguageModel(shape), Probe(shape.language.width, shape.vision.width)
    model.attend_by("by_matmul" if device.type == "cpu" else "sdpa")
    return model.to(device), probe.to(device)


def begin(recipe: Recipe, model: VisionLanguageModel, tokenizer: Tokenizer) -> list[str]:
    """Loads the weights that the recipe starts from; returns the releases that they were trained on.

    Raises `UserError` if they have another shape or tokenizer.
    """
    check_instructions(recipe, tokenizer)
    named = recipe.start.model_dump(exclude_none=True)
    if not (checkpoint := named.pop("checkpoint", None)):
        load_public(model, tokenizer, **named)
        check_loaded(model, ", ".join(f"start.{what}: {folder}" for what, folder in named.items()) or "start")
        return []
    folder = Path(checkpoint)
    try:
        shape = read_checkpoint_shape(folder)
    except UserError as error:
        raise UserError(f"start.checkpoint: {error}") from None
    if shape != model.shape:
        raise UserError(f'start.checkpoint: {folder} has another shape; say shape = "{folder / SHAPE}"')
    if Tokenizer(folder).identity != tokenizer.identity:
        raise UserError(f'start.checkpoint: {folder} was trained with another tokenizer; say tokenizer = "{folder}"')
    load_weights(model, read_tensors(folder / MODEL), str(folder))
    return [*check_beside(folder, tokenizer, shape).get("releases", ())]


def check_instructions(recipe: Recipe, tokenizer: Tokenizer) -> None:
    """Raises `UserError` if an instruction spells a mark, which would be trained as the words that it is written in."""
    for task, text in recipe.instructions.items():
        if spelled := marks_in(text, tokenizer.names):
            raise UserError(f"instructions.{task}: holds {spelled[0]}, which is plain text here; leave it out: the "
                            f"image is put before the instruction in any case")  # fmt: skip


def encoder_of(recipe: Recipe, stage: TrainingStage, tokenizer: Tokenizer, shape: Shape) -> SampleEncoder:
    """What makes tokens and pixels of a stage's samples."""
    vision = shape.vision
    if stage.side and stage.side > (most := BUCKETS * vision.patch):
        raise UserError(f"stages.{stage.name}.side: {stage.side} pixels are more than {BUCKETS} patches, the limit of "
                        f"llama.cpp; choose at most {most}")  # fmt: skip
    slicing = Slicing(stage.plan, stage.side or vision.side, vision.patch)
    context = shape.language.context
    return SampleEncoder(tokenizer, shape.queries, stage.length, slicing, recipe.instructions, context)


def parts_of(recipe: Recipe, stage: TrainingStage) -> list[Part]:
    """The stage's shard sets, with their weights."""
    tables = [(name, recipe.data[name], weight) for name, weight in stage.sets.items()]
    return [Part(data.root, data.set, weight, f"data.{name}") for name, data, weight in tables]


def samples_of(
    recipe: Recipe, stage: TrainingStage, tokenizer: Tokenizer, model: VisionLanguageModel, world: World,
    packs: Path | None = None,
) -> Mixture | Pairs:  # fmt: skip
    """The stage's shard sets, planned; into the folder `packs` if one of them is in an object store."""
    encoder = encoder_of(recipe, stage, tokenizer, model.shape)
    parts = parts_of(recipe, stage)
    if stage.beta:
        return Pairs(parts, encoder, recipe.seed)
    far = any("://" in part.root for part in parts)
    return Mixture(parts, encoder, recipe.seed, turn=(world.rank, world.ranks), cache=packs if far else None)


def held_out_of(
    recipe: Recipe, stage: TrainingStage, tokenizer: Tokenizer, model: VisionLanguageModel, world: World,
    packs: Path | None = None,
) -> Mixture | Pairs | None:  # fmt: skip
    """The held-out samples of a stage, if it has some, as `samples_of` gives those that it trains."""
    if stage.held_out is None:
        return None
    alone = stage.model_copy(update={"sets": {stage.held_out.set: 1.0}})
    try:
        return samples_of(recipe, alone, tokenizer, model, world, packs)
    except UserError as error:
        raise UserError(f"stages.{stage.name}.held_out: {error}") from None
