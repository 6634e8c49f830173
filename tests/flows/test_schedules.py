"""Deployments: one for each configuration, which keeps what was set; their names, hours and tags."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from support.corpora import ONE_PROCESS, say, shardmill

QUICK = f"""
root = "corpus"
[source]
kind = "scenes"
count = 4
[sets.train]
{ONE_PROCESS}"""


@pytest.fixture
def used(server) -> Iterator[None]:
    """Commands in this process use the server of the tests."""
    with temporary_settings({PREFECT_API_URL: server.url}):
        yield


@pytest.fixture
def team(tmp_path):
    """Makes a folder with a `my.toml`, as README names it."""

    def make(name: str, file: str = "my.toml") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(QUICK)
        return folder / file

    return make


def deployed(server) -> dict[str, dict]:
    return {one["name"]: one for one in server.ask("deployments/filter", {})}


def crons(deployment: dict) -> list[tuple[str, str, bool]]:
    return [(one["schedule"]["cron"], one["schedule"]["timezone"], one["active"]) for one in deployment["schedules"]]


@pytest.mark.slow
def test_configurations_of_one_name_have_schedules_of_their_own(server, used, team):
    a, b = team("team-a"), team("team-b")
    assert "build-corpus/team-a-my" in say("schedule", a, "--cron", "0 3 * * *").out
    assert "build-corpus/team-b-my" in say("schedule", b, "--cron", "0 5 * * *", "--timezone", "Asia/Tokyo").out
    found = deployed(server)
    assert found["team-a-my"]["parameters"] == {"config": str(a)}
    assert crons(found["team-a-my"]) == [("0 3 * * *", "UTC", True)]
    assert found["team-b-my"]["parameters"] == {"config": str(b)}
    assert crons(found["team-b-my"]) == [("0 5 * * *", "Asia/Tokyo", True)]
    listed = say("schedules").out
    assert "team-a-my" in listed and "0 5 * * *" in listed and "Asia/Tokyo" in listed
    assert say("unschedule", a).out == "removed build-corpus/team-a-my\n"
    assert say("unschedule", "--name", "team-b-my").out == "removed build-corpus/team-b-my\n"
    assert not {"team-a-my", "team-b-my"} & deployed(server).keys()


@pytest.mark.slow
def test_a_name_of_another_configuration_is_refused(server, used, team):
    first, same, elsewhere = team("one"), team("x/one"), team("two")
    assert say("schedule", first, "--cron", "0 3 * * *").code == 0
    for words in ([same], [elsewhere, "--name", "one-my"], [same, "--name", "one-my", "--cron", "0 4 * * *"]):
        said = say("schedule", *words, "--cron", "0 5 * * *")
        assert (said.code, said.out) == (2, "")
        assert said.err == (
            f"shardmill: {'--name: ' * ('--name' in words)}build-corpus/one-my runs {first} already; "
            "choose another --name\n"
        )
    assert crons(deployed(server)["one-my"]) == [("0 3 * * *", "UTC", True)]
    assert say("schedule", same, "--cron", "0 5 * * *", "--name", "other").code == 0
    assert {"one-my", "other"} <= deployed(server).keys()


@pytest.mark.slow
def test_a_configuration_that_is_a_link_stays_one(server, used, team, tmp_path):
    target = team("l1", "v1.toml")
    (tmp_path / "l2").mkdir()
    link = tmp_path / "l2/nightly.toml"
    link.symlink_to("../l1/v1.toml")
    assert say("schedule", target, "--cron", "0 3 * * *").code == 0
    assert "build-corpus/l2-nightly" in say("schedule", link, "--cron", "0 4 * * *").out
    found = deployed(server)
    assert found["l2-nightly"]["parameters"] == {"config": str(link)}
    assert found["l1-v1"]["parameters"] == {"config": str(target)}
    wrong = say("unschedule", "--name", "l1-v1", link)
    assert (wrong.code, wrong.err) == (
        2, f"shardmill: unschedule: build-corpus/l1-v1 runs {target}, not {link}; `shardmill schedules` lists them\n",
    )  # fmt: skip
    (tmp_path / "folder").symlink_to("l1")  # a deployment that version 0.1 made through a folder that is a link
    assert say("schedule", tmp_path / "folder/v1.toml", "--cron", "0 5 * * *").code == 0
    assert deployed(server)["l1-v1"]["parameters"] == {"config": str(tmp_path / "folder/v1.toml")}
    assert say("unschedule", link).out == "removed build-corpus/l2-nightly\n"
    assert say("unschedule", tmp_path / "folder/v1.toml").out == "removed build-corpus/l1-v1\n"


@pytest.mark.slow
def test_what_was_set_stays(server, used, team):
    config = team("kept")
    words = ("--cron", "0 3 * * *", "--timezone", "Europe/Berlin", "--tags", "a,b", "--tags", "c", "--pool", "mine")
    assert say("schedule", config, *words).code == 0
    one = deployed(server)["kept-my"]
    options = {"parameters": {"config": str(config), "until": "ocr"}, "job_variables": {"env": {"A": "1"}}}
    server.ask(f"deployments/{one['id']}", {**options, "paused": True}, "PATCH")
    said = say("schedule", config, "--cron", "0 4 * * *").out
    assert "kept-my: 0 4 * * * Europe/Berlin; it is paused" in said and "--pool mine" in said
    again = deployed(server)["kept-my"]
    assert {name: again[name] for name in options} == options
    assert (again["id"], again["paused"], again["tags"]) == (one["id"], True, ["a", "b", "c"])
    assert crons(again) == [("0 4 * * *", "Europe/Berlin", True)]
    assert say("schedule", config, "--name", "renamed").code == 0  # with all that was set
    found = deployed(server)
    assert "kept-my" not in found
    assert {name: found["renamed"][name] for name in options} == options
    assert (found["renamed"]["paused"], found["renamed"]["work_pool_name"]) == (True, "mine")
    assert crons(found["renamed"]) == [("0 4 * * *", "Europe/Berlin", True)]
    assert say("schedule", config).out.startswith("deployed build-corpus/renamed")  # the name stays, too


@pytest.mark.slow
def test_a_schedule_of_version_0_1_gets_its_new_name(server, used, team):
    from flows.build_corpus import build_corpus
    from flows.schedule import EntrypointType

    config = team("old")
    build_corpus.to_deployment(
        name="my", cron="0 3 * * *", parameters={"config": str(config)}, concurrency_limit=1,
        work_pool_name="mine", entrypoint_type=EntrypointType.MODULE_PATH, tags=["team"],
    ).apply()  # fmt: skip
    assert say("schedule", config, "--cron", "0 6 * * *").code == 0
    found = deployed(server)
    assert "my" not in found and crons(found["old-my"]) == [("0 6 * * *", "UTC", True)]
    assert (found["old-my"]["tags"], found["old-my"]["work_pool_name"]) == (["team"], "mine")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--cron", "0 3 * *"), "--cron: '0 3 * *' is not a cron schedule; write five fields, e.g. '0 3 * * *'"),
        (("--cron", "* * * * * *"), "--cron: '* * * * * *' is not a cron schedule; write five fields, e.g. "),
        ((), "--cron: missing; write when to run, e.g. --cron '0 3 * * *'"),
        (("--cron", "0 3 * * *", "--timezone", "Berlin"), "--timezone: 'Berlin' is not a time zone; write e.g. "),
        (("--cron", "0 3 * * *", "--name", "a/b"), "--name: 'a/b' has one of the characters / % & < > # ? \\; "),
        (("--cron", "0 3 * * *", "--name", "#?x"), "--name: '#?x' has one of the characters / % & < > # ? \\; "),
        (("--cron", "0 3 * * *", "--name", ".."), "--name: '..' is not a name; "),
        (("--cron", "0 3 * * *", "--name", "a\nb"), "--name: 'a\\nb' is not a name; "),
        (("--cron", "0 3 * * *", "--name", "a\x1bb"), "--name: 'a\\x1bb' is not a name; "),
        (("--cron", "0 3 * * *", "--name", ""), "--name: is empty; "),
        (("--cron", "0 3 * * *", "--name", " "), "--name: is empty; "),
        (("--cron", ""), "--cron: is empty; "),
        (("--cron", "0 3 * * *", "--timezone", ""), "--timezone: is empty; "),
        (("--cron", "0 3 * * *", "--pool", ""), "--pool: is empty; "),
        (("--cron", "0 3 * * *", "--pool", "a/b%c"), "--pool: 'a/b%c' has one of the characters / % & < > # ? \\; "),
        (
            ("--cron", "0 3 * * *", "--pool", "Prefect-x"),
            "--pool: 'Prefect-x' begins with prefect, which Prefect keeps ",
        ),
        (
            ("--cron", "0 3 * * *", "--alert", "http://a/b", "--within", "inf"),
            "--within: inf is not a number of hours; ",
        ),
        (
            ("--cron", "0 3 * * *", "--alert", "http://a/b", "--within", "nan"),
            "--within: nan is not a number of hours; ",
        ),
        (
            ("--cron", "0 3 * * *", "--alert", "http://a/b", "--within", "1e9"),
            "--within: 1e+09 is not a number of hours; ",
        ),
        (("--cron", "0 3 * * *", "--alert", ""), "--alert: write the URL of a webhook"),
    ],
)
def test_what_cannot_be_scheduled_is_told_in_one_line(server, used, team, words, says):
    said = say("schedule", team("wrong"), *words)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"shardmill: {says}")
    assert "wrong-my" not in deployed(server)
    assert say("unschedule", "--name", "nobody").err == (
        "shardmill: unschedule: no deployment build-corpus/nobody; `shardmill schedules` lists them\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("schedule", "my.toml", "--cron", "0 3 * * *"), ("unschedule", "my.toml"), ("schedules",)]
)
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "PREFECT_API_URL is not set; start a server with `prefect server start` and set it"),
        ("http://127.0.0.1:9/api", "PREFECT_API_URL: no Prefect server answers at http://127.0.0.1:9/api"),
    ],
)
def test_without_a_server_one_line_says_so(tmp_path, words, url, says):
    if words[0] != "schedule" and url:
        pytest.skip("as for `schedule`, and each start takes seconds")
    (tmp_path / "my.toml").write_text(QUICK)
    env = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": url}
    said = shardmill(*words, cwd=tmp_path, **env)
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1)
    assert said.stderr.startswith("shardmill: ") and says in said.stderr
