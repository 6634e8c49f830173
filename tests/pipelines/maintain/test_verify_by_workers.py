"""Workers verify what one process does, in the same words; a verification that was killed goes on."""

import os
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
from support.corpora import in_this_process, say
from support.paths import PROJECT
from support.verification import DIGESTED, KINDS, find, flip

from pipelines.engine.results import WriteResults
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from schemas.config.model import BeamConfig


def verify(root: Root, resume: bool = False, most: int = 1000):
    """By workers, which are killed after so many items; also what they checked."""
    checked, make = [], WriteResults.make

    def counted(self, item):
        if len(checked) == most:
            raise KeyboardInterrupt
        checked.append(item.name.partition("-")[0])
        make(self, item)

    with in_this_process(), patch.object(WriteResults, "make", counted), patch("pipelines.maintain.verify.SMALL", 0):
        try:
            return verify_root(root, beam=BeamConfig(), resume=resume), checked
        except KeyboardInterrupt:
            return None, checked


def damage(root: Root, name: str, how: str) -> None:
    path = Path(root.path(name))
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif how == "other":
        shutil.copyfile(root.path(find(root, "images/00000.parquet")), path)
    else:
        flip(root, name, path.stat().st_size // 2 if how == "middle" else path.stat().st_size - 40)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["gone", "cut", "middle", "end", "other"])
def test_workers_say_what_one_process_says(how, root):
    for kind in KINDS:
        name = find(root, kind)
        data = Path(root.path(name)).read_bytes()
        damage(root, name, how)
        found, checked = verify(root)
        assert found == verify_root(root), name
        assert found.problems or kind not in DIGESTED, name
        assert "partitions" in checked and not root.folders("verify-notes")
        Path(root.path(name)).write_bytes(data)
    assert verify(root)[0].problems == []


@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_a_killed_verification_goes_on_and_a_later_one_reads_everything(most, root):
    whole, every = verify(root)
    assert verify(root, most=most) == (None, every[:most])
    assert verify(root, resume=True) == (whole, every[most:])
    assert verify(root, resume=True) == (whole, every)  # nothing is left to go on with
    name, images = find(root, "images/00000-*.tar"), os.stat(root.path(find(root, "images/00000-*.tar")))
    verify(root, most=most)
    flip(root, name, images.st_size // 2)
    os.utime(root.path(name), ns=(images.st_atime_ns, images.st_mtime_ns))  # a bit that the disk lost
    assert any(name in problem for problem in verify(root)[0].problems)
    os.utime(root.path(name))
    resumed, checked = verify(root, resume=True)
    assert checked.count("partitions") >= every.count("partitions") - most + (most > 0)  # the file has another time
    assert resumed == verify_root(root) and resumed.problems


def test_only_a_configuration_names_workers(root):
    said = say("verify", root.url, "--resume")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1) and "TOML" in said.err


@pytest.mark.slow
def test_worker_processes_verify_a_corpus(root, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.maintain.verify.SMALL", 0)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    beam = BeamConfig(options=["--direct_num_workers=2"])
    assert verify_root(root, beam=beam) == verify_root(root)
    flip(root, name := find(root, "shards/*.tar"), 700)
    found = verify_root(root, beam=beam)
    assert found == verify_root(root) and any(name in problem for problem in found.problems)
    assert not root.folders("verify-notes")


def test_notes_of_a_killed_verification_are_named_and_cleaned(root):
    verify(root, most=2)
    assert [name.split("/")[0] for name in verify_root(root).garbage] == ["verify-notes"] * 2
    assert say("clean", root.url, "--grace", "0").code == 0
    assert verify_root(root).garbage == [] and not [*Path(root.url).glob("verify-notes/*/*")]
