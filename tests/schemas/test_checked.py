"""What the user names, and what a stranger may have written: bounded, and never waited for without end."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
from support.corpora import say

from pipelines.fetching.opt_out import read_opt_outs
from pipelines.maintain.takedown import read_list
from schemas import checked
from schemas.checked import LEVELS, bytes_at, plain_json, read_file, read_given, read_remote, read_toml
from schemas.errors import UserError


@pytest.fixture
def pipe(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(checked, "PIPE", 0.5)
    os.mkfifo(tmp_path / "pipe.toml")
    return tmp_path / "pipe.toml"


def write(pipe: Path, *parts: bytes, pause: float = 0.0) -> threading.Thread:
    """Writes to a pipe as another process would, until nobody reads it."""

    def act() -> None:
        try:
            with open(pipe, "wb", buffering=0) as file:
                for part in parts:
                    file.write(part)
                    time.sleep(pause)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_a_pipe_is_read_to_its_end(pipe):
    for parts in ((b"abc",), (b"a", b"b" * 100_000, b"c")):
        writer = write(pipe, *parts, pause=0.01)
        assert read_given(pipe, 1 << 20) == b"".join(parts)
        writer.join(5)
    written, writing = os.pipe()  # as `<(command)` of a shell: the writer is gone before anybody opens it
    os.write(writing, b"abc")
    os.close(writing)
    assert read_given(f"/dev/fd/{written}", 3) == b"abc"
    os.close(written)


def test_a_pipe_that_does_not_end_in_time_is_an_error(pipe):
    for parts in ((), (b"a",) * 1_000):
        writer = write(pipe, *parts, pause=0.05) if parts else None
        began = time.monotonic()
        with pytest.raises(OSError, match="was not written to its end"):
            read_given(pipe, 1 << 20)
        assert time.monotonic() - began < 5
        if writer:
            writer.join(5)
    write(pipe, *[bytes(1 << 20)] * 100)
    with pytest.raises(ValueError, match="has more than 1,000 bytes"):
        read_given(pipe, 1_000)


def test_a_pipe_that_nobody_writes_to_is_one_line_wherever_it_is_named(pipe):
    for words in (("run", pipe), ("plan", pipe), ("verify", pipe)):
        said = say(*words)
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said
        assert f"{pipe}: cannot be read: is a pipe, and was not written" in said.err


def test_lists_that_are_pipes_are_one_line(pipe, tmp_path):
    with pytest.raises(UserError, match=r"pipe\.toml: cannot be read: is a pipe, and was not written"):
        read_list(pipe)
    writer = write(pipe, b"example.com\n")
    assert [line.text for line in read_list(pipe)] == ["example.com"]
    writer.join(5)
    with pytest.raises(UserError, match=r"opt_out: .*pipe\.toml: is not a file; name a text file"):
        read_opt_outs([str(pipe)])


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("open_with", ["[", '{"a":'])
def test_json_and_toml_have_bounded_levels(open_with, tmp_path):
    close = "]" if open_with == "[" else "}"
    for levels in (1, LEVELS):
        assert plain_json(open_with * (levels - 1) + nested(1) + close * (levels - 1)) is not None
    for levels in (LEVELS + 1, 500, 100_000):
        with pytest.raises(ValueError, match=f"has more than {LEVELS} levels"):
            plain_json(open_with * (levels - 1) + nested(1) + close * (levels - 1))
    toml = tmp_path / "a.toml"
    toml.write_text(f"a = {nested(LEVELS - 1)}")
    assert json.dumps(read_toml(toml)["a"]).count("[") == LEVELS - 1
    for levels in (LEVELS, 500, 100_000):
        toml.write_text(f"a = {nested(levels)}")
        with pytest.raises(ValueError, match=f"has more than {LEVELS} levels"):
            read_toml(toml)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [('{"a": 1, "a": 2}', "has 'a' twice"), ('[{"b": {"a": 1, "c": 2, "a": 1}}]', "has 'a' twice"), ("[NaN]", "NaN is"),
     ("-Infinity", "-Infinity is"), ("1e999", "JSON compliant"), (r'"\ud800"', "surrogates")],
)  # fmt: skip
def test_json_that_readers_do_not_read_alike_is_refused(text, wrong):
    with pytest.raises(ValueError, match=wrong):
        plain_json(text)


def test_a_file_of_a_stranger_is_read_up_to_a_bound(tmp_path, pipe):
    (tmp_path / "file").write_bytes(b"0123456789")
    assert read_file(tmp_path / "file", 10) == b"0123456789"
    with pytest.raises(ValueError, match="file: has more than 9 bytes"):
        read_file(tmp_path / "file", 9)
    for other in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match="is not a file"):
            read_file(other, 9)
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="hole: has more than 9 bytes"):
        read_file(tmp_path / "hole", 9)
    with open(tmp_path / "hole", "rb") as file:
        for start, size in ((1 << 40, 5), (-5, 5), (0, -1), (1 << 62, 1 << 62)):
            assert bytes_at(file.fileno(), start, size) == b""
    with open(tmp_path / "file", "rb") as file:
        assert bytes_at(file.fileno(), 8, 1 << 62) == b"89"


@pytest.mark.parametrize(("size", "asked"), [(1 << 40, 10), (11, 10), (10, None), (0, None), (None, None)])
def test_a_store_is_asked_for_no_more_than_is_wanted(size, asked):
    class Store:
        protocol = ("s3",)

        def info(self, path):
            return {"size": size}

        def cat_file(self, path, end=None):
            assert end == asked
            return bytes(size or 0 if end is None else end)

    assert read_remote(Store(), "bucket/a", 10) == bytes(min(size or 0, 10))
