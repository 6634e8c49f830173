"""The folder of an export: finished or not, of one release alone, and never over other files."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from moto.server import ThreadedMotoServer
from support.corpora import data_files, say
from support.paths import PROJECT
from support.published import caption, image, pair, publish, talk

from pipelines.engine.parquet import Corrupt
from pipelines.engine.root import Root
from pipelines.exports.export import export
from pipelines.exports.target import NOTE, Release, Target
from schemas.errors import UserError

POINTS = [
    *(("huggingface", point) for point in ("begun", "table", "unfinished", "data", "finished")),
    *(("llava", point) for point in ("begun", "images", "json", "unfinished", "data", "finished")),
]


def captions(count: int, first: int = 0) -> list:
    return [caption(n, f"Picture {n}.", image(n)) for n in range(first, first + count)]


def write(root: Root, folder: Path | str, form: str, name: str = "all") -> dict[str, str]:
    export(root, name, form, Root(str(folder)))
    return data_files(Path(folder)) if isinstance(folder, Path) else {}


def looks_finished(folder: Path) -> bool:
    """Whether somebody who loads the folder would take it for a whole export."""
    visible = [path.name for path in folder.glob("*") if not path.name.startswith(".")] if folder.exists() else []
    tables = [*folder.glob("data/*.parquet")]
    return "README.md" in visible or "conversations.json" in visible or bool(tables)


@pytest.mark.parametrize("form", ["huggingface", "trl", "llava", "minicpm-v"])
def test_the_same_release_gives_the_same_bytes(tmp_path, form):
    root = publish(tmp_path / "root", "all", captions(9))
    release = json.loads(root.read("shards/all.json"))["release"]
    first = write(root, tmp_path / "a", form)
    assert first.keys() > {"README.md", ".export.json"}
    assert write(root, tmp_path / "b", form, f"all@{release}") == first
    assert write(root, tmp_path / "b", form) == first
    assert not [*tmp_path.glob("*/.data")]


@pytest.mark.parametrize("before", ["huggingface", "minicpm-v"])
@pytest.mark.parametrize("form", ["huggingface", "llava"])
def test_nothing_of_an_older_export_stays(tmp_path, form, before):
    old, new = (publish(tmp_path / name, "all", captions(*of)) for name, of in (("old", (17,)), ("new", (6, 11))))
    write(old, tmp_path / "out", before)
    (tmp_path / "out/.git").mkdir()
    (tmp_path / "out/.git/config").write_text("mine")
    files = write(new, tmp_path / "out", form)
    assert files.pop(".git/config")
    assert files == write(new, tmp_path / "clean", form)


def test_exports_of_0_1_are_replaced(tmp_path):
    root, out = publish(tmp_path / "root", "all", captions(3)), tmp_path / "out"
    (out / "images").mkdir(parents=True)
    for name in ("train-00000-of-00009.parquet", "conversations.json", "images/a.jpg"):
        (out / name).write_bytes(b"")
    (out / ".export.json").write_text('{"set": "all", "release": "0123", "form": "trl"}')
    assert write(root, out, "minicpm-v") == write(root, tmp_path / "clean", "minicpm-v")


@pytest.mark.parametrize("name", ["mine.parquet", "README.md", "train/0.jpg", "data/train-00000-of-00001.parquet"])
def test_files_that_no_export_wrote_are_left_alone(tmp_path, name):
    root, file = publish(tmp_path / "root", "all", captions(3)), tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    first = name.partition("/")[0]
    said = say("export-set", root.url, "all", tmp_path / "out", "--form", "huggingface")
    line = f"export-set: {tmp_path / 'out'} holds {first}, which no export wrote; choose an empty folder"
    assert (said.code, said.err) == (2, f"shardmill: {line}\n")
    assert data_files(tmp_path / "out").keys() == {name}


def test_a_file_that_was_put_beside_an_export_is_left_alone(tmp_path):
    root = publish(tmp_path / "root", "all", captions(3))
    before = write(root, tmp_path / "out", "trl")
    (tmp_path / "out/mine.parquet").write_text("mine")
    with pytest.raises(UserError, match=r"holds mine\.parquet, which no export wrote"):
        write(root, tmp_path / "out", "trl")
    assert data_files(tmp_path / "out").items() >= before.items()


def test_a_corpus_and_a_file_are_no_folder_for_an_export(tmp_path):
    root = publish(tmp_path / "root", "all", captions(3))
    (tmp_path / "file").write_text("mine")
    for folder, said in (
        (Path(root.url), "holds root.json, which"),
        (tmp_path / "file", "file is not a folder; choose another"),
        (tmp_path / "file/out", "out is not a folder; choose another"),
        (Path("/proc/none"), "/proc/none cannot be written"),
    ):
        with pytest.raises(UserError, match=said):
            write(root, folder, "trl")


def stopped(root: Root, folder: Path, form: str, point: str) -> None:
    """An export that ends at a point as if the power failed: nothing is put in order after it."""

    def stop(reached: str) -> None:
        if reached == f"export:{point}":
            raise KeyboardInterrupt

    with patch("pipelines.exports.target.point", stop), pytest.raises(KeyboardInterrupt):
        write(root, folder, form)


def killed(root: Root, folder: Path, form: str, point: str) -> None:
    """An export in a process of its own that is killed at a point."""
    command = [sys.executable, "-c", "from flows.cli import main; main()", "export-set", root.url, "all", folder]
    env = {**os.environ, "SHARDMILL_KILL_AT": f"export:{point}", "PYTHONPATH": str(PROJECT)}
    run = subprocess.run([*command, "--form", form], env=env, start_new_session=True, capture_output=True, timeout=120)
    assert run.returncode == -signal.SIGKILL, run.stderr


@pytest.mark.parametrize("end", [stopped, pytest.param(killed, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("form", "point"), POINTS)
def test_a_killed_export_does_not_look_finished(tmp_path, form, point, end):
    """Neither in a new folder nor over an older export; and the next export is as if nothing had been."""
    root, new = (publish(tmp_path / name, "all", captions(*of)) for name, of in (("old", (9,)), ("new", (5, 3))))
    old, after = write(root, tmp_path / "clean-old", form), write(new, tmp_path / "clean", form)
    release = json.loads(new.read("shards/all.json"))["release"]
    write(root, tmp_path / "over", form)
    for folder in (tmp_path / "out", tmp_path / "over"):
        end(new, folder, form, point)
        visible = {name: digest for name, digest in data_files(folder).items() if not name.startswith(".")}
        whole = [{name: digest for name, digest in of.items() if name != NOTE} for of in (old, after)]
        if point == "data":  # all data is there, but not what says so
            assert "README.md" not in visible
            assert visible.items() < whole[1].items()
        elif looks_finished(folder):
            assert visible in whole
        note = json.loads((folder / NOTE).read_text())
        assert release in {note["release"], *(one["release"] for one in note.get("unfinished", ()))}
        assert write(new, folder, form) == after


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    before = {name: os.environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }  # fmt: skip
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("exports")
    yield "s3://exports"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["huggingface", "llava"])
def test_an_object_store_holds_the_same_files(tmp_path, bucket, form):
    old, new = (publish(tmp_path / name, "all", captions(*of)) for name, of in (("old", (9,)), ("new", (5, 3))))
    fs = Root(bucket).fs
    fs.put(str(tmp_path / "new"), f"exports/{form}-root", recursive=True)
    write(old, f"{bucket}/{form}", form)
    export(Root(f"{bucket}/{form}-root"), "all", form, Root(f"{bucket}/{form}"))
    fs.get(f"exports/{form}", str(tmp_path / "got"), recursive=True)
    assert data_files(tmp_path / "got") == write(new, tmp_path / "out", form)
    fs.pipe_file(f"exports/{form}/mine.txt", b"mine")
    with pytest.raises(UserError, match=r"holds mine\.txt, which no export wrote"):
        write(new, f"{bucket}/{form}", form)


@pytest.mark.parametrize("form", ["huggingface", "trl", "llava", "minicpm-v"])
@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_a_damaged_or_missing_shard_ends_an_export(tmp_path, form, suffix):
    root = publish(tmp_path / "root", "all", captions(9))
    (*_, last) = sorted((tmp_path / "root/shards").glob(f"*.{suffix}"))
    data = bytearray(last.read_bytes())
    data[530] ^= 1
    last.write_bytes(data)
    with pytest.raises(Corrupt):
        write(root, tmp_path / "out", form)
    last.unlink()
    with pytest.raises(Corrupt, match=last.name):
        write(root, tmp_path / "out", form)
    assert not looks_finished(tmp_path / "out")


def test_what_a_form_cannot_hold_is_counted(tmp_path):
    blind = talk("blind", [("user", "<image>\nWhat is this?"), ("assistant", "A cat.")])
    answer = talk("answer", [("assistant", "Hello!"), ("user", "Hello.")])
    plain = talk("plain", [("user", "Hello."), ("assistant", "Hello!")])
    root = publish(tmp_path / "root", "all", [blind, answer, plain])
    said = say("export-set", root.url, "all", tmp_path / "out", "--form", "llava")
    assert said.out.splitlines() == [
        f"wrote 1 sample in 1 file to {tmp_path / 'out'}",
        "left out 1 sample (image_missing): a question names an image, but the sample has none",
        "left out 1 sample (no_question): the conversation begins with an answer, which this form cannot say",
    ]
    said = say("export-set", root.url, "all", tmp_path / "out", "--form", "huggingface")
    assert said.out.splitlines()[0] == f"wrote 2 samples in 1 file to {tmp_path / 'out'}"
    said = say("export-set", root.url, "all", tmp_path / "in[b]", "--form", "huggingface")  # brackets are no markup
    assert said.out.splitlines()[0] == f"wrote 2 samples in 1 file to {tmp_path / 'in[b]'}"
    for line in ("samples of the release | 3 |", "samples in this export | 2 |", "the sample has none | 1 |"):
        assert line in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("sample", "form", "question", "said"),
    [
        (captions(1)[0], "llava", " ", "--question: is blank"),
        (captions(1)[0], "huggingface", "Why?", "huggingface asks none about a set with the task 'caption'"),
        (pair(0, "a", "b", "c"), "llava", "Why?", "llava asks none about a set with the task 'preference'"),
        (captions(1)[0], "rlaif-v", "Why?", "all has the task 'caption'; rlaif-v needs preference"),
    ],
)
def test_a_question_that_nothing_asks_is_answered_in_one_line(tmp_path, sample, form, question, said):
    root = publish(tmp_path / "root", "all", [sample])
    with pytest.raises(UserError, match=said):
        export(root, "all", form, Root(str(tmp_path / "out")), question)
    assert not (tmp_path / "out").exists()


def test_images_are_never_written_through_a_link(tmp_path):
    target = Target(Root(str(tmp_path / "out")), Release("train", "0" * 12, "llava"))
    diary = tmp_path / "diary"
    diary.write_text("mine")
    target.put_images("00000", {"a.jpg": b"first"})
    path = tmp_path / "out/images/00000/a.jpg"
    path.unlink()
    path.symlink_to(diary)
    target.put_images("00000", {"a.jpg": b"second"})
    assert diary.read_text() == "mine" and path.read_bytes() == b"second" and not path.is_symlink()
    (tmp_path / "out/images/00001").symlink_to(tmp_path)
    with pytest.raises(UserError, match="images/00001: is a link"):
        target.put_images("00001", {"b.jpg": b"third"})
    assert not (tmp_path / "b.jpg").exists()


NAMED = {"set": "all", "release": "x", "form": "llava"}
ODD_NOTES = [
    "[" * 100_000, "[1]", "5", '{"set": NaN, "release": "x", "form": "y"}', '{"set": "\\ud800"}',
    *(json.dumps(NAMED | odd) for odd in ({"unfinished": 5}, {"unfinished": None}, {"set": [1]})),
    json.dumps({**NAMED, "unfinished": ["x"]}),
]  # fmt: skip


@pytest.mark.parametrize("note", ODD_NOTES)
def test_a_note_that_no_export_wrote_claims_no_file(tmp_path, note):
    root = publish(tmp_path / "root", "all", captions(3))
    (tmp_path / "out/images").mkdir(parents=True)
    (tmp_path / "out" / NOTE).write_text(note)
    (tmp_path / "out/images/mine.png").write_text("mine")
    with pytest.raises(UserError, match=r"^export-set: [^\n]* holds images, which no export wrote"):
        write(root, tmp_path / "out", "llava")
    assert (tmp_path / "out/images/mine.png").read_text() == "mine"
    (tmp_path / "out/images").rename(tmp_path / "images")
    assert looks_finished(tmp_path / "out") is False
    made = write(root, tmp_path / "out", "llava")
    assert made == write(root, tmp_path / "new", "llava")
