"""Several sources in one corpus: each with its own settings and keys, deduplicated together, accounted for by name."""

import json
import shutil
import tarfile
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import ONE_PROCESS, build, data_files, in_this_process, picture, say, write_captions, write_tar

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.catalog.stats import corpus_stats
from pipelines.engine.commit import key_of
from pipelines.engine.manifest import SourceFile, SourceRange, read_manifest, source_at, sources_of
from pipelines.engine.releases import read_card
from pipelines.engine.root import Root
from pipelines.maintain.release_diff import Line, distributions
from pipelines.maintain.takedown import read_list, take_down
from pipelines.maintain.verify import verify_root
from pipelines.reports.report import gather

UNNAMED = '[source]\nkind = "webdataset"\npath = "tars"\n'
TARS = '[[source]]\nname = "tars"\nkind = "webdataset"\npath = "tars"\n'
OWN = '[[source]]\nname = "own"\nkind = "folder"\npath = "own"\n'
END = f'[duplicates]\n[sets.train]\nwhere = "text is not null"\n{ONE_PROCESS}'

OF_FOUR = "select distinct sha256 from images where key = (select key from rows where text = 'own 4')"


@pytest.fixture
def here(tmp_path) -> Path:
    """Two sources: tars of pictures 0 to 5, and a folder of pictures 4 to 8."""
    for number in range(2):
        write_tar(tmp_path / f"tars/{number}.tar", range(3 * number, 3 * number + 3))
    (tmp_path / "own").mkdir()
    for number in range(4, 9):
        (tmp_path / f"own/{number:06d}.png").write_bytes(picture(number)[0])
        (tmp_path / f"own/{number:06d}.txt").write_text(f"own {number}")
    return tmp_path


def configured(here: Path, *sources: str, more: str = END) -> Path:
    (here / "my.toml").write_text('root = "corpus"\n' + "".join(sources) + more)
    return here / "my.toml"


def asked(root: Root, sql: str) -> list[tuple]:
    return [tuple(row.values()) for row in query(root, sql).to_pylist()]


def todo(config: Path) -> dict[str, Counter]:
    """What a run would make, stage by stage."""
    return {stage.stage: Counter(stage.todo.values()) for stage in plan(open_corpus(config)).stages if stage.todo}


def test_sources_are_deduplicated_together_and_told_apart_everywhere(here):
    root = build(configured(here, TARS, OWN))
    assert [(file.source, file.path, file.first) for file in read_manifest(root)] == [
        ("tars", "0.tar", 0), ("tars", "1.tar", 1), ("own", ".", 2),
    ]  # fmt: skip
    duplicates = asked(root, "select source, text from samples where left_out_by = 'duplicates' order by text")
    assert duplicates == [("own", "own 4"), ("own", "own 5")]
    assert asked(root, "select source, rows, kept, main_reason from yield_by_source") == [
        ("own", 5, 3, "exact_duplicate"), ("tars", 6, 6, None),
    ]  # fmt: skip
    counts = "select stage, reason, rows, source from accounting where stage in ('rows', 'duplicates') order by all"
    assert asked(root, counts) == [
        ("duplicates", "exact_duplicate", 2, "own"), ("duplicates", None, 3, "own"),
        ("duplicates", None, 6, "tars"), ("rows", None, 5, "own"), ("rows", None, 6, "tars"),
    ]  # fmt: skip
    assert verify_root(root).problems == []


def test_samples_of_a_named_source_say_which_and_others_are_as_before(here):
    unnamed = UNNAMED.replace("[source]", "[[source]]")
    root = build(configured(here, unnamed, OWN))
    documents = {}
    for card in (Path(root.url) / "shards").glob("train@*.json"):
        for entry in json.loads(card.read_text())["shards"]:
            with tarfile.open(root.path(f"shards/{entry['tar']}")) as tar:
                documents |= {m.name: json.load(tar.extractfile(m)) for m in tar if m.name.endswith("json")}
    sources = Counter(document.get("source", "-") for document in documents.values())
    assert sources == {"own": 3, "-": 6}, "the key is there for samples of a source with a name alone"
    card = read_card(root, "train")
    lines = {line for line in distributions(root, card, card) if line.measure == "source"}
    assert lines == {Line("source", "own", "33.3%", "33.3%")}


def test_a_condition_names_a_source(here):
    sets = "[sets.own]\nwhere = \"source = 'own'\"\n[sets.others]\nwhere = \"source != 'own'\"\n"
    root = build(configured(here, TARS, OWN, more=sets + ONE_PROCESS))
    assert asked(root, 'select "set", count(*) from shards group by all order by all') == [("others", 6), ("own", 5)]
    assert verify_root(root).problems == []


def test_rows_of_a_named_source_are_told_apart_by_its_name_and_their_file(here):
    """Ids repeat from file to file: without the file, one of the two rows would be left out for equal keys."""
    (here / "talks").mkdir()
    for name in ("a", "b"):
        turns = [{"role": "user", "content": f"Say {name}."}, {"role": "assistant", "content": name}]
        (here / f"talks/{name}.json").write_text(json.dumps([{"id": 1, "conversations": turns}]))
    talks = '[[source]]\nname = "talks"\nkind = "conversations"\npath = "talks"\n'
    sets = '[sets.talks]\ntask = "conversation"\n'
    root = build(configured(here, talks, more=sets + ONE_PROCESS))
    keys = {key for (key,) in asked(root, "select key from samples where reason is null")}
    assert keys == {key_of("talks", f"{name}.json", "conversation", "1") for name in "ab"}
    assert query(root, "select * from rows").column_names.count("source") == 1
    assert "source" not in pq.read_schema(f"{root.url}/rows/00000.parquet").names, "the name is in root.json alone"


def test_two_sources_over_one_folder_are_two_sources(here):
    again = OWN.replace('"own"\nkind', '"again"\nkind')
    root = build(configured(here, OWN, again))
    counts = "select source, reason, count(*) from samples group by all order by all"
    assert asked(root, counts) == [("again", "exact_duplicate", 5), ("own", None, 5)]
    assert verify_root(root).problems == []


def test_a_second_source_makes_nothing_of_the_first_anew(here):
    """`[source]` becomes `[[source]]`, still without a name; the new source has one."""
    root = build(configured(here, UNNAMED))
    before, manifest = data_files(Path(root.url)), read_manifest(root)
    config = configured(here, UNNAMED.replace("[source]", "[[source]]"))
    assert not plan(open_corpus(config)).work(), "a list of one source without a name is that source"

    config = configured(here, UNNAMED.replace("[source]", "[[source]]"), OWN)
    assert todo(config)["rows"] == {"own: new file": 1} and todo(config)["images"] == {"new": 1}
    build(config)
    after = data_files(Path(root.url))
    stages = ("rows", "images", "duplicates", "selection")
    kept = {name: digest for name, digest in before.items() if name.split("/")[0] in stages and "json" not in name}
    assert kept and kept.items() <= after.items()
    assert read_manifest(root)[: len(manifest)] == manifest
    assert asked(root, "select source, count(*) from rows group by all order by all") == [("own", 5), (None, 6)]
    assert verify_root(root).problems == []
    assert not plan(open_corpus(config)).work()


def test_a_source_without_a_name_is_as_before(here):
    """root.json and every other file: nothing in them speaks of sources."""
    root = build(configured(here, UNNAMED))
    manifest = json.loads(root.read("root.json"))
    assert [*manifest["files"][0]] == ["path", "first", "buckets", "split"]
    assert sources_of(root) == ()
    keys = {key for (key,) in asked(root, "select key from rows")}
    assert keys == {key_of(f"{n // 3}.tar", f"{n:06d}") for n in range(6)}
    assert asked(root, "select distinct source from samples") == [(None,)]


def test_the_settings_of_one_source_make_that_source_alone_anew(here):
    own = OWN.replace('path = "own"', 'path = "own/list.csv"')
    own += 'text_column = "{}"\n'
    (here / "own/list.csv").write_text("image,text,other\n000004.png,a text,another\n")
    config = configured(here, TARS, own.format("text"))
    root = build(config)
    config = configured(here, TARS, own.format("other"))
    assert todo(config)["rows"] == {"own: text_column 'text' -> 'other'": 1}
    build(config)
    assert asked(root, "select text from rows where source = 'own'") == [("another",)]
    work = "select distinct item from work where stage = 'rows' and run = (select max(run) from work)"
    assert asked(root, work) == [("00002",)]
    assert verify_root(root).problems == []


def test_a_source_that_is_no_longer_named_vanishes_with_its_partitions(here):
    root = build(configured(here, TARS, OWN))
    config = configured(here, TARS)
    said = say("plan", config)
    assert "vanished own: 1 partition and all made from it will be removed" in said.out
    build(config)
    assert asked(root, "select source, count(*) from rows group by all") == [("tars", 6)]
    assert verify_root(root).problems == []
    build(configured(here, TARS, OWN))
    assert asked(root, "select count(*) from rows where source = 'own'") == [(5,)]
    assert [file.first for file in read_manifest(root)] == [0, 1, 2], "it finds its old numbers"


def test_a_renamed_source_is_another_source_and_plan_says_so(here):
    config = configured(here, TARS, OWN)
    root = build(config)
    config = configured(here, TARS, OWN.replace('"own"\nkind', '"ours"\nkind'))
    said = say("plan", config)
    assert "vanished own: 1 part" in said.out and "ours: new file" in said.out
    assert "source.ours: has all files of own, which is gone; to keep what was made of them" in said.out
    build(config)
    assert asked(root, "select distinct source from rows order by 1") == [("ours",), ("tars",)]
    assert verify_root(root).problems == []


def test_a_source_that_is_missing_is_named_and_nothing_is_removed(here):
    root = build(configured(here, TARS, OWN))
    before = data_files(Path(root.url))
    (here / "own").rename(here / "away")
    said = say("run", here / "my.toml")
    assert said.code == 2 and f"source.own.path: {here}/own does not exist" in said.err
    assert data_files(Path(root.url)) == before


def test_bytes_come_from_the_source_of_their_partition(here):
    """Both sources have files of the same names, with other bytes in them."""
    shutil.copytree(here / "own", here / "other")
    for number in range(4, 9):
        (here / f"other/{number:06d}.png").write_bytes(picture(number + 20)[0])
    other = '[[source]]\nname = "other"\nkind = "folder"\npath = "other"\n'
    root = build(configured(here, OWN, other))
    found = dict(asked(root, "select source, list(distinct sha256 order by sha256) from samples group by source"))
    for source, first in (("own", 4), ("other", 24)):
        assert found[source] == sorted(sha256(picture(n)[0]).hexdigest() for n in range(first, first + 5))


def test_kinds_are_mixed(here):
    """Tars, a table of captions, URLs with files that are here already, and conversations."""
    (here / "tables").mkdir()
    (here / "talks").mkdir()
    write_captions(here / "own/list.jsonl", [(f"{n:06d}.png", f"listed {n}") for n in range(4, 9)])
    columns = {"url": [f"http://a.example/{n}" for n in range(3)], "text": ["x", "y", "z"]}
    pq.write_table(pa.table(columns | {"image": [f"{n:06d}.png" for n in (6, 7, 8)]}), here / "tables/a.parquet")
    turns = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A square."}]
    talk = {"id": "1", "image": "000008.png", "conversations": turns}
    (here / "talks/a.json").write_text(json.dumps([talk]))
    laion = '[[source]]\nname = "laion"\nkind = "laion"\npath = "tables"\nimages = "own"\nimage_column = "image"\n'
    talks = '[[source]]\nname = "talks"\nkind = "conversations"\npath = "talks"\nimages = "own"\n'
    root = build(
        configured(here, TARS, OWN, laion, talks, more='[sets.train]\nwhere = "text is not null"\n' + ONE_PROCESS)
    )
    counts = asked(
        root, "select source, count(*), count(*) filter (reason is null) from samples group by all order by 1"
    )
    assert counts == [("laion", 3, 3), ("own", 5, 5), ("talks", 1, 0), ("tars", 6, 6)]
    assert verify_root(root).problems == []


def test_a_takedown_reaches_the_rows_of_every_source(here):
    config = configured(here, UNNAMED.replace("[source]", "[[source]]"), OWN)
    root = build(config)
    ((digest,),) = asked(
        root, "select distinct sha256 from images where key = (select key from rows where text = 'own 4')"
    )
    (here / "list.txt").write_text(digest)
    with in_this_process():
        done = take_down(open_corpus(config), read_list(here / "list.txt"))
    assert (done.rows, done.others) == (2, 0)
    gone = "select source from rows where reason = 'taken_down' order by all"
    assert asked(root, gone) == [("own",), (None,)]
    assert verify_root(root).problems == []
    build(config)
    assert not plan(open_corpus(config)).work()


def test_a_takedown_after_a_source_has_gone(here):
    root = build(configured(here, TARS, OWN))
    ((digest,),) = asked(
        root, "select distinct sha256 from images where key = (select key from rows where text = 'own 4')"
    )
    config = configured(here, TARS)
    (here / "list.txt").write_text(digest)
    with in_this_process():
        take_down(open_corpus(config), read_list(here / "list.txt"))
    assert asked(root, "select source, reason from rows where reason is not null") == [("tars", "taken_down")]
    assert verify_root(root).problems == []


def test_a_retry_loads_from_the_right_source(here):
    (here / "own/000008.png").write_bytes(b"not a picture")
    config = configured(here, TARS, OWN)
    root = build(config)
    assert asked(root, "select source, reason from samples where left_out_by = 'images'") == [("own", "not_an_image")]
    build(config, retry={"images": "reason = 'not_an_image'"})
    assert asked(root, "select source, reason from samples where left_out_by = 'images'") == [("own", "not_an_image")]
    assert verify_root(root).problems == []


def test_stats_and_the_report_name_sources(here, reports):
    root = build(configured(here, TARS, OWN))
    tables = {title: lines for title, _, lines in corpus_stats(root)}
    assert tables["sources"] == [("tars", 2, 2, 6, 6, "100.0%"), ("own", 1, 1, 5, 3, "60.0%")]
    assert [(row["source"], row["rows"], row["kept"]) for row in gather(root)["sources"]] == [
        ("tars", 6, 6), ("own", 5, 3),
    ]  # fmt: skip
    assert "<h3>Sources</h3>" in (Path(root.url) / "report.html").read_text()
    alone = build(configured(here, UNNAMED, more=END.replace("[duplicates]\n", "")))
    assert "sources" in {title for title, *_ in corpus_stats(alone)}, "those of old have partitions that are gone"


def test_ranges_of_partitions():
    ranges = (SourceRange(0, 2, None), SourceRange(2, 7, "web"), SourceRange(7, 8, None))
    assert [source_at(ranges, partition) for partition in range(9)] == [None, None, *["web"] * 5, None, None]
    assert source_at((), 5) is None
    assert str(SourceFile("a.tar", 0, 1, None)) == "a.tar"
    assert str(SourceFile("a.tar", 0, 1, None, "web")) == "web: a.tar"
