"""Runs of a small corpus that are killed at a point or at any moment, and what is then not as it should be."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from pathlib import Path

from support.corpora import ONE_PROCESS, data_files, picture, write_tar
from support.paths import PROJECT

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from pipelines.engine.commit import Stage
from pipelines.engine.corpus_stage import CorpusStage
from pipelines.engine.ledger import runs
from pipelines.engine.root import Root
from pipelines.maintain.clean import clean_root
from pipelines.maintain.verify import verify_root
from pipelines.stages.own import CallFunction
from schemas.config.model import Config
from schemas.own_stages import own_info
from schemas.stages import STAGES as TABLE
from schemas.stages import of_corpus, with_own

OWN = "sides"  # a stage of a user's
INFOS = of_corpus(with_own([TABLE["rows"], TABLE["images"], own_info(OWN, {"side": "int"}, ("odd",))]))
STAGES = [name for name, stage in INFOS.items() if not stage.paid]  # no model is asked here
ORDER = (*STAGES, "shards")
ENDED = 60.0  # seconds within which a run must be through on a busy machine, once it has nothing to wait for
GONE = 10.0  # seconds after which no process of a killed run may be left
LEFT = "processes that are left"
DIED = r"shardmill: {}: a worker died \(exit code -9\); the workers' log is \S+\n"


# Where a process can be killed


def class_of(name: str) -> type[Stage]:
    """The class of a stage, which its module defines."""
    if name == OWN:
        return CallFunction
    module = import_module(f"pipelines.stages.{name}")
    (found,) = (
        value for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Stage) and value.__module__ == module.__name__
    )  # fmt: skip
    return found


CLASSES = {name: class_of(name) for name in STAGES}
WHO = {  # comes to a point that stages share
    "payload": [name for name, stage in CLASSES.items() if getattr(stage, "payload", False)],
    "chunk": [name for name, stage in CLASSES.items() if getattr(stage, "chunk_rows", None)],
    "recorded": list(STAGES),
    "committed": list(STAGES),
    "step": [name for name, stage in CLASSES.items() if issubclass(stage, CorpusStage)],
    "changes": list(ORDER),
    "work": list(ORDER),
}
VANISHED = "rows:removed"  # only a run that finds a source file gone comes there


def points() -> list[str]:
    """Every named point in the sources, by stage, in an order in which runs come to them."""
    text = "\n".join(path.read_text() for path in sorted((PROJECT / "pipelines").rglob("*.py")))
    named = re.findall(r"\bpoint\(f?\"([^\"]+)\"\)", text)
    assert len(named) == len(re.findall(r"(?<!def )\bpoint\(", text)), "a point whose name is not written out"
    named = [name for name in named if not name.startswith(("takedown:", "export:"))]  # no run comes there
    own = sorted({name for name in named if "{" not in name}, key=named.index)
    shared = {name.split("}:")[1] for name in named if "{" in name}
    assert shared == WHO.keys(), "a point that stages share: say in WHO which of them come to it"
    found = [f"{stage}:{name}" for name, stages in WHO.items() for stage in stages]
    late = [name for name in found if name.endswith((":changes", ":work"))]
    every = [VANISHED, *(name for name in found if name not in late), *own, *late]
    return sorted(dict.fromkeys(every), key=lambda name: ORDER.index(stage_of(name)))


def stage_of(point: str) -> str:
    return point.split(":")[0]


# A run in processes that can be killed

TWO_ROWS_A_CHUNK = """
from dataclasses import replace
from pipelines.stages import ocr

opened = ocr.open_stage
ocr.open_stage = lambda config: replace(opened(config), chunk_rows=2)
"""
MAIN = "from pipelines.build import __main__; __main__.main()"


class Run:
    """`python -m pipelines.build my.toml` in a session of its own, after some `code`. Leaves no process behind."""

    def __init__(self, config: Path, kill_at: str = "", code: str = ""):
        self.mark, self.said = f"SHARDMILL_TEST_RUN={uuid.uuid4().hex}", config.parent / "said"
        code = TWO_ROWS_A_CHUNK if kill_at.endswith(":chunk") else code
        program = ["-c", f"{code}\n{MAIN}"] if code else ["-m", "pipelines.build"]
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, *program, config], cwd=PROJECT, start_new_session=True, stdout=said, stderr=said,
                env=os.environ | dict([self.mark.split("=")]) | {"SHARDMILL_KILL_AT": kill_at, "TMPDIR": config.parent},
            )  # fmt: skip

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: object) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def pids(self, program: str = "") -> list[int]:
        """All live processes of this run, or those of one program: they inherited its mark."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile; what has ended and waits for its parent has no environment
                mine = self.mark.encode() in (folder / "environ").read_bytes().split(b"\0")
                if mine and program.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return found

    def wait(self, seconds: float = 5 * ENDED) -> int:
        return self.process.wait(seconds)

    def ends_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def leaves_nothing(self) -> bool:
        """Whether all its processes are gone soon after a kill. Raises `AssertionError` if not."""
        assert wait_for(lambda: not self.pids(), GONE), f"{LEFT}: {self.pids()}"
        return True

    def kill(self, victim: str) -> str:
        """Kills the `run` that was started, its Beam `job`, one Beam `worker` or `all` at once; says which it was."""
        jobs, workers = self.pids("pipelines.engine.job_main"), self.pids("pipelines.engine.worker_main")
        with suppress(ProcessLookupError):
            if victim == "worker" and workers:
                os.kill(random.choice(workers), signal.SIGKILL)
                return victim
            if victim in ("job", "all") and jobs:
                os.killpg(os.getpgid(jobs[0]), signal.SIGKILL)
                if victim == "job":
                    return victim
            victim = "all" if victim == "all" and jobs else "run"
            os.killpg(self.process.pid, signal.SIGKILL)
        return victim


def wait_for(holds: Callable[[], object], seconds: float) -> bool:
    """Whether something comes to hold within some seconds."""
    until = time.monotonic() + seconds
    while not (now := holds()) and time.monotonic() < until:
        time.sleep(0.05)
    return bool(now)


# A corpus to kill runs of

TOML = """root = "corpus"

[source]
kind = "webdataset"
path = "{source}"

[images]
max_bytes = {max_bytes}

[duplicates]
near = -1

[ocr]
min_confidence = {min_confidence}

[stages.sides]
callable = "mine.py:sides"
reads = ["rows.text", "images.width"]
columns = {{ side = "int" }}
reasons = ["odd"]
{optional}
[sets.train]
where = "text != 'picture 1' and side > 0"
samples_per_shard = 3

[sets.small]
max_side = 112
format = "jpg"
stable_json = true
samples_per_shard = 5
"""
MINE = """
def sides(row):
    return "odd" if row["text"] == "picture 5" else {"side": row["width"]}
"""
KNOWN = {"duplicates", "ocr"}  # have a table above; any other stage is made with its defaults
TABLES = {name for name, field in Config.model_fields.items() if field.default is None}
OPTIONAL = "".join(f"[{name}]\n" for name in STAGES if name in TABLES - KNOWN)


@dataclass
class Clean:
    """A source, and what a run makes of it that nobody disturbs."""

    folder: Path
    source: Path
    max_bytes: int
    min_confidence: float = 0.5
    beam: str = ONE_PROCESS  # or nothing: a worker process a core
    files: dict[str, str] = field(default_factory=dict)  # name -> SHA-256
    accounting: list[dict] = field(default_factory=list)
    ledger: list[dict] = field(default_factory=list)
    left: dict[str, float] = field(default_factory=dict)  # stage -> seconds from its begin to the end of the run

    def configure(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "my.toml"
        config.write_text(TOML.format_map({**vars(self), "optional": OPTIONAL}) + self.beam)
        (folder / "mine.py").write_text(MINE)
        return config

    def make(self, base: "Clean | None" = None) -> "Clean":
        """Runs, from nothing or on top of another corpus, and looks at the result."""
        config = self.configure(self.folder)
        if base:
            shutil.copytree(base.folder / "corpus", self.folder / "corpus")
        finish(config)
        ended, root = time.time(), open_corpus(config).root
        assert verify_root(root).problems == []
        assert base or verify_root(root).garbage == []
        clean_root(root, grace=0, keep=1)
        self.files, self.accounting, self.ledger = data_files(self.folder / "corpus"), accounting(root), ledger(root)
        last = max(runs(root), key=lambda run: run.row()["started"])
        begun = [datetime.fromisoformat(last.row()["started"]).timestamp()]
        begun += [(self.folder / f"corpus/runs/{last.run}/work-{stage}.parquet").stat().st_mtime for stage in STAGES]
        self.left = {stage: ended - moment for stage, moment in zip(ORDER, begun, strict=True)}
        return self

    def before(self, stage: str, folder: Path) -> Path:
        """The configuration of a corpus as a run has it when it comes to a stage."""
        config = self.configure(folder)
        if stage == "rows":
            return config
        corpus = shutil.copytree(self.folder / "corpus", folder / "corpus")
        for later in ORDER[ORDER.index(stage) :]:
            shutil.rmtree(corpus / later)
            for path in corpus.glob(f"runs/*/*-{later}.parquet"):
                path.unlink()
        return config

    def faults(self, config: Path) -> dict[str, list]:
        """What is not as in the run that nobody disturbed, once killed runs were run again to the end."""
        root, corpus = open_corpus(config).root, config.parent / "corpus"
        files, problems = data_files(corpus), verify_root(root).problems
        wrong = {name for name, sha256 in self.files.items() if files.get(name) != sha256}
        clean_root(root, grace=0, keep=1)
        wrong |= {name for name, _ in self.files.items() ^ data_files(corpus).items()}
        return {
            "files": sorted(wrong),
            "problems": problems,
            "rows": unequal(self.accounting, accounting(root)),
            "ledger": [*unequal(self.ledger, ledger(root)), *twice(root), *unended(root)],
        }


def accounting(root: Root) -> list[dict]:
    """How many rows of each stage are kept, or under which reason."""
    return query(root, "SELECT * FROM accounting ORDER BY ALL").to_pylist()


def ledger(root: Root) -> list[dict]:
    """What runs changed and which partitions they made, whichever run it was. A shard that a killed run packed is in
    no run's notes, as it was not published then."""
    changes = query(root, "SELECT * EXCLUDE (run) FROM changes ORDER BY ALL")
    work = query(root, "SELECT stage, item, rows, kept FROM work WHERE stage != 'shards' ORDER BY ALL")
    return [*changes.to_pylist(), *work.to_pylist()]


def unequal(expected: list[dict], found: list[dict]) -> list[dict]:
    """What stands in one list more often than in the other."""
    return [row for row in (*expected, *found) if expected.count(row) != found.count(row)]


def twice(root: Root) -> list[dict]:
    """What one run has noted twice."""
    return query(root, "SELECT run, stage, item FROM work GROUP BY ALL HAVING count(*) > 1").to_pylist()


def unended(root: Root) -> list[dict]:
    """Runs that did not end as they should: the last one completed, those before died or failed."""
    said = query(root, "SELECT run, status FROM runs ORDER BY started").to_pylist()
    fits = [row["status"] in ("completed", "died", "failed") for row in said[:-1]] + [said[-1]["status"] == "completed"]
    return [row for row, fit in zip(said, fits, strict=True) if not fit]


def finish(config: Path) -> None:
    """Runs again, to the end."""
    with Run(config) as run:
        assert run.wait() == 0, run.said.read_text()


def kill_at(point: str, config: Path) -> str:
    """Runs until the process that comes to a point kills its group, and sees that nothing of it is left. Returns the
    status that the run will have."""
    with Run(config, kill_at=point) as run:
        code = run.wait()
        assert run.leaves_nothing()
        said = run.said.read_text()
    if code == -signal.SIGKILL:
        return "died"
    assert code == 1, f"{point} was not reached: {said}"
    assert re.fullmatch(DIED.format(stage_of(point)), said), said  # a worker came there; the run lives to say so
    return "failed"


def kill_at_random(clean: Clean, stage: str, victim: str, folder: Path) -> tuple[Path, str]:
    """Kills something at any moment from a stage's begin to the end of the run; returns the configuration, and what
    was killed. The run must not hang, nor say more than one line, and nothing of it may be left."""
    for attempt in range(10):
        config = clean.before(stage, folder / str(attempt))
        before = set(config.parent.glob("corpus/runs/*"))
        with Run(config) as run:
            assert wait_for(lambda: set(config.parent.glob("corpus/runs/*")) > before, ENDED)
            if run.ends_within(random.uniform(0, clean.left[stage])):
                continue  # the machine is faster now than it was
            killed = run.kill(victim)
            code = run.wait(ENDED)
            assert run.leaves_nothing()
            said = run.said.read_text()
        assert code in (0, -signal.SIGKILL if killed in ("run", "all") else 1), said
        assert code == 0 or said.count("\n") == (code == 1), said
        return config, killed
    raise AssertionError(f"no run lived for {clean.left[stage]} s")


def pictures(folder: Path, beam: str = ONE_PROCESS) -> Clean:
    """Twenty-four pictures in four partitions; half of them have too many bytes."""
    for n in range(4):
        write_tar(folder / f"source/{n}.tar", range(6 * n, 6 * n + 6))
    sizes = sorted(len(picture(n)[0]) for n in range(24))
    return Clean(folder / "clean", folder / "source", max_bytes=sizes[11], beam=beam).make()
