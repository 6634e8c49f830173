"""Alerts: each calls a webhook, on a real Prefect server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from support.corpora import say
from support.prefect_server import until

SCENES = 'root = "corpus"\n[source]\nkind = "scenes"\ncount = 4\n'


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict]]]:
    """A webhook on loopback, and what it was told."""
    told: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", told
    server.shutdown()
    server.server_close()


def automations(server) -> list[str]:
    return sorted(one["name"] for one in server.ask("automations/filter", {}))


@pytest.mark.slow
def test_each_alert_calls_the_webhook_once(server, tmp_path, webhook):
    (tmp_path / "my.toml").write_text(SCENES)
    url, told = webhook
    name = f"{tmp_path.name}-my"
    with temporary_settings({PREFECT_API_URL: server.url}):
        words = ("--cron", "0 3 * * *", "--alert", url, "--within", str(15 / 3600))
        assert "alerts: failed, crashed" in say("schedule", tmp_path / "my.toml", *words).out
        states = {
            "failed": ("FAILED", "Failed", 'my.toml: root: "no"\nsuch {{ thing }}'),
            "crashed": ("CRASHED", "Crashed", "exited with code -9"),
            "gate failed": ("FAILED", "GateFailed", "gate lost_share does not hold"),
        }
        for kind, name_of_state, message in states.values():
            run = server.trigger(name)
            state = {"type": kind, "name": name_of_state, "message": message}
            server.ask(f"flow_runs/{run['id']}/set_state", {"state": state, "force": True})
        until(lambda: {one["kind"] for one in told} == {*states, "late"}, what="the alerts")
        said = {one["kind"]: one for one in told if one["kind"] != "late"}
        assert len([one for one in told if one["kind"] != "late"]) == 3  # once each
        for kind, (_, _, message) in states.items():
            assert said[kind]["deployment"] == name
            assert said[kind]["text"].startswith(f"{name} {kind}: {message} (run ")
        assert f"{name}: no completed run for 0.00417 hours" in [one["text"] for one in told][-1] or any(
            one["text"].startswith(f"{name}: no completed run for ") for one in told
        )

        titles = [f"shardmill {name}: {kind}" for kind in ("crashed", "failed", "gate failed", "late")]
        assert automations(server) == titles
        said = say("schedule", tmp_path / "my.toml", "--within", "40").out  # the webhook stays
        assert "no completed run for 40 hours" in said and automations(server) == titles
        assert say("schedule", tmp_path / "my.toml", "--name", "renamed").code == 0
        assert automations(server) == [title.replace(name, "renamed") for title in titles]
        assert url not in json.dumps(server.ask("block_documents/filter", {}))  # it is a secret
        assert say("unschedule", tmp_path / "my.toml").code == 0
        assert automations(server) == [] and server.ask("block_documents/filter", {}) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--alert", "hooks.example.org/x"), "--alert: write the URL of a webhook, http://… or https://…"),
        (("--within", "30"), "--within: needs --alert, the URL of the webhook that is called"),
    ],
)
def test_what_is_no_alert_is_told_in_one_line(server, tmp_path, words, says):
    (tmp_path / "my.toml").write_text(SCENES)
    with temporary_settings({PREFECT_API_URL: server.url}):
        said = say("schedule", tmp_path / "my.toml", "--cron", "0 3 * * *", *words)
        assert (said.code, said.err) == (2, f"shardmill: {says}\n")
        assert f"{tmp_path.name}-my" not in say("schedules").out
