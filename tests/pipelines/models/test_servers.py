"""Servers that a configuration starts: once, waited for, and always stopped."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.corpora import shardmill
from support.paths import TESTS

from pipelines.engine.root import Root
from pipelines.engine.worker import StageFailed, Stopped
from pipelines.models import supervisor
from pipelines.models.check_endpoint import check_endpoint
from pipelines.models.commands import run_command
from pipelines.models.endpoints import Endpoint, open_endpoint
from pipelines.models.servers import mark_of, marked, running, serve, stop_servers
from schemas.config.endpoints import EndpointConfig

SCRIPTED = TESTS / "support/scripted_server.py"
PARENT = """
import sys, time
from pipelines.models.endpoints import open_endpoint
from pipelines.engine.root import Root
from pipelines.models.servers import serve
from schemas.config.endpoints import EndpointConfig
serve(open_endpoint("m", EndpointConfig(model="scripted", command=sys.argv[2])), Root(sys.argv[1]), "run")
print("serving", flush=True)
time.sleep(100)
"""


def endpoint(command: str, **config) -> Endpoint:
    return open_endpoint("m", EndpointConfig(model="scripted", command=command, **config))


def scripted(plan: str = "{}") -> str:
    return f"{sys.executable} {SCRIPTED} '{plan}' {{port}}"


@pytest.fixture
def root(tmp_path):
    root = Root(str(tmp_path / "corpus"))
    yield root
    stop_servers(root)
    assert not marked(mark_of(root.url, "m"))


def wait_until(holds, seconds: float = 15) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    return bool(holds())


def test_a_server_is_started_once_and_stopped(root):
    first = serve(endpoint(scripted()), root, "run")
    assert first.urls[0].startswith("http://127.0.0.1:")
    before = marked(mark_of(root.url, "m"))
    assert len(before) == 2, "the server and its keeper"
    assert serve(endpoint(scripted()), root, "run").urls == first.urls
    assert marked(mark_of(root.url, "m")) == before
    stop_servers(root, keep=["m"])
    assert marked(mark_of(root.url, "m")) == before
    stop_servers(root)
    assert not marked(mark_of(root.url, "m"))


def test_a_server_that_died_is_started_again(root):
    first = serve(endpoint(scripted()), root, "run")
    for pid in marked(mark_of(root.url, "m")):
        os.kill(pid, signal.SIGKILL)
    running[root.url, "m"].keeper.wait()
    again = serve(endpoint(scripted()), root, "run")
    assert again.urls != first.urls
    assert len(marked(mark_of(root.url, "m"))) == 2


def test_a_command_with_its_model_and_braces_of_its_own(root, tmp_path):
    said = tmp_path / "said"
    command = (
        f'bash -c \'echo "{{model}} {{\\"image\\": 1}}" > {said}; exec {sys.executable} {SCRIPTED} {{}} {{port}}\''
    )
    serve(endpoint(command), root, "run")
    assert said.read_text().startswith("scripted {")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-program --port {port}", "its command ended: no-such-program: No such file or directory"),
        ("bash -c 'echo out of memory; exit 3' {port}", "its command ended: out of memory"),
        ("sleep 100{port}", "its server does not answer after 3 s"),
    ],
)
def test_a_server_that_does_not_come_up_stops_the_run_in_one_line(root, command, said):
    with pytest.raises(Stopped) as stopped:
        serve(endpoint(command, start_seconds=3), root, "run")
    assert f"endpoints.m: {said}; its log is {root.path('runs/run/server-m.log')}" == str(stopped.value)
    assert not marked(mark_of(root.url, "m"))


def test_its_log_has_what_it_says_but_no_key(root, monkeypatch):
    monkeypatch.setenv("LABELER_KEY", "sesame-1234")
    command = f"bash -c 'echo args: --api-key $LABELER_KEY; exec {scripted()}'".replace("'{}'", '"{}"')
    serve(endpoint(command, api_key_env="LABELER_KEY"), root, "run")
    log = Path(root.path("runs/run/server-m.log"))
    assert wait_until(lambda: b"args" in log.read_bytes())
    assert log.read_text().splitlines()[0] == "args: --api-key ***"


def test_a_log_keeps_its_beginning_and_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST", 10)
    with open(tmp_path / "log", "w+b", buffering=0) as log:
        log.write(b"the first " + b"x" * 1000 + b"the last 9")
        supervisor.shorten(log)
        log.write(b"\nmore")
    assert (tmp_path / "log").read_bytes() == b"the first " + supervisor.CUT + b"the last 9\nmore"


@pytest.mark.slow
def test_a_command_that_prints_on_and_on_fills_no_disk(tmp_path):
    loud = "print('begun'); [print('x' * 999) for _ in range(150_000)]; print('done'); raise SystemExit(3)"
    with pytest.raises(StageFailed, match="training: done; its log is"):
        run_command([sys.executable, "-c", loud], tmp_path / "log", "training")
    log = (tmp_path / "log").read_bytes()
    assert len(log) <= supervisor.MOST + (2 << 20) and log.startswith(b"begun\n") and log.endswith(b"done\n")
    assert log.count(supervisor.CUT) == 1 and log.count(b"left out") == 1


@pytest.mark.parametrize("victim", ["parent", "keeper", "both"])
def test_no_server_outlives_whoever_is_killed(root, victim):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, root.url, scripted()], stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SCRIPTED.parents[1])},
    )  # fmt: skip
    assert parent.stdout.readline() == b"serving\n"
    mark = mark_of(root.url, "m")
    (keeper, _) = sorted(marked(mark))
    if victim in ("parent", "both"):
        parent.kill()
    if victim in ("keeper", "both"):
        os.kill(keeper, signal.SIGKILL)
    assert wait_until(lambda: not marked(mark)), "the server ends with its keeper, and that with the run"
    parent.kill()
    parent.wait()


def test_what_an_earlier_server_left_is_ended_by_the_next_start(root):
    """A worker process of a server that left its group: it has nothing left but its environment."""
    serve(endpoint(f"bash -c 'setsid sleep 1000 & exec {scripted()}'".replace("'{}'", '"{}"')), root, "run")
    mark = mark_of(root.url, "m")
    assert len(marked(mark)) == 3
    keeper = running.pop((root.url, "m")).keeper  # as if this process had died
    keeper.kill()
    keeper.wait()
    assert wait_until(lambda: len(marked(mark)) == 1), "the orphan"
    (orphan,) = marked(mark)
    serve(endpoint(scripted()), root, "run")
    assert orphan not in marked(mark)
    assert len(marked(mark)) == 2


def test_the_log_that_check_endpoint_names_is_there():
    with pytest.raises(Stopped) as stopped:
        list(check_endpoint(endpoint(f"{sys.executable} -c 'exit(\"no weights\")' {{port}}")))
    said, log = str(stopped.value).split("; its log is ")
    assert said == "endpoints.m: its command ended: no weights"
    assert "no weights" in Path(log).read_text()
    shutil.rmtree(Path(log).parent)


@pytest.mark.slow
def test_check_endpoint_says_what_a_model_can_do_in_a_few_lines(tmp_path):
    plan = '{"logprobs": false, "images": false, "schema": false}'
    commands = {"able": scripted(), "text_only": scripted(plan)}
    toml = "".join(f'[endpoints.{name}]\nmodel = "scripted"\ncommand = """{c}"""\n' for name, c in commands.items())
    config = tmp_path / "my.toml"
    config.write_text(f'root = "corpus"\n[source]\nkind = "scenes"\n{toml}')
    said = shardmill("check-endpoint", config)
    assert said.returncode == 0, said.stderr
    able, text_only = said.stdout.split("text_only:")
    assert "failed" not in able
    for line in ("answers", "images", "log-probabilities  P(yes)", "JSON schema", "answers and"):
        assert line in able
    assert "images             failed: http_4xx" in text_only
    assert "log-probabilities  failed: " in text_only
    assert "bullets" in text_only
    one = shardmill("check-endpoint", config, "nobody")
    assert (one.returncode, one.stdout) == (2, "")
    assert "unknown endpoint 'nobody'; add [endpoints.nobody], or choose from able, text_only" in one.stderr
