"""What a stage learns: its losses, and the optimizers of the weights that it trains."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from schemas.errors import UserError
from training.dpo import Pairs, log_probabilities, loss_of, margins_of, no_references, references
from training.layout import IGNORED
from training.loader import Batch, Mixture
from training.model import VisionLanguageModel, blocks_of, document_mask
from training.pixels import LEVELS
from training.probe import Probe, Truths
from training.recipe import TrainingStage
from training.world import World


class Losses(NamedTuple):
    """Of a batch, summed."""

    learned: Tensor  # float32 [2]: of answers and of truth, times the stage's weights
    pairs: Tensor  # float32 [2]: the margins of the pairs of a DPO stage, and how many of them are above 0


class Learner:
    """The losses of a stage on samples.

    The `references` of a stage of pairs are a file, see `training.dpo.references`; they are computed for `at_once`
    pairs at a time, and for the first `most` pairs alone if it is given.
    """

    def __init__(
        self, stage: TrainingStage, model: VisionLanguageModel, probe: Probe, query: int, samples: Mixture | Pairs,
        file: Path, world: World, begins: bool, at_once: int | None = None, most: int | None = None,
    ):  # fmt: skip
        self.stage, self.model, self.probe, self.query = stage, model, probe, query
        self.truths = Truths(samples.shards) if stage.truth else None
        self.references, self.file = {}, file
        if isinstance(samples, Pairs):  # a stage of pairs
            self.references = references(
                file, samples, lambda batch: self.tokens(batch.to(world.device)), at_once or stage.micro,
                (world.rank, world.ranks), begins, most,
            )  # fmt: skip

    def precision(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, self.stage.precision == "bfloat16")

    def counts(self, batch: Batch) -> Tensor:
        """The amounts that a batch trains: tokens of answers, or pairs; and views."""
        learned = sum(map(len, batch.samples)) if self.stage.beta else int((batch.labels != IGNORED).sum())
        return torch.tensor([learned if self.stage.answers else 0, len(batch.grids) if self.stage.truth else 0])

    def losses(self, batch: Batch) -> Losses:
        """The losses of what `counts` counts."""
        sums, of_pairs = (torch.zeros(2, device=batch.ids.device) for _ in range(2))
        with self.precision():
            if self.truths is not None:
                seen, states = self.look(batch)
                truth = self.truths[(name for pack in batch.samples for name in pack)].to(seen.device)
                if len(truth.ground) != len(seen):
                    where = f"stages.{self.stage.name}.truth"
                    raise UserError(f"{where}: {len(seen)} views of {len(truth.ground)} samples; it needs one of each")
                told = self.probe.loss(seen, truth)
                if states is not None:
                    told = told + self.probe.patch_loss(states, batch.grids, truth)
                told = told * len(seen) * self.stage.truth
                sums = sums + torch.stack([torch.zeros_like(told), told])
            if not self.stage.answers:
                return Losses(sums, of_pairs)
            losses = self.tokens(batch, seen if self.truths is not None else None)
        if self.stage.beta:
            read = [number for number, names in enumerate(batch.samples) if names]
            start = torch.tensor([self._reference(name) for names in batch.samples for name in names])
            start = start.reshape(-1, 2).T.to(losses.device)
            margins = margins_of(log_probabilities(losses)[:, read], start, self.stage.beta)
            of_pairs = torch.stack([margins.sum(), (margins > 0).sum()]).detach()
            losses = loss_of(margins)
        answers = losses.sum() * self.stage.answers
        return Losses(sums + torch.stack([answers, torch.zeros_like(answers)]), of_pairs)

    def _reference(self, name: str) -> tuple[float, float]:
        if name not in self.references:
            raise no_references(self.file, f"lacks {name}")
        return self.references[name]

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
