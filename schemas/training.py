"""What a training run measures at each step: rows for the catalog; and a table of each stage at its start."""

from typing import NotRequired, TypedDict

from schemas.arrow import arrow_schema


class TrainingRow(TypedDict):
    stage: str
    step: int               # of the stage, from 1; 0 for what is measured of held-out samples before the first
    total: int              # steps of all stages so far
    rate: float             # learning rate of the step
    loss: float | None      # mean of the learned tokens since the last row; None if no answers are learned
    truth_loss: float | None    # mean of the views since the last row; None without a probe
    norm: float             # of the step's gradient, before it was clipped
    tokens: int             # since the last row, padding not counted
    fill: float             # share of the places that held them
    seconds: float          # since the last row; those of held-out samples are not counted
    margin: float | None    # mean of the pairs since the last row, times beta; None without pairs
    won: float | None       # share of these pairs whose margin is above 0
    held_out_loss: float | None         # the same of held-out samples, in rows in which they were measured
    held_out_truth_loss: float | None
    held_out_margin: float | None
    held_out_won: float | None


TRAINING = arrow_schema(TrainingRow)


class Counted(TypedDict):
    """How much there is of a set."""

    samples: int
    left_out: dict[str, int]    # reason -> samples
    packs: int              # or pairs
    tokens: int             # of these
    learned: int            # tokens of answers
    about: bool             # whether `learned` is taken from some packs of many


class SetTable(Counted):
    set: str                # name in [data]
    release: str            # that is read
    weight: float           # passes through it in an epoch


class Lengths(TypedDict):
    """How long the answers of pairs are."""

    pairs: int
    chosen_longer: int
    chosen_shorter: int
    chosen_tokens: float    # on average
    rejected_tokens: float


class StageTable(TypedDict):
    stage: str
    unit: str               # "packs", or "pairs" in a stage with beta
    steps: int
    batch: int
    length: int             # tokens that a sample may have
    packs: int              # or pairs, that the steps train
    epochs: float
    tokens: int             # that the steps train
    learned: int
    sets: list[SetTable]
    held_out: str | None    # name in [data]
    held_out_release: NotRequired[str | None]   # that is measured
    held_out_trained: int   # held-out samples that are trained on too
    lengths: Lengths | None     # of pairs
    cut: NotRequired[str | None]    # how images are cut, if the phone cuts them otherwise
