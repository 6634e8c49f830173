"""Opens a configuration as a corpus: its stages in order, with their inputs and commits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import duckdb

from pipelines.catalog.catalog import create
from pipelines.catalog.gates import FACTS, check_gates
from pipelines.engine.commit import digest
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.commits import Commits
from pipelines.engine.corpus_stage import CorpusStage
from pipelines.engine.partition_stage import PartitionStage
from pipelines.engine.root import Root
from pipelines.sources import open_source
from pipelines.stages.own import open_own
from pipelines.stages.rounds import with_sets
from pipelines.stages.rows import Rows
from pipelines.stages.shards import ShardSet
from schemas.config.file import read_config
from schemas.config.model import Config, with_engine
from schemas.errors import UserError
from schemas.measures import STAGE as MEASURES
from schemas.own_stages import OwnStageConfig, own_info
from schemas.rows import STAGE as ROWS
from schemas.stage import StageInfo
from schemas.stages import STAGES, Stages
from schemas.translations import STAGE as TRANSLATIONS
from schemas.views import OF_VIEWS, views

CommitsByStage = dict[str, Commits]  # stage -> partition -> commit


@dataclass(frozen=True)
class Corpus:
    """A configuration, opened."""

    name: str  # of the configuration file
    config: Config
    root: Root
    rows: dict[str | None, Rows]  # the first stage of each source, by the source's name
    made: dict[str, PartitionStage | CorpusStage]  # the stages between `rows` and `shards`, in order
    shards: tuple[ShardSet, ...]

    def stages(self, until: str | None = None) -> list[str]:
        """The stages in order, up to one of them. Raises `UserError` for an unknown stage."""
        names = ["rows", *self.made, "shards"]
        if until is not None and until not in names:
            raise UserError(f"--until: unknown stage {until!r}; choose from {', '.join(names)}")
        return names[: names.index(until) + 1] if until else names

    @property
    def infos(self) -> tuple[StageInfo, ...]:
        """The entries of its stages in the table of stages, in order."""
        return (ROWS, *(stage.info for stage in self.made.values()))

    def settings_of(self, shards: ShardSet) -> str:
        """The digest of all settings that decide which samples a set has; the places of its sources do not count."""
        sources = [rows.source.config.recorded(exclude={"path", "images"}) for rows in self.rows.values()]
        made = {name: stage.settings() for name, stage in self.made.items() if name != "selection"}
        return digest([shards.config.recorded(exclude={"samples_per_shard"}), sources, made])

    def before(self, stage: str) -> list[str]:
        names = self.stages()
        return names[: names.index(stage)]

    def commits(self, *stages: str) -> CommitsByStage:
        return {stage: read_commits(self.root, stage) for stage in stages}


def open_corpus(path: str | Path, engine: str | None = None) -> Corpus:
    """The corpus of a configuration; `engine` replaces its OCR engine if given.

    Raises `UserError` for any setting that cannot work; writes nothing.
    """
    config = read_config(path)
    if engine is not None:
        config = with_engine(config, engine)
    named = {*config.sets}
    config = with_sets(config)
    try:
        rows = {source.name: Rows(open_source(source)) for source in config.source}
        made = _opened_stages(config, ROWS)
        infos = (ROWS, *(stage.info for stage in made.values()))
        shards = [
            ShardSet(name, settings, earlier=infos, of_round=name not in named)
            for name, settings in sorted(config.sets.items())
        ]
        _check(config, infos, [*made.values(), *shards])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Corpus(Path(path).name, config, Root(config.root), rows, made, tuple(shards))


def _opened_stages(config: Config, rows: StageInfo) -> dict[str, PartitionStage | CorpusStage]:
    """The stages between `rows` and `shards` in order, each with the stages before it."""
    built_in = {stage.name: stage for stage in _built_in(config)}
    opened, before = {}, (rows,)
    for info in in_order([rows, *(stage.info for stage in built_in.values())], _own(config)):
        if info.name != rows.name:
            stage = built_in.get(info.name) or open_own(info, config.stages[info.name])
            opened[info.name] = replace(stage, earlier=before)
            before = (*before, info)
    return opened


def _built_in(config: Config) -> Iterator[PartitionStage | CorpusStage]:
    """The stages of the table that a configuration has: each module opens its own."""
    for name in STAGES:
        if name != "rows":
            stage = import_module(f"pipelines.stages.{name}").open_stage(config)
            if stage is not None:
                yield stage


def _own(config: Config) -> list[tuple[StageInfo, OwnStageConfig]]:
    """The users' stages of a configuration. Raises `UserError` for a name or a column that already exists."""
    stages = []
    existing = {*views({}), "chunks", "run", "before"}
    columns = {column for stage in STAGES.values() for column in (*stage.samples, "reason", "left_out_by", "samples")}
    if not any(source.name for source in config.source):  # the column is empty: a stage of before 0.2 may have its own
        columns.remove("source")
    if config.measures is None:
        columns -= MEASURES.samples.keys()
    if config.translations is None:
        columns -= TRANSLATIONS.samples.keys() - {"text", "conversation"}
    words = _reserved_words() if config.stages else set()
    for name, own in config.stages.items():
        if reserved := sorted({name, *own.columns} & words):
            raise UserError(f"stages.{name}: {reserved[0]} is a reserved word of SQL; choose another name")
        if name in existing:
            raise UserError(f"stages.{name}: a stage or view already has this name; choose another")
        if twice := sorted(columns & own.columns.keys()):
            raise UserError(f"stages.{name}.columns: `samples` already has a column {twice[0]}; choose another name")
        columns |= own.columns.keys()
        stages.append((own_info(name, own.columns, own.reasons, own.wanted()), own))
    return stages


def _reserved_words() -> set[str]:
    """The reserved words of SQL, which must be quoted as names."""
    with duckdb.connect() as connection:
        sql = "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
        return {word for (word,) in connection.sql(sql).fetchall()}


def in_order(stages: list[StageInfo], own: list[tuple[StageInfo, OwnStageConfig]]) -> list[StageInfo]:
    """All stages in order: a user's stage comes right after the last stage that it reads, free ones before paid ones.

    Raises `UserError` for a stage that reads what does not exist.
    """
    order, waiting = [*stages], {info.name: info for info, _ in own}
    while waiting:
        ready = next((info for info in waiting.values() if not info.reads.keys() & waiting.keys()), None)
        if ready is None:
            raise UserError(f"stages: {', '.join(sorted(waiting))} read each other in a circle")
        del waiting[ready.name]
        for name, columns in ready.reads.items():
            _check_read(ready, name, columns, {stage.name: stage for stage in order})
        names = [stage.name for stage in order]
        reads = {name: ready.reads[name] for name in sorted(ready.reads, key=names.index)}
        order.insert(_place_of(ready, order), replace(ready, reads=reads))
    return order


def _place_of(info: StageInfo, order: list[StageInfo]) -> int:
    """The position of a user's stage: after the last stage that it reads and the users' stages that follow it. A paid
    stage also comes after all free stages up to `selection`."""
    place = max(number for number, stage in enumerate(order) if stage.name in info.reads) + 1
    while order[place].own or (info.paid and _is_free_image_stage(order[place])):
        place += 1
    return place


def _is_free_image_stage(stage: StageInfo) -> bool:
    return stage.per_image and not stage.paid and stage.name != "selection"


def _check_read(info: StageInfo, name: str, columns: tuple[str, ...], stages: Stages) -> None:
    """Raises `UserError` if a user's stage cannot read these columns of a stage. `stages`: those before it."""
    place = f"stages.{info.name}.reads"
    usable = [stage for stage, line in stages.items() if line.per_image and stage != "selection"]
    if name not in usable:
        raise UserError(f"{place}: unknown stage {name!r}; choose from {', '.join(usable)}")
    known = [column for column in stages[name].schema.names if column not in ("reason", "detail", "made_from")]
    for column in columns:
        if column not in known:
            raise UserError(f"{place}: {name} has no column {column!r}; it has {', '.join(known)}")


def _check_conditions(config: Config, infos: Sequence[StageInfo], stages: list, queries: list[str]) -> None:
    """Raises `UserError` for a condition that is not valid on empty views: those that `queries` name, or all."""
    with duckdb.connect() as connection:
        create(connection, {}, infos, queries=queries)
        for stage in stages:
            stage.check(connection)
        check_gates(config.gates, connection, FACTS)


def _check(config: Config, infos: Sequence[StageInfo], stages: list) -> None:
    """Raises `UserError` for a condition that is not valid."""
    conditions = [*config.gates.values(), config.instructions.where, *(set.where for set in config.sets.values())]
    needed = ["candidates", *(OF_VIEWS[set.task] for set in config.sets.values() if set.task in OF_VIEWS)]
    try:
        _check_conditions(config, infos, stages, [*conditions, *needed])
    except UserError:
        _check_conditions(config, infos, stages, [])  # with all views, so that DuckDB can suggest names
    pairs = [name for name, settings in config.sets.items() if settings.task in OF_VIEWS]
    if pairs and "pairs" not in [info.name for info in infos]:
        raise UserError(f"sets.{pairs[0]}: pairs need the table [responses]; add it")
