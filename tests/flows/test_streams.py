"""Standard output that is closed, full, or that nobody reads."""

import os
import subprocess
import sys

import pytest
from support.paths import PROJECT

PROGRAM = f"{sys.executable} -c 'from flows.cli import main; main()'"


def shell(command: str, cwd) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "PREFECT_API_URL": ""}
    return subprocess.run(["bash", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("output", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_works_without_standard_streams(tmp_path, output):
    said = shell(f"{PROGRAM} init my.toml {output}", tmp_path)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert (tmp_path / "my.toml").read_text().count("wrote") == 0  # no file takes the place of the output


@pytest.mark.slow
@pytest.mark.parametrize("words", ["init my.toml", "keys", "--help"])
def test_output_that_nobody_reads_changes_no_exit_code(tmp_path, words):
    said = shell(f"(sleep 0.1; {PROGRAM} {words}; echo $? >code) | true", tmp_path)
    assert ((tmp_path / "code").read_text(), said.stderr) == ("0\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("words", ["init my.toml", "keys", "--version"])
def test_output_that_cannot_be_written_is_told(tmp_path, words):
    said = shell(f"{PROGRAM} {words} >/dev/full", tmp_path)
    assert (said.returncode, said.stderr) == (1, "shardmill: standard output: No space left on device\n")


@pytest.mark.slow
def test_an_error_keeps_its_exit_code(tmp_path):
    said = shell(f"{PROGRAM} run . >/dev/full", tmp_path)
    assert (said.returncode, said.stderr) == (2, "shardmill: .: is a folder; name a configuration, a TOML file\n")


def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path):
    wakes = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a process in the background ignores Ctrl-C
    program = f"import flows.interrupts, os, signal; {wakes}; os.kill(os.getpid(), signal.SIGINT)"
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    said = subprocess.run([sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (-2, "shardmill: stopped by Ctrl-C\n")
