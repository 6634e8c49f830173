"""What `root.json` says: the files of the source, each with its partitions, and the stages and sets of a corpus."""

import json
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Annotated, NamedTuple, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from pipelines.engine.root import Root, point
from pipelines.engine.split_notes import MOST, NOTES, Number, read_notes, splits_done
from schemas.checked import Count, FileName, checked
from schemas.errors import UserError
from schemas.own_stages import FAILED, kinds_of, own_info
from schemas.stage import StageInfo
from schemas.stages import STAGES, Stages, with_own
from schemas.verdicts import MIN_MASS

MANIFEST = "root.json"
# what a run leaves that is killed before it writes root.json; an alignment begins with an evaluation
BEFORE_MANIFEST = {"lock.json", "leases", "runs", "source-counts", "catalog.duckdb", "align.json"}
FEWEST = 1000  # rows of a partition, about, where nothing else is settled
SPLITTING = "splitting"  # equals no real `split`: if the run is killed, the file is split again even if unchanged


@dataclass(frozen=True)
class SourceFile:
    """A source file and its partitions."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    path: str
    first: Number  # of its partitions
    buckets: Number  # how many it has
    split: str | None  # digest of the file and the stage when it was split, or SPLITTING; None if the file is gone
    source: str | None = None  # the name of its source; None for a source without a name

    @cached_property
    def partitions(self) -> range:
        return range(self.first, self.first + self.buckets)

    @property
    def name(self) -> tuple[str | None, str]:
        """What identifies it: its source and its path."""
        return self.source, self.path

    def __str__(self) -> str:
        if not self.source:
            return self.path
        return self.source if self.path == "." else f"{self.source}: {self.path}"  # a folder of images is one file

    def recorded(self) -> dict[str, object]:
        """The file as root.json holds it: without a source where that has no name."""
        return {name: value for name, value in asdict(self).items() if name != "source" or value}


class OwnColumns(TypedDict):
    """What a user's own stage makes."""

    columns: dict[str, str]
    reasons: list[str]


class Manifest(TypedDict):
    """What root.json says. What version 0.1 did not write is not required."""

    files: list[SourceFile]
    makes: NotRequired[list[str]]
    stages: NotRequired[dict[FileName, OwnColumns]]
    sets: NotRequired[list[FileName]]
    min_mass: NotRequired[Annotated[float, Field(allow_inf_nan=False)]]
    training: NotRequired[list[str]]
    rows_per_partition: NotRequired[dict[str, Annotated[Count, Field(ge=1)]]]


class SourceRange(NamedTuple):
    """Consecutive partitions of one source."""

    first: int
    end: int
    source: str | None


def _manifest(root: Root) -> Manifest:
    """What root.json says, parsed again only when it changes. Raises `FileNotFoundError` and `UserError`."""
    return _parsed(root, root.stamp_of(MANIFEST))


@lru_cache(maxsize=4)  # of a corpus with many files, each connection to the catalog would parse it again
def _parsed(root: Root, stamp: str) -> Manifest:
    try:
        manifest = checked(Manifest, root.read_json(MANIFEST))
        _check(manifest["files"])
    except ValueError as error:
        raise UserError(f"{root.url}/{MANIFEST}: is damaged, or not of this Shardmill: {error}") from None
    return manifest


def read_manifest(root: Root) -> list[SourceFile]:
    """The source files that root.json knows, with what workers have noted since it was written."""
    try:
        files = [*_manifest(root)["files"]]
    except FileNotFoundError:
        strangers = {*root.files(""), *root.folders("")} - BEFORE_MANIFEST
        if strangers:
            raise UserError(
                f"{root.url}: holds {min(strangers)} but no {MANIFEST}: not a Shardmill root; choose another folder"
            ) from None
        return []
    except NotADirectoryError:
        raise UserError(f"{root.url}: is not a folder; choose another") from None
    try:
        done = dict(splits_done(read_notes(root).values(), {file.first: file.buckets for file in files}))
    except ValueError as error:
        raise UserError(f"{root.url}/{NOTES}: has a damaged note: {error}; remove the folder and run again") from None
    return [replace(file, split=done.get(file.first, file.split)) for file in files]


def _check(files: list[SourceFile]) -> None:
    """Raises `ValueError` if a corpus cannot have so many partitions."""
    if max((file.first for file in files), default=0) + sum(file.buckets for file in files) > MOST:
        raise ValueError("files: more partitions than a corpus can have")


def write_manifest(
    root: Root, files: list[SourceFile], stages: Sequence[StageInfo], sets: list[str], min_mass: float = MIN_MASS,
    training: Sequence[str] = (), sizes: Mapping[str | None, int] = MappingProxyType({}), keep: Collection[str] = (),
) -> None:  # fmt: skip
    """Writes root.json, after which the workers' notes are no longer needed, but for those in `keep`. `stages`: those
    of the corpus, in order, without `rows`. For users' own stages root.json also says what columns and reasons their
    rows have. `min_mass`: of verdicts, for the view `scores`; `training`: folders of training runs, for the view
    `training`; `sizes`: rows per partition of the sources, by name, see `sizes_of`."""
    own = {stage.name: {"columns": kinds_of(stage), "reasons": list(stage.reasons)} for stage in stages if stage.own}
    named = {"makes": [stage.name for stage in stages if stage.name != "selection"]} | ({"stages": own} if own else {})
    named |= {"min_mass": min_mass} if min_mass != MIN_MASS else {}
    named |= {"training": [*training]} if training else {}
    settled = {name or "": rows for name, rows in sizes.items() if rows != FEWEST}
    named |= {"rows_per_partition": settled} if settled else {}
    data = json.dumps(named | {"sets": sets, "files": [file.recorded() for file in files]}, indent=1).encode()
    if not root.exists(MANIFEST) or root.read(MANIFEST) != data:
        root.write(MANIFEST, data)
        point("rows:settled")
    root.remove_all([name for file in root.files(NOTES) if (name := f"{NOTES}/{file}") not in keep])
    root.remove_folder(NOTES)


def sizes_of(root: Root) -> dict[str | None, int]:
    """How many rows a partition of each source has, about, where that was settled as more than `FEWEST`."""
    try:
        return {name or None: rows for name, rows in _manifest(root).get("rows_per_partition", {}).items()}
    except FileNotFoundError:
        return {}


def sources_of(root: Root) -> tuple[SourceRange, ...]:
    """The sources of a corpus by partition, in order; empty if no source has a name."""
    try:
        return _sources_in(root, root.stamp_of(MANIFEST))
    except FileNotFoundError:
        return ()


@lru_cache(maxsize=4)
def _sources_in(root: Root, stamp: str) -> tuple[SourceRange, ...]:
    ranges: list[SourceRange] = []
    for file in sorted(_parsed(root, stamp)["files"], key=lambda file: file.first):
        begun = ranges.pop() if ranges and ranges[-1].source == file.source else SourceRange(file.first, 0, file.source)
        ranges.append(begun._replace(end=file.first + file.buckets))
    return tuple(ranges) if any(one.source for one in ranges) else ()


def source_at(ranges: Sequence[SourceRange], partition: int) -> str | None:
    """The source that a partition belongs to."""
    before = bisect_right(ranges, partition, key=lambda one: one.first)
    return ranges[before - 1].source if before else None


def stages_of(root: Root) -> Stages:
    """The stages that a corpus has, in order, without those that its configuration no longer has."""
    try:
        manifest = _manifest(root)
    except FileNotFoundError:
        return {}
    try:
        if "makes" not in manifest:
            raise KeyError("makes")
        own = {
            name: own_info(name, stage["columns"], tuple(word for word in stage["reasons"] if word != FAILED))
            for name, stage in manifest.get("stages", {}).items()
        }
        infos = [STAGES["rows"], *(own.get(name) or STAGES[name] for name in manifest["makes"])]
    except (ValueError, KeyError) as error:
        raise UserError(f"{root.url}/{MANIFEST}: is damaged, or of a newer Shardmill: {error}") from None
    names = {"selection", *(info.name for info in infos)}
    return {name: info for name, info in with_own(infos).items() if name in names}


def min_mass_of(root: Root) -> float:
    """The least P(yes) + P(no) of a verdict that counts in this corpus."""
    try:
        return _manifest(root).get("min_mass", MIN_MASS)
    except FileNotFoundError:
        return MIN_MASS


def of_views(root: Root) -> tuple[tuple[SourceRange, ...], float]:
    """What `sources_of` and `min_mass_of` say, of one look at root.json."""
    try:
        stamp = root.stamp_of(MANIFEST)
    except FileNotFoundError:
        return (), MIN_MASS
    return _sources_in(root, stamp), _parsed(root, stamp).get("min_mass", MIN_MASS)


def training_of(root: Root) -> list[str]:
    """The folders of training runs that the catalog shows."""
    try:
        return _manifest(root).get("training", [])
    except FileNotFoundError:
        return []


def write_training(root: Root, folders: Sequence[str]) -> bool:
    """Writes other folders of training runs into root.json. Returns whether they are others."""
    if not root.exists(MANIFEST) or training_of(root) == [*folders]:
        return False
    known = {name: value for name, value in root.read_json(MANIFEST).items() if name != "training"}
    settled = {name: known.pop(name) for name in ("sets", "files") if name in known}
    named = known | ({"training": [*folders]} if folders else {}) | settled
    root.write(MANIFEST, json.dumps(named, indent=1).encode())
    return True


def sets_of(root: Root) -> list[str] | None:
    """The shard sets of a corpus; more may still be published. None if an older Shardmill wrote root.json."""
    try:
        return _manifest(root).get("sets")
    except FileNotFoundError:
        return None
