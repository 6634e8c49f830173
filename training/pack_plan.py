"""Packs of a shard set, planned once: `python -m training.pack_plan ROOT SET --tokenizer FOLDER`.

Shards are planned together in units of about 10,000 samples, since the last pack of a unit is not full: in units of
1,000 captions that alone is a percent. What is planned stands in a side file a unit, named by all that it depends on:

    <root>/shards/packs/2048-64-llama.cpp-448-<settings>/<set>-<unit>-<digest of the shards>.arrows

So nothing that was planned for other shards or by another tokenizer is ever taken for it, and ranks that plan at once
write the same. The folder is a cache, and can be deleted; `shardmill clean` removes what was planned for releases that
are gone. Where it cannot be written (a read-only disk, an object
store), the caller names another.

A sample that cannot be packed is listed with its reason. One that was found damaged stays out, even when its shard is
mended, until the unit is planned again: by `--strict`, or after its side file was removed.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from fsspec.implementations.local import LocalFileSystem
from torch.utils.data import DataLoader, Dataset

from schemas.errors import UserError
from schemas.shards import PACKS, Damaged, units_of
from schemas.slices import PLANS
from training.layout import SampleRejected
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

VERSION = 1  # to be raised when equal shards and settings get other packs


@dataclass(frozen=True)
class PlannedSet:
    """The packs of a set."""

    files: Sequence[SideFile]  # in order

    @cached_property
    def ends(self) -> np.ndarray:
        """Number of the pack behind each file's last."""
        return np.cumsum([file.counts["packs"] for file in self.files], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, pack: int) -> list[PlannedSample]:
        """The samples of a pack."""
        pack = range(len(self))[pack]
        file = self.files[at := int(np.searchsorted(self.ends, pack, side="right"))]
        return file.pack(pack - int(self.ends[at]) + file.counts["packs"])

    def lost(self) -> Iterator[PlannedSample]:
        """The samples that are in no pack."""
        return (row for file in self.files if file.counts["reasons"] for row in file.pack(NO_PACK))

    @cached_property
    def counts(self) -> Counts:
        """Of the whole set."""
        packs, tokens, samples = (sum(f.counts[what] for f in self.files) for what in ("packs", "tokens", "samples"))
        reasons = sum((Counter(file.counts["reasons"]) for file in self.files), Counter())
        return Counts(packs=packs, tokens=tokens, samples=samples, reasons=dict(sorted(reasons.items())))


class PlanUnit(NamedTuple):
    """Shards that are planned together, by their places in the set; and where their side file is, or is to be."""

    shards: tuple[int, ...]
    path: Path


def plan_set(
    shards: Shards,
    recipe: SampleEncoder,
    cache: str | Path | None = None,
    *,
    workers: int = 0,
    turn: tuple[int, int] = (0, 1),
    strict: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> PlannedSet:
    """The packs of a set, planned where that has not been done yet, by so many worker processes.

    `cache` is a folder to write to instead of the shards' own. `turn` is (rank, ranks): each begins elsewhere, and
    finds what others have planned by then. `progress` is told units done, of how many that had to be. With `strict`,
    units with damaged samples are planned again. Raises `UserError` for what is damaged still, and if side files cannot
    be written; `Damaged` for an index, by its name.
    """
    units = list(_units(shards, recipe, cache))
    first = turn[0] * len(units) // turn[1]
    missing = deque(unit for unit in units[first:] + units[:first] if not _is_planned(unit, strict))
    if missing:
        _plan(missing, _Measure(shards, recipe), workers, strict, progress)
    return PlannedSet([open_side_file(unit.path) for unit in units])


def _units(shards: Shards, recipe: SampleEncoder, cache: str | Path | None) -> Iterator[PlanUnit]:
    local = isinstance(shards.fs, LocalFileSystem)
    settings = sha256(json.dumps([VERSION, recipe.settings()], sort_keys=True).encode()).hexdigest()[:12]
    name = f"{recipe.length}-{recipe.queries}-{recipe.slicing.plan}-{recipe.slicing.side}-{settings}"
    if not local and cache is None:
        raise UserError(f"{shards.folder}: packs are planned into a local folder; name one as cache")
    folders = [Path(shards.folder, PACKS, name)] if local else []
    folders += [Path(cache, name)] if cache is not None else []
    for places, name in units_of(shards.card):
        there = [folder / name for folder in folders if (folder / name).exists()]
        yield PlanUnit(places, there[0] if there else folders[-1] / name)


def _is_planned(unit: PlanUnit, strict: bool) -> bool:
    file = open_side_file(unit.path)
    return file is not None and not (strict and "damaged" in file.counts["reasons"])


# Planning


@dataclass(frozen=True)
class _Measure(Dataset):
    """The shards of a set, each as a table of its samples and their lengths; or what is wrong with its index."""

    shards: Shards
    recipe: SampleEncoder

    def __getitem__(self, at: int) -> pa.Table | Damaged:
        try:
            return measure(self.shards.shards[at], self.recipe)
        except Damaged as damaged:  # raised here it would come out of a worker as a text of many lines
            return damaged


def _plan(
    missing: deque[PlanUnit], measure: _Measure, workers: int, strict: bool, progress: Callable[[int, int], None]
) -> None:
    """Makes side files that are missing. Shards are measured side by side, a few ahead of the unit that is packed."""
    of, asked = len(missing), deque[PlanUnit]()

    def ask() -> Iterator[int]:
        while missing:
            unit = missing.popleft()
            if not _is_planned(unit, strict):
                _make_folder(unit.path.parent)
                asked.append(unit)
                yield from unit.shards

    loader = DataLoader(
        measure, batch_size=None, sampler=ask(), num_workers=workers, collate_fn=_as_it_is, generator=torch.Generator()
    )
    measured = iter(loader)
    for table in measured:
        unit = asked.popleft()
        tables = [table, *islice(measured, len(unit.shards) - 1)]
        for damaged in tables:
            if isinstance(damaged, Damaged):
                raise damaged
        table = pa.concat_tables(tables)
        if strict and (damaged := table.filter(pc.equal(table["reason"], "damaged"))):
            raise UserError(f"{measure.shards.folder}/{damaged['detail'][0]}")
        write_side_file(unit.path, packed(table, measure.recipe.length))
        progress(of - len(missing) - len(asked), of)


def _as_it_is(measured: pa.Table | Damaged) -> pa.Table | Damaged:
    return measured


def _make_folder(folder: Path) -> None:
    """Raises `UserError` if side files cannot be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: packs cannot be planned into it: {error.strerror}; name another as cache") from None


def measure(shard: Shard, recipe: SampleEncoder) -> pa.Table:
    """A shard's samples and their lengths, or why they have none: rows of a side file, not yet in packs."""
    found = []
    for sample in shard.each():
        try:
            if isinstance(sample, Damaged):
                raise sample
            found.append((len(recipe.tokens(sample).ids), None, None))
        except SampleRejected as rejected:
            found.append((0, rejected.reason, rejected.detail))
        except Damaged as damaged:
            found.append((0, "damaged", str(damaged).rpartition("/")[2]))  # without the folder
    tokens, reasons, details = zip(*found) if found else ((), (), ())
    names, starts, sizes, members = shard.index
    columns = {
        "pack": [NO_PACK] * len(found), "tokens": tokens, "sample": names, "tar": [shard.entry["tar"]] * len(found),
        "byte_offset": starts, "size": sizes, "members": members, "reason": reasons, "detail": details,
    }  # fmt: skip
    return pa.Table.from_arrays([pa.array(columns[one.name], one.type) for one in PLANNED], schema=PLANNED)


def packed(table: pa.Table, length: int) -> pa.Table:
    """Measured samples in the order of their packs; those that are in none come first."""
    lost = table["reason"].is_valid().to_numpy()
    fit = np.flatnonzero(~lost)
    packs = plan_packs(table["tokens"].to_numpy()[fit], length)
    rows = np.concatenate([np.flatnonzero(lost), fit[packs.samples]])
    numbers = np.concatenate([np.full(lost.sum(), NO_PACK), np.repeat(np.arange(len(packs)), np.diff(packs.offsets))])
    return table.take(rows).set_column(0, PLANNED.field("pack"), pa.array(numbers, pa.int64()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.pack_plan", description="Plans the packs of a shard set.")
    parser.add_argument("root", help="folder or URL of a corpus")
    parser.add_argument("set", help="a published shard set")
    parser.add_argument("--tokenizer", required=True, help="folder with tokenizer.json")
    parser.add_argument("--length", type=int, default=2048, help="tokens a pack")
    parser.add_argument("--queries", type=int, default=64, help="embeddings a view")
    parser.add_argument("--slicing", default="llama.cpp", choices=PLANS)
    parser.add_argument("--side", type=int, default=448, help="pixels")
    parser.add_argument("--cache", help="folder to write to instead of the shards' own")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--strict", action="store_true", help="stop at damaged samples, instead of leaving them out")
    options = parser.parse_args()
    try:
        slicing = Slicing(options.slicing, options.side)
        recipe = SampleEncoder(Tokenizer(options.tokenizer), options.queries, options.length, slicing)
        shards = Shards(options.root, options.set)
        planned = plan_set(shards, recipe, options.cache, workers=options.workers, strict=options.strict)
    except (UserError, FileNotFoundError, Damaged) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    for row in planned.lost():
        print(f"{row['sample']} of {row['tar']}: {row['reason']}: {row['detail']}")
    total = planned.counts
    filled = total["tokens"] / (total["packs"] * recipe.length) if total["packs"] else 0
    left_out = ", ".join(f"{count} {reason}" for reason, count in total["reasons"].items())
    print(f"{total['samples']} samples in {total['packs']} packs, {filled:.2%} full; left out: {left_out or 'none'}")


if __name__ == "__main__":
    main()
