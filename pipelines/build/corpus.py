"""A configuration opened as a corpus: its stages in order, each with what it reads, and what they committed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import duckdb

from pipelines.catalog.catalog import create
from pipelines.catalog.gates import FACTS, check_gates
from pipelines.engine.commit import Commit
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.corpus_stage import CorpusStage
from pipelines.engine.partition_stage import PartitionStage
from pipelines.engine.root import Root
from pipelines.sources import open_source
from pipelines.stages.own import open_own
from pipelines.stages.rows import Rows
from pipelines.stages.shards import ShardSet
from schemas.config.file import read_config
from schemas.config.model import Config, with_engine
from schemas.errors import UserError
from schemas.own_stages import OwnStageConfig, own_info
from schemas.stage import StageInfo
from schemas.stages import STAGES, Stages
from schemas.views import PREFERENCE

Commits = dict[str, dict[int, Commit]]  # stage -> partition -> commit


@dataclass(frozen=True)
class Corpus:
    """All that a configuration says, opened."""

    name: str  # of the configuration file
    config: Config
    root: Root
    rows: Rows
    made: dict[str, PartitionStage | CorpusStage]  # the stages between `rows` and `shards`, in order
    shards: tuple[ShardSet, ...]

    def stages(self, until: str | None = None) -> list[str]:
        """The stages in order, up to one of them. Raises `UserError` if there is none of that name."""
        names = ["rows", *self.made, "shards"]
        if until is not None and until not in names:
            raise UserError(f"--until: no stage {until!r} here; there are {', '.join(names)}")
        return names[: names.index(until) + 1] if until else names

    @property
    def infos(self) -> tuple[StageInfo, ...]:
        """The lines of its stages in the table, in order."""
        return tuple(stage.info for stage in (self.rows, *self.made.values()))

    def before(self, stage: str) -> list[str]:
        names = self.stages()
        return names[: names.index(stage)]

    def commits(self, *stages: str, write: bool = False) -> Commits:
        return {stage: read_commits(self.root, stage, write=write) for stage in stages}


def open_corpus(path: str | Path, engine: str | None = None) -> Corpus:
    """The corpus of a configuration, `engine` in place of its OCR engine if given.

    Raises `UserError` for anything in it that cannot work; writes nothing.
    """
    config = read_config(path)
    if engine is not None:
        config = with_engine(config, engine)
    try:
        rows = Rows(open_source(config.source))
        opened = {stage.name: stage for stage in _built_in(config)}
        made, before = {}, [rows.info]
        for info in in_order([rows.info, *(stage.info for stage in opened.values())], _own(config)):
            if info.name != "rows":
                stage = opened.get(info.name) or open_own(info, config.stages[info.name])
                made[info.name] = replace(stage, before=tuple(before))
                before.append(info)
        shards = [ShardSet(name, one, before=tuple(before)) for name, one in sorted(config.sets.items())]
        _check(config, before, [*made.values(), *shards])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Corpus(Path(path).name, config, Root(config.root), rows, made, tuple(shards))


def _built_in(config: Config) -> Iterator[PartitionStage | CorpusStage]:
    """The stages of the table that a configuration has: each module opens its own."""
    for name in STAGES:
        if name != "rows":
            stage = import_module(f"pipelines.stages.{name}").open_stage(config)
            if stage is not None:
                yield stage


def _own(config: Config) -> list[tuple[StageInfo, OwnStageConfig]]:
    """The users' stages of a configuration. Raises `UserError` for one whose name or columns are already there."""
    found = []
    views = {*STAGES, "shards", "candidates", "samples", "scores", "preferences", "accounting", "runs", "chunks"}
    columns = {column for stage in STAGES.values() for column in (*stage.samples, "reason", "left_out_by", "samples")}
    for name, own in config.stages.items():
        if name in views | {"work", "changes", "fetches", "calls", "cost", "yield_by_host", "run", "before", "rows"}:
            raise UserError(f"stages.{name}: there is a stage or view of this name; choose another")
        if taken := sorted(columns & own.columns.keys()):
            raise UserError(f"stages.{name}.columns: `samples` has a column {taken[0]}; choose another name")
        columns |= own.columns.keys()
        found.append((own_info(name, own.columns, own.reasons, own.wanted()), own))
    return found


def in_order(stages: list[StageInfo], own: list[tuple[StageInfo, OwnStageConfig]]) -> list[StageInfo]:
    """All stages in order: a user's stands right behind the last one that it reads, free ones before paid ones.

    Raises `UserError` for one that reads what is not there.
    """
    order, waiting = [*stages], {info.name: info for info, _ in own}
    while waiting:
        names = [stage.name for stage in order]
        ready = next((info for info in waiting.values() if not info.reads.keys() & waiting.keys()), None)
        if ready is None:
            raise UserError(f"stages: {', '.join(sorted(waiting))} read each other in a circle")
        del waiting[ready.name]
        for name, columns in ready.reads.items():
            _check_read(ready, name, columns, {stage.name: stage for stage in order})
        place = max(names.index(name) for name in ready.reads) + 1
        while order[place].own or (ready.paid and order[place].per_image and not order[place].paid
                                   and order[place].name != "selection"):  # fmt: skip
            place += 1
        reads = {name: ready.reads[name] for name in sorted(ready.reads, key=names.index)}
        order.insert(place, replace(ready, reads=reads))
    return order


def _check_read(info: StageInfo, name: str, columns: tuple[str, ...], there: Stages) -> None:
    """Raises `UserError` if a user's stage cannot read these columns of a stage."""
    place = f"stages.{info.name}.reads"
    usable = [stage for stage, line in there.items() if line.per_image and stage != "selection"]
    if name not in usable:
        raise UserError(f"{place}: no stage {name!r} here; there are {', '.join(usable)}")
    for column in columns:
        if column not in there[name].schema.names or column in ("reason", "detail", "made_from"):
            known = [known for known in there[name].schema.names if known not in ("reason", "detail", "made_from")]
            raise UserError(f"{place}: {name} has no column {column!r}; it has {', '.join(known)}")


def _check(config: Config, infos: list[StageInfo], stages: list) -> None:
    """Raises `UserError` for a condition that is none. All views are made once, empty."""
    with duckdb.connect() as connection:
        create(connection, {}, infos)
        for stage in stages:
            stage.check(connection)
        check_gates(config.gates, connection, FACTS)
    pairs = [name for name, one in config.sets.items() if one.task == PREFERENCE]
    if pairs and "pairs" not in [info.name for info in infos]:
        raise UserError(f"sets.{pairs[0]}: there are no pairs without the table [responses]; add it")
