"""A corpus as a team on call meets it: a week of nightly runs and the incidents around them, on a real Prefect server.

    python tests/benchmarks/nights.py [--outage 20] [--only cancel,week] [--screenshots FOLDER]

Each incident is one row: what Prefect and the ledger say of the run, and what the next run did. `--outage`: seconds for
which the Prefect server is gone. `--screenshots`: Prefect's pages of each run and of the alerts as PNG, by Chromium.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.corpora import ONE_PROCESS, picture, shardmill
from support.prefect_server import PREFECT, Server, processes, serving, started, until
from support.webhooks import webhook

from pipelines.engine.ledger import runs
from pipelines.engine.root import Root

MINE = "import time\n\n\ndef wait(row):\n    time.sleep({pause})\n    return {{'waited': 1}}\n"
CONFIG = f"""
root = "corpus"
[source]
kind = "folder"
path = "table.csv"
images = "pictures"
image_column = "image"
text_column = "text"
rows_per_partition = 4
[stages.slow]
callable = "mine.py:wait"
reads = ["rows.text"]
columns = {{ waited = "int" }}
[sets.train]
samples_per_shard = 4
[gates]
kept = "kept_share >= 0.8"
{ONE_PROCESS}"""
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Night:
    """A corpus of pictures in a table, its deployment, and what became of its runs."""

    def __init__(self, server: Server, folder: Path, name: str, pause: float = 0, alert: str = ""):
        self.server, self.folder, self.name = server, folder / name, name
        (self.folder / "pictures").mkdir(parents=True)
        self.lines, self.heading = list[str](), "image,text"
        self.add(8)
        (self.folder / "my.toml").write_text(CONFIG)
        self.pause(pause)
        words = ("--alert", alert, "--within", "30") if alert else ()
        said = shardmill("schedule", self.folder / "my.toml", "--cron", "0 3 1 1 *", *words, **server.env)
        assert said.returncode == 0, said.stderr

    def pause(self, seconds: float) -> None:
        (self.folder / "mine.py").write_text(MINE.format(pause=seconds))

    def add(self, count: int, good: bool = True) -> None:
        for number in range(len(self.lines), len(self.lines) + count):
            data = picture(number)[0] if good else b"not a picture"
            (self.folder / f"pictures/{number}.png").write_bytes(data)
            self.lines.append(f"{number}.png,a picture with the number {number}")
        self.write()

    def write(self) -> None:
        (self.folder / "table.csv").write_text("\n".join([self.heading, *self.lines]) + "\n")

    def trigger(self, **parameters: Any) -> dict:
        return self.server.trigger(f"{self.name}-my", **parameters)

    def at_work(self, run: dict, sign: str = "corpus/runs/*/slow/*.json") -> str:
        """Waits for the slow stage of a run, which has made a partition; gives the mark of the run's processes."""
        until(lambda: list(self.folder.glob(sign)), what=f"{self.name}: the slow stage")
        return f"PREFECT__FLOW_RUN_ID={run['id']}"

    def ended(self, run: dict, seconds: float = 400) -> dict:
        return until(lambda: (now := self.server.run(run["id"]))["state_type"] in ENDED and now, seconds)

    def ledger(self) -> list[str]:
        rows = [ledger.row() for ledger in runs(Root(str(self.folder / "corpus")))]
        return [f"{row['status']}: {row['detail']}" if row["detail"] else row["status"] for row in rows if row]

    def row(self, what: str, run: dict) -> dict:
        """What is said of a run that has ended."""
        state = self.server.run(run["id"])["state"]
        return {
            "what": what, "prefect": state["name"], "message": state["message"], "run": run["id"],
            "ledger": self.ledger()[-1] if self.ledger() else "no run",
        }  # fmt: skip

    def next(self, row: dict) -> dict:
        """The row, and what the next run did: it heals whatever was left."""
        self.pause(0)
        run = self.ended(self.trigger())
        verified = shardmill("verify", self.folder / "my.toml").stdout.strip().splitlines()
        return row | {"next": f"{run['state']['name']}: {run['state']['message']}", "verify": verified[-1]}


def week(server: Server, folder: Path, alert: str) -> Iterator[dict]:
    """Seven nights: one gate fails, one run is killed, one finds nothing new, one finds a column renamed."""
    nights = Night(server, folder, "week", alert=alert)
    yield nights.row("night 1: eight pictures", nights.ended(nights.trigger()))
    nights.add(4)
    yield nights.row("night 2: four more", nights.ended(nights.trigger()))
    nights.add(4, good=False)
    yield nights.row("night 3: four that are damaged; a gate fails", nights.ended(nights.trigger()))
    for number in range(12, 16):
        (nights.folder / f"pictures/{number}.png").write_bytes(picture(number)[0])
    nights.add(4)
    nights.pause(1)
    run = nights.trigger()
    for process in processes(nights.at_work(run)):
        os.kill(process, signal.SIGKILL)
    nights.ended(run)
    yield nights.row("night 4: killed", run)
    nights.pause(0)
    yield nights.row("night 5: after the kill", nights.ended(nights.trigger()))
    yield nights.row("night 6: nothing new", nights.ended(nights.trigger()))
    nights.heading = "image,says"
    nights.write()
    yield nights.row("night 7: a column has another name", nights.ended(nights.trigger()))


def worker_killed(server: Server, folder: Path, restart: Callable[[], None]) -> dict:
    night = Night(server, folder, "worker-killed", pause=1)
    run = night.trigger()
    night.at_work(run)
    restart()
    night.ended(run)
    return night.next(night.row("worker killed; another starts", run))


def cancelled(server: Server, folder: Path) -> dict:
    night = Night(server, folder, "cancelled", pause=1)
    run = night.trigger()
    mark = night.at_work(run)
    server.ask(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    before = time.monotonic()
    until(lambda: not processes(mark), 60, "the end of its processes")
    seconds = time.monotonic() - before
    night.ended(run)
    return night.next(night.row("cancelled in Prefect", run) | {"seconds": round(seconds, 1)})


def two_at_once(server: Server, folder: Path) -> dict:
    night = Night(server, folder, "two-at-once", pause=1)
    first = night.trigger()
    night.at_work(first)
    second = night.ended(night.trigger())
    night.ended(first)
    row = night.row("two workers, two runs of one corpus", first)
    return night.next(row | {"second": f"{second['state']['name']}: {second['state']['message']}"})


def custom(server: Server, folder: Path) -> Iterator[dict]:
    night = Night(server, folder, "custom")
    for what, parameters in (
        ("custom run: until = imagse", {"until": "imagse"}),
        ("custom run: retry of a stage that does not exist", {"retry": {"imagse": "true"}}),
        ("custom run: a condition that is not SQL", {"retry": {"images": "reason is timeout"}}),
    ):
        yield night.row(what, night.ended(night.trigger(**parameters)))
    yield night.next(night.row("custom run: until = rows", night.ended(night.trigger(until="rows"))))


def outage(server: Server, folder: Path, pause: Callable[[float], None], seconds: float) -> dict:
    night = Night(server, folder, "outage", pause=seconds / 8)
    run = night.trigger()
    night.at_work(run, "corpus/runs/*/work-rows.parquet")
    pause(seconds)
    night.ended(run)
    return night.next(night.row(f"the Prefect server does not answer for {seconds:.0f} s", run))


class Workers:
    """Prefect workers; killing all of them and starting others leaves their flows alone."""

    def __init__(self, server: Server, count: int):
        self.server, self.count, self.stack, self.living = server, count, ExitStack(), list[subprocess.Popen]()
        self.start()

    def start(self) -> None:
        command = [*PREFECT, "worker", "start", "--pool", "shardmill", "--type", "process", "--limit", "2"]
        for number in range(self.count):
            log = self.server.home / f"worker-{number}-{len(self.living)}"
            self.living.append(self.stack.enter_context(started(command, self.server.home, log, **self.server.env))[0])

    def restart(self) -> None:
        for process in self.living[-self.count :]:
            process.kill()
        self.start()


def stopped(server: Server, seconds: float) -> None:
    """Has the Prefect server not answer for a while."""
    found = processes(f"PREFECT_HOME={server.home}", "server start")
    found |= processes(f"PREFECT_HOME={server.home}", "uvicorn")
    for process in found:
        os.kill(process, signal.SIGSTOP)
    time.sleep(seconds)
    for process in found:
        os.kill(process, signal.SIGCONT)


def screenshots(server: Server, rows: list[dict], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    site = server.url.removesuffix("/api")
    pages = {f"{n:02d}": f"runs/flow-run/{row['run']}" for n, row in enumerate(rows) if "run" in row}
    for name, page in {"runs": "runs", "automations": "automations", **pages}.items():
        subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000",
             "--window-size=1400,1100", f"--screenshot={folder / name}.png", f"{site}/{page}"],
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--outage", type=float, default=20)
    asked.add_argument("--only", default="week,worker,cancel,two,custom,outage")
    asked.add_argument("--screenshots", type=Path)
    options = asked.parse_args()
    only, before = options.only.split(","), time.monotonic()
    folder, rows = Path(tempfile.mkdtemp()), list[dict]()
    with serving(folder / "prefect", pages=bool(options.screenshots)) as server, webhook() as (url, told):
        workers = Workers(server, 2)
        with workers.stack:
            until(lambda: server.ask("work_pools/filter", {}), what="the workers' pool")
            if "week" in only:
                rows += week(server, folder, url)
            if "worker" in only:
                rows.append(worker_killed(server, folder, workers.restart))
            if "cancel" in only:
                rows.append(cancelled(server, folder))
            if "two" in only:
                rows.append(two_at_once(server, folder))
            if "custom" in only:
                rows += custom(server, folder)
            if "outage" in only:
                rows.append(outage(server, folder, lambda seconds: stopped(server, seconds), options.outage))
            if options.screenshots:
                screenshots(server, rows, options.screenshots)
            time.sleep(3)  # for the last alert
    alerts = Counter(one["kind"] for one in told)
    shutil.rmtree(folder)
    seconds = round(time.monotonic() - before)
    print(json.dumps({"benchmark": "nights", "rows": rows, "alerts": alerts, "seconds": seconds}))


if __name__ == "__main__":
    main()
