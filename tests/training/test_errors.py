"""What a user can mend is one printable line with exit code 2, in every program of `training`."""

import importlib
import sys
from pathlib import Path

import pytest

BAD = "a\x1b[31m\x07\u202eb\nc\x9b"
PROGRAMS = {
    "training.align": [BAD, BAD, "pairs", "run", "out"],
    "training.checkpoint": [BAD, "out"],
    "training.evaluate": [BAD, BAD, "train"],
    "training.generate": [BAD, "What is it?"],
    "training.look": [BAD],
    "training.pack_plan": [BAD, "train", "--tokenizer", BAD],
    "training.serve": [BAD],
    "training.tokenizer": [BAD, "train", "out"],
    "training.train": [BAD, "out"],
    "training.gguf.checks": [BAD, BAD],
    "training.gguf.speed": [BAD],
}


def programs() -> set[str]:
    """All modules of `training` that are programs of their own; `training.plans` is an old name."""
    root = Path(__file__).parents[2]
    files = [path for path in (root / "training").rglob("*.py") if "def main(" in path.read_text()]
    return {".".join(path.relative_to(root).with_suffix("").parts) for path in files}


@pytest.mark.parametrize("name", sorted(programs()))
def test_an_error_of_a_program_cannot_steer_the_terminal(name, monkeypatch, tmp_path, capsys):
    if name.startswith("training.gguf"):
        pytest.importorskip("llama_cpp")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *PROGRAMS[name]])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main()
    said = capsys.readouterr()
    assert end.value.code == 2 and said.out == "" and said.err.count("\n") == 1, said
    assert said.err[:-1].isprintable() and "\\x1b[31m" in said.err, said.err
