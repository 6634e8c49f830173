"""The loss of held-out samples, measured as a stage goes on: the same on any number of ranks.

The same packs are measured each time, one at a time; their sums are added in one order, whoever made them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from fsspec.implementations.local import LocalFileSystem
from torch.utils.data import DataLoader

from schemas.errors import UserError
from training.dpo import Pairs
from training.learner import Learner
from training.loader import Batch, Mixture
from training.meter import Meter, Values, values_of
from training.model import VisionLanguageModel
from training.probe import Probe
from training.recipe import TrainingStage
from training.shards import Shard, Shards
from training.shuffle import Cut
from training.world import World

KEY = 16  # characters of a sample's key
MOST_SHARDS = 2_000  # whose indexes are read to find held-out samples in them


class HeldOut:
    """The held-out samples of a stage, and how the model does on them."""

    def __init__(
        self, stage: TrainingStage, model: VisionLanguageModel, probe: Probe, query: int,
        samples: Mixture | Pairs, run: Path, world: World, workers: int, begins: bool,
    ):  # fmt: skip
        assert stage.held_out
        self.stage, self.samples, self.world, self.workers = stage, samples, world, workers
        self.every, self.packs = stage.held_out.every, min(stage.held_out.packs, int(samples.order.total))
        references = run / f"references-{stage.name}-held-out-{self.packs}-{samples.identity[:12]}.json"
        if stage.beta and not begins and not references.exists():
            raise UserError(
                f"stages.{stage.name}.held_out: is another than the stage began with, and its references cannot be "
                f"made any more, since the model has changed; put it back, or leave it out"
            )
        self.learner = Learner(
            stage, model, probe, query, samples, references, world, begins, at_once=1, most=self.packs,
        )  # fmt: skip

    def is_due(self, step: int, ends: int) -> bool:
        """Whether the samples are to be measured after a step."""
        return step % self.every == 0 or step == ends

    @torch.no_grad()
    def measure(self) -> Values:
        """The means of all held-out packs, see `training.meter.values_of`."""
        world = self.world
        cuts = [Cut(0, number, number + 1, True) for number in range(world.rank, self.packs, world.ranks)]
        batches = DataLoader(
            self.samples, batch_size=None, sampler=cuts, num_workers=self.workers, collate_fn=_as_it_is,
            generator=torch.Generator(),
        )  # fmt: skip
        of_packs = torch.zeros(self.packs, len(Meter(self.stage, world.device).sums), dtype=torch.float64)
        of_packs = of_packs.to(world.device)
        for cut, batch in zip(cuts, batches, strict=False):
            if not any(batch.samples):
                continue
            meter, counts = Meter(self.stage, world.device), self.learner.counts(batch)
            meter.add(batch, self.learner.losses(batch.to(world.device)), counts)
            of_packs[cut.start] = meter.sums
        return values_of(self.stage, world.sum(of_packs).sum(0).tolist())


def _as_it_is(batch: Any) -> Batch:
    return batch


def overlap(held_out: Sequence[Shards], trained: Sequence[Shards]) -> int:
    """How many of the held-out samples are trained on too, by their keys.

    Equal shards are found by their digests; beyond `MOST_SHARDS`, and in object stores, no more than these are.
    """
    known = {shard.entry["sha256"] for shards in trained for shard in shards.shards}
    equal = sum(len(shard) for shards in held_out for shard in shards.shards if shard.entry["sha256"] in known)
    every = [*held_out, *trained]
    local = all(isinstance(shards.fs, LocalFileSystem) for shards in every)
    if not local or sum(len(shards.shards) for shards in every) > MOST_SHARDS:
        return equal
    names = pa.concat_arrays([_keys(shard) for shards in held_out for shard in shards.shards])
    trained_keys = pa.chunked_array([_keys(shard) for shards in trained for shard in shards.shards])
    known_keys = pc.call_function("is_in", [names], pc.SetLookupOptions(trained_keys))
    return pc.call_function("sum", [known_keys]).as_py() or 0


def _keys(shard: Shard) -> pa.Array:
    """The keys of a shard's samples; its whole index is not kept in memory."""
    (names,) = shard.columns(["sample"])
    return pc.call_function("utf8_slice_codeunits", [names], pc.SliceOptions(0, KEY))
