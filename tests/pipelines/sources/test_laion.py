"""LAION-style Parquet: URL and text are the key, every other column goes along, bytes are found by their names."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import ONE_PROCESS, build, facts, picture, rows_of, say

from pipelines.catalog.catalog import query
from pipelines.engine.commit import key_of
from pipelines.maintain.verify import verify_root

ROWS = [  # as LAION-2B has them: URL, TEXT, WIDTH, HEIGHT, similarity, LANGUAGE, hash, pwatermark, punsafe
    ("http://a.example/0.jpg", "a red square", 640, 480, 0.34, "en", 1, 0.1, 1e-4),
    ("https://b.example/1.png?x=1&y=2", "", 10, 20, 0.2, "nolang", 2, None, 0.9),
    ("http://a.example/2.jpg", None, 30, 40, float("nan"), None, 3, 0.5, 0.0),
    (None, "nowhere", 1, 1, 0.3, "de", 4, 0.0, 0.0),
    ("http://a.example/0.jpg", "a red square", 640, 480, 0.34, "en", 5, 0.1, 1e-4),
]
NAMES = ("URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "LANGUAGE", "hash", "pwatermark", "punsafe")


def write(path: Path, rows=ROWS, names=NAMES, **more: list) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({name: [row[n] for row in rows] for n, name in enumerate(names)} | more), path)
    return path


def test_every_row_is_there_with_all_that_it_says(tmp_path):
    rows = rows_of("laion", write(tmp_path / "laion/0.parquet"))
    assert facts(rows, "url", "text", "reason") == [
        ("http://a.example/0.jpg", "a red square", None), ("https://b.example/1.png?x=1&y=2", "", None),
        ("http://a.example/2.jpg", None, None), (None, "nowhere", "no_image"),
        ("http://a.example/0.jpg", "a red square", "equal_keys"),
    ]  # fmt: skip
    assert rows[0]["key"] == key_of("http://a.example/0.jpg", "a red square")
    assert json.loads(rows[0]["extra"]) == dict(zip(NAMES[2:], ROWS[0][2:], strict=False))
    assert json.loads(rows[2]["extra"])["similarity"] is None


def test_columns_may_have_other_names(tmp_path):
    path = write(tmp_path / "0.parquet", [("http://a.example/0", "zero")], ("bild", "wort"))
    assert facts(rows_of("laion", path, url_column="bild", text_column="wort"), "url", "text") == [
        ("http://a.example/0", "zero")
    ]
    config = tmp_path / "my.toml"
    config.write_text(f'root = "corpus"\n[source]\nkind = "laion"\npath = "{path.name}"\n')
    assert say("plan", config).err == (
        "shardmill: source.url_column: 0.parquet has none of the columns url, URL, image_url; it has bild, wort"
        '; write url_column = "…" with one of these\n'
    )
    config.write_text(f'root = "corpus"\n[source]\nkind = "laion"\npath = "{path.name}"\nimages = "pictures"\n')
    assert say("plan", config).err == (
        "shardmill: source.image_column: missing; name the column whose files are under source.images\n"
    )


@pytest.mark.slow
def test_bytes_come_from_the_files_that_rows_name_and_conditions_ask_for_what_goes_along(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        (tmp_path / f"pictures/{number}.png").write_bytes(picture(number)[0])
    names = ["0.png", None, "gone.png", "../my.toml"]
    write(tmp_path / "laion/0.parquet", ROWS[:4], image_path=names)
    config = tmp_path / "my.toml"
    config.write_text(f"""
root = "corpus"
[source]
kind = "laion"
path = "laion/*.parquet"
images = "pictures"
image_column = "image_path"
[sets.similar]
where = "extra.similarity::double > 0.3 and extra.punsafe::double < 0.5 and host = 'a.example'"
{ONE_PROCESS}""")
    root = build(config)
    said = query(root, "select url, reason, left_out_by from samples order by url nulls last, text").to_pylist()
    assert [(row["url"], row["left_out_by"], row["reason"]) for row in said] == [
        ("http://a.example/0.jpg", None, None), ("http://a.example/2.jpg", "rows", "no_image"),
        ("https://b.example/1.png?x=1&y=2", "images", "not_fetched"), (None, "rows", "no_image"),
    ]  # fmt: skip
    assert query(root, "select set, sample from shards").to_pylist() == [
        {"set": "similar", "sample": f"{key_of('http://a.example/0.jpg', 'a red square')}-caption"}
    ]
    assert verify_root(root).problems == []
    hosts = query(root, "select host, rows, kept, main_reason from yield_by_host order by host").to_pylist()
    expected = [("a.example", 2, 1, "no_image"), ("b.example", 1, 0, "not_fetched")]
    assert [tuple(row.values()) for row in hosts] == expected


@pytest.mark.slow
def test_laion_400m_is_split_once_and_each_row_waits_for_its_bytes(shared, tmp_path):
    config = tmp_path / "my.toml"
    config.write_text(f'root = "corpus"\n[source]\nkind = "laion"\npath = "{shared}/laion"\n{ONE_PROCESS}')
    root = build(config, "images")
    counts = "select count(*) as rows, count(distinct key) as keys, count(distinct partition) as partitions from rows"
    assert query(root, counts).to_pylist() == [{"rows": 10_000, "keys": 10_000, "partitions": 10}]
    source = pq.read_table(next((shared / "laion").glob("*.parquet"))).to_pylist()
    there = query(root, "select url, text, extra from rows").to_pylist()
    assert sorted((row["url"], row["text"]) for row in there) == sorted((row["URL"], row["TEXT"]) for row in source)
    reasons = query(root, "select reason, count(*) as n from images group by reason").to_pylist()
    assert {row["reason"] for row in reasons} <= {"not_fetched", "upstream"} and sum(r["n"] for r in reasons) == 10_000
