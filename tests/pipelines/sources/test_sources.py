"""What every source says becomes Unicode, strict JSON, a key and a partition that stays."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.corpora import ONE_PROCESS, build, picture, rows_of, say, write_captions, write_tar

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.engine.commit import bucket_of, key_of
from pipelines.engine.manifest import read_manifest
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from pipelines.sources import open_source
from pipelines.sources.source import object_of
from pipelines.stages.rows import json_of, unicode
from schemas.config.sources import SOURCES

PICTURES = [picture(number)[0] for number in range(6)]


# Text


@given(st.text(st.characters(), max_size=50))
@settings(max_examples=200, deadline=None)
def test_any_text_becomes_utf_8_and_what_is_utf_8_stays(text):
    made = unicode(text)
    assert unicode(made) == made and made.encode().decode() == made
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert made == text


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.slow
@given(st.dictionaries(st.text(), values, max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_object_becomes_strict_json(value):
    def refuse(word: str):
        raise AssertionError(f"{word} is not valid JSON")

    text = json_of(value)
    made = json.loads(text, parse_constant=refuse)
    assert json_of(made) == text and made.keys() == value.keys()
    assert object_of(text) == made


# Where a row stands


def test_keys_do_not_depend_on_where_the_source_is(pictures, tmp_path):
    (pictures / "0.txt").write_text("zero")
    tar = write_tar(tmp_path / "tars/0.tar", range(3))
    before = rows_of("folder", pictures), rows_of("webdataset", tar.parent)
    pictures.rename(tmp_path / "moved")
    (tmp_path / "deep/down").mkdir(parents=True)
    tar.parent.rename(tmp_path / "deep/down/tars")
    assert rows_of("folder", tmp_path / "moved") == before[0]
    for path in ("tars", "tars/*.tar", "tars/0.tar"):
        assert rows_of("webdataset", tmp_path / "deep/down" / path) == before[1]


TARS = f'[source]\nkind = "webdataset"\npath = "source"\n[sets.train]\n{ONE_PROCESS}'


def settled(root: Root) -> list[tuple[str, int, int, bool]]:
    return [(file.path, file.first, file.buckets, file.split is not None) for file in read_manifest(root)]


@pytest.mark.slow
def test_numbers_are_settled_when_a_file_is_first_seen(configure, tmp_path):
    for name, numbers in (("b.tar", range(2)), ("d.tar", range(2, 4))):
        write_tar(tmp_path / "source" / name, numbers)
    config = configure(TARS)
    root = build(config)
    assert settled(root) == [("b.tar", 0, 1, True), ("d.tar", 1, 1, True)]
    keys = query(root, "select partition, key from rows order by all").to_pylist()

    for name in ("a.tar", "c.tar"):  # new files come behind, whatever they are called
        write_tar(tmp_path / "source" / name, range(4, 6))
    assert plan(open_corpus(config)).stages[0].todo == {2: "new file", 3: "new file"}
    build(config)
    order = [("b.tar", 0, 1, True), ("d.tar", 1, 1, True), ("a.tar", 2, 1, True), ("c.tar", 3, 1, True)]
    assert settled(root) == order
    assert query(root, "select partition, key from rows where partition < 2 order by all").to_pylist() == keys

    write_tar(tmp_path / "source/d.tar", range(2, 5))  # a changed file keeps its number
    assert plan(open_corpus(config)).stages[0].todo == {1: "file changed"}
    build(config)
    assert settled(root) == order
    assert query(root, "select count(*) as n from rows where partition = 1").to_pylist() == [{"n": 3}]

    away = tmp_path / "away.tar"  # a vanished one leaves its number free, and finds it again
    (tmp_path / "source/b.tar").rename(away)
    assert plan(open_corpus(config)).vanished == [("b.tar", [0])]
    build(config)
    assert settled(root) == [("b.tar", 0, 1, False), *order[1:]]
    assert query(root, "select distinct partition as p from rows order by p")["p"].to_pylist() == [1, 2, 3]
    write_tar(tmp_path / "source/e.tar", range(6, 7))
    build(config)
    assert settled(root)[-1] == ("e.tar", 4, 1, True)
    away.rename(tmp_path / "source/b.tar")
    assert plan(open_corpus(config)).stages[0].todo == {0: "file changed"}
    build(config)
    assert settled(root) == [*order, ("e.tar", 4, 1, True)]
    assert query(root, "select partition, key from rows where partition = 0 order by all").to_pylist() == keys[:2]
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_a_table_that_grows_keeps_every_old_row_in_its_partition(pictures, configure):
    table = pictures / "a.csv"
    write_captions(table, [(f"{n % 4}.png", f"caption {n}") for n in range(1000)])
    config = configure('[source]\nkind = "folder"\npath = "pictures"\nrows_per_partition = 300')
    root = build(config, until="rows")
    assert settled(root) == [("a.csv", 0, 4, True)]
    question = "select key, partition from rows"
    before = {row["key"]: row["partition"] for row in query(root, question).to_pylist()}
    assert len(before) == 1000
    sizes = [list(before.values()).count(partition) for partition in range(4)]
    assert min(sizes) > 150 and max(sizes) < 350
    assert all(bucket_of(key, 4) == partition for key, partition in before.items())

    write_captions(table, [(f"{n % 4}.png", f"caption {n}") for n in range(1010)])
    build(config, until="rows")
    after = {row["key"]: row["partition"] for row in query(root, question).to_pylist()}
    assert settled(root) == [("a.csv", 0, 4, True)] and len(after) == 1010
    assert before.items() <= after.items()

    write_captions(table, [(f"{n % 4}.png", f"caption {n}") for n in range(990)])
    build(config, until="rows")
    fewer = {row["key"]: row["partition"] for row in query(root, question).to_pylist()}
    assert len(fewer) == 990 and fewer.items() <= before.items()


def test_only_partitions_with_changed_rows_are_written_again(pictures, configure):
    table = pictures / "a.csv"
    write_captions(table, [(f"{n % 4}.png", f"caption {n}") for n in range(100)])
    config = configure('[source]\nkind = "folder"\npath = "pictures"\nrows_per_partition = 10')
    root = build(config, until="rows")
    stamps = root.files("rows")
    write_captions(table, [(f"{n % 4}.png", f"caption {n}") for n in range(101)])
    build(config, until="rows")
    after = root.files("rows")
    changed = {name for name in after if after[name] != stamps[name] and name[0].isdigit()}
    assert changed == {f"{bucket_of(key_of('0.png', 'caption 100'), 10):05d}.parquet"}


# Files that nobody reads


def test_files_that_a_source_does_not_read_are_named(tmp_path):
    write_tar(tmp_path / "tars/0.tar", range(2))
    for name in ("0.parquet", "0_stats.json", "README.md", ".git/config"):
        (tmp_path / "tars" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "tars" / name).write_text("")
    source = open_source(SOURCES["webdataset"](path=str(tmp_path / "tars")))
    assert source.notes() == []
    (tmp_path / "tars/1.zip").write_text("")
    (tmp_path / "tars/2.tsv").write_text("")
    assert source.notes() == ['2 files are not read by kind = "webdataset"; the first is 1.zip']


def test_plan_names_files_that_are_not_read(pictures, configure):
    write_captions(pictures / "a.csv", [("0.png", "zero")])
    said = say("plan", configure('[source]\nkind = "folder"\npath = "pictures"\n[sets.train]'))
    assert "source: 3 images are in no caption table" in " ".join((said.out + said.err).split())
