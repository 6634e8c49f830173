"""Ways in which a corpus is made: by one run, by parts, by a Dask cluster, by Prism, in an object store.

Each can be killed or stopped at any moment, and is then begun again.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.corpora import write_tar
from support.kills import accounting, unequal, wait_for
from support.loopback import answers, free_port
from support.object_store import object_store
from support.paths import PROJECT

from pipelines.engine import lease
from pipelines.engine.root import Root
from pipelines.maintain.clean import clean_root
from pipelines.maintain.verify import verify_root

TOML = """
root = "{root}"
[source]
kind = "webdataset"
path = "{source}/*.tar"
[duplicates]
[stages.sides]
callable = "sides.py:sides"
reads = ["images.width"]
columns = {{ side = "int" }}
[sets.train]
task = "caption"
samples_per_shard = 5
"""
TWO_WORKERS = '[beam]\noptions = ["--direct_num_workers=2"]\n'
ON_DASK = """[beam]
runner = "apache_beam.runners.dask.dask_runner.DaskRunner"
options = ["--dask_client_address={}"]
"""
ON_PRISM = """[beam]
runner = "PrismRunner"
options = ["--prism_location={prism}", "--environment_type=EXTERNAL", "--environment_config=127.0.0.1:{port}"]
"""
PRISM = shutil.which("prism", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path.home() / "go/bin")]))
LEASE, RENEW = 20.0, 2.0  # seconds: after a kill nobody waits two minutes
SOON = f"from pipelines.engine import lease; lease.LEASE, lease.RENEW = {LEASE}, {RENEW}; "
RUN = f"import sys; {SOON}from pipelines.build import __main__; __main__.main()"
WORK = f"{SOON}from flows.cli import main; main()"
CACHES = ("_commits.parquet", "lock.json", "catalog.duckdb", "report.html")
ENDED, GONE = 600.0, 20.0  # seconds: of a run on a busy machine, and until no process of it is left
STILL = 5.0  # seconds in which nothing may change after Ctrl-C: workers of a cluster live on


@dataclass
class Way:
    """`steps` are commands, those of a step side by side; {config} is the configuration."""

    name: str
    beam: str = TWO_WORKERS
    steps: Sequence[Sequence[tuple[str, ...]]] = (((RUN, "{config}"),),)
    store: bool = False
    elsewhere: list[subprocess.Popen] = field(default_factory=list)  # workers that are no children of a run

    def configure(self, folder: Path, source: Path) -> tuple[Path, Root]:
        folder.mkdir(parents=True)
        url = f"s3://bucket/{uuid.uuid4().hex}" if self.store else str(folder / "corpus")
        (folder / "sides.py").write_text('def sides(row):\n    return {"side": row["width"]}\n')
        (folder / "my.toml").write_text(TOML.format(root=url, source=source) + self.beam)
        return folder / "my.toml", Root(url)


def parts_of(stage: str) -> tuple[tuple[str, ...], ...]:
    """Three parts of a stage, side by side."""
    return tuple((WORK, "work", "{config}", stage, "--part", f"{part}/3", "--wait", "60") for part in (1, 2, 3))


PARTS = (
    ((RUN, "{config}", "--until", "rows"),), parts_of("images"),
    ((RUN, "{config}", "--until", "duplicates"),), parts_of("sides"), ((RUN, "{config}"),),
)  # fmt: skip


@contextmanager
def ways(names: Sequence[str]) -> Iterator[list[Way]]:
    """The ways, with the servers that they need."""
    known = {"local": Way("local"), "parts": Way("parts", steps=PARTS), "s3": Way("s3", store=True)}
    with object_store(), ExitStack() as servers:
        lease.LEASE, lease.RENEW = LEASE, RENEW
        for name in names:
            if name in SERVED:
                known[name] = servers.enter_context(SERVED[name]())
        yield [known[name] for name in names]


@contextmanager
def dask_cluster() -> Iterator[Way]:
    address = f"tcp://127.0.0.1:{free_port()}"
    way = Way("dask", ON_DASK.format(address))
    scheduler = dask("dask_scheduler", "--host", address, "--no-dashboard")
    try:
        way.elsewhere += [dask_worker(address), dask_worker(address)]
        yield way
    finally:
        for process in (*way.elsewhere, scheduler):
            process.kill()
            process.wait()


def dask(program: str, *words: str, **env: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, "-m", f"distributed.cli.{program}", *words]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def dask_worker(address: str, **env: str) -> subprocess.Popen:
    return dask("dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny", **env)


@contextmanager
def prism_pool() -> Iterator[Way]:
    """A pool of workers. Each is a child of it, started as `python` with its environment."""
    port = free_port()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    pool = subprocess.Popen(
        [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        assert wait_for(lambda: answers(port), 60.0), "the pool of workers does not answer"
        yield Way("prism", ON_PRISM.format(prism=PRISM, port=port))
    finally:
        os.killpg(pool.pid, signal.SIGKILL)
        pool.wait()


SERVED = {"dask": dask_cluster, "prism": prism_pool}


class Attempt:
    """The steps of a way, in processes that carry a mark. Leaves none behind."""

    def __init__(self, way: Way, config: Path, root: Root):
        self.way, self.config, self.root, self.mark = way, config, root, f"SHARDMILL_TEST_RUN={uuid.uuid4().hex}"
        self.said = config.parent / "said"

    def run(self, until: float | None = None, victim: str = "all", draws: random.Random | None = None) -> str | None:
        """Carries out the steps. After `until` seconds kills a victim, or interrupts all with `victim` "ctrl-c", and
        begins no further step. Returns what was hit; None if all ended before. Raises `AssertionError` if a step
        fails that was not hit, or if processes are left."""
        began, hit = time.monotonic(), None
        for step in self.way.steps:
            processes = [self._start(words) for words in step]
            while any(process.poll() is None for process in processes):
                if until is not None and hit is None and time.monotonic() - began > until:
                    hit = self._hit(victim, processes, draws or random.Random(0))
                assert time.monotonic() - began < ENDED, f"hangs: {self.said.read_text()[-2000:]}"
                time.sleep(0.02)
            if hit:
                break
            codes = [process.returncode for process in processes]
            assert not any(codes), f"{self.way.name}: {codes}: {self.said.read_text()[-2000:]}"
        gone = wait_for(lambda: not self.pids(), GONE)
        left = self.pids()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert gone, f"processes that are left: {left}"
        if hit == "ctrl-c":
            before = digests(self.root)
            time.sleep(STILL)
            assert digests(self.root) == before, "work went on after Ctrl-C"
        return hit

    def _start(self, words: Sequence[str]) -> subprocess.Popen:
        command = [sys.executable, "-c", *(word.format(config=self.config) for word in words)]
        name, value = self.mark.split("=")
        env = {**os.environ, name: value, "PYTHONPATH": str(PROJECT), "TMPDIR": str(self.config.parent)}
        with self.said.open("a") as said:
            return subprocess.Popen(command, cwd=PROJECT, env=env, stdout=said, stderr=said, start_new_session=True)

    def _hit(self, victim: str, processes: list[subprocess.Popen], draws: random.Random) -> str:
        """Kills a worker, a process that was started, or all at once; or interrupts those that were started."""
        alive = [process for process in processes if process.poll() is None]
        workers = self.pids("pipelines.engine.worker_main")
        if victim == "worker" and self.way.elsewhere:
            draws.choice(self.way.elsewhere).kill()
        elif victim == "worker" and workers:
            _signal([draws.choice(workers)], signal.SIGKILL)
        elif victim == "all":
            _signal(self.pids(), signal.SIGKILL)
        elif victim == "ctrl-c":
            _signal([process.pid for process in alive], signal.SIGINT)
        elif alive:
            victim = "run"
            _signal([draws.choice(alive).pid], signal.SIGKILL)
        return victim

    def pids(self, program: str = "") -> list[int]:
        """All live processes that inherited the mark, or those of one program."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                mine = self.mark.encode() in (folder / "environ").read_bytes().split(b"\0")
                if mine and program.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return found


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def mend(way: Way) -> None:
    """Starts workers in place of those that were killed."""
    address = way.beam.partition("address=")[2].partition('"')[0]
    way.elsewhere[:] = [
        process if process.poll() is None else dask_worker(address) for process in way.elsewhere
    ]  # fmt: skip


def digests(root: Root) -> dict[str, str]:
    """The SHA-256 of every data file under a root."""
    base = root.fs._strip_protocol(root.url)
    found = {}
    for path in root.fs.find(base):
        name = path[len(base) + 1 :]
        if not name.startswith(("runs/", "leases/")) and name.rpartition("/")[2] not in CACHES:
            found[name] = hashlib.sha256(root.read(name)).hexdigest()
    return found


def write_source(folder: Path) -> Path:
    for number in range(6):
        write_tar(folder / f"source/{number}.tar", range(5 * number, 5 * number + 6))  # each repeats one of the next
    return folder / "source"


@dataclass
class Expected:
    """What a run makes that nobody disturbs."""

    files: dict[str, str]
    accounting: list[dict]

    @classmethod
    def of(cls, root: Root) -> "Expected":
        return cls(digests(root), accounting(root))

    def faults(self, root: Root) -> dict[str, list]:
        """What differs under a root, once killed runs were run again to the end."""
        seen = verify_root(root)
        left = [name for name in seen.garbage if not name.startswith("images/")]  # tars of killed workers are cleaned
        clean_root(root, grace=0, keep=1)
        now = Expected.of(root)
        return {
            "files": sorted(name for name, _ in self.files.items() ^ now.files.items()),
            "rows": unequal(self.accounting, now.accounting),
            "problems": seen.problems,
            "garbage": verify_root(root).garbage,
            "left_by_runs": [name for name in left if "decided" in name or "layouts" in name],
        }  # fmt: skip
