"""Runs that were missed fire once, and custom runs are checked before anything begins: on a real Prefect server."""

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from support.corpora import ONE_PROCESS, build, say
from support.prefect_server import Server, until

from pipelines.engine.root import Root

SCENES = f'root = "corpus"\n[source]\nkind = "scenes"\ncount = 4\n[sets.train]\n{ONE_PROCESS}'


def scheduled(server: Server, folder: Path, count: int, pool: str = "idle") -> dict:
    """A deployment of a small corpus, with runs of its schedule that are due. Workers take those of the pool
    `shardmill` only."""
    (folder / "my.toml").write_text(SCENES)
    with temporary_settings({PREFECT_API_URL: server.url}):
        said = say("schedule", folder / "my.toml", "--cron", "0 3 * * *", "--pool", pool)
    assert said.code == 0, said.err
    deployment = server.ask(f"deployments/name/build-corpus/{folder.name}-my", method="GET")
    now = datetime.now(UTC)
    nights = {
        "start_time": str(now - timedelta(days=count)),
        "end_time": str(now),
        "min_runs": count,
        "max_runs": count,
    }
    server.ask(f"deployments/{deployment['id']}/schedule", nights)
    until(lambda: states(server, deployment).total() >= count, 60)
    return deployment


def states(server: Server, deployment: dict) -> Counter[str]:
    """How many due runs of a deployment are in each state."""
    due = {"expected_start_time": {"before_": str(datetime.now(UTC))}}
    body = {"deployments": {"id": {"any_": [deployment["id"]]}}, "flow_runs": due}
    return Counter(run["state_name"] for run in server.ask("flow_runs/filter", body))


@pytest.mark.slow
def test_runs_that_are_due_are_cancelled_but_those_of_a_person(server, tmp_path):
    from flows.backlog import cancel_missed

    deployment = scheduled(server, tmp_path, 5)
    by_hand = server.trigger(deployment["name"])
    with temporary_settings({PREFECT_API_URL: server.url}):
        assert cancel_missed(UUID(deployment["id"]), "the run of today") == 5
        assert cancel_missed(UUID(deployment["id"]), "the run of today") == 0
    assert states(server, deployment)["Missed"] == 5
    assert server.run(by_hand["id"])["state_type"] == "SCHEDULED"
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert cancel_missed(UUID(deployment["id"]), "the run of today") == 0  # a server that is gone stops nothing


@pytest.mark.slow
def test_a_month_of_missed_runs_fires_once(server, worker, tmp_path):
    deployment = scheduled(server, tmp_path, 31, "shardmill")

    def ended() -> bool:
        time.sleep(3)  # or the questions are what keeps the server busy
        found = states(server, deployment)
        return found["Completed"] == 1 and found["Cancelled"] + found["Missed"] == found.total() - 1 >= 29

    until(ended, 400)
    root = Root(str(tmp_path / "corpus"))
    assert len(root.folders("runs")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retry": {"imagse": "true"}}, "retry.imagse: unknown stage 'imagse'"),
        (
            {"retry": {"selection": "true"}},
            "retry.selection: unknown stage 'selection', or it cannot retry rows; choose from ",
        ),
        ({"retry": {"images": "reason = "}}, "retry.images: "),
        ({"retry": {"images": "nonsense"}}, "retry.images: "),
        (
            {"retry": {"images": "true"}, "until": "rows"},
            "retry.images: the run ends before images; name a later stage in `until`",
        ),
        ({"until": "ocrr"}, "--until: unknown stage 'ocrr'; choose from rows, images, selection, shards"),
    ],
)
def test_a_custom_run_is_checked_before_anything_begins(server, tmp_path, options, says):
    from flows.build_corpus import build_corpus

    (tmp_path / "my.toml").write_text(SCENES)
    root = build(tmp_path / "my.toml")
    before = root.folders("runs")
    with temporary_settings({PREFECT_API_URL: server.url}):
        state = build_corpus(tmp_path / "my.toml", **options, return_state=True)
    assert (state.type.value, state.name) == ("FAILED", "Failed")
    assert state.message.startswith(says) and "\n" not in state.message
    assert root.folders("runs") == before
    run = server.run(str(state.state_details.flow_run_id))
    assert server.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}}) == []
    assert not [line for line in server.logs_of(run) if "Traceback" in line]


@pytest.mark.slow
def test_an_unknown_key_of_a_custom_run_is_told(server, tmp_path):
    from prefect.flow_engine import load_flow_run, run_flow

    from flows.build_corpus import build_corpus

    deployment = scheduled(server, tmp_path, 1)
    for key in ("nosuch", "untli", "parameters"):
        run = server.trigger(deployment["name"], **{key: 1})
        with temporary_settings({PREFECT_API_URL: server.url}):
            state = run_flow(build_corpus, load_flow_run(run["id"]), return_type="state")
        said = f"{key}: unknown; choose from until, wait, engine, retry"
        assert (state.type.value, state.name, state.message) == ("FAILED", "Failed", said)
        told = server.run(run["id"])["state"]
        assert (told["type"], told["message"]) == ("FAILED", said)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.slow
def test_a_night_without_news_says_so(server, tmp_path):
    from flows.build_corpus import build_corpus

    (tmp_path / "my.toml").write_text(SCENES)
    root = build(tmp_path / "my.toml")
    with temporary_settings({PREFECT_API_URL: server.url}):
        state = build_corpus(tmp_path / "my.toml", return_state=True)
    assert (state.name, state.message) == ("Completed", "nothing to make: everything is current")
    assert len(root.folders("runs")) == 2
