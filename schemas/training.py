"""What a training run measures at each step: rows for the catalog."""

from typing import TypedDict

from schemas.arrow import arrow_schema


class TrainingRow(TypedDict):
    stage: str
    step: int               # of the stage, from 1
    total: int              # steps of all stages so far
    rate: float             # learning rate of the step
    loss: float | None      # mean of the learned tokens since the last row; None if no answers are learned
    truth_loss: float | None    # mean of the views since the last row; None without a probe
    norm: float             # of the step's gradient, before it was clipped
    tokens: int             # since the last row, padding not counted
    fill: float             # share of the places that held them
    seconds: float          # since the last row


TRAINING = arrow_schema(TrainingRow)
