"""Packs of a shard set, planned once: `python -m training.pack_plan ROOT SET --tokenizer FOLDER`.

Shards are planned together in units of about 10,000 samples, since the last pack of a unit is not full: in units of
1,000 captions that alone wastes a percent. The plan of a unit is a side file, named by everything that it depends on:

    <root>/shards/packs/2048-64-llama.cpp-448-<settings>/<set>-<unit>-<digest of the shards>.arrows

So a plan for other shards or another tokenizer is never used by mistake, and ranks that plan at the same time write the
same files. The folder is a cache, and can be deleted; `shardmill clean` removes plans for releases that are gone. Where
it cannot be written (a read-only disk, an object store), the caller names another folder.

A sample that cannot be packed is listed with its reason. A sample that was damaged is left out, even after its shard is
repaired, until the unit is planned again: with `--strict`, or after its side file was removed.
"""

import json
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from fsspec.implementations.local import LocalFileSystem
from torch.utils.data import DataLoader, Dataset

from schemas.errors import UserError, answered
from schemas.printable import printable_line
from schemas.shards import PACKS, Damaged, units_of
from schemas.slices import PLANS
from training.layout import SampleRejected
from training.options import at_least, program
from training.pack_files import (
    NO_PACK,
    PLANNED,
    Counts,
    PlannedSample,
    SideFile,
    open_side_file,
    write_side_file,
)
from training.packs import plan_packs
from training.samples import SampleEncoder, Slicing
from training.shards import Shard, Shards
from training.tokenizer import Tokenizer

VERSION = 2  # to be raised when equal shards and settings get other packs


@dataclass(frozen=True)
class PlannedSet:
    """The packs of a set."""

    files: Sequence[SideFile]  # in order

    @cached_property
    def ends(self) -> np.ndarray:
        """For each file, the number of the first pack after its last one."""
        return np.cumsum([file.counts["packs"] for file in self.files], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, pack: int) -> list[PlannedSample]:
        """The samples of a pack."""
        pack = range(len(self))[pack]
        file = self.files[number := int(np.searchsorted(self.ends, pack, side="right"))]
        return file.pack(pack - int(self.ends[number]) + file.counts["packs"])

    def lost(self) -> Iterator[PlannedSample]:
        """The samples that are in no pack."""
        return (row for file in self.files if file.counts["reasons"] for row in file.pack(NO_PACK))

    @cached_property
    def counts(self) -> Counts:
        """The counts of the whole set."""
        packs, tokens, samples = (sum(f.counts[what] for f in self.files) for what in ("packs", "tokens", "samples"))
        reasons = sum((Counter(file.counts["reasons"]) for file in self.files), Counter())
        return Counts(packs=packs, tokens=tokens, samples=samples, reasons=dict(sorted(reasons.items())))


class PlanUnit(NamedTuple):
    """Shards that are planned together, by number in the set; and the path of their side file."""

    shards: tuple[int, ...]
    path: Path


def plan_set(
    shards: Shards,
    encoder: SampleEncoder,
    cache: str | Path | None = None,
    *,
    workers: int = 0,
    turn: tuple[int, int] = (0, 1),
    strict: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> PlannedSet:
    """The packs of a set; units without a plan are planned first, by `workers` processes.

    `cache` is a folder to write to instead of the shards' own. `turn` is (rank, ranks): each rank begins at another
    unit, and skips units that other ranks have planned by then. `progress` is called with the number of units done and
    of units to do. With `strict`, units with damaged samples are planned again. Raises `UserError` for a sample that is
    still damaged, and if side files cannot be written; `Damaged` for an index, by its name.
    """
    units = list(_units(shards, encoder, cache))
    first = turn[0] * len(units) // turn[1]
    missing = deque(unit for unit in units[first:] + units[:first] if not _is_planned(unit, strict))
    if missing:
        _plan(missing, _Measure(shards, encoder), workers, strict, progress)
    return PlannedSet([cast(SideFile, open_side_file(unit.path)) for unit in units])  # all are planned by now


def _units(shards: Shards, encoder: SampleEncoder, cache: str | Path | None) -> Iterator[PlanUnit]:
    local = isinstance(shards.fs, LocalFileSystem)
    settings = sha256(json.dumps([VERSION, encoder.settings()], sort_keys=True).encode()).hexdigest()[:12]
    name = f"{encoder.length}-{encoder.queries}-{encoder.slicing.plan}-{encoder.slicing.side}-{settings}"
    if not local and cache is None:
        raise UserError(f"{shards.folder}: packs are planned into a local folder; name one as cache")
    folders = [Path(shards.folder, PACKS, name)] if local else []
    folders += [Path(cache, name)] if cache is not None else []
    for places, name in units_of(shards.card):
        existing = [folder / name for folder in folders if (folder / name).exists()]
        yield PlanUnit(places, existing[0] if existing else folders[-1] / name)


def _is_planned(unit: PlanUnit, strict: bool) -> bool:
    file = open_side_file(unit.path)
    return file is not None and not (strict and "damaged" in file.counts["reasons"])


# Planning


@dataclass(frozen=True)
class _Measure(Dataset):
    """The shards of a set. An item is the table of a shard's samples and their lengths, or the damage to its index."""

    shards: Shards
    encoder: SampleEncoder

    def __getitem__(self, number: int) -> pa.Table | Damaged:
        try:
            return measure(self.shards.shards[number], self.encoder)
        except Damaged as damaged:  # if a worker raised it, it would arrive as a message of many lines
            return damaged


def _plan(
    missing: deque[PlanUnit], measure: _Measure, workers: int, strict: bool, progress: Callable[[int, int], None]
) -> None:
    """Makes the missing side files. Workers measure shards in parallel, a few ahead of the unit that is packed."""
    total, pending = len(missing), deque[PlanUnit]()

    def shard_numbers() -> Iterator[int]:
        while missing:
            unit = missing.popleft()
            if not _is_planned(unit, strict):
                _make_folder(unit.path.parent)
                pending.append(unit)
                yield from unit.shards

    loader = DataLoader(
        measure, batch_size=None, sampler=shard_numbers(), num_workers=workers, collate_fn=_as_it_is,
        generator=torch.Generator(),
    )  # fmt: skip
    measured = iter(loader)
    for table in measured:
        unit = pending.popleft()
        tables = [table, *islice(measured, len(unit.shards) - 1)]
        for damaged in tables:
            if isinstance(damaged, Damaged):
                raise damaged
        table = pa.concat_tables(tables)
        if strict and (damaged := table.filter(pc.call_function("equal", [table["reason"], pa.scalar("damaged")]))):
            raise UserError(f"{measure.shards.folder}/{damaged['detail'][0]}")
        try:
            write_side_file(unit.path, packed(table, measure.encoder.length))
        except IsADirectoryError as error:
            raise UserError(f"{unit.path}: cannot be written: {error.strerror}; remove it") from None
        progress(total - len(missing) - len(pending), total)


def _as_it_is(measured: Any) -> pa.Table | Damaged:
    return measured


def _make_folder(folder: Path) -> None:
    """Makes a folder. Raises `UserError` if side files cannot be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: packs cannot be planned into it: {error.strerror}; name another as cache") from None


def measure(shard: Shard, encoder: SampleEncoder) -> pa.Table:
    """A shard's samples with their lengths or reasons: rows of a side file, not yet in packs."""
    measured = []
    for sample in shard.each():
        try:
            if isinstance(sample, Damaged):
                raise sample
            measured.append((len(encoder.tokens(sample).ids), None, None))
        except SampleRejected as rejected:
            measured.append((0, rejected.reason, rejected.detail))
        except Damaged as damaged:
            measured.append((0, "damaged", str(damaged).rpartition("/")[2]))  # without the folder
    tokens, reasons, details = zip(*measured, strict=True) if measured else ((), (), ())
    names, starts, sizes, members = shard.index
    columns = {
        "pack": [NO_PACK] * len(measured), "tokens": tokens, "sample": names,
        "tar": [shard.entry["tar"]] * len(measured), "byte_offset": starts, "size": sizes, "members": members,
        "reason": reasons, "detail": details,
    }  # fmt: skip
    return pa.Table.from_arrays([pa.array(columns[column.name], column.type) for column in PLANNED], schema=PLANNED)


def packed(table: pa.Table, length: int) -> pa.Table:
    """Measured samples in the order of their packs; those that are in no pack come first."""
    lost = table["reason"].is_valid().to_numpy()
    fit = np.flatnonzero(~lost)
    packs = plan_packs(table["tokens"].to_numpy()[fit], length)
    rows = np.concatenate([np.flatnonzero(lost), fit[packs.samples]])
    numbers = np.concatenate([np.full(lost.sum(), NO_PACK), np.repeat(np.arange(len(packs)), np.diff(packs.offsets))])
    return table.take(rows).set_column(0, PLANNED.field("pack"), pa.array(numbers, pa.int64()))


def main() -> None:
    parser = program("training.pack_plan", "Plans the packs of a shard set.")
    parser.add_argument("root", help="folder or URL of a corpus")
    parser.add_argument("set", help="a published shard set")
    parser.add_argument("--tokenizer", required=True, help="folder with tokenizer.json")
    parser.add_argument("--length", type=at_least(1), default=2048, help="tokens in a pack")
    parser.add_argument("--queries", type=at_least(1), default=64, help="embeddings of a view")
    parser.add_argument("--slicing", default="llama.cpp", choices=PLANS, help="how images are sliced")
    parser.add_argument("--side", type=at_least(1), default=448, help="pixels of an image that is not sliced")
    parser.add_argument("--cache", help="folder to write to; by default that of the shards")
    parser.add_argument("--workers", type=at_least(0), default=os.cpu_count(), help="number of processes")
    parser.add_argument("--strict", action="store_true", help="stop at a damaged sample instead of leaving it out")
    options = parser.parse_args()
    with answered(OSError, Damaged):
        slicing = Slicing(options.slicing, options.side)
        encoder = SampleEncoder(Tokenizer(options.tokenizer), options.queries, options.length, slicing)
        shards = Shards(options.root, options.set)
        planned = plan_set(shards, encoder, options.cache, workers=options.workers, strict=options.strict)
    for row in planned.lost():
        print(printable_line(f"{row['sample']} of {row['tar']}: {row['reason']}: {row['detail']}"))
    total = planned.counts
    filled = total["tokens"] / (total["packs"] * encoder.length) if total["packs"] else 0
    left_out = ", ".join(f"{count} {reason}" for reason, count in total["reasons"].items())
    print(f"{total['samples']} samples in {total['packs']} packs, {filled:.2%} full; left out: {left_out or 'none'}")


if __name__ == "__main__":
    main()
