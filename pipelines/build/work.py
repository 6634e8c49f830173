"""A share of a stage, made by a process of its own: for Slurm arrays, Kubernetes jobs, or several machines over ssh.

Part I of N is the partitions whose number modulo N is I - 1, of all that there are: what is left to make shrinks while
others work. Parts share the root with each other, and with no run. Each is a run of its own in the ledger.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from pipelines.build.corpus import Corpus
from pipelines.build.order import largest_first
from pipelines.build.plan import todo
from pipelines.build.run import Progress, Run, follow, quiet
from pipelines.engine.commit import digest
from pipelines.engine.commit_cache import Part, read_commits
from pipelines.engine.commits import Commits
from pipelines.engine.ledger import Ledger, ending
from pipelines.engine.lock import hold
from pipelines.engine.make_partition import MakePartitions
from pipelines.engine.partition_stage import PartitionStage
from pipelines.engine.secrets import hiding
from pipelines.engine.worker import is_local
from pipelines.engine.workers import Workers
from pipelines.models.endpoints import check_shared
from pipelines.models.servers import closing_servers
from pipelines.stages.takedown_list import read_takedowns
from schemas.config.model import BeamConfig
from schemas.errors import UserError

MOST = 100_000  # parts


@dataclass(frozen=True)
class WorkReport:
    """What one part did."""

    partitions: int  # of the part
    made: int


def part_of(text: str) -> Part:
    """The part that `I/N` names. Raises `UserError`."""
    named = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    number, of = map(int, named.groups()) if named else (0, 0)
    if not 1 <= number <= of <= MOST:
        raise UserError(f"--part: {text!r}: write I/N with 1 <= I <= N <= {MOST}, such as 1/8")
    return Part(number - 1, of)


def stage_to_share(corpus: Corpus, name: str) -> PartitionStage:
    """The stage whose partitions processes can share. Raises `UserError` for any other."""
    stage = corpus.made.get(name)
    if not isinstance(stage, PartitionStage):
        known = [name for name, made in corpus.made.items() if isinstance(made, PartitionStage)]
        if name in corpus.stages():
            why = f"{name} is made as a whole: run `shardmill run CONFIG --until {name}`; stages with parts are"
            raise UserError(f"work: {why} {', '.join(known)}")
        raise UserError(f"work: unknown stage {name!r}; choose from {', '.join(known)}")
    for endpoint in getattr(stage, "endpoints", ()):
        check_shared(endpoint.name, endpoint.config, "other parts")
    return stage


def configuration_of(corpus: Corpus) -> str:
    """The digest of all that decides what a corpus holds: only processes that agree on it share a root."""
    return digest([
        sorted((name or "", rows.identity()) for name, rows in corpus.rows.items()),
        {name: stage.identity() for name, stage in corpus.made.items()},
    ])  # fmt: skip


@hiding()
def work(corpus: Corpus, name: str, part: Part, wait: float = 0.0, progress: Progress = quiet) -> WorkReport:
    """Makes what is not current in one part of a stage.

    Raises `UserError` if a stage that it reads is not made yet, and `Busy` if a run, or a part of another
    configuration, holds the root for longer than `wait` seconds.
    """
    stage, root = stage_to_share(corpus, name), corpus.root
    beam = corpus.config.beam if is_local(corpus.config.beam.runner) else BeamConfig()
    with hold(root, wait, configuration_of(corpus)) as held:
        commits = {read: read_commits(root, read, only=part) for read in {"rows", *stage.inputs, name}}
        partitions = _complete(stage, commits)
        items = largest_first(corpus, stage, commits, todo(stage, commits))
        ledger = Ledger.start(root, f"{corpus.name} {name} {part}", version("shardmill"), held)
        try:
            with closing_servers(root), Workers(beam, root) as workers:
                ready = (stage.ready(root, ledger) if items else stage).among(part.of)
                follow(Run(corpus, ledger, workers), MakePartitions(ready, root, ledger), items, len(items), progress)
            _close(ledger, stage, items)
        except BaseException as error:
            ledger.end(*ending(error))
            raise
        ledger.end("completed")
    return WorkReport(partitions, len(items))


def _complete(stage: PartitionStage, commits: Mapping[str, Commits]) -> int:
    """The number of partitions of a part. Raises `UserError` if not all that the stage reads is made."""
    every = commits["rows"].keys()
    for name in stage.inputs:
        if missing := every - commits[name].keys():
            raise UserError(
                f"work: {stage.name} reads {name}, of which {len(missing):,} partitions of this part are not made; "
                f"make {name} first"
            )
    return len(every)


def _close(ledger: Ledger, stage: PartitionStage, items: list[int]) -> None:
    """Turns the notes of this part into Parquet. If it is killed before, the next run does."""
    if items:
        made = read_commits(ledger.root, stage.name, only={*items})
        committed = {f"{p:05d}": commit.fingerprint for p, commit in made.items()}
        ledger.close_stage(stage.name, committed, read_takedowns(ledger.root).key)
