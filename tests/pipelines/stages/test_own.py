"""A stage of a user's own: in plan, reuse, catalog, `where`, shards, report and verify like any other."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import build, data_files, picture, say
from support.paths import PROJECT

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.engine.manifest import stages_of
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.root import Root
from pipelines.maintain.clean import clean_root
from pipelines.maintain.verify import verify_root
from schemas.errors import UserError

MINE = """
def even(row):
    number = int(row["text"].split()[-1])
    if number == 3:
        raise ValueError("three is too much")
    return {"number": number, "square": float(row["width"])} if number % 2 == 0 else "odd"
"""
TABLE = """
[stages.even]
callable = "mine.py:even"
reads = ["rows.text", "images.width"]
columns = { number = "int", square = "float" }
reasons = ["odd"]
"""
SETS = '[sets.train]\nwhere = "number >= 0"\n'


@pytest.fixture
def numbers(tmp_path) -> Path:
    """Eight pictures, each with its number in its caption."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(picture(number)[0])
        (folder / f"{number}.txt").write_text(f"picture {number}")
    (tmp_path / "mine.py").write_text(MINE)
    return folder


SOURCE = '[source]\nkind = "folder"\npath = "pictures"\nrows_per_partition = 3\n'


@pytest.fixture
def config(configure, numbers) -> Path:
    return configure(SOURCE + TABLE + SETS)


def samples(root: Root) -> list[dict]:
    sql = "SELECT text, number, square, reason, left_out_by, samples FROM samples ORDER BY text"
    return query(root, sql).to_pylist()


def packed(root: Root) -> dict[str, dict]:
    """caption -> the `.json` of a sample, of all shards."""
    found = {}
    for path in Path(root.path("shards")).glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    document = json.loads(tar.extractfile(member).read())
                    found[document["text"]] = document
    return found


@pytest.mark.slow
def test_its_rows_are_in_the_catalog_and_what_it_left_out_is_in_no_shard(config):
    root = build(config)
    rows = samples(root)
    assert [row["number"] for row in rows] == [0, None, 2, None, 4, None, 6, None]
    assert [row["reason"] for row in rows] == [None, "odd", None, "failed", None, "odd", None, "odd"]
    assert {row["left_out_by"] for row in rows} == {None, "even"}
    assert {row["square"] for row in rows} == {224.0, None}
    assert sorted(packed(root)) == [f"picture {n}" for n in (0, 2, 4, 6)]
    assert {text: document["stages"] for text, document in packed(root).items()} == {
        f"picture {n}": {"even": {"number": n, "square": 224.0}} for n in (0, 2, 4, 6)
    }
    assert verify_root(root).problems == []
    assert plan(open_corpus(config)).work() == 0
    assert open_corpus(config).stages() == ["rows", "images", "even", "selection", "shards"]
    counts = query(root, "SELECT reason, rows FROM accounting WHERE stage = 'even'").to_pylist()
    assert {row["reason"]: row["rows"] for row in counts} == {None: 4, "odd": 3, "failed": 1}
    detail = query(root, "SELECT detail FROM even WHERE reason = 'failed'").to_pylist()
    assert detail == [{"detail": "ValueError: three is too much"}]


@pytest.mark.slow
def test_commands_know_it_from_the_root_alone(config):
    root = build(config)
    assert "odd" in say("stats", root.url).out
    assert "number" in say("sql", root.url, "select number from even where number = 4").out
    assert say("verify", root.url).code == 0
    assert say("report", root.url).code == 0
    assert "even" in Path(root.path("report.html")).read_text()
    shown = say("plan", config)
    assert shown.code == 0 and "even" in shown.out


@pytest.mark.slow
def test_only_rows_whose_columns_changed_are_made_again(config, numbers):
    root = build(config)
    (numbers / "5.txt").write_text("picture 10")
    build(config)
    work = query(root, "SELECT sum(made)::INTEGER AS made FROM work WHERE stage = 'even' "
                       "AND run = (SELECT max(run) FROM runs)").to_pylist()  # fmt: skip
    assert work == [{"made": 1}]
    assert "picture 10" in packed(root)


@pytest.mark.slow
def test_a_changed_file_makes_its_rows_again_and_reading_it_elsewhere_does_not(config, tmp_path):
    root = build(config)
    before = data_files(Path(root.url))
    (tmp_path / "other").mkdir()
    moved = (tmp_path / "other/mine.py").write_text(MINE) and config.read_text()
    config.write_text(moved.replace('"mine.py:even"', '"other/mine.py:even"'))
    assert plan(open_corpus(config)).work() == 0, "where a file lies does not count"
    (tmp_path / "other/mine.py").write_text(MINE.replace("number % 2 == 0", "number % 2 == 1"))
    (why,) = {why for stage in plan(open_corpus(config)).stages if stage.stage == "even" for why in stage.todo.values()}
    assert why == "version changed"
    build(config)
    assert sorted(packed(root)) != []
    assert [row["number"] for row in samples(root)] == [None, 1, None, None, None, 5, None, 7]
    assert verify_root(root).problems == []
    config.write_text(moved)
    build(config)
    clean_root(root, 0, 1)
    after = data_files(Path(root.url))
    shared = {name for name in before.keys() & after.keys() if "@" not in name}
    assert {name: after[name] for name in shared} == {name: before[name] for name in shared}


@pytest.mark.slow
def test_changed_reasons_make_its_rows_again(config):
    root = build(config)
    config.write_text(config.read_text().replace('reasons = ["odd"]', 'reasons = ["uneven"]'))
    build(config)
    assert {row["reason"] for row in samples(root)} == {None, "failed"}
    detail = "ValueError: returned 'odd', which is not one of its reasons"
    assert {"detail": detail} in query(root, "SELECT detail FROM even").to_pylist()
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_a_stage_that_is_taken_out_leaves_nothing(config):
    root = build(config)
    config.write_text(config.read_text().replace(TABLE, "").replace('where = "number >= 0"', ""))
    build(config)
    assert list(stages_of(root)) == ["rows", "images", "selection"]
    assert len(packed(root)) == 8
    assert all("stages" not in document for document in packed(root).values() if document["text"] == "picture 1")
    assert verify_root(root).problems == []
    clean_root(root, 0, 1)
    assert Root(root.url).files("even") == {}


def test_it_is_shown_the_image(configure, numbers, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def look(row):\n    image = row['image']\n    return {'mode': image.mode, 'sides': list(image.size)}\n"
    )
    table = '[stages.look]\ncallable = "mine.py:look"\nimage = true\ncolumns = { mode = "str", sides = "list[int]" }\n'
    root = build(configure(SOURCE + table))
    rows = query(root, "SELECT DISTINCT mode, sides FROM look").to_pylist()
    assert rows == [{"mode": "RGB", "sides": [224, 224]}]


@pytest.mark.slow
def test_one_between_rows_and_images_keeps_images_from_being_copied(configure, numbers, tmp_path):
    (tmp_path / "mine.py").write_text("def short(row):\n    return 'long' if row['text'] > 'picture 3' else {}\n")
    table = '[duplicates]\n[stages.short]\ncallable = "mine.py:short"\nreads = ["rows.text"]\nreasons = ["long"]\n'
    config = configure(SOURCE + table + "[sets.train]\n")
    root = build(config)
    assert open_corpus(config).stages() == ["rows", "short", "images", "duplicates", "selection", "shards"]
    rows = [row for n in range(3) for row in read_rows(root, f"images/{n:05d}.parquet")]
    assert sorted((row["reason"], row["detail"]) for row in rows if row["reason"]) == [("upstream", "short: long")] * 4
    assert len(packed(root)) == 4
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_duplicates_of_what_it_left_out_stay(configure, numbers, tmp_path):
    """A stage between images and duplicates: the first of two equal images is left out, so the second is kept."""
    (numbers / "0.png").write_bytes((numbers / "7.png").read_bytes())
    (tmp_path / "mine.py").write_text("def later(row):\n    return 'first' if row['text'].endswith(' 0') else {}\n")
    table = (
        '[duplicates]\nnear = -1\n[stages.later]\ncallable = "mine.py:later"\nreads = ["rows.text", "images.size"]\n'
        'reasons = ["first"]\n[sets.train]\n'
    )
    root = build(configure(SOURCE + table))
    assert sorted(packed(root)) == [f"picture {n}" for n in range(1, 8)]
    details = query(root, "SELECT detail FROM duplicates WHERE reason = 'upstream'").to_pylist()
    assert details == [{"detail": "later: first"}]
    assert verify_root(root).problems == []


def test_two_of_them_read_each_other_in_order(configure, numbers, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def second(row):\n    return {'twice': 2 * row['number']}\n"
        "def first(row):\n    return {'number': int(row['text'][-1])}\n"
    )
    tables = (
        '[stages.second]\ncallable = "mine.py:second"\nreads = ["first.number"]\ncolumns = { twice = "int" }\n'
        '[stages.first]\ncallable = "mine.py:first"\nreads = ["rows.text"]\ncolumns = { number = "int" }\n'
    )
    config = configure(SOURCE + tables)
    root = build(config)
    assert open_corpus(config).stages() == ["rows", "first", "second", "images", "selection", "shards"]
    assert query(root, "SELECT sum(twice)::INTEGER AS n FROM samples").to_pylist() == [{"n": 56}]


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        ("{'number': 'one'}", "TypeError: number is str, not int"),
        ("{}", "ValueError: returned the columns [], which differ in ['number'] from its own"),
        (
            "{'number': 1, 'more': 2}",
            "ValueError: returned the columns ['more', 'number'], which differ in ['more'] from its own",
        ),
        ("'even'", "ValueError: returned 'even', which is not one of its reasons"),
        ("3", "TypeError: returned int; return a dict, or one of its reasons"),
        ("{'number': True}", "TypeError: number is bool, not int"),
        ("exit(3)", "SystemExit: 3"),
        ("{'number': 10**20}", "ValueError: number is 100000000000000000000, which 64 bits do not hold"),
        ("'\\ud800'", "ValueError: returned '\\ud800', which is not one of its reasons"),
    ],
)  # fmt: skip
def test_an_answer_that_was_not_declared_is_the_failure_of_its_row(configure, numbers, tmp_path, answer, detail):
    (tmp_path / "mine.py").write_text(f"def odd(row):\n    return {answer}\n")
    table = '[stages.odd]\ncallable = "mine.py:odd"\nreads = ["rows.text"]\ncolumns = { number = "int" }\n'
    config = configure(SOURCE + table)
    root = build(config)
    rows = query(root, "SELECT DISTINCT reason, detail FROM odd").to_pylist()
    assert rows == [{"reason": "failed", "detail": detail}]


def test_numbers_of_numpy_are_numbers(configure, numbers, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\ndef score(row):\n"
        "    return {'score': np.float32(0.5), 'count': np.int64(3), 'none': None}\n"
    )
    columns = '{ score = "float", count = "int", none = "str" }'
    table = f'[stages.score]\ncallable = "mine.py:score"\nreads = ["rows.text"]\ncolumns = {columns}\n'
    root = build(configure(SOURCE + table))
    rows = query(root, "SELECT DISTINCT score, count, none FROM score").to_pylist()
    assert rows == [{"score": 0.5, "count": 3, "none": None}]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('callable = "gone.py:even"\nreads = ["rows.text"]', "stages.even.callable: {folder}/gone.py does not exist"),
        ('callable = "mine.py:odd"\nreads = ["rows.text"]',
         "stages.even.callable: {folder}/mine.py has no function 'odd'"),
        ('callable = "bad.py:even"\nreads = ["rows.text"]',
         "stages.even.callable: {folder}/bad.py cannot be imported: NameError: name 'no' is not defined"),
        ('callable = "mine.py:even"\nreads = ["rows.size_of"]',
         "stages.even.reads: rows has no column 'size_of'; it has key, url, host, text, conversation, part_of, part, "
         "file, member, byte_offset, size, sha256, checksum, extra"),
        ('callable = "mine.py:even"\nreads = ["ocr.text"]',
         "stages.even.reads: unknown stage 'ocr'; choose from rows, images"),
        ('callable = "mine.py:even"\nreads = ["selection.samples"]',
         "stages.even.reads: unknown stage 'selection'; choose from rows, images"),
        ('callable = "mine.py:even"\nreads = ["even.number"]', "stages: even read each other in a circle"),
        ('callable = "mine.py:even"\nreads = ["rows.text"]\ncolumns = { width = "int" }',
         "stages.even.columns: `samples` already has a column width; choose another name"),
        ('callable = "mine.py:even"\nreads = ["rows.text"]\ncolumns = { key = "int" }',
         "stages.even: a column cannot be called key; choose another name"),
        ('callable = "mine.py:even"\nreads = ["rows.text"]\nreasons = ["failed"]',
         "stages.even: failed is the reason of a row that raises an error; choose another"),
        ('callable = "mine.py:even"', "stages.even: reads nothing; name columns in reads, or set image = true"),
        ('callable = "mine.py"\nreads = ["rows.text"]',
         'stages.even.callable: write "file.py:function" or "package.module:function", not '),
        ('callable = "mine.py:even"\nreads = ["rows.text", "images.size", "rows.size"]',
         "stages.even: reads two columns called size; leave one out"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_in_one_line(configure, numbers, tmp_path, table, said):
    (tmp_path / "bad.py").write_text("no\n")
    config = configure(f"{SOURCE}[stages.even]\n{table}\n")
    with pytest.raises(UserError) as error:
        open_corpus(config)
    assert str(error.value).startswith(f"{config}: {said.format(folder=tmp_path)}")
    assert "\n" not in str(error.value)


def test_a_name_that_is_there_is_refused(configure, numbers):
    for name in ("images", "samples", "runs", "shards", "releases", "growth", "sources", "yield_by_source"):
        with pytest.raises(UserError, match=f"stages.{name}: a stage or view already has this name"):
            open_corpus(configure(SOURCE + TABLE.replace("stages.even", f"stages.{name}")))


@pytest.mark.slow
def test_its_file_travels_with_it(config, tmp_path):
    """A worker of another machine has no such file: the stage is pickled here and made there."""
    import pickle

    corpus = open_corpus(config)
    data = pickle.dumps(corpus.made["even"])
    (tmp_path / "mine.py").unlink()
    (tmp_path / "stage").write_bytes(data)
    row = "{'rows': {'key': 'k', 'text': 'picture 4'}, 'images': {'width': 7}, 'before': None}"
    code = f"import pickle; print(list(pickle.load(open({str(tmp_path / 'stage')!r}, 'rb')).make([{row}], None)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[('k', {'number': 4, 'square': 7.0})]", done.stderr


@pytest.mark.parametrize(
    ("kind", "answer", "value"),
    [
        ("float", "float('nan')", "ValueError: value is nan; return None for a missing number"),
        ("list[float]", "[1.0, None]", "ValueError: value holds None, which a list[float] cannot"),
        ("list[float]", "np.array([0.5, 1.0])", [0.5, 1.0]),
        ("str", "'half \\ud800'", "half \ufffd"),
        ("str", "None", None),
    ],
)
def test_values_that_no_column_holds_fail_their_row_alone(configure, numbers, tmp_path, kind, answer, value):
    (tmp_path / "mine.py").write_text(f"import numpy as np\ndef odd(row):\n    return {{'value': {answer}}}\n")
    table = f'[stages.odd]\ncallable = "mine.py:odd"\nreads = ["rows.text"]\ncolumns = {{ value = "{kind}" }}\n'
    root = build(configure(SOURCE + table))
    (row,) = query(root, "SELECT DISTINCT reason, detail, value FROM odd").to_pylist()
    failed = isinstance(value, str) and "Error" in value
    assert row == {"reason": "failed" if failed else None, "detail": value if failed else None,
                   "value": None if failed else value}  # fmt: skip


def test_a_damaged_image_is_no_failure_of_the_function(configure, numbers, tmp_path):
    (tmp_path / "mine.py").write_text("def look(row):\n    return {}\n")
    config = configure(SOURCE)
    root = build(config)
    for path in Path(root.path("images")).glob("*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    config.write_text(config.read_text() + '[stages.look]\ncallable = "mine.py:look"\nimage = true\n')
    with pytest.raises(Corrupt, match="not those that were committed"):
        build(config)


@pytest.mark.slow
def test_other_columns_can_be_asked_for_before_the_stage_is_made_again(config):
    root = build(config)
    other = config.read_text().replace('square = "float"', 'square = "str", more = "int"')
    config.write_text(other)
    build(config, "images")
    rows = query(root, "SELECT number, square, more FROM samples WHERE number = 4").to_pylist()
    assert rows == [{"number": 4, "square": "224.0", "more": None}]
    assert say("verify", root.url).code == 0


@pytest.mark.slow
def test_verify_finds_another_type_of_a_column_that_every_stage_has(config):
    root = build(config)
    path = root.path("even/00000.parquet")
    table = pq.read_table(path)
    changed = table.set_column(table.schema.get_field_index("detail"), "detail", pa.array([1] * len(table)))
    pq.write_table(changed.replace_schema_metadata(pq.read_metadata(path).metadata), path)
    assert "column detail: is int64, not string" in say("verify", root.url).out


def test_dataclasses_and_annotations_work_in_its_file(configure, numbers, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import asdict, dataclass\n"
        "@dataclass\nclass Answer:\n    number: int\ndef one(row):\n    return asdict(Answer(1))\n"
    )
    table = '[stages.one_each]\ncallable = "mine.py:one"\nreads = ["rows.text"]\ncolumns = { number = "int" }\n'
    root = build(configure(SOURCE + table))
    assert query(root, "SELECT sum(number)::INTEGER AS n FROM one_each").to_pylist() == [{"n": 8}]


@pytest.mark.parametrize("name", ["document", "bytes", "target", "pictures", "picture", "filename", "place"])
def test_columns_that_the_sql_of_samples_uses_are_refused(configure, numbers, name):
    table = TABLE.replace("square", name)
    with pytest.raises(UserError, match=f"a column cannot be called {name}"):
        open_corpus(configure(SOURCE + table))


@pytest.mark.parametrize("name", ["order", "select", "group", "table", "end"])
def test_reserved_words_of_sql_are_refused(configure, numbers, name):
    with pytest.raises(UserError, match=f"{name} is a reserved word of SQL"):
        open_corpus(configure(SOURCE + TABLE.replace("stages.even", f"stages.{name}")))
    with pytest.raises(UserError, match=f"{name} is a reserved word of SQL"):
        open_corpus(configure(SOURCE + TABLE.replace("square", name)))
