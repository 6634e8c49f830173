"""A root that a stranger made, or may write to: nothing outside it is touched, and what is wrong is one line."""

import fcntl
import io
import json
import os
import shutil
import stat
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import ONE_PROCESS, build, data_files, say, write_tar

from pipelines.engine.commit import read_commit
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.lock import LOCK, Busy, hold
from pipelines.engine.parquet import read_rows
from pipelines.engine.payload import read_payload
from pipelines.engine.root import Corrupt, Root
from pipelines.maintain.verify import verify_root
from schemas.file_lock import process_of

pytestmark = pytest.mark.usefixtures("catalogs")

TOML = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "source"
[sets.train]
{ONE_PROCESS}"""

DIARY = "a diary of ten years\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_tar(folder / "source/0.tar", range(3))
    (folder / "my.toml").write_text(TOML)
    build(folder / "my.toml")
    return folder


@pytest.fixture
def corpus(made, tmp_path) -> Root:
    """A corpus under `tmp_path`, with a diary beside it that nobody may touch."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "diary").write_text(DIARY)
    return Root(str(tmp_path / "corpus"))


def one_line(said, code: int, *words: str) -> None:
    assert (said.code, said.out, said.err.count("\n")) == (code, "", 1), said
    assert all(word in said.err for word in words), said.err


# The lock


def as_link(lock: Path, diary: Path) -> None:
    lock.symlink_to(diary)


def as_relative_link(lock: Path, diary: Path) -> None:
    lock.symlink_to("../diary")


def as_link_of_a_link(lock: Path, diary: Path) -> None:
    (lock.parent / "middle").symlink_to(diary)
    lock.symlink_to("middle")


def as_hard_link(lock: Path, diary: Path) -> None:
    os.link(diary, lock)


def as_link_to_nothing(lock: Path, diary: Path) -> None:
    lock.symlink_to(diary.parent / "new")


def as_pipe(lock: Path, diary: Path) -> None:
    os.mkfifo(lock)


@pytest.mark.parametrize(
    "plant", [as_link, as_relative_link, as_link_of_a_link, as_hard_link, as_link_to_nothing, as_pipe]
)
def test_a_lock_that_is_no_file_of_its_own_is_refused_and_nothing_is_written_through_it(plant, corpus, tmp_path):
    lock = Path(corpus.path(LOCK))
    lock.unlink()
    plant(lock, tmp_path / "diary")
    write_tar(tmp_path / "source/1.tar", range(3, 5))  # so that a run has something to make
    (tmp_path / "list.txt").write_text("0123456789abcdef\n")
    for words in (("run", "my.toml"), ("clean", "my.toml"), ("takedown", "my.toml", "list.txt")):
        said = say(words[0], *(tmp_path / word for word in words[1:]))
        one_line(said, 2, f"{lock}: ", "remove it")
    assert (tmp_path / "diary").read_text() == DIARY and not (tmp_path / "new").exists()


STRANGE = ["[1]", "5", '"x"', "null", '{"pid": {}}', '{"host": [], "pid": "x"}', "[" * 1000, "{", "\xff", "1e999",
           '{"host": "\\u001b[31m\\u0007", "pid": 1}', "0" * 5000]  # fmt: skip


@contextmanager
def held(path: str, text: str):
    """Another process holds a lock that says this."""
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("text", STRANGE)
def test_a_lock_of_strange_words_is_another_run(text, corpus):
    with held(corpus.path(LOCK), text):
        said = say("clean", corpus.url)
    one_line(said, 1, f"{corpus.url} is being built by ", "; wait for it, or stop it")
    assert "another run" in said.err or "process 1 on " in said.err
    assert "\x1b" not in said.err and "\x07" not in said.err


@pytest.mark.parametrize("text", STRANGE)
def test_a_lock_of_strange_words_that_nobody_holds_is_taken(text, corpus):
    Path(corpus.path(LOCK)).write_text(text)
    with hold(corpus):
        assert json.loads(corpus.read(LOCK))["pid"] == os.getpid()


@pytest.mark.parametrize("host", ["\x1b[2J", "a\nb", "\u202eevil", "\x07" * 5000, "\ud800"])
def test_the_name_of_a_holder_moves_no_cursor_wherever_it_is_told(host):
    """Prefect, too, is told who holds a root."""
    who = process_of({"pid": 17, "host": host})
    assert who.startswith("process 17 on ") and who.isprintable() and len(who) < 1000


@pytest.mark.parametrize("wait", [float("nan"), -1.0, float("-inf"), 0.0])
def test_nobody_waits_for_a_time_that_is_no_number(wait, corpus):
    with hold(corpus), pytest.raises(Busy), hold(corpus, wait):
        raise AssertionError("taken")


NOT_A_LEASE = [*STRANGE, '{"until": "x"}', '{"lease": 7}', '{"lease": []}', '{"beat": 3}']


@pytest.mark.parametrize("text", NOT_A_LEASE)
def test_a_lease_that_does_not_count_is_taken(text, monkeypatch):
    monkeypatch.setattr("pipelines.engine.lease.time.sleep", lambda seconds: pytest.fail("waits for nobody"))
    root = Root(f"memory://strange-{time.time_ns()}")
    root.write(LOCK, text.encode("latin-1"))
    with hold(root):
        assert json.loads(root.read(LOCK))["pid"] == os.getpid()
    assert root.read(LOCK) == b"{}"


def test_a_lease_that_is_renewed_is_kept_whoever_holds_it(monkeypatch):
    root = Root(f"memory://kept-{time.time_ns()}")
    root.write(LOCK, json.dumps({"lease": "x", "pid": [], "host": 5}).encode())

    def renew(seconds):
        root.write(LOCK, json.dumps({"lease": "x", "pid": [], "host": 5, "beat": time.time()}).encode())

    monkeypatch.setattr("pipelines.engine.lease.time.sleep", renew)
    with pytest.raises(Busy, match="is being built by another run"), hold(root):
        raise AssertionError("taken")


# Files and folders that are links


@pytest.mark.slow
def test_a_file_that_is_a_link_is_replaced_and_not_written_through(corpus, tmp_path):
    write_tar(tmp_path / "source/1.tar", range(3, 5))
    names = ["catalog.duckdb", "report.html", "shards/train.json", "rows/_commits.parquet", "catalog.duckdb.wal"]
    for name in names:
        Path(corpus.path(name)).unlink(missing_ok=True)
        Path(corpus.path(name)).symlink_to(tmp_path / "diary")
    build(tmp_path / "my.toml")
    assert (tmp_path / "diary").read_text() == DIARY
    assert not any(Path(corpus.path(name)).is_symlink() for name in names)
    assert say("verify", corpus.url).code == 0


def test_a_new_file_is_never_an_old_one(corpus, monkeypatch, tmp_path):
    """Even where the name of a temporary file is guessed."""
    monkeypatch.setattr("pipelines.engine.root.uuid.uuid4", lambda: type("Known", (), {"hex": "known"}))
    Path(corpus.path("rows/.tmp-known")).symlink_to(tmp_path / "diary")
    with pytest.raises(FileExistsError):
        corpus.write("rows/00000.parquet", b"overwritten")
    assert (tmp_path / "diary").read_text() == DIARY


@pytest.mark.parametrize("folder", ["images", "rows", "shards", "runs"])
def test_a_folder_that_is_a_link_is_refused(folder, corpus, tmp_path):
    elsewhere = tmp_path / "photos"
    Path(corpus.path(folder)).rename(elsewhere)
    (elsewhere / "mine.jpg").write_text(DIARY)
    Path(corpus.path(folder)).symlink_to(elsewhere)
    write_tar(tmp_path / "source/1.tar", range(3, 5))
    before = data_files(tmp_path / "photos")
    for words in (("clean", "my.toml", "--grace", "0"), ("run", "my.toml")):
        said = say(words[0], tmp_path / words[1], *words[2:])
        assert (said.code, said.err.count("\n")) == (2, 1), said
        assert f"{corpus.url}/{folder}: is a link; the folders of a corpus are real folders" in said.err
    assert data_files(tmp_path / "photos") == before


def test_the_root_itself_may_be_a_link(corpus, tmp_path):
    (tmp_path / "corpus").rename(tmp_path / "disk")
    (tmp_path / "corpus").symlink_to(tmp_path / "disk")
    build(tmp_path / "my.toml")
    assert say("verify", tmp_path / "my.toml").code == 0


def test_clean_removes_a_link_and_not_what_it_leads_to(corpus, tmp_path):
    link = Path(corpus.path("images/00009-0123456789abcdef.tar"))
    link.symlink_to(tmp_path / "diary")
    said = say("clean", corpus.url, "--grace", "0")
    assert said.code == 0 and said.out.startswith("removed 1 file"), said
    assert (tmp_path / "diary").read_text() == DIARY and not os.path.lexists(link)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine").write_text(DIARY)
    Path(corpus.path("images/chunks")).symlink_to(tmp_path / "folder")
    one_line(say("clean", corpus.url, "--grace", "0"), 2, "images/chunks: is a link")
    assert (tmp_path / "folder/mine").read_text() == DIARY


@pytest.mark.parametrize(
    "name", ["root.json", "rows/00000.parquet", "shards/train.json", "catalog.duckdb", "rows/_commits.parquet"]
)
def test_a_pipe_in_place_of_a_file_stops_nothing(name, corpus):
    path = Path(corpus.path(name))
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    for words in (("verify",), ("sql", "from accounting"), ("stats",), ("urls", "train")):
        said = say(words[0], corpus.url, *words[1:])  # it would wait for ever
        assert said.code in (0, 1, 2) and said.err.count("\n") <= 1 and "Traceback" not in said.err, said
    assert stat.S_ISFIFO(path.lstat().st_mode) or name == "catalog.duckdb"


# Names that lead elsewhere

OUTSIDE = ["../diary", "/etc/hostname", "..", ".", "", "rows/../../diary", "a\0b", "a\nb", "x" * 300, "..\\diary"]


@pytest.mark.parametrize("name", [name for name in OUTSIDE if name])
def test_no_name_leads_out_of_a_root(name, corpus, tmp_path):
    for act in (
        corpus.read, corpus.remove, corpus.files, corpus.folders, corpus.exists, corpus.age, corpus.size,
        corpus.remove_folder, corpus.temporary, lambda name: corpus.write(name, b"x"),
        lambda name: corpus.read_range(name, 0, 1), lambda name: corpus.put(tmp_path / "diary", name),
        lambda name: read_rows(corpus, name),
    ):  # fmt: skip
        with pytest.raises(Corrupt, match="is not the name of a file of a corpus"):
            act(name)
    assert (tmp_path / "diary").read_text() == DIARY


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("field", ["tar", "index"])
def test_a_card_that_names_a_file_elsewhere_is_damaged(field, name, corpus, tmp_path):
    path = Path(corpus.path("shards/train.json"))
    card = json.loads(path.read_text())
    card["shards"][0][field] = name
    path.write_text(json.dumps(card))
    wrong = f"shards/train.json: is damaged: shards.0.{field}: "
    one_line(say("urls", corpus.url, "train"), 2, wrong)
    (problem,) = verify_root(corpus).problems
    assert problem.startswith(wrong) and problem.endswith("; remove it, run again")
    one_line(say("clean", corpus.url, "--grace", "0"), 1, "shards/train.json: cannot be read")
    assert (tmp_path / "diary").read_text() == DIARY


def test_a_card_of_another_set_is_damaged(corpus):
    path = Path(corpus.path("shards/train.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"set": "../../x"}))
    wrong = "shards/train.json: is damaged: set: is not the name of a file beside this one; remove it, run again"
    assert verify_root(corpus).problems == [wrong]


def rewrite_footer(path: Path, **fields) -> None:
    """Gives a partition's file a footer that says something else."""
    with pq.ParquetFile(path) as file:
        table, footer = file.read(), json.loads(file.metadata.metadata[b"shardmill"])
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({b"shardmill": json.dumps(footer | fields).encode()})
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    "fields",
    [
        *({"payload": name} for name in OUTSIDE),
        {"payload": 5}, {"partition": "0"}, {"partition": -1}, {"rows": None}, {"rows": 1e999}, {"reasons": {"x": "y"}},
        {"digests": []}, {"digests": {"key": 5}}, {"inputs": {"rows": "x"}}, {"settings": [1]}, {"stage": []},
        {"more": 1}, {"payload_sha256": []}, {"version": [[]]},
    ],
)  # fmt: skip
def test_a_footer_that_no_run_wrote_is_no_commit(fields, corpus):
    path = Path(corpus.path("images/00000.parquet"))
    rewrite_footer(path, **fields)
    assert read_commit(corpus, "images/00000.parquet") is None and read_commits(corpus, "images") == {}
    said = say("verify", corpus.url)
    assert said.code == 1 and "images/00000.parquet: is damaged or belongs to another partition" in said.out
    one_line(say("clean", corpus.url, "--grace", "0"), 1, "images/00000.parquet: cannot be read")


@pytest.mark.parametrize(
    "fields",
    [
        {"files": 5}, {"files": [5]}, {"files": [{}]}, {"makes": 5}, {"makes": ["../x"]}, {"makes": [[]]},
        {"stages": 5},
        {"stages": {"../../x": {"columns": {}, "reasons": []}}}, {"stages": {"x": []}},
        {"rows_per_partition": 5}, {"rows_per_partition": {"": 0}}, {"rows_per_partition": {"x": "1"}},
        {"rows_per_partition": {"": -1e999}},
        *({"files": [{"path": "0.tar", "first": first, "buckets": buckets, "split": split}]}
          for first, buckets, split in (
              (0, 2**62, "x"), (2**62, 1, "x"), (-1, 1, "x"), (0, -1, "x"), ("0", 1, "x"), (0, 1.5, "x"),
              (0, None, "x"),
              (0, 1, {}), (0, 1e999, "x"), (True, 1, "x"))),
    ],
)  # fmt: skip
def test_a_manifest_that_no_run_wrote_is_one_line(fields, corpus, tmp_path):
    path = Path(corpus.path("root.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    for words in (("verify", corpus.url), ("clean", corpus.url, "--grace", "0"), ("run", tmp_path / "my.toml")):
        said = say(*words)
        if said.code:
            one_line(said, 2, f"{corpus.url}/root.json: ")
    assert (tmp_path / "diary").read_text() == DIARY


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "5", "null", "\xff\xfe", "9" * 10_000, '{"a": 1e999}'])
@pytest.mark.parametrize("name", ["root.json", "shards/train.json", "rows/split/0.json"])
def test_json_that_no_run_wrote_is_one_line(name, text, corpus, tmp_path):
    path = Path(corpus.path(name))
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "latin-1")
    for words in (("verify", corpus.url), ("stats", corpus.url), ("clean", corpus.url)):
        said = say(*words)
        assert said.code in (0, 1, 2) and said.err.count("\n") == bool(said.err) and "Traceback" not in said.err, said


@pytest.mark.slow
def test_a_manifest_without_end_is_not_read(corpus):
    with open(corpus.path("root.json"), "r+b") as file:
        file.truncate(20 << 30)  # sparse
    one_line(say("stats", corpus.url), 2, f"{corpus.url}/root.json: ")


# Sizes

ROW = {"key": "0" * 16, "sha256": "", "payload": "0.tar"}


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 2**62), (2**62, 1), (-1, 1), (-(2**62), 2**62), (0, -1), (2**63, 2**63), (0, 2**80)]
)
def test_a_row_of_any_size_reads_no_more_than_there_is(offset, size, corpus):
    corpus.write("images/0.tar", b"x" * 1024)
    with pytest.raises(Corrupt, match="are gone"):
        read_payload(corpus, "images", ROW | {"byte_offset": offset, "size": size})


def test_a_parquet_of_some_kilobytes_that_stands_for_a_hundred_gigabytes_is_damaged(corpus):
    large = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), pa.array(["x" * 10_000_000]))
    path = Path(corpus.path("captions.parquet"))
    pq.write_table(pa.table({"text": large}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 12_000
    with pytest.raises(Corrupt, match=r"captions\.parquet: its rows have more than 1,073,741,824 bytes"):
        read_rows(corpus, "captions.parquet")


@pytest.mark.parametrize("where", ["name", "column", "reason"])
def test_names_of_stages_in_a_manifest_are_never_sql(where, corpus, tmp_path):
    outside = tmp_path / "outside.csv"
    bad = f"""x" FROM rows; COPY (SELECT 'pwned' AS x) TO '{outside}'; SELECT "x"."x"""
    name, column, reason = (bad if where == part else "evil" for part in ("name", "column", "reason"))
    path = Path(corpus.path("root.json"))
    manifest = json.loads(path.read_text())
    manifest |= {
        "makes": [name, *manifest["makes"]],
        "stages": {name: {"columns": {column: "str"}, "reasons": [reason]}},
    }
    path.write_text(json.dumps(manifest))
    for words in (("sql", corpus.url, "select 1"), ("report", corpus.url), ("verify", corpus.url)):
        one_line(say(*words), 2, f"{corpus.url}/root.json: is damaged")
    assert not outside.exists()
