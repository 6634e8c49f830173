"""Finds values that are not finite in a step, which is then skipped: a loss, with one of its samples, or a gradient.

Weights that a run loads are checked when it begins, and those that a step makes after the step, so the weights before a
step are always finite.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from schemas.errors import UserError
from training.checkpoint import latest
from training.loader import Batch
from training.recipe import TrainingStage

USUAL = 1e3  # that a weight of a loss is at most; a larger one may be the fault


def names_of(model: nn.Module, probe: nn.Module) -> dict[nn.Parameter, str]:
    """The names of all weights of a run."""
    named = {parameter: name for name, parameter in model.named_parameters()}
    return named | {parameter: f"probe.{name}" for name, parameter in probe.named_parameters()}


def bad_loss(losses: Sequence[Tensor], micros: Sequence[Batch]) -> str | None:
    """The first loss that is not finite. `losses` are those of the micro-batches that have samples, float32 [2] each:
    of answers and of truth."""
    number = next((number for number, sums in enumerate(losses) if not sums.isfinite().all()), None)
    if number is None:
        return None
    read = [batch for batch in micros if any(batch.samples)]
    what = "truth" if losses[number][0].isfinite() else "answers"
    sample = next(name for pack in read[number].samples for name in pack)
    return f"the loss of the {what} of {sample} and others"


def bad_gradient(names: Mapping[nn.Parameter, str], learned: Sequence[nn.Parameter]) -> str:
    """The first weight whose gradient is not finite."""
    wrong = (weight for weight in learned if weight.grad is not None and not weight.grad.isfinite().all())
    weight = next(wrong, None)
    return "the norm of the gradient" if weight is None else f"the gradient of {names[weight]}"


def diverged(stage: TrainingStage, step: int, what: str, run: Path) -> str:
    """A line that says that `what` is not finite in the step after `step`, and names the run's last good checkpoint."""
    what = f"{what} is not finite at step {step + 1}; the weights before it are finite"
    return _line(stage, f"{what}, as they came in: no step of the stage is done" if not step else what, run, step > 0)


def check_weights(
    stage: TrainingStage, step: int, names: Mapping[nn.Parameter, str], learned: Sequence[nn.Parameter], run: Path
) -> str | None:
    """A line about a weight that is not finite after a step, before such weights replace a checkpoint."""
    if nn.utils.get_total_norm(learned, math.inf).isfinite():
        return None
    broken = next(names[weight] for weight in learned if not weight.isfinite().all())
    return _line(stage, f"{broken} is not finite after step {step}", run)


def check_loaded(model: nn.Module, where: str) -> None:
    """Raises `UserError` if a weight that came in is not finite."""
    if broken := next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None):
        raise UserError(f"{where}: {broken} holds numbers that are not finite; choose other weights")


def _line(stage: TrainingStage, what: str, run: Path, stepped: bool = True) -> str:
    good = latest(run)
    goes_on = f"the last good checkpoint is {good}" if good else "no checkpoint was written yet"
    fix = f"choose a rate below {stage.rate:g}" if stepped else "choose other weights or samples to begin with"
    if stepped and stage.rate * stage.weight_decay > 1:  # decay alone then takes more than a whole weight a step
        fix += f", or a weight_decay below {stage.weight_decay:g}"
    large = [key for key in ("answers", "truth", "beta") if (getattr(stage, key) or 0) > USUAL]
    fix += "".join(f", or {key} below {getattr(stage, key):g}" for key in large)
    return f"stages.{stage.name}: {what}; {fix}; {goes_on}"
