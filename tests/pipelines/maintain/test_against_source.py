"""verify --against-source: what is kept is what the source says."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import build, say, write_tar

from pipelines.build.corpus import open_corpus
from pipelines.maintain import against_source
from pipelines.maintain.against_source import compare
from pipelines.maintain.verify import verify_root

TOML = '[source]\nkind = "webdataset"\npath = "tars"\n[sets.train]'


@pytest.fixture
def made(tmp_path, configure):
    for number in range(3):
        write_tar(tmp_path / f"tars/{number}.tar", range(4 * number, 4 * number + 4))
    config = configure(TOML)
    build(config, "images")
    return config


def test_what_was_kept_is_compared_with_the_source(made):
    seen = compare(open_corpus(made), every=True)
    assert (seen.problems, seen.rows, seen.partitions, seen.unreached) == ([], 12, 3, 0)
    said = say("verify", made, "--against-source")
    assert said.code == 0 and "12 rows of 3 partitions compared with the source" in said.out + said.err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("text", "text is 'picture 0' in the source, 'another text' here"),
        ("sha256", "sha256 is '.*' in the source, 'ffff"),
        ("reason", "reason is 'sparse' in the source (.*), None here"),
        ("image", "the bytes that are kept are not those of the source"),
    ],
)
def test_what_an_older_reader_misread_is_a_problem(change, expected, made, monkeypatch):
    import re

    def read(root, name, columns=None):
        rows = original(root, name, columns)
        if name == "rows/00000.parquet" and change in ("text", "sha256"):
            rows[0] |= {change: {"text": "another text", "sha256": "f" * 64}[change]}
        if name == "images/00000.parquet" and change == "image":
            rows[0] |= {"sha256": "f" * 64}
        return rows

    def reread(stage, file, keyed, buckets):
        for n, row in enumerate(sorted(again(stage, file, keyed, buckets), key=lambda row: row["key"])):
            left_out = change == "reason" and file.path == "0.tar" and n == 0
            yield row | ({"reason": "sparse", "detail": "its holes"} if left_out else {})

    original, again = against_source.read_rows, against_source.finished_rows
    monkeypatch.setattr(against_source, "read_rows", read)
    monkeypatch.setattr(against_source, "finished_rows", reread)
    (problem,) = compare(open_corpus(made), every=True).problems
    assert problem.startswith("0.tar: ") and re.search(expected.replace("picture 0", r"picture \d"), problem)


def test_files_that_changed_or_are_gone_are_not_compared(made, tmp_path):
    write_tar(tmp_path / "tars/0.tar", range(2))
    (tmp_path / "tars/1.tar").unlink()
    seen = compare(open_corpus(made), every=True)
    assert (seen.problems, seen.rows, seen.unreached) == ([], 4, 2)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [64, 3])
def test_a_source_file_is_read_once_for_all_of_its_partitions(at_once, tmp_path, configure, monkeypatch):
    from pipelines.stages import rows

    (tmp_path / "source").mkdir()
    for name, count in (("a", 40), ("b", 30)):
        texts = [f"{name},text {n} {'long ' * (n % 3 * 50)}" for n in range(count)]
        table = pa.table({"url": [f"http://h/{text[:9]}" for text in texts], "caption": texts})
        pq.write_table(table, tmp_path / f"source/{name}.parquet")
    config = configure('[source]\nkind = "laion"\npath = "source"\nrows_per_partition = 4\n')
    root = build(config, "images")
    monkeypatch.setattr(rows, "RANGE", at_once)
    read, keyed_rows = Counter(), against_source.keyed_rows

    def counted(stage, file):
        for row in keyed_rows(stage, file):
            read[file.path] += 1
            yield row

    monkeypatch.setattr(against_source, "keyed_rows", counted)
    seen = compare(open_corpus(config), every=True)
    assert (seen.problems, seen.rows, seen.partitions) == ([], 70, 18)
    assert read == {"a.parquet": 40, "b.parquet": 30}
    assert not verify_root(root).garbage

    original = against_source.read_rows

    def other(root, name, columns=None):
        text = {"text": "another"} if name.startswith("rows/") else {}
        return [row | text for row in original(root, name, columns)]

    monkeypatch.setattr(against_source, "read_rows", other)
    assert len(compare(open_corpus(config), every=True).problems) == 70
    monkeypatch.setattr(against_source, "SAMPLE", 5)
    assert 5 <= compare(open_corpus(config)).rows < 70


def test_a_sample_is_compared_if_not_all_is_asked_for(made, monkeypatch):
    monkeypatch.setattr("pipelines.maintain.against_source.SAMPLE", 5)
    assert compare(open_corpus(made)).rows == 8
    assert compare(open_corpus(made), every=True).rows == 12


def test_a_root_does_not_say_where_its_source_is(made, tmp_path):
    said = say("verify", tmp_path / "corpus", "--against-source")
    assert said.code == 2 and "name the configuration, a TOML file" in said.err
    assert say("verify", made, "--every").code == 2


def test_generated_scenes_are_drawn_again(configure):
    config = configure('[source]\nkind = "scenes"\ncount = 5\nside = 64\n[sets.train]')
    build(config, "images")
    seen = compare(open_corpus(config), every=True)
    assert (seen.problems, seen.rows) == ([], 5)
