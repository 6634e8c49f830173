"""The flow on a real Prefect server: deployed, scheduled, retried, cancelled, skipped, stopped by hand."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from support.corpora import ONE_PROCESS, picture, say, shardmill
from support.paths import PROJECT
from support.prefect_server import CLI, PATIENCE, PREFECT, processes, started, until

from pipelines.catalog.stats import corpus_stats
from pipelines.engine.ledger import runs
from pipelines.engine.lock import hold
from pipelines.engine.root import Root

FOLDER = f"""
root = "corpus"
[source]
kind = "folder"
path = "pictures"
[sets.train]
samples_per_shard = 3
{ONE_PROCESS}"""

SLOW = """
root = "{root}"
[source]
kind = "scenes"
count = {count}
rows_per_partition = 4
[ocr]
[sets.train]
[beam]
options = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
"""  # to be stopped at work: reading text takes a while

QUICK = f"""
root = "corpus"
[source]
kind = "scenes"
count = 4
{ONE_PROCESS}"""


@pytest.fixture(scope="module")
def built(server, tmp_path_factory) -> Path:
    """A folder with five pictures and a broken one, `shardmill run` on it, and what that said."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "pictures").mkdir()
    for number in range(5):
        data, words = picture(number)
        (folder / f"pictures/{number}.png").write_bytes(data)
        (folder / f"pictures/{number}.txt").write_text(words or "nothing")
    (folder / "pictures/5.png").write_bytes(b"no picture")
    (folder / "five.toml").write_text(FOLDER)
    said = shardmill("run", "five.toml", cwd=folder, **server.env)
    assert (said.returncode, said.stderr) == (0, "")
    return folder


def status(folder: Path) -> list[str]:
    """How each run of a folder's corpus ended."""
    return [ledger.row()["status"] for ledger in runs(Root(str(folder / "corpus")))]


@pytest.mark.slow
def test_the_flow_publishes_the_numbers_of_stats(server, built):
    run = server.run_of("five")
    assert run["state_name"] == "Completed"
    (_, columns, lines), *_ = corpus_stats(Root(str(built / "corpus")))
    artifact = server.artifacts_of(run)["accounting"]
    table = json.loads(artifact["data"])
    ended = "made: rows 1, images 1, selection 1, shards 2; 5 samples"
    assert run["state"]["message"] == ended
    assert artifact["description"].startswith(f"{ended}\n\n")
    assert table == [dict(zip(columns, line, strict=True)) for line in lines]
    assert [(line["stage"], line["rows in"], line["reason"], line["rows"]) for line in table] == [
        ("rows", 6, "kept", 6),
        ("images", 6, "kept", 5),
        ("", "", "not_an_image", 1),
        ("selection", 6, "kept", 5),
        ("", "", "upstream", 1),
    ]


@pytest.mark.slow
def test_every_stage_is_a_task_with_its_progress(server, built):
    run = server.run_of("five")
    tasks = server.tasks_of(run)
    stages = {"rows", "images", "selection", "shards"}
    assert tasks.keys() == stages | {"release of train"}
    assert {task["state_name"] for task in tasks.values()} == {"Completed"}
    progress = {key: one["data"] for key, one in server.artifacts_of(run).items() if key != "accounting"}
    assert progress == {f"progress-{stage}": 100 for stage in stages}


def test_each_stage_is_a_line_of_the_log(server, built):
    run = server.run_of("five")
    assert [
        line for line in server.logs_of(run) if line.split(":")[0] in ("rows", "images", "selection", "shards")
    ] == [
        "rows: 1 of 1 partitions made, 6 rows kept",
        "images: 1 of 1 partitions made, 5 rows kept, 1 left out: 1 not_an_image",
        "selection: 1 of 1 partitions made, 5 rows kept, 1 left out: 1 upstream",
        "shards: 2 of 2 shards made, 5 samples",
    ]


@pytest.mark.slow
def test_each_release_is_an_asset_that_others_can_follow(server, built):
    key = f"file://{built}/corpus/shards/train"
    filter = {"event": {"name": ["prefect.asset.materialization.succeeded"]}, "resource": {"id": [key]}}
    (event,) = until(lambda: server.ask("events/filter", {"filter": filter})["events"])
    assert (event["payload"]["samples"], event["payload"]["added"]) == (5, 5)


def test_prefect_keeps_paths_and_no_results(server, built):
    assert server.run_of("five")["parameters"] == {
        "config": "five.toml", "until": None, "wait": 0.0, "engine": None, "retry": None,
    }  # fmt: skip
    assert {path.name for path in built.iterdir()} == {"five.toml", "pictures", "corpus"}
    assert not (server.home / "storage").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", (["plan", "five.toml"], ["run", "five.toml"], ["stats", "corpus"],
                                   ["sql", "corpus", "from accounting"], ["--help"]), ids=lambda w: w[0])  # fmt: skip
def test_where_there_is_nothing_to_make_prefect_stays_away(built, words):
    program = f"import sys; sys.argv[1:] = {words!r}\n" + (
        "from flows.cli import main\ntry: main()\nfinally: assert not {'prefect', 'apache_beam'} & set(sys.modules)"
    )
    command, env = [sys.executable, "-c", program], {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run(command, cwd=built, env=env, check=True, capture_output=True, timeout=PATIENCE)


@pytest.mark.slow
def test_a_root_that_is_held_is_left_alone(server, configure):
    config = configure(QUICK.replace('root = "corpus"', ""), "held.toml")
    with hold(Root(str(config.parent / "corpus"))):
        said = shardmill("run", config, **server.env)
    assert said.returncode == 1
    assert said.stderr == (
        f"shardmill: {config.parent}/corpus is being built by process {os.getpid()} on {socket.gethostname()}; "
        "wait for it, or stop it\n"
    )
    assert server.run_of("held") is None


@pytest.mark.slow
def test_a_gate_that_fails_is_not_tried_again(server, built, tmp_path):
    copytree(built, tmp_path, dirs_exist_ok=True)
    gate = '[gates]\nmany = "kept_share > 0.9"\n'
    (tmp_path / "gated.toml").write_text(FOLDER.replace("per_shard = 3", "per_shard = 4") + gate)
    said = shardmill("run", "gated.toml", cwd=tmp_path, **server.env)
    assert said.returncode == 1
    assert said.stderr.startswith("shardmill: gate many: kept_share > 0.9 does not hold (kept_share = 0.8333, kept")
    assert said.stderr.count("\n") == 1
    assert "1 not_an_image" in said.stdout, "the table of stages says why"
    run = server.run_of("gated")
    assert (run["state_type"], run["state_name"]) == ("FAILED", "GateFailed")
    assert run["state"]["message"].startswith("gate many: kept_share > 0.9 does not hold (kept_share = 0.8333, kept")
    assert server.artifacts_of(run)["accounting"]["description"].startswith("gate many: kept_share > 0.9 does not hold")
    assert not [line for line in server.logs_of(run) if "Traceback" in line]
    assert server.tasks_of(run)["shards"]["run_count"] == 1
    assert shardmill("verify", "corpus", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_ctrl_c_stops_a_run_within_ten_seconds(server, tmp_path):
    (tmp_path / "stopped.toml").write_text(QUICK)
    with started([*CLI, "run", "stopped.toml"], tmp_path, **server.env) as (process, mark):
        until(lambda: processes(mark, "pipelines.engine.job_main"), what="the start of Beam")
        before = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=10)
        stopped = "shardmill: stopped by Ctrl-C; what was committed stays; run again to continue\n"
        assert (process.returncode, errors) == (130, stopped), out
        until(lambda: not processes(mark), before + 10 - time.monotonic(), "the end of its children")
    assert status(tmp_path) == ["cancelled"]
    run = until(lambda: (run := server.run_of("stopped"))["state_type"] == "CANCELLED" and run)
    assert (run["state_name"], run["state"]["message"]) == ("Cancelled", "stopped by Ctrl-C")


@pytest.mark.slow
def test_sigterm_is_told_by_prefect_as_by_the_ledger(server, tmp_path):
    (tmp_path / "ended.toml").write_text(QUICK)
    with started([*CLI, "run", "ended.toml"], tmp_path, **server.env) as (process, mark):
        until(lambda: processes(mark, "pipelines.engine.job_main"), what="the start of Beam")
        process.terminate()
        _, errors = process.communicate(timeout=10)
        assert (process.returncode, errors) == (
            143, "shardmill: ended by SIGTERM; what was committed stays; run again to continue\n",
        )  # fmt: skip
    run = until(lambda: (run := server.run_of("ended"))["state_type"] == "FAILED" and run)
    assert (run["state_name"], run["state"]["message"]) == ("Stopped", "ended by SIGTERM")
    assert status(tmp_path) == ["failed"]


@pytest.mark.slow
@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_temporary_server_ends_with_its_run(server, tmp_path, by, code):
    """To a terminal's Ctrl-C it is deaf: it has still to hear how the run went."""
    (tmp_path / "my.toml").write_text(QUICK)
    with started([*CLI, "run", "my.toml"], tmp_path, PREFECT_HOME=str(server.home / "temporary")) as (process, mark):
        until(lambda: processes(mark, "pipelines.engine.job_main"), what="the start of Beam")
        assert processes(mark, "flows.server")
        before = time.monotonic()
        os.killpg(process.pid, by)
        process.communicate(timeout=10)
        assert process.returncode == code
        until(lambda: not processes(mark), before + 10 - time.monotonic(), "the end of its children")
    ended = {signal.SIGKILL: ("running", None), signal.SIGTERM: ("failed", "ended by SIGTERM")}
    (ledger,) = runs(Root(str(tmp_path / "corpus")))
    row = ledger.row()
    assert (row["status"], row["detail"]) == ended.get(by, ("cancelled", "stopped by Ctrl-C"))


@pytest.mark.slow
def test_a_task_whose_workers_die_is_tried_again(server, tmp_path):
    (tmp_path / "retried.toml").write_text(QUICK)
    with started([*CLI, "run", "retried.toml"], tmp_path, **server.env) as (process, mark):
        (job,) = until(lambda: processes(mark, "pipelines.engine.job_main"), what="the start of Beam")
        os.killpg(job, signal.SIGKILL)
        out, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert "rows: a worker died (exit code -9)" in out and "trying again" in out
    run = server.run_of("retried")
    assert run["state_name"] == "Completed"
    assert {name: task["run_count"] for name, task in server.tasks_of(run).items()} == {
        "rows": 2, "images": 1, "selection": 1, "shards": 1,
    }  # fmt: skip
    assert shardmill("verify", "corpus", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_a_configuration_is_read_once_a_run(server, tmp_path):
    """What becomes of its file meanwhile is for the next run."""
    config = tmp_path / "gone.toml"
    config.write_text(QUICK)
    with started([*CLI, "run", "gone.toml"], tmp_path, **server.env) as (process, mark):
        until(lambda: processes(mark, "pipelines.engine.job_main"), what="the start of Beam")
        config.unlink()
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert server.run_of("gone")["state_name"] == "Completed"
    assert status(tmp_path) == ["completed"]


@pytest.mark.slow
def test_a_run_makes_what_was_read_before_the_server_started(server, tmp_path, monkeypatch):
    config = tmp_path / "edited.toml"
    config.write_text(QUICK)

    @contextmanager
    def edited():
        config.write_text(QUICK.replace('"corpus"', '"other"'))
        yield

    monkeypatch.setattr("flows.server.server", edited)
    with temporary_settings({PREFECT_API_URL: server.url}):
        said = say("run", config)
    assert (said.code, said.err) == (0, "")
    assert status(tmp_path) == ["completed"] and not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_ends_as_it_went(server, tmp_path):
    (tmp_path / "unread.toml").write_text(QUICK)
    command = f"({shlex.join([*CLI, 'run', 'unread.toml'])}; echo $? >code) | true"
    env = {**os.environ, **server.env, "PYTHONPATH": str(PROJECT)}
    said = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ((tmp_path / "code").read_text(), said.stderr) == ("0\n", "")
    assert status(tmp_path) == ["completed"]


@pytest.mark.slow
def test_a_mistake_that_shows_in_a_task_is_not_tried_again(server, tmp_path):
    (tmp_path / "refused.toml").write_text(QUICK.replace("num_workers=1", "num_workers=many"))
    said = shardmill("run", "refused.toml", cwd=tmp_path, **server.env)
    assert said.returncode == 2
    assert "argument --direct_num_workers: invalid int value: 'many'" in said.stderr and said.stderr.count("\n") == 1
    run = server.run_of("refused")
    assert run["state_name"] == "Failed"
    assert {name: task["run_count"] for name, task in server.tasks_of(run).items()} == {"rows": 1}


@pytest.mark.slow
def test_a_run_waits_for_the_root_as_long_as_it_is_told(server, tmp_path):
    (tmp_path / "waits.toml").write_text(QUICK)
    root = Root(str(tmp_path / "corpus"))
    with started([*CLI, "run", "waits.toml", "--wait", "60"], tmp_path, **server.env) as (process, _):
        with hold(root):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(8)
            assert runs(root) == []
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert status(tmp_path) == ["completed"]


@pytest.mark.slow
def test_a_deployment_fires_from_its_schedule_in_a_worker(server, worker, tmp_path):
    (tmp_path / "minutely.toml").write_text(QUICK + "[sets.train]\n")
    said = shardmill("schedule", tmp_path / "minutely.toml", "--cron", "* * * * *", **server.env)
    assert said.returncode == 0
    assert said.stdout.startswith(
        f"deployed build-corpus/{tmp_path.name}-minutely: * * * * * UTC\nstart a worker that runs it: "
    )
    run = until(lambda: (run := server.run_of("minutely")) and run["state_type"] == "COMPLETED" and run, 300)
    deployment = server.ask(f"deployments/name/build-corpus/{tmp_path.name}-minutely", method="GET")
    server.ask(f"deployments/{deployment['id']}/pause_deployment", {})
    assert deployment["entrypoint"] == "flows.build_corpus.build_corpus"
    assert run["auto_scheduled"] and run["work_pool_name"] == "shardmill" and run["deployment_id"] == deployment["id"]
    assert shardmill("verify", "corpus", cwd=tmp_path).returncode == 0
    assert shardmill("urls", "corpus", "train", cwd=tmp_path).stdout.count(".tar") == 1


@pytest.mark.slow
def test_cancelling_ends_all_processes_within_ten_seconds(server, worker, tmp_path, record_property):
    config = tmp_path / "cancelled.toml"
    config.write_text(SLOW.format(root="corpus", count=80))
    assert shardmill("schedule", config, "--cron", "0 0 1 1 *", **server.env).returncode == 0
    run = server.trigger(f"{tmp_path.name}-cancelled")
    until(lambda: list(tmp_path.glob("corpus/runs/*/ocr/*.json")), what="the first partition's text")
    mine = f"PREFECT__FLOW_RUN_ID={run['id']}"
    assert len(processes(mine, "pipelines.engine.worker_main")) >= 2 and processes(mine, "pipelines.engine.job_main")
    before = time.monotonic()
    server.ask(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: not processes(mine), 10, "the end of its processes")
    record_property("seconds", round(time.monotonic() - before, 1))
    until(lambda: server.run(run["id"])["state_type"] == "CANCELLED", 60)
    assert status(tmp_path) == ["cancelled"]
    assert shardmill("run", config, **server.env).returncode == 0
    assert status(tmp_path) == ["cancelled", "completed"]
    assert shardmill("verify", "corpus", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_the_deployment_of_prefect_yaml_skips_a_root_that_is_held(server, worker, tmp_path):
    (tmp_path / "my.toml").write_text(QUICK)
    env = {**os.environ, **server.env, "SHARDMILL_CONFIGS": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    command = [*PREFECT, "--no-prompt", "deploy", "--name", "nightly"]
    until(lambda: server.ask("work_pools/filter", {}), what="the worker's pool")
    subprocess.run(command, cwd=PROJECT, env=env, check=True, capture_output=True, timeout=PATIENCE)
    with hold(Root(str(tmp_path / "corpus"))):
        run = server.trigger("nightly")
        state = until(lambda: (run_ := server.run(run["id"]))["state_type"] == "CANCELLED" and run_["state"])
    assert state["name"] == "Skipped"
    assert state["message"].startswith(f"{tmp_path}/corpus is being built by process {os.getpid()} on ")
    assert status(tmp_path) == []


FORK = """
import multiprocessing
import flows.build_corpus
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
EventsWorker.instance(), APILogWorker.instance()  # as a flow starts them
process = multiprocessing.get_context("fork").Process(target=print, args=["forked"])
process.start()
process.join()
print("its exit code is", process.exitcode)
"""


@pytest.mark.slow
def test_a_fork_of_a_process_that_ran_a_flow_ends_well(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "PREFECT_API_URL": "http://127.0.0.1:9/api"},
    )  # fmt: skip
    assert "its exit code is 0" in ran.stdout, ran.stderr
