"""Finds what is not finite in a step: a loss, with a sample of it, or the gradient of a weight. The step is skipped."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from schemas.errors import UserError
from training.loader import Batch
from training.recipe import TrainingStage


def names_of(model: nn.Module, probe: nn.Module) -> dict[nn.Parameter, str]:
    """The names of all weights of a run."""
    named = {parameter: name for name, parameter in model.named_parameters()}
    return named | {parameter: f"probe.{name}" for name, parameter in probe.named_parameters()}


def diverged(
    stage: TrainingStage, step: int, losses: Sequence[Tensor], micros: Sequence[Batch],
    names: Mapping[nn.Parameter, str], learned: Sequence[nn.Parameter], good: Path | None,
) -> str:  # fmt: skip
    """A line that names what is not finite, and the last good checkpoint. `losses` are those of the micro-batches that
    have samples, float32 [2] each: of answers and of truth."""
    number = next((number for number, sums in enumerate(losses) if not sums.isfinite().all()), None)
    if number is not None:
        read = [batch for batch in micros if any(batch.samples)]
        what = "truth" if losses[number][0].isfinite() else "answers"
        sample = next(name for pack in read[number].samples for name in pack)
        where = f"the loss of the {what} of {sample} and others"
    else:
        wrong = (weight for weight in learned if weight.grad is not None and not weight.grad.isfinite().all())
        weight = next(wrong, None)
        where = "the norm of the gradient" if weight is None else f"the gradient of {names[weight]}"
    where += f" is not finite at step {step + 1}; the weights before it are finite"
    return _line(stage, where, good)


def check_weights(
    stage: TrainingStage, step: int, names: Mapping[nn.Parameter, str], learned: Sequence[nn.Parameter],
    good: Path | None,
) -> None:  # fmt: skip
    """Raises `UserError` if a step made a weight that is not finite, before such weights replace a checkpoint."""
    if broken := next((names[weight] for weight in learned if not weight.isfinite().all()), None):
        raise UserError(_line(stage, f"{broken} is not finite after step {step}", good))


def _line(stage: TrainingStage, what: str, good: Path | None) -> str:
    goes_on = f"the last good checkpoint is {good}" if good else "no checkpoint was written yet"
    return f"stages.{stage.name}: {what}; choose a rate below {stage.rate:g}; {goes_on}"
