"""The temporary server of a run: behind a proxy, and without a home that can be written."""

import os
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from support.corpora import ONE_PROCESS, say, shardmill
from support.refusing_server import answering_with

from flows.server import _home, reach_without_proxy

SCENES = f'root = "corpus"\n[source]\nkind = "scenes"\ncount = 4\n{ONE_PROCESS}'


@pytest.mark.parametrize(
    ("before", "host", "after"),
    [
        (None, "127.0.0.1", "127.0.0.1"),
        ("", "localhost", "localhost"),
        ("example.org", "127.0.0.1", "example.org,127.0.0.1"),
        ("127.0.0.1,a", "127.0.0.1", "127.0.0.1,a"),
        ("*", "127.0.0.1", "*"),
        ("a", "prefect.example.org", "a"),  # others are asked as the environment says
    ],
)
def test_a_server_of_this_machine_is_asked_without_a_proxy(monkeypatch, before, host, after):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, before) if before is not None else monkeypatch.delenv(name, raising=False)
    reach_without_proxy(host)
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == after
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy")


def test_a_home_that_cannot_be_written_is_replaced(monkeypatch, tmp_path):
    from prefect.settings import PREFECT_HOME, temporary_settings

    good, removed = tmp_path / "good", []
    monkeypatch.setattr("flows.server.atexit.register", lambda call, path, **_: removed.append(path))
    with temporary_settings({PREFECT_HOME: good}):
        assert _home() == str(good) and good.is_dir()
    (tmp_path / "file").write_text("")
    for bad in ("/proc/nowhere", "/proc", tmp_path / "file/prefect"):
        with temporary_settings({PREFECT_HOME: bad}):
            home = _home()
        assert home == removed[-1] and Path(home).is_dir()
        Path(home).rmdir()


@pytest.mark.slow
def test_a_run_works_behind_a_proxy_without_a_home(tmp_path):
    (tmp_path / "my.toml").write_text(SCENES)
    gone = "http://127.0.0.1:9"
    env = {
        "HTTP_PROXY": gone,
        "http_proxy": gone,
        "HTTPS_PROXY": gone,
        "ALL_PROXY": gone,
        "NO_PROXY": "",
        "no_proxy": "",
    }
    said = shardmill("run", "my.toml", cwd=tmp_path, **env, HOME="/proc/nowhere", PREFECT_API_URL="")
    assert (said.returncode, said.stderr) == (0, "")


PAGE = (200, "<html>Prefect</html>")
WELL = {"/health": (200, "true")}


@pytest.mark.parametrize(
    ("answers", "otherwise", "says"),
    [
        ({}, PAGE, "no Prefect API at {url}; it usually ends in /api"),
        ({}, (404, '{"detail": "Not Found"}'), "no Prefect API at {url} (404); it usually ends in /api"),
        ({}, (401, "{}"), "the server at {url} wants a key (401); set PREFECT_API_KEY or PREFECT_API_AUTH_STRING"),
        (WELL, (401, "{}"), "the server at {url} wants a key (401); set PREFECT_API_KEY or PREFECT_API_AUTH_STRING"),
        (WELL, (403, "{}"), "the server at {url} wants a key (403); set PREFECT_API_KEY or PREFECT_API_AUTH_STRING"),
        (WELL, (500, "oh"), "the server at {url} answers GET /csrf-token with 500; see its log"),
    ],
)
@pytest.mark.parametrize("words", [("schedules",), ("run", "my.toml")], ids=lambda words: words[0])
def test_a_server_that_does_not_serve_is_told_in_one_line(tmp_path, monkeypatch, words, answers, otherwise, says):
    (tmp_path / "my.toml").write_text(SCENES)
    monkeypatch.chdir(tmp_path)
    with answering_with(answers, otherwise) as url, temporary_settings({PREFECT_API_URL: url}):
        said = say(*words)
    assert (said.code, said.err) == (2, f"shardmill: PREFECT_API_URL: {says.format(url=url)}\n")
