"""A configuration opened as a corpus: its stages in order, each with what it reads, and what they committed."""

from dataclasses import dataclass
from pathlib import Path

import duckdb

from pipelines.catalog.catalog import create
from pipelines.catalog.gates import FACTS, check_gates
from pipelines.dedup.decontamination import Excluded, find_excluded
from pipelines.engine.commit import Commit
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.corpus_stage import CorpusStage
from pipelines.engine.partition_stage import PartitionStage
from pipelines.engine.root import Root
from pipelines.fetching.opt_out import read_opt_outs
from pipelines.ocr.engines import check_engine
from pipelines.sources import open_source
from pipelines.stages.captions import rewrite_of
from pipelines.stages.duplicates import MarkDuplicates
from pipelines.stages.images import CopyImages
from pipelines.stages.instructions import DrawInstructions, check_instructions
from pipelines.stages.ocr import ReadText
from pipelines.stages.pairs import DrawPairs
from pipelines.stages.preferences import preference_stages
from pipelines.stages.rows import Rows
from pipelines.stages.selection import Select, check_conditions
from pipelines.stages.shards import ShardSet, check_preferences
from schemas.config.file import read_config
from schemas.config.model import Config, with_engine
from schemas.errors import UserError
from schemas.views import PREFERENCE

Commits = dict[str, dict[int, Commit]]  # stage -> partition -> commit


@dataclass(frozen=True)
class Corpus:
    """All that a configuration says, opened."""

    name: str  # of the configuration file
    config: Config
    root: Root
    rows: Rows
    makes: dict[str, PartitionStage | CorpusStage]  # in order, each from those before it
    selection: Select
    preferences: dict[str, PartitionStage | CorpusStage]  # in order, likewise; none if no policy is asked
    shards: tuple[ShardSet, ...]

    def stages(self, until: str | None = None) -> list[str]:
        """The stages in order, up to one of them. Raises `UserError` if there is none of that name."""
        names = ["rows", *self.made, "shards"]
        if until is not None and until not in names:
            raise UserError(f"--until: no stage {until!r} here; there are {', '.join(names)}")
        return names[: names.index(until) + 1] if until else names

    @property
    def made(self) -> dict[str, PartitionStage | CorpusStage]:
        """The stages between `rows` and `shards`."""
        return self.makes | {"selection": self.selection} | self.preferences

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
        if config.ocr:
            check_engine(config.ocr)
        opt_outs = read_opt_outs(config.fetch.opt_out if config.fetch else ())
        excluded = Excluded(find_excluded(config.duplicates.exclude if config.duplicates else ()))
        check_conditions({name: one for name, one in config.sets.items() if one.task != PREFERENCE})
        check_preferences({name: one for name, one in config.sets.items() if one.task == PREFERENCE})
        check_instructions(config.instructions)
        with duckdb.connect() as connection:
            create(connection, {})
            check_gates(config.gates, connection, FACTS)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    source = open_source(config.source)
    stages: list[PartitionStage | CorpusStage] = [CopyImages(source, config.images, config.fetch, opt_outs)]
    if config.duplicates:
        stages.append(MarkDuplicates(config.duplicates, excluded))
    if config.ocr:
        stages.append(ReadText(config.ocr, duplicates=bool(config.duplicates)))
    before = tuple(stage.name for stage in stages if stage.name != "images")
    preferences: list[PartitionStage | CorpusStage] = []
    try:
        if config.captions:
            stages.append(rewrite_of(config, before))
        if config.responses:
            preferences = [DrawInstructions(config.instructions), *preference_stages(config), DrawPairs(config.pairs)]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not preferences and (wanted := [name for name, one in config.sets.items() if one.task == PREFERENCE]):
        raise UserError(f"{path}: sets.{wanted[0]}: there are no pairs without the table [responses]; add it")
    return Corpus(
        name=Path(path).name,
        config=config,
        root=Root(config.root),
        rows=Rows(source),
        makes={stage.name: stage for stage in stages},
        selection=Select({name: one for name, one in config.sets.items() if one.task != PREFERENCE}),
        preferences={stage.name: stage for stage in preferences},
        shards=tuple(ShardSet(name, one) for name, one in sorted(config.sets.items())),
    )
