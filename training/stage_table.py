"""What a stage is about to train, counted before its first step: sets, samples, packs, tokens, and what is left out.

The counts are those of the plans; only tokens that are learned are not in them, and are counted in at most `COUNTED`
packs of a set, so that a table costs no second pass over a large set.
"""

from collections.abc import Iterator

import numpy as np

from schemas.training import Lengths, SetTable, StageTable
from training.dpo import Pairs
from training.loader import Mixture
from training.progress import Progress
from training.samples import Slicing

COUNTED = 64  # packs of a set whose learned tokens are counted; beyond, the rest is taken to be like them
TELLING = 2 / 3  # of the pairs: if in more of them the chosen answer is the longer, or the shorter, they teach length
FEWEST = 20  # pairs from which on that is more than chance


def table_of(
    samples: Mixture | Pairs, progress: Progress, releases: list[str], held_out_trained: int = 0,
    side: int | None = None, measured: str | None = None,
) -> StageTable:  # fmt: skip
    """The table of a stage that is at `progress`, of a model with images of `side` pixels on the phone; `measured` is
    the release of its held-out set."""
    stage = progress.stage
    counted = [samples.counted(number, COUNTED) for number in range(len(stage.sets))]
    sets = [
        SetTable(set=name, release=release, weight=weight, **counts)
        for (name, weight), release, counts in zip(stage.sets.items(), releases, counted, strict=False)
    ]
    passes = [progress.epochs * row["weight"] for row in sets]
    for row in sets:
        row["learned"] *= stage.answers > 0
    return StageTable(
        stage=stage.name, unit="pairs" if stage.beta else "packs", steps=progress.ends, batch=stage.batch,
        length=samples.encoder.limit, packs=progress.all,
        epochs=round(progress.epochs, 6),
        tokens=round(sum(row["tokens"] * times for row, times in zip(sets, passes, strict=False))),
        learned=round(sum(row["learned"] * times for row, times in zip(sets, passes, strict=False))), sets=sets,
        held_out=stage.held_out.set if stage.held_out else None, held_out_release=measured,
        held_out_trained=held_out_trained,
        lengths=lengths_of(np.concatenate(samples.lengths)) if isinstance(samples, Pairs) else None,
        cut=_cut(samples.encoder.slicing, side),
    )  # fmt: skip


def _cut(slicing: Slicing, side: int | None) -> str | None:
    """How images are cut, if it is not as the phone does: by llama.cpp's plan, with the side of the model's shape."""
    if side is None or (slicing.plan, slicing.side) == ("llama.cpp", side):
        return None
    return f"by {slicing.plan} with side = {slicing.side}; the phone cuts them by llama.cpp with side = {side}"


def lengths_of(lengths: np.ndarray) -> Lengths:
    """Counts pairs; `lengths` is int64 [pairs, 2 or more], the tokens of chosen and of rejected."""
    chosen, rejected = lengths[:, 0], lengths[:, 1]
    return Lengths(
        pairs=len(lengths), chosen_longer=int((chosen > rejected).sum()), chosen_shorter=int((chosen < rejected).sum()),
        chosen_tokens=float(chosen.mean()), rejected_tokens=float(rejected.mean()),
    )  # fmt: skip


def lines_of(table: StageTable) -> Iterator[str]:
    """The table as lines for people."""
    unit, stage = table["unit"], table["stage"]
    rows = [("set", "weight", "samples", "left out", unit, "tokens", "learned", "epochs")]
    for row in table["sets"]:
        rows.append((
            row["set"], f"{row['weight']:g}", f"{row['samples']:,}", f"{sum(row['left_out'].values()):,}",
            f"{row['packs']:,}", f"{row['tokens']:,}", f"{'~' * row['about']}{row['learned']:,}",
            f"{table['epochs'] * row['weight']:.2f}",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=False)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=False))]
        yield f"{stage}  {'  '.join(cells)}"
    now = ", from now on" * (table["packs"] != table["steps"] * table["batch"])  # its batch has changed
    about = "~" * any(row["about"] for row in table["sets"])
    yield (
        f"{stage}  {_counted(table['steps'], 'steps')}{now} of {_counted(table['batch'], unit)}: "
        f"{_counted(table['packs'], unit)}, "
        f"{table['epochs']:.2f} epochs, {table['tokens']:,} tokens, {about}{table['learned']:,} of them learned"
    )
    if measured := table.get("held_out_release"):
        yield f"{stage}  held out: {measured}"
    reasons = sorted({reason for row in table["sets"] for reason in row["left_out"]})
    left = {reason: sum(row["left_out"].get(reason, 0) for row in table["sets"]) for reason in reasons}
    if left:
        yield f"{stage}  left out: {', '.join(f'{number} {reason}' for reason, number in left.items())}"
    if number := left.get("too_long"):
        yield f"{stage}  too long for any pack, of at most {table['length']:,} tokens: {_counted(number, 'samples')}"
    yield from (f"{stage}  warning: {warning}" for warning in warnings_of(table))


def _counted(number: int, what: str) -> str:
    """A number of things: 1 pack, 2 packs."""
    return f"{number:,} {what.removesuffix('s') if number == 1 else what}"


def warnings_of(table: StageTable) -> Iterator[str]:
    """What is likely to be a mistake."""
    if both := table["held_out_trained"]:
        yield f"held_out: {both:,} samples of {table['held_out']} are trained on too, so their loss says too little"
    for row in table["sets"]:
        if table["epochs"] * row["weight"] * row["packs"] < 1:
            yield f"{row['set']}: the steps train one of its {table['unit']} at most, or none; give it a higher weight"
    for number, row in enumerate(table["sets"]):
        if same := [one["set"] for one in table["sets"][:number] if one["release"] == row["release"]]:
            yield f"{row['set']}: is the same set as {same[0]}, so its samples are trained as often as both say"
    if cut := table.get("cut"):
        yield f"images are cut {cut}; this is right for an early stage only"
    lengths = table["lengths"]
    if not lengths or lengths["pairs"] < FEWEST:
        return
    for what, number in (("longer", lengths["chosen_longer"]), ("shorter", lengths["chosen_shorter"])):
        if number > TELLING * lengths["pairs"]:
            yield (
                f"the chosen answer is the {what} one in {number / lengths['pairs']:.0%} of {lengths['pairs']:,} pairs "
                f"(above {TELLING:.0%}; {lengths['chosen_tokens']:.0f} and {lengths['rejected_tokens']:.0f} tokens on "
                f"average): they teach length; see length_balance in [pairs]"
            )
