"""Trains a model by a recipe, one stage after another: `python -m training.train RECIPE RUN`.

On several GPUs: `torchrun --nproc-per-node 8 -m training.train …`. If it is run again, it resumes from its last
checkpoint with the same next step; on a CPU bit for bit. The run's folder holds the last checkpoint, `log.parquet` and
`log.jsonl`, and `chart.svg`.
"""

import errno
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from schemas.errors import UserError, answered, one_line
from schemas.printable import printable_line
from schemas.shards import Damaged
from training.chart import draw
from training.checkpoint import load_run, save_run
from training.divergence import bad_gradient, bad_loss, check_weights, diverged, names_of
from training.held_out import HeldOut
from training.learner import Learner, make_optimizers
from training.loader import Batch, load
from training.meter import Meter, line_of, row_of
from training.opening import open_run
from training.options import at_least, between, program
from training.recipe import Recipe, read_recipe
from training.run_lock import hold
from training.run_log import RunLog
from training.stage_table import lines_of
from training.stopping import Stopping, asked_to_stop
from training.tensorboard import TensorBoard
from training.world import World

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room
GOES_ON = "run it again: training goes on from the last checkpoint"
SHOWN = 10.0  # seconds between lines of output


def train(
    recipe: Recipe,
    run: Path,
    world: World,
    workers: int = 0,
    every: float = 300.0,
    stop: int | None = None,
    tensorboard: bool = False,
) -> None:
    """Trains the recipe's stages, from the run's last checkpoint on, while it holds the run's folder.

    A checkpoint is written every `every` seconds and at the end of a stage. `stop` ends the run after that many steps
    of all stages together; Ctrl-C or SIGTERM end it after the step that it is in, with exit code 130 or 143.

    Raises `UserError` if another trainer holds the folder, or if the run was trained by another recipe, see
    `training.run_state`.
    """
    with ExitStack() as held:
        check = held.enter_context(hold(run)) if world.rank == 0 else lambda: None
        board = held.enter_context(closing(TensorBoard(run))) if tensorboard and world.rank == 0 else None
        stopping = held.enter_context(asked_to_stop())
        _train(recipe, run, world, workers, every, stop, board, check, stopping)


def _train(
    recipe: Recipe, run: Path, world: World, workers: int, every: float, stop: int | None, board: TensorBoard | None,
    check_held: Callable[[], None], stopping: Stopping,
) -> None:  # fmt: skip
    device = world.device
    tokenizer, model, probe, folder, state, settled, stages = world.together(lambda: open_run(recipe, run, world))
    names = [stage.name for stage in recipe.stages]
    done = began = state["total"]
    if stop is not None and done >= stop:
        if world.rank == 0:
            print(f"{run}: has done {done:,} steps; --stop {stop} trains no more", flush=True)
        return
    log = RunLog(run, done)
    if board:
        board.begin(done)
    releases = {*state.get("releases", ())}  # of shard sets, that the model was trained on

    for stage, samples, held_out_samples, progress, table, entry, said in stages:
        step, trained, ends = progress.step, progress.trained, progress.ends
        optimizers = make_optimizers(stage, model, probe)
        if step and folder:
            load_run(folder, model, {"probe": probe}, optimizers)
        releases |= {shards.release for shards in samples.shards}
        if table:
            log.tables[stage.name] = table
            log.write()
            for line in (*lines_of(table), *([f"{stage.name}  warning: {said}"] if said else [])):
                print(line, flush=True)
        references = run / f"references-{stage.name}-{samples.identity[:12]}.json"
        learner = Learner(stage, model, probe, tokenizer.marks.query, samples, references, world, begins=step == 0)
        held_out = held_out_samples and HeldOut(
            stage, model, probe, tokenizer.marks.query, held_out_samples, run, world, workers, begins=step == 0
        )
        learned = [weight for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]]
        weight_names = names_of(model, probe)
        batches = load(
            samples, stage.batch, micro=stage.micro, rank=world.rank, ranks=world.ranks, start=step, stop=ends,
            trained=trained, workers=workers, pin=device.type == "cuda",
        )  # fmt: skip
        meter = Meter(stage, device)

        def note(norm: float, rate: float, seconds: float, measures: bool) -> None:
            """Adds a row to the log, if it `measures` with the held-out samples."""
            values, measured = meter.read(world), held_out.measure() if held_out and measures else {}
            row = row_of(stage, progress.step, done, rate, norm, seconds, values, measured)
            log.add(row)
            if world.rank == 0:
                print(line_of(row, ends), flush=True)
            if board:
                board.add(row)

        if held_out and not step:
            note(0.0, progress.rate, 0.0, True)
        saved = shown = time.monotonic()
        idle = False  # whether a step trained nothing
        stopping.waits = True

        for micros in in_steps(batches):
            of_losses: list[Tensor] = []
            # A micro-batch's weight depends on how much is learned in the whole step, on all ranks.
            counts = [learner.counts(batch) for batch in micros]
            of_step = world.sum(torch.stack(counts).sum(0).to(device)).clamp(min=1)
            for batch, counted in zip(micros, counts, strict=True):
                for lost in batch.lost:
                    line = f"{stage.name}  {lost.sample} of {lost.tar}: {lost.reason}: {lost.detail}"
                    print(printable_line(line), flush=True)
                if not any(batch.samples):
                    continue
                losses = learner.losses(batch.to(device, non_blocking=True))
                of_losses.append(losses.learned.detach())
                if losses.learned.requires_grad:  # not if only the vision encoder is trained, and there is no image
                    (losses.learned / of_step).sum().backward()
                meter.add(batch, losses, counted)
            world.sum_gradients(learned)
            if not idle and all(weight.grad is None for weight in learned):
                idle = True
                if world.rank == 0:
                    print(f"{stage.name}  warning: step {progress.step + 1} trains nothing: no sample is read, or none "
                          f"has an image for {', '.join(stage.trains)}", flush=True)  # fmt: skip
            norm = nn.utils.get_total_norm([weight.grad for weight in learned if weight.grad is not None])
            if not norm.isfinite():
                if world.rank == 0:
                    log.write()
                    draw(run, log.rows)
                found = world.first(bad_loss(of_losses, micros)) or bad_gradient(weight_names, learned)
                world.fail(diverged(stage, progress.step, found, run))
            nn.utils.clip_grads_with_norm_(learned, stage.clip, norm)
            rate = progress.rate
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                optimizer.zero_grad()
            progress.advance()
            if line := check_weights(stage, progress.step, weight_names, learned, run):
                world.fail(line)
            done, now = done + 1, time.monotonic()
            asked = stopping.signal
            if world.ranks > 1:  # all ranks use the clock of the first, and its signals
                clock = torch.tensor([now - shown, now - saved, asked], dtype=torch.float64, device=device)
                dist.broadcast(clock, 0)
                shown, saved, asked = now - clock[0].item(), now - clock[1].item(), int(clock[2].item())
            last = progress.step == ends or done == stop or asked > 0
            measures = held_out is not None and held_out.is_due(progress.step, ends)
            if last or measures or now - shown > SHOWN:
                note(float(norm), rate, now - shown, measures)
                shown = time.monotonic()
            if last or now - saved > every:
                saved = now
                if world.rank == 0:
                    state = {"stage": stage.name, "step": progress.step, "total": done, "mixture": samples.identity}
                    state |= {"packs": progress.trained, "releases": sorted(releases)} | settled
                    state["stages"] = settled["stages"] = [*settled["stages"][: names.index(stage.name)], entry]
                    check_held()
                    log.write()  # first: a resumed run drops the rows of steps after its checkpoint
                    draw(run, log.rows)
                    save_run(run, f"{done:07d}", model, tokenizer, {"probe": probe}, optimizers, state)
            if asked:
                if world.rank == 0:
                    print(f"stopped after step {progress.step:,} of stage {stage.name}; {GOES_ON}", file=sys.stderr)
                sys.exit(128 + asked)
            if done == stop:
                return
        stopping.waits = False
    if done == began and world.rank == 0:
        print(f"{run}: has done all {done:,} steps of its stages; nothing is left to train", flush=True)


def in_steps(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Groups micro-batches by step."""
    micros: list[Batch] = []
    for batch in batches:
        micros.append(batch)
        if batch.last:
            yield micros
            micros = []


def main() -> None:
    parser = program("training.train", str(__doc__).split(":")[0] + ".")
    parser.add_argument("recipe", help="recipe, a TOML file: see training.recipe")
    parser.add_argument("run", type=Path, help="folder of the run; an existing run is resumed")
    parser.add_argument("--threads", type=at_least(0), default=0, help="threads of torch; all cores if 0")
    parser.add_argument("--workers", type=at_least(0), default=1, help="number of processes that read samples")
    parser.add_argument("--every", type=between(0), default=300, help="seconds between checkpoints")
    parser.add_argument("--stop", type=at_least(1), help="stop after this many steps of all stages together")
    parser.add_argument("--tensorboard", action="store_true", help="write the log for TensorBoard, too")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with answered(Damaged, OSError):
        try:
            world = World()
            recipe = world.together(lambda: read_recipe(options.recipe))
            train(recipe, options.run, world, options.workers, options.every, options.stop, options.tensorboard)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UserError(f"{one_line(error)}; {GOES_ON}") from None
        except KeyboardInterrupt:
            print(f"interrupted; {GOES_ON}", file=sys.stderr)
            sys.exit(130)


if __name__ == "__main__":
    main()
