"""A real Prefect server and worker for tests, and the processes that tests start."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from support.paths import PROJECT

CLI = [sys.executable, "-c", "from flows.cli import main; main()"]
PREFECT = [sys.executable, "-m", "prefect"]
PATIENCE = 180  # seconds for what takes a few on a machine with nothing else to do


def until(holds: Callable[[], Any], seconds: float = PATIENCE, what: str = "") -> Any:
    """Waits for something to hold, and gives it."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, f"{what or 'it'} did not happen within {seconds} s"
        time.sleep(0.05)
    return found


def processes(mark: str, command: str = "") -> dict[int, str]:
    """The living processes with a mark in their environment, whoever their parents are: id -> command line."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            said = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if mark.encode() in (process / "environ").read_bytes() and said and command in said:
                found[int(process.name)] = said
        except OSError:
            pass  # it has ended, or is another user's
    return found


@contextmanager
def started(
    command: list[str], folder: Path, log: Path | None = None, **env: str
) -> Iterator[tuple[subprocess.Popen, str]]:
    """A process in a session of its own, and the mark that all its children carry. None of them outlives this.

    One that runs on while nobody reads what it says needs a `log`: it would stand still at a full pipe.
    """
    mark = f"SHARDMILL_TEST={uuid.uuid4().hex}"
    out, errors = (log.open("w"), subprocess.STDOUT) if log else (subprocess.PIPE, subprocess.PIPE)
    process = subprocess.Popen(
        command, cwd=folder, start_new_session=True, text=True, stdout=out, stderr=errors,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        env={**os.environ, "PYTHONPATH": str(PROJECT), **env, **dict([mark.split("=")])},
    )  # fmt: skip
    try:
        yield process, mark
    finally:
        for left in (process.pid, *processes(mark)):
            with suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        process.communicate()
        until(lambda: not processes(mark), 30, "the end of all processes")


@dataclass
class Server:
    url: str
    home: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            "PREFECT_API_URL": self.url, "PREFECT_HOME": str(self.home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1", "PREFECT_WORKER_QUERY_SECONDS": "2",
        }  # fmt: skip

    def ask(self, path: str, body: dict | None = None, method: str = "POST") -> Any:
        for pause in (1, 2, 4, 8):  # its database may be locked
            with suppress(httpx.ReadTimeout):
                answer = httpx.request(method, f"{self.url}/{path}", json=body, timeout=60)
                if answer.status_code != 503:
                    break
            time.sleep(pause)
        else:
            answer = httpx.request(method, f"{self.url}/{path}", json=body, timeout=60)
        return answer.raise_for_status().json() if answer.content else None

    def run_of(self, name: str) -> dict | None:
        """The first flow run of a configuration, by its name: FOLDER-NAME TIME."""
        found = self.ask(
            "flow_runs/filter", {"flow_runs": {"name": {"like_": f"-{name} 20"}}, "sort": "START_TIME_ASC"}
        )
        return found[0] if found else None

    def run(self, run_id: str) -> dict:
        return self.ask(f"flow_runs/{run_id}", method="GET")

    def tasks_of(self, run: dict) -> dict[str, dict]:
        """name -> task run. Prefect hears of them a little later than of the flow run."""

        def ended():
            found = self.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
            done = all(task["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") for task in found)
            return done and {task["name"]: task for task in found}

        return until(ended)

    def artifacts_of(self, run: dict) -> dict[str, Any]:
        """key without the corpus -> artifact"""
        found = self.ask("artifacts/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        return {re.sub(r"^shardmill-(\w+)-.+-[0-9a-f]{6}", r"\1", artifact["key"]): artifact for artifact in found}

    def logs_of(self, run: dict) -> list[str]:
        found = self.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_ASC"})
        return [log["message"] for log in found]

    def trigger(self, deployment: str, **parameters: Any) -> dict:
        """Has a worker run a deployment now, with other parameters if any are given."""
        found = self.ask(f"deployments/name/build-corpus/{deployment}", method="GET")
        body = {"parameters": {**found["parameters"], **parameters}}
        return self.ask(f"deployments/{found['id']}/create_flow_run", body)


@contextmanager
def serving(home: Path, pages: bool = False) -> Iterator[Server]:
    """A Prefect server on this machine, with a database of its own in a folder. `pages`: for people, in a browser."""
    home.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}/api", home)
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port), *([] if pages else ["--no-ui"])]

    def answers() -> bool:
        try:
            return httpx.get(f"{server.url}/health").is_success
        except httpx.HTTPError:
            return False

    with started(command, home, home / "log", **server.env, PREFECT_LOGGING_LEVEL="CRITICAL"):
        until(answers, what="the server's start")
        yield server
