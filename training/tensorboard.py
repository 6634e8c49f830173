"""The rows of a run's log for TensorBoard, in the folder `tensorboard` of the run: the extra `[tensorboard]`."""

from functools import partial
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.extras import not_installed
from schemas.training import TrainingRow

FOLDER = "tensorboard"
COLUMNS = (
    "loss", "truth_loss", "held_out_loss", "held_out_truth_loss", "margin", "held_out_margin", "won", "held_out_won",
    "rate", "norm", "fill",
)  # fmt: skip


class TensorBoard:
    """Writes rows as they are measured. Rows of steps behind `done`, of a run that was killed, are hidden.

    Raises `UserError` if the package is not installed.
    """

    def __init__(self, run: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(not_installed("tensorboard", "tensorboard")) from None
        self.writer: Any = None
        self.open = partial(SummaryWriter, str(run / FOLDER))

    def begin(self, done: int) -> None:
        """Hides what was written of steps after `done`, by a run that was killed."""
        self.writer = self.open(purge_step=done + 1)

    def add(self, row: TrainingRow) -> None:
        for column in COLUMNS:
            if row[column] is not None and (row["step"] or column.startswith("held_out")):
                self.writer.add_scalar(column, row[column], row["total"])
        if row["step"] and row["seconds"]:
            self.writer.add_scalar("tokens_a_second", row["tokens"] / row["seconds"], row["total"])

    def close(self) -> None:
        if self.writer:
            self.writer.close()
