"""Alerts: each calls a webhook, on a real Prefect server."""

import json
from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from support.corpora import say
from support.prefect_server import until
from support.webhooks import webhook

SCENES = 'root = "corpus"\n[source]\nkind = "scenes"\ncount = 4\n'


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict]]]:
    """A webhook, and what it was told."""
    with webhook() as found:
        yield found


def automations(server) -> list[str]:
    return sorted(one["name"] for one in server.ask("automations/filter", {}))


@pytest.mark.slow
def test_each_alert_calls_the_webhook_once(server, tmp_path, hook):
    (tmp_path / "my.toml").write_text(SCENES)
    url, told = hook
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
def test_no_deployment_calls_the_webhook_of_another(server, tmp_path):
    def hooks() -> dict[str, set[str]]:
        """Deployment -> the blocks of its alerts."""
        found: dict[str, set[str]] = {}
        for one in server.ask("automations/filter", {}):
            name = one["name"].removeprefix("shardmill ").split(":")[0]
            found.setdefault(name, set()).update(action["block_document_id"] for action in one["actions"])
        return found

    def blocks() -> set[str]:
        return {one["id"] for one in server.ask("block_documents/filter", {})}

    names = ("team-a", "team.a", "日本", "中文")
    with temporary_settings({PREFECT_API_URL: server.url}):
        for name in names:
            (tmp_path / f"{name}.toml").write_text(SCENES)
            words = ("--cron", "0 3 * * *", "--name", name, "--alert", f"https://hooks.example.org/{name}")
            assert say("schedule", tmp_path / f"{name}.toml", *words).code == 0
        assert len(set.union(*hooks().values())) == len(names) and blocks() == set.union(*hooks().values())
        assert say("schedule", tmp_path / "team-a.toml", "--name", "renamed").code == 0  # its block stays its own
        assert say("schedule", tmp_path / "日本.toml", "--name", "team-a").code == 0
        assert say("schedule", tmp_path / "日本.toml", "--alert", "https://hooks.example.org/new").code == 0
        assert hooks().keys() == {"renamed", "team.a", "team-a", "中文"}
        assert len(set.union(*hooks().values())) == len(names) and blocks() == set.union(*hooks().values())

        shared = hooks()["renamed"].copy().pop()  # as version 0.1 could: two deployments call one block
        for one in server.ask("automations/filter", {}):
            if one["name"].startswith("shardmill team.a:"):
                one["actions"][0]["block_document_id"] = shared
                server.ask(f"automations/{one['id']}", {key: one[key] for key in CORE}, "PUT")
        assert say("unschedule", tmp_path / "team-a.toml").code == 0
        assert shared in blocks()  # another still calls it
        server.ask(f"block_documents/{shared}", method="DELETE")
        assert "its webhook is gone" in say("schedules").out
        refused = say("schedule", tmp_path / "team.a.toml", "--cron", "0 4 * * *")
        assert refused.code == 2 and refused.err.startswith("shardmill: --alert: the webhook of its alerts was removed")
        for name in names[1:]:
            assert say("unschedule", tmp_path / f"{name}.toml").code == 0
        assert automations(server) == []


CORE = ("name", "description", "enabled", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")


@pytest.mark.parametrize("name", ["plain", 'a "b"', "{{ secret }}", "it's", "{% raw %}", "日本 \\u0041"])
def test_the_body_of_a_webhook_is_json_whatever_the_name_is(name):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from flows.alerts import _payload

    for said in (repr(f"{name}: no completed run"), "deployment.name ~ ': no completed run'"):
        template = ImmutableSandboxedEnvironment().from_string(_payload(said, name, "late"))
        body = json.loads(template.render(deployment={"name": name}))
        assert body == {"text": f"{name}: no completed run", "deployment": name, "kind": "late"}


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
