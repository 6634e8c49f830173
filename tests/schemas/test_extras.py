"""What an extra brings, and how a program says that it is not installed."""

import subprocess
import sys

import pytest
from support.paths import PROJECT

from schemas import extras


def with_source(monkeypatch, source: str | None) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return source

    monkeypatch.setattr(extras, "distribution", lambda name: Installed())
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")


@pytest.mark.parametrize(
    "source, command",
    [
        ('{"url": "file:///a b/c", "dir_info": {"editable": true}}', "-e '/a b/c[s3]'"),
        ('{"url": "file:///a/c", "dir_info": {}}', "'/a/c[s3]'"),
        ('{"url": "file:///a/c.whl", "archive_info": {}}', "'shardmill[s3] @ file:///a/c.whl'"),
        ("", "'shardmill[s3]'"),
        (None, "'shardmill[s3]'"),
    ],
)
def test_the_command_installs_an_extra_from_where_shardmill_came(monkeypatch, source, command):
    with_source(monkeypatch, source)
    line = f"s3fs is not installed; run: /venv/bin/python -m pip install {command}"
    assert extras.not_installed("s3fs") == line


def test_every_package_of_the_table_is_in_its_extra():
    text = (PROJECT / "pyproject.toml").read_text()
    for package, extra in extras.EXTRAS.items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{extra} = ["))
        assert package.replace("llama_cpp", "llama-cpp-python") in line


@pytest.mark.parametrize("module", ["train", "serve", "tokenizer"])
def test_the_trainer_without_torch_says_so_in_one_line(module, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    process = subprocess.run(
        [sys.executable, "-m", f"training.{module}"], capture_output=True, text=True, timeout=60, cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{PROJECT}"},
    )  # fmt: skip
    assert process.returncode == 2
    assert process.stderr.startswith("torch is not installed; run: ") and process.stderr.count("\n") == 1
