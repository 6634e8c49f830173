"""A run makes the stages of a corpus one after another while it holds the root. Flows and commands call it."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipelines.build.corpus import CommitsByStage, Corpus, open_corpus
from pipelines.build.order import largest_first
from pipelines.build.plan import todo
from pipelines.build.retry import FailedRows, check_retry, failed_partitions, retryable
from pipelines.catalog.catalog import build_catalog, refresh_catalog
from pipelines.catalog.distributions import record_distributions
from pipelines.catalog.gates import NewRelease, hold_gates
from pipelines.engine.commit import file_of, old_rows
from pipelines.engine.commit_cache import read_commits, remove_partitions
from pipelines.engine.commits import Commits
from pipelines.engine.corpus_stage import SMALL, CorpusStage, Piece, WriteDecided
from pipelines.engine.ledger import DIED, Ledger, ending, forget, runs
from pipelines.engine.lock import hold
from pipelines.engine.make_partition import MakePartitions
from pipelines.engine.manifest import (
    MANIFEST,
    SPLITTING,
    read_manifest,
    sizes_of,
    stages_of,
    write_manifest,
    write_training,
)
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.partition_stage import PartitionStage
from pipelines.engine.releases import read_card
from pipelines.engine.results import forget_results
from pipelines.engine.root import Entry, Root, point
from pipelines.engine.secrets import hiding
from pipelines.engine.worker import is_local
from pipelines.engine.workers import Workers
from pipelines.models.servers import closing_servers
from pipelines.reports.report import REPORT, write_report
from pipelines.stages.row_counts import LookByWorkers
from pipelines.stages.row_splits import SpillSource, SplitSource, waiting_splits
from pipelines.stages.rows import Settlement, settle
from pipelines.stages.shard_layout import LAYOUTS, lay_out
from pipelines.stages.shard_packing import PackShards
from pipelines.stages.shard_releases import card_changes, card_of, publish, published, shards_there
from pipelines.stages.takedown_list import TakedownList, blank_partitions, read_takedowns, write_takedowns
from schemas.arrow import Row
from schemas.errors import UserError
from schemas.stages import with_own
from schemas.takedown import REASON
from schemas.verdicts import MIN_MASS

Progress = Callable[[int, int], None]  # partitions done, of how many


def quiet(done: int, of: int) -> None:
    """Ignores progress."""


@dataclass(frozen=True)
class StageReport:
    """What a stage has, after a run."""

    stage: str
    made: int  # partitions or shards made in this run
    of: int  # partitions or shards that it has
    rows: int
    kept: int
    reasons: dict[str, int]


@dataclass(frozen=True)
class Run:
    """A run in progress: its corpus, which is opened once, its ledger, and the processes that do its work."""

    corpus: Corpus
    ledger: Ledger
    workers: Workers
    known: CommitsByStage = field(default_factory=dict)  # of stages that nothing has changed since they were read

    def commits(self, *stages: str) -> CommitsByStage:
        for stage in stages:
            self.known[stage] = self.known.get(stage) or read_commits(self.corpus.root, stage, write=True)
        return {stage: self.known[stage] for stage in stages}

    def close(self) -> None:
        """Keeps only the notes of this run whose commits exist. What they are about is read again."""
        self.known.update(close_ledger(self.corpus.root, self.ledger))


open_runs: dict[str, Run] = {}  # name -> a run of this process


@contextmanager
def begin(corpus: Corpus, wait: float = 0.0, asked: Callable[[], bool] = lambda: False) -> Iterator[Run]:
    """Holds the root for one run, and records how it ends. Raises `Busy` if another run holds it.

    `asked`: whether a person cancelled the run that is being interrupted.
    """
    for rows in corpus.rows.values():
        with rows.naming_source():
            rows.source.files()  # fails for a missing source before anything is written
    for stage in corpus.made.values():
        stage.prepare()
    read_manifest(corpus.root)
    with hold(corpus.root, wait) as held:
        last = _end_dead_runs(corpus.root)
        named = _named(corpus.root)
        ledger = Ledger.start(corpus.root, corpus.name, version("shardmill"), held)
        try:
            with closing_servers(corpus.root), Workers(corpus.config.beam, corpus.root) as workers:
                open_runs[ledger.run] = Run(corpus, ledger, workers)
                try:
                    yield open_runs[ledger.run]
                finally:
                    del open_runs[ledger.run]
        except BaseException as error:
            _end_failed(corpus.root, ledger, error, asked())
            raise
        ledger.end("completed")
        as_before = ledger.is_empty() and _named(corpus.root) == named and corpus.root.exists(REPORT)
        if as_before and (last.get("status"), last.get("version")) == ("completed", version("shardmill")):
            refresh_catalog(corpus.root)
        else:
            build_catalog(corpus.root)
            write_report(corpus.root)


def note_nothing_to_do(corpus: Corpus, wait: float = 0.0) -> None:
    """Leaves a row in the ledger: a run had nothing to do. Raises `Busy` if another run holds the root."""
    with hold(corpus.root, wait):
        _end_dead_runs(corpus.root)
        Ledger.start(corpus.root, corpus.name, version("shardmill")).end("completed")
        if write_training(corpus.root, corpus.config.training.folders):
            build_catalog(corpus.root)
        refresh_catalog(corpus.root)


def _end_dead_runs(root: Root) -> Row:
    """Closes the ledgers of runs that were killed. Returns how the last run went, as it was noted then."""
    last: Row = {}
    for ledger in runs(root):
        last = ledger.row() or {}
        if last.get("status") == "running":
            close_ledger(root, ledger)
            ledger.end("died", DIED)
    return last


def _end_failed(root: Root, ledger: Ledger, error: BaseException, asked: bool) -> None:
    """Closes the ledger of a run that failed or was stopped, and shows what it did as far as that can be read.

    Raises nothing: `error` is what the user has to know, and what fails here is most often its consequence.
    """
    with suppress(Exception):  # the root may be full, or gone
        close_ledger(root, ledger)
    with suppress(Exception):
        ledger.end(*ending(error, asked))
    with suppress(Exception):
        build_catalog(root)
    with suppress(Exception):
        if isinstance(error, Exception) and read_manifest(root):
            write_report(root)


def _named(root: Root) -> dict[str, Entry]:
    """The contents of root.json and the cards, which with the ledger decide what the catalog and the report show."""
    manifest = {name: entry for name, entry in root.files("").items() if name == MANIFEST}
    return manifest | {name: entry for name, entry in root.files("shards").items() if name.endswith(".json")}


def close_ledger(root: Root, ledger: Ledger) -> CommitsByStage:
    """Keeps only the notes of a run whose commits exist. Returns the commits of the stages that they are about."""
    read: CommitsByStage = {}
    if not (stages := ledger.open_stages()):
        return read
    taken, known = read_takedowns(root).key, stages_of(root)
    for stage in stages:
        if stage in known:
            read[stage] = read_commits(root, stage, write=True, told=ledger.told(stage))  # each footer once, or not
            committed = {f"{partition:05d}": fingerprint for partition, fingerprint in read[stage].fingerprints()}
        else:
            committed = published(root)
        ledger.close_stage(stage, committed, taken)
    return read


@hiding()
def run_stage(run: Run, name: str, progress: Progress = quiet, again: str | None = None) -> StageReport:
    """Makes what is not current in one stage, and its failed rows for which the condition `again` holds."""
    corpus, ledger = run.corpus, run.ledger
    ledger.check()
    stage = corpus.made.get(name)
    if isinstance(stage, PartitionStage):
        made = _run_partitions(run, stage, progress, again)
    elif again:
        raise UserError(f"retry: {name} cannot retry rows")
    elif stage:
        made = _run_step(run, stage, progress)
    else:
        made = {"rows": _run_rows, "shards": _run_shards}[name](run, name, progress)
    run.close()
    if isinstance(stage, PartitionStage) and name == "images" and _blank_again(run):
        run.close()
        made += _run_partitions(run, stage, progress)
        run.close()
    return report(corpus, name, made, run.known.get(name))


def to_retry(corpus: Corpus, stage: str | None, where: str | None) -> dict[str, str]:
    """stage -> the condition on its rows that are made again, whether any fulfil it or not. Raises `UserError`.

    Without a condition: the rows that failed for a reason that can pass.
    """
    stages = {name: made for name, made in corpus.made.items() if isinstance(made, PartitionStage)}
    if stage is not None and stage not in stages:
        raise UserError(f"--stage: unknown stage {stage!r}, or it cannot retry rows; choose from {', '.join(stages)}")
    conditions = {}
    for name in [stage] if stage else stages:
        condition = where if where is not None else retryable(stages[name].retryable)
        check_retry(corpus.infos, name, condition)
        conditions[name] = condition
    return conditions


def check_retries(corpus: Corpus, stages: Sequence[str], retry: Mapping[str, str]) -> None:
    """Raises `UserError` for a stage that cannot retry rows or is not among `stages`, and for a wrong condition."""
    for name, where in retry.items():
        try:
            to_retry(corpus, name, where)
        except UserError as error:
            raise UserError(f"retry.{name}: {re.sub('^--(stage|where): ', '', str(error))}") from None
        if name not in stages:
            raise UserError(f"retry.{name}: the run ends before {name}; name a later stage in `until`")


def report(corpus: Corpus, name: str, made: int = 0, commits: Commits | None = None) -> StageReport:
    """What a stage has: how many rows came in, were kept, and were left out for each reason. `commits`: if known."""
    if name == "shards":
        cards = [card for stage in corpus.shards if (card := read_card(corpus.root, stage.set))]
        samples = sum(card["samples"] for card in cards)
        return StageReport(name, made, sum(len(card["shards"]) for card in cards), samples, samples, {})
    commits = commits or read_commits(corpus.root, name, write=True)
    rows, kept, reasons = commits.totals()
    return StageReport(name, made, len(commits), rows, kept, reasons)


def run(
    path: str | Path, until: str | None = None, retry: Mapping[str, str] = MappingProxyType({})
) -> list[StageReport]:
    """A whole run without Prefect. `retry`: stage -> a condition on its failed rows, which are then made again."""
    corpus = open_corpus(path)
    names = corpus.stages(until)
    check_retries(corpus, names, retry)
    with hiding(), begin(corpus) as begun:
        return [run_stage(begun, name, again=retry.get(name)) for name in names]


def follow(run: Run, work: Any, items: list, of: int, progress: Progress, log: str = "") -> None:
    """Has workers make the items, and reports progress."""
    ledger = run.ledger
    done_before = ledger.done(work.name)
    progress(0, of)
    log = f"runs/{ledger.run}/{log or work.name}.log"

    def report_progress() -> None:
        if ledger.hold and ledger.hold.is_known_lost():
            ledger.check()  # raises an error
        progress(min(of, ledger.done(work.name) - done_before), of)

    run.workers.make(work, items, log, report_progress)
    progress(of, of)


def _run_rows(run: Run, name: str, progress: Progress) -> int:
    corpus, ledger = run.corpus, run.ledger
    root, settled, commits = corpus.root, read_manifest(corpus.root), run.commits(name)[name]
    looking = LookByWorkers(root, run.workers)
    settlement = settle(corpus.rows.values(), settled, commits, sizes_of(root), looking)
    _take_out(corpus, ledger, settlement)
    infos, sets = corpus.infos[1:], [shards.set for shards in corpus.shards]
    min_mass = corpus.config.verdicts.min_mass if corpus.config.verdicts else MIN_MASS
    settings = min_mass, corpus.config.training.folders, settlement.chosen
    known, waiting = {file.name: file for file in settled}, {*settlement.new, *settlement.changed}
    files = [replace(file, split=SPLITTING) if file in waiting else known[file.name] for file in settlement.files]
    left = waiting_splits(root, settlement, commits)
    write_manifest(root, files, infos, sets, *settings, keep=left.kept)
    follow(run, SpillSource(corpus.rows, root), left.unread, len(left.unread), quiet, "files")
    of = sum(split.end - split.first for split in left.splits)
    follow(run, SplitSource(corpus.rows, root, ledger), left.placed(root), of, progress)
    gone = {*settlement.vanished}
    files = [replace(file, split=None) if file in gone else file for file in settlement.files]
    write_manifest(root, files, infos, sets, *settings)
    return of


def _take_out(corpus: Corpus, ledger: Ledger, settlement: Settlement) -> None:
    """Removes the partitions of source files that are gone from every stage, the last stage first."""
    root = corpus.root
    for stage in reversed(with_own(corpus.infos)):
        for file in settlement.vanished:
            for partition in file.partitions:
                name = f"{stage}/{partition:05d}.parquet"
                if not root.exists(name):
                    continue
                rows = old_rows(root, name)
                gone = [{"key": r["key"], "change": "removed", "before": None, "after": None} for r in rows]
                ledger.record(stage, f"{partition:05d}", None, gone, partition=partition, rows=0, kept=0, made=0,
                              started=time.time())  # fmt: skip
            remove_partitions(root, stage, file.partitions)
            point("rows:removed")


def _run_partitions(run: Run, stage: PartitionStage, progress: Progress, again: str | None = None) -> int:
    corpus, ledger = run.corpus, run.ledger
    commits = run.commits(*stage.inputs, stage.name)
    waiting = {*todo(stage, commits), *(failed_partitions(corpus.root, stage.name, again) if again else ())}
    items = largest_first(corpus, stage, commits, waiting)
    if items:
        stage = stage.ready(corpus.root, ledger)
    work = MakePartitions(stage, corpus.root, ledger, FailedRows(again) if again else None)
    follow(run, work, items, len(items), progress)
    stage.finish(corpus.root)  # also of parts that others made
    return len(items)


def _blank_again(run: Run) -> bool:
    """Blanks rows with another name whose bytes turned out to be those of an image that was taken down. Returns whether
    there were any: `images` has to be made again."""
    corpus, root = run.corpus, run.corpus.root
    taken_down = run.commits("images")["images"].by_reason().get(REASON)
    if taken_down is None:
        return False
    partitions = taken_down.tolist()
    rows = (row for p in partitions for row in read_rows(root, file_of("images", p), ["key", "reason"]))
    taken = read_takedowns(root) | TakedownList(key=frozenset(row["key"] for row in rows if row["reason"] == REASON))
    write_takedowns(root, taken)
    forget(root, taken.key)
    blank_partitions(root, run.ledger, corpus.rows, partitions, taken)
    return True


def _run_step(run: Run, step: CorpusStage, progress: Progress) -> int:
    corpus, ledger = run.corpus, run.ledger
    upstream = run.commits(*corpus.before(step.name))
    if step.is_current(corpus.root, upstream, run.commits(step.name)[step.name]):
        return 0
    of = len(upstream["rows"])
    small = is_local(corpus.config.beam.runner) and of <= SMALL
    by_workers = None if small else partial(_write_decided, run, progress, of)
    step.run(corpus.root, ledger, upstream, by_workers, run.workers)
    return ledger.done(step.name)


def _write_decided(run: Run, progress: Progress, of: int, work: WriteDecided, pieces: list[Piece]) -> None:
    follow(run, work, pieces, of, progress)


def _run_shards(run: Run, name: str, progress: Progress) -> int:
    corpus, ledger = run.corpus, run.ledger
    started, root = time.time(), corpus.root
    commits = run.commits("rows", *corpus.made)
    payloads = {p: commit.payload for p, commit in commits["images"].items()}
    sets: list[NewRelease] = []
    made = 0
    for stage in corpus.shards:
        before = read_card(root, stage.set)
        folder = f"{LAYOUTS}/{stage.set}"
        layout = lay_out(root, stage, before, commits, run.workers, folder)
        forget_results(root, folder)
        packs = layout.packs(stage, shards_there(root, stage, before), before)
        of = sum(len(pack.wanted) for pack in packs)
        follow(run, PackShards(stage, root, ledger, payloads), packs, of, progress, f"shards-{stage.set}")
        card = card_of(stage, layout, shards_there(root, stage, before))
        sets.append(NewRelease(before, card, card_changes(root, before, card), corpus.settings_of(stage)))
        made += of
    asks_only = "instructions" in corpus.made and all(stage.asks for stage in corpus.shards)
    chosen = "instructions" if asks_only else "selection"
    rows, kept, _ = commits[chosen].totals()
    hold_gates(corpus.config.gates, root, rows, kept, sets)
    for new in sets:
        publish(root, ledger, new.after, new.changes, started, new.settings)
    with suppress(Corrupt):  # of files that nothing of this was made from; `verify` names them
        record_distributions(root, ledger, [new.after for new in sets], commits)
    return made
