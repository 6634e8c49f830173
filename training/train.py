"""Trains a model by a recipe, one stage after another: `python -m training.train RECIPE RUN`.

On several GPUs: `torchrun --nproc-per-node 8 -m training.train …`. If it is run again, it resumes from its last
checkpoint with the same next step; on a CPU bit for bit. The run's folder holds the last checkpoint, `log.parquet` and
`loss.svg`.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from schemas.errors import UserError
from schemas.printable import printable_line
from schemas.shards import Damaged
from schemas.training import TrainingRow
from training.checkpoint import MODEL, SHAPE, STATE, latest, load_run, load_weights, read_tensors, save_run
from training.curve import draw, read_log, write_log
from training.divergence import check_weights, diverged, names_of
from training.dpo import Pairs, dpo_loss, log_probabilities, references
from training.layout import IGNORED
from training.loader import Batch, Mixture, Part, load
from training.model import VisionLanguageModel, blocks_of, document_mask
from training.packs import PADDING
from training.pixels import LEVELS
from training.pretrained import load_public
from training.probe import Probe, Truths
from training.recipe import Recipe, TrainingStage, read_recipe
from training.run_lock import hold
from training.run_state import BEGUN, begun, check_goes_on, stage_entry
from training.samples import SampleEncoder, Slicing
from training.shapes import read_shape
from training.tokenizer import Tokenizer

SHOWN = 10.0  # seconds between lines of output


class World:
    """The device of this process, and the operations that all ranks do together."""

    def __init__(self) -> None:
        self.rank, self.ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        cuda = torch.cuda.is_available()
        self.device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu")
        if cuda:
            torch.cuda.set_device(self.device)  # where NCCL and pinned memory look
        if self.ranks > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo")

    def sum(self, tensor: Tensor) -> Tensor:
        if self.ranks > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Sums gradients over ranks in one message, since a small model has a hundred small ones.

        A rank whose batch had no image has no gradients for encoder and resampler. A gradient that no rank has stays
        None, as in a single process: the optimizer then skips the weight, with its momentum and decay.
        """
        if self.ranks == 1:
            return
        has_gradient = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=self.device)
        parts = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
        summed = self.sum(torch.cat([*(parameter.flatten() for parameter in parts), has_gradient]))
        *gradients, has_gradient = summed.split([*(parameter.numel() for parameter in parameters), len(parameters)])
        for parameter, gradient, any_gradient in zip(parameters, gradients, has_gradient.tolist()):
            parameter.grad = gradient.view_as(parameter) if any_gradient else None


def train(
    recipe: Recipe, run: Path, world: World, workers: int = 0, every: float = 300.0, stop: int | None = None
) -> None:
    """Trains the recipe's stages, from the run's last checkpoint on, while it holds the run's folder.

    A checkpoint is written every `every` seconds and at the end of a stage. `stop` ends the run after that many steps
    of all stages together. Raises `UserError` if another trainer holds the folder, or if the run was trained by another
    recipe, see `training.run_state`.
    """
    with ExitStack() as held:
        if world.rank == 0:
            held.enter_context(hold(run))
        _train(recipe, run, world, workers, every, stop)


def _train(recipe: Recipe, run: Path, world: World, workers: int, every: float, stop: int | None) -> None:
    device = world.device
    tokenizer = Tokenizer(recipe.tokenizer)
    torch.manual_seed(recipe.seed)
    model, probe = start(recipe, tokenizer, device)
    stages, folder = list(recipe.stages), latest(run)
    for stage in stages:
        if stage.batch < world.ranks:
            raise UserError(f"stages.{stage.name}.batch: {stage.batch} packs a step for {world.ranks} processes; "
                            f"give each one at least")  # fmt: skip
    if folder:
        state = json.loads((folder / STATE).read_text())
        check_goes_on(run, folder, state, recipe, tokenizer)
        load_weights(model, read_tensors(folder / MODEL), str(folder))
    else:
        state = {"stage": stages[0].name, "step": 0, "total": 0, "releases": begin(recipe, model, tokenizer)}
        state |= begun(recipe, tokenizer)
    names, settled = [stage.name for stage in stages], {key: state[key] for key in BEGUN if key in state}
    done = state["total"]
    if stop is not None and done >= stop:
        return
    log = [row for row in read_log(run) if row["total"] <= done]
    releases = {*state.get("releases", ())}  # of shard sets, that the model was trained on

    for stage in stages[names.index(state["stage"]) :]:
        step = state["step"] if stage.name == state["stage"] else 0
        trained = state.get("packs", step * stage.batch) if step else 0  # packs of this stage
        optimizers = make_optimizers(stage, model, probe)
        if step:
            load_run(folder, model, {"probe": probe}, optimizers if step < stage.steps else [])
        if step >= stage.steps:
            continue
        samples = samples_of(recipe, stage, tokenizer, model, world, run / "packs")
        if step and state["mixture"] != samples.identity:
            raise UserError(
                f"{run}: is at step {step} of {stage.name}, with other samples than those of the recipe now; "
                f"name the release it began with in [data], or begin another run"
            )
        releases |= {shards.release for shards in samples.shards}
        entry = stage_entry(recipe, stage, sorted({shards.release for shards in samples.shards}))
        if world.rank == 0 and (left := Counter(lost.reason for lost in samples.lost())):
            print(f"{stage.name}  left out: {', '.join(f'{n} {reason}' for reason, n in left.items())}", flush=True)
        learner = Learner(stage, model, probe, tokenizer.marks.query, samples, run, world, begins=step == 0)
        learned = [weight for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]]
        batches = load(
            samples, stage.batch, micro=stage.micro, rank=world.rank, ranks=world.ranks, start=step, stop=stage.steps,
            trained=trained, workers=workers, pin=device.type == "cuda",
        )  # fmt: skip
        saved = shown = time.monotonic()
        meter = torch.zeros(6, dtype=torch.float64, device=device)  # losses, and how much was learned; tokens, places

        for micros in in_steps(batches):
            of_losses: list[Tensor] = []
            # A micro-batch's weight depends on how much is learned in the whole step, on all ranks.
            of_step = world.sum(torch.stack([learner.counts(batch).to(device) for batch in micros]).sum(0)).clamp(min=1)
            for batch in micros:
                for lost in batch.lost:
                    print(f"{stage.name}  {lost.sample} of {lost.tar}: {lost.reason}: {lost.detail}", flush=True)
                if not any(batch.samples):
                    continue
                sums = learner.losses(batch.to(device, non_blocking=True))
                of_losses.append(sums.detach())
                (sums / of_step).sum().backward()
                real = (batch.documents != PADDING).sum()
                more = torch.stack([real, torch.tensor(batch.documents.numel())]).to(device)
                meter += torch.cat([sums.detach(), learner.counts(batch).to(device), more]).double()
            world.sum_gradients(learned)
            norm = nn.utils.get_total_norm([weight.grad for weight in learned if weight.grad is not None])
            if not norm.isfinite():
                raise UserError(diverged(stage, step, of_losses, micros, names_of(model, probe), learned, latest(run)))
            nn.utils.clip_grads_with_norm_(learned, stage.clip, norm)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = stage.rate_at(step)
                optimizer.step()
                optimizer.zero_grad()
            step, done, trained, now = step + 1, done + 1, trained + stage.batch, time.monotonic()
            last = step == stage.steps or done == stop

            if world.ranks > 1:  # all ranks use the clock of the first
                clock = torch.tensor([now - shown, now - saved], dtype=torch.float64, device=device)
                dist.broadcast(clock, 0)
                shown, saved = now - clock[0].item(), now - clock[1].item()
            if last or now - shown > SHOWN:
                log.append(measured(stage, step, done, world.sum(meter).tolist(), float(norm), now - shown))
                shown = now
                meter.zero_()
                if world.rank == 0:
                    show(stage, log[-1])
            if last or now - saved > every:
                saved = now
                check_weights(stage, step, names_of(model, probe), learned, latest(run))
                if world.rank == 0:
                    state = {"stage": stage.name, "step": step, "total": done, "mixture": samples.identity}
                    state |= {"packs": trained, "releases": sorted(releases)} | settled
                    if "stages" in settled:
                        state["stages"] = [*settled["stages"][: names.index(stage.name)], entry]
                        settled["stages"] = state["stages"]
                    write_log(run, log)  # first: a resumed run drops the rows of steps after its checkpoint
                    draw(run, log)
                    save_run(run, f"{done:07d}", model, tokenizer, {"probe": probe}, optimizers, state)
            if done == stop:
                return


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
    named = recipe.start.model_dump(exclude_none=True)
    if not (checkpoint := named.pop("checkpoint", None)):
        load_public(model, **named)
        return []
    folder = Path(checkpoint)
    if read_shape(folder / SHAPE) != model.shape:
        raise UserError(f'start.checkpoint: {folder} has another shape; say shape = "{folder / SHAPE}"')
    if Tokenizer(folder).identity != tokenizer.identity:
        raise UserError(f'start.checkpoint: {folder} was trained with another tokenizer; say tokenizer = "{folder}"')
    load_weights(model, read_tensors(folder / MODEL), str(folder))
    state = folder / STATE
    return json.loads(state.read_text()).get("releases", []) if state.exists() else []


def samples_of(
    recipe: Recipe, stage: TrainingStage, tokenizer: Tokenizer, model: VisionLanguageModel, world: World,
    packs: Path | None = None,
) -> Mixture | Pairs:  # fmt: skip
    """The stage's shard sets, planned; into the folder `packs` if one of them is in an object store."""
    vision = model.shape.vision
    slicing = Slicing(stage.plan, stage.side or vision.side, vision.patch)
    context = model.shape.language.context
    encoder = SampleEncoder(tokenizer, model.shape.queries, stage.length, slicing, recipe.instructions, context)
    parts = [Part(recipe.data[name].root, recipe.data[name].set, weight) for name, weight in stage.sets.items()]
    if stage.beta:
        return Pairs(parts, encoder, recipe.seed)
    far = any("://" in part.root for part in parts)
    return Mixture(parts, encoder, recipe.seed, turn=(world.rank, world.ranks), cache=packs if far else None)


class Learner:
    """The losses of a stage."""

    def __init__(
        self, stage: TrainingStage, model: VisionLanguageModel, probe: Probe, query: int, samples: Mixture | Pairs,
        run: Path, world: World, begins: bool,
    ):  # fmt: skip
        self.stage, self.model, self.probe, self.query = stage, model, probe, query
        self.truths = Truths(samples.shards) if stage.truth else None
        self.references = {}
        if stage.beta:
            file = run / f"references-{stage.name}-{samples.identity[:12]}.json"
            self.references = references(
                file, samples, lambda batch: self.tokens(batch.to(world.device)), stage.micro,
                (world.rank, world.ranks), begins,
            )  # fmt: skip

    def precision(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, self.stage.precision == "bfloat16")

    def counts(self, batch: Batch) -> Tensor:
        """The amounts that a batch trains: tokens of answers, or pairs; and views."""
        learned = sum(map(len, batch.samples)) if self.stage.beta else int((batch.labels != IGNORED).sum())
        return torch.tensor([learned if self.stage.answers else 0, len(batch.grids) if self.stage.truth else 0])

    def losses(self, batch: Batch) -> Tensor:
        """float32 [2]: the summed losses of what `counts` counts, times the stage's weights."""
        sums = torch.zeros(2, device=batch.ids.device)
        with self.precision():
            if self.truths is not None:
                seen, states = self.look(batch)
                truth = self.truths[(name for pack in batch.samples for name in pack)].to(seen.device)
                if len(truth.ground) != len(seen):
                    where = f"stages.{self.stage.name}.truth"
                    raise UserError(f"{where}: {len(seen)} views of {len(truth.ground)} samples; it needs one of each")
                told = self.probe.loss(seen, truth) + self.probe.patch_loss(states, batch.grids, truth)
                told = told * len(seen) * self.stage.truth
                sums = sums + torch.stack([torch.zeros_like(told), told])
            if not self.stage.answers:
                return sums
            losses = self.tokens(batch, seen if self.truths is not None else None)
        if self.stage.beta:
            read = [number for number, names in enumerate(batch.samples) if names]
            start = torch.tensor([self.references[name] for names in batch.samples for name in names])
            start = start.reshape(-1, 2).T.to(losses.device)
            losses = dpo_loss(log_probabilities(losses)[:, read], start, self.stage.beta)
        answers = losses.sum() * self.stage.answers
        return sums + torch.stack([answers, torch.zeros_like(answers)])

    def tokens(self, batch: Batch, seen: Tensor | None = None) -> Tensor:
        """Minus the log-probability of each learned token, float32 [packs, length]."""
        with self.precision():
            seen = self.look(batch)[0] if seen is None else seen
            seen = torch.cat([seen, seen]) if self.stage.beta else seen  # both answers are about the same images
            blocks = blocks_of(batch.positions) if batch.ids.device.type == "cpu" else None
            mask, visual = document_mask(batch.documents), batch.ids == self.query
            hidden = self.model(batch.ids, seen, visual, mask, batch.positions, blocks=blocks)
            return self.model.losses(hidden, batch.labels)

    def look(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The embeddings of all views, and the states of their patches; None if there is no view."""
        frozen = not {"vision", "resampler"} & set(self.stage.trains)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            if not len(batch.grids):
                return self.model.see(batch.patches, batch.grids), None
            states, present = self.model.patch_states(levels(batch.patches), batch.grids)
            return self.model.resample(states, present, batch.grids), states


def levels(patches: Tensor) -> Tensor:
    """The input of the vision encoder, from `training.pixels.raw_patches`."""
    return torch.from_numpy(LEVELS).to(patches.device)[patches.int()]


def make_optimizers(stage: TrainingStage, model: VisionLanguageModel, probe: nn.Module) -> list[torch.optim.Optimizer]:
    """AdamW; or Muon for the matrices of hidden layers (Jordan et al. 2024), at AdamW's rates (arXiv 2502.16982).

    Parts that the stage does not train are frozen. Weight decay applies only to matrices of hidden layers.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.partition(".")[0] in stage.trains)
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    named |= {f"probe.{name}": parameter for name, parameter in probe.named_parameters() if stage.truth}
    outer = ("patch_embedding", "position_embedding", "embed_tokens", "lm_head", "resampler.query", "probe.")
    hidden = [
        name for name, parameter in named.items() if parameter.ndim == 2 and not any(part in name for part in outer)
    ]
    matrices, others = [named[name] for name in hidden], [named[name] for name in named if name not in hidden]
    if stage.optimizer == "muon":
        return [
            torch.optim.Muon(matrices, stage.rate, stage.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, stage.rate, stage.betas, weight_decay=0.0),
        ]
    groups = [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, stage.rate, stage.betas)]


def in_steps(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Groups micro-batches by step."""
    micros: list[Batch] = []
    for batch in batches:
        micros.append(batch)
        if batch.last:
            yield micros
            micros = []


def measured(
    stage: TrainingStage, step: int, done: int, meter: list[float], norm: float, seconds: float
) -> TrainingRow:
    answers, truth, learned, views, tokens, places = meter
    return TrainingRow(
        stage=stage.name, step=step, total=done, rate=stage.rate_at(step - 1), norm=norm, tokens=int(tokens),
        loss=answers / learned / stage.answers if learned else None,
        truth_loss=truth / views / stage.truth if views else None,
        fill=tokens / max(1, places), seconds=seconds,
    )  # fmt: skip


def show(stage: TrainingStage, row: TrainingRow) -> None:
    losses = "  ".join(f"{name} {row[name]:.4f}" for name in ("loss", "truth_loss") if row[name] is not None)
    speed = row["tokens"] / row["seconds"]
    line = f"{stage.name} {row['step']}/{stage.steps}  {losses}  rate {row['rate']:.2e}  norm {row['norm']:.2f}"
    print(f"{line}  {speed:,.0f} tokens/s  fill {row['fill']:.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=str(__doc__).split(":")[0] + ".")
    parser.add_argument("recipe", help="recipe, a TOML file: see training.recipe")
    parser.add_argument("run", type=Path, help="folder of the run; an existing run is resumed")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; all cores if 0")
    parser.add_argument("--workers", type=int, default=1, help="number of processes that read samples")
    parser.add_argument("--every", type=float, default=300, help="seconds between checkpoints")
    parser.add_argument("--stop", type=int, help="stop after this many steps of all stages together")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        recipe = read_recipe(options.recipe)
        train(recipe, options.run, World(), options.workers, options.every, options.stop)
    except (UserError, Damaged) as error:
        print(printable_line(error), file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that is gone
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        line = f"{where}{error.strerror}; mend it and run again: training goes on from the last checkpoint"
        print(printable_line(line), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
