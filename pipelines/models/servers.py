"""Servers that a configuration starts by a `command`. Each is started once, waited for, logged, and always stopped.

Each runs under a keeper, `pipelines.models.supervisor`, which ends it when the keeper's standard input closes: when the
run ends, or is killed. All processes of a server carry a mark in their environment, a hash of the root and of the
endpoint's name. Processes that still carry it when the server is started again are orphans, and are ended first.
"""

import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from pipelines.engine.child import import_path, module_command, piped
from pipelines.engine.root import Root
from pipelines.engine.secrets import told
from pipelines.engine.worker import Stopped, end_of
from pipelines.models.endpoints import Endpoint
from pipelines.models.supervisor import GRACE

MARK = "SHARDMILL_SERVER"
ANSWER = build_opener(ProxyHandler({}))  # on this machine: no proxy


@dataclass
class Running:
    """A server that was started here."""

    endpoint: Endpoint  # with its URL
    keeper: subprocess.Popen
    mark: str
    log: Path
    kept: tuple[Root, str] | None = None  # where the log is copied in the end, if it is not written there

    def stop(self) -> None:
        with suppress(BrokenPipeError):
            piped(self.keeper.stdin).close()
        try:
            self.keeper.wait(GRACE + 5)
        except subprocess.TimeoutExpired:
            self.keeper.kill()
            self.keeper.wait()
        end_marked(self.mark)
        if self.kept:
            root, name = self.kept
            root.write(name, end_of(self.log))
            self.log.unlink()


running: dict[tuple[str, str], Running] = {}  # root, endpoint's name -> the server that this process started


def serve(endpoint: Endpoint, root: Root, run: str) -> Endpoint:
    """The endpoint with the URL of its server, which is started unless it runs already.

    Raises `Stopped` if it ends, or does not answer in time; the reason is in its log, under `runs/<run>/`.
    """
    if not (command := endpoint.config.command):
        return endpoint
    place = root.url, endpoint.name
    if place in running:
        if running[place].keeper.poll() is None and running[place].endpoint.config == endpoint.config:
            return replace(endpoint, urls=running[place].endpoint.urls)
        running.pop(place).stop()  # it ended, or serves another model
    name = f"runs/{run}/server-{endpoint.name}.log"
    if root.is_local:
        log, kept = Path(root.path(name)), None
        log.parent.mkdir(parents=True, exist_ok=True)
    else:
        descriptor, path = tempfile.mkstemp(prefix="shardmill-server-", suffix=".log")
        os.close(descriptor)
        log, kept = Path(path), (root, name)
    running[place] = start(endpoint, command, mark_of(root.url, endpoint.name), log, kept)
    try:
        wait_for(running[place])
    except BaseException:
        running.pop(place).stop()
        raise
    return running[place].endpoint


def stop_servers(root: Root, keep: Collection[str] = ()) -> None:
    """Stops the servers that were started for a root, except those of the endpoints in `keep`."""
    for place in [place for place in running if place[0] == root.url and place[1] not in keep]:
        running.pop(place).stop()


@contextmanager
def closing_servers(root: Root) -> Iterator[None]:
    """Stops the servers that were started for a root when the block ends."""
    try:
        yield
    finally:
        stop_servers(root)


def mark_of(*names: str) -> str:
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:32]


def start(endpoint: Endpoint, command: str, mark: str, log: Path, kept: tuple[Root, str] | None = None) -> Running:
    """Ends the remains of an earlier server, and starts a new one."""
    config, port = endpoint.config, free_port()
    command = command.replace("{model}", shlex.quote(config.model)).replace("{port}", str(port))
    keeper = keep(shlex.split(command), mark, log, endpoint.key())
    return Running(replace(endpoint, urls=(f"http://127.0.0.1:{port}/v1",)), keeper, mark, log, kept)


def keep(command: list[str], mark: str, log: Path, secret: str | None = None) -> subprocess.Popen:
    """Ends the remains of an earlier command of this mark, and starts one under a keeper."""
    end_marked(mark)
    instructions = {"command": command, "log": str(log), "secret": secret}
    keeper = subprocess.Popen(
        module_command("pipelines.models.supervisor"), stdin=subprocess.PIPE, start_new_session=True,
        env={**os.environ, MARK: mark, "SPT_NOENV": "1", "PYTHONPATH": import_path()},
    )  # fmt: skip
    stdin = piped(keeper.stdin)
    stdin.write(json.dumps(instructions).encode() + b"\n")
    stdin.flush()
    return keeper


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(server: Running) -> None:
    """Waits until a server is ready."""
    endpoint, began = server.endpoint, time.monotonic()
    seconds, where = endpoint.config.start_seconds, f"its log is {server.log}"
    while True:
        if server.keeper.poll() is not None:
            raise Stopped(f"{endpoint.asked_as}: its command ended: {last_line(server.log)}; {where}")
        if is_up(endpoint):
            return
        if time.monotonic() - began > seconds:
            raise Stopped(f"{endpoint.asked_as}: its server does not answer after {seconds:g} s; {where}")
        time.sleep(0.2)


def is_up(endpoint: Endpoint) -> bool:
    """Whether a server is ready: asks `/health`, or its list of models if it has no `/health`."""
    (url,) = endpoint.urls
    health = status_of(f"{url.removesuffix('/v1')}/health", None)
    return health == 200 if health not in (401, 404, 405) else 0 < status_of(f"{url}/models", endpoint.key()) < 500


def status_of(url: str, key: str | None) -> int:
    """The status of an answer; 0 if there is none."""
    try:
        with ANSWER.open(Request(url, headers={"Authorization": f"Bearer {key}"} if key else {}), timeout=5) as answer:
            return answer.status
    except HTTPError as error:
        return error.code
    except (OSError, HTTPException):
        return 0


def last_line(log: Path) -> str:
    lines = end_of(log).decode(errors="replace").strip().splitlines() if log.exists() else []
    return told(lines[-1], 300) if lines else "it wrote nothing"


# Ending


def marked(mark: str) -> list[int]:
    """The live processes that carry a mark. Empty on systems without /proc, where only keepers end servers."""
    pids, wanted = [], f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or it ended meanwhile
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
    return pids


def end_marked(mark: str) -> None:
    """Ends all processes that carry a mark."""
    until = time.monotonic() + GRACE
    while (left := marked(mark)) and time.monotonic() < until:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
