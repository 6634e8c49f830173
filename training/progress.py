"""How far a stage is, in steps and in packs, and the learning rate of its next step."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from training.recipe import TrainingStage


@dataclass
class Progress:
    """The steps of a stage that are done, and the packs that they trained.

    A stage that counts epochs ends behind their last pack, and its schedule counts packs: so both stay right if its
    batch is changed on the way. In a stage that counts steps, only they matter.
    """

    stage: TrainingStage
    epoch: Fraction  # packs of an epoch
    step: int = 0
    trained: int = 0  # packs

    @property
    def packs(self) -> int | None:
        """The packs that the stage's epochs mean; None if it counts steps."""
        return None if self.stage.epochs is None else ceil(Fraction(str(self.stage.epochs)) * self.epoch)

    @property
    def ends(self) -> int:
        """The number of the last step."""
        if self.packs is None:
            return self.stage.steps or 0
        return self.step + ceil(max(0, self.packs - self.trained) / self.stage.batch)

    @property
    def all(self) -> int:
        """The packs that the whole stage trains: whole batches, so they may be more than its epochs mean."""
        return self.trained + (self.ends - self.step) * self.stage.batch

    @property
    def epochs(self) -> float:
        """The epochs that these packs are."""
        return float(self.all / self.epoch)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        if self.packs is None:
            return self.stage.rate_at(self.step)
        batch = self.stage.batch
        return self.stage.rate_at(self.trained / batch, ceil(self.packs / batch))

    def advance(self) -> None:
        """Counts a step."""
        self.step += 1
        self.trained += self.stage.batch
