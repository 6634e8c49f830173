"""What a stage measures: means over batches, as values for a row of the log and as a line for people."""

from typing import Any

import torch
from torch import Tensor

from schemas.training import TrainingRow
from training.learner import Losses
from training.loader import Batch
from training.packs import PADDING
from training.recipe import TrainingStage
from training.world import World

Values = dict[str, Any]


class Meter:
    """Sums over batches since it was last read. All values are sums, so that ranks only add theirs."""

    def __init__(self, stage: TrainingStage, device: torch.device):
        self.stage = stage
        # Losses of answers and truth; how much was learned of both; tokens and places; margins and pairs won
        self.sums = torch.zeros(8, dtype=torch.float64, device=device)

    def add(self, batch: Batch, losses: Losses, counts: Tensor) -> None:
        """Adds a batch; `counts` is how much was learned of it, see `Learner.counts`."""
        device = self.sums.device
        real = (batch.documents != PADDING).sum()
        tokens = torch.stack([real, torch.tensor(batch.documents.numel())]).to(device)
        self.sums += torch.cat([losses.learned.detach(), counts.to(device), tokens, losses.pairs]).double()

    def read(self, world: World) -> Values:
        """Returns the means of all ranks, and begins again."""
        values = values_of(self.stage, world.sum(self.sums).tolist())
        self.sums.zero_()
        return values


def values_of(stage: TrainingStage, sums: list[float]) -> Values:
    """The columns of `TrainingRow` that a meter's sums give."""
    answers, truth, learned, views, tokens, places, margins, won = sums
    pairs = bool(stage.beta and learned)
    return {
        "loss": answers / learned / stage.answers if learned else None,
        "truth_loss": truth / views / stage.truth if views else None,
        "tokens": int(tokens), "fill": tokens / max(1, places),
        "margin": margins / learned if pairs else None, "won": won / learned if pairs else None,
    }  # fmt: skip


def row_of(
    stage: TrainingStage, step: int, total: int, rate: float, norm: float, seconds: float, values: Values,
    held_out: Values,
) -> TrainingRow:  # fmt: skip
    """A row of the log; `held_out` is empty where no held-out samples were measured."""
    measured: Values = {f"held_out_{name}": held_out.get(name) for name in ("loss", "truth_loss", "margin", "won")}
    return TrainingRow(
        stage=stage.name, step=step, total=total, rate=rate, norm=norm, seconds=seconds, **values, **measured,
    )  # fmt: skip


def line_of(row: TrainingRow, ends: int) -> str:
    """A row as a line for people."""
    parts = [f"{row['stage']} {row['step']}/{ends}"]
    if row["step"]:
        parts += [f"{name} {row[name]:.4f}" for name in ("loss", "truth_loss", "margin") if row[name] is not None]
        parts += [f"won {row['won']:.0%}"] if row["won"] is not None else []
    for name in ("held_out_loss", "held_out_truth_loss", "held_out_margin"):
        parts += [f"{name.replace('held_out_', 'held out ')} {row[name]:.4f}"] if row[name] is not None else []
    parts += [f"held out won {row['held_out_won']:.0%}"] if row["held_out_won"] is not None else []
    if row["step"]:
        speed = row["tokens"] / max(row["seconds"], 1e-9)
        parts += [f"rate {row['rate']:.2e}", f"norm {row['norm']:.2f}", f"{speed:,.0f} tokens/s"]
        parts += [f"fill {row['fill']:.1%}"]
    return "  ".join(parts)
