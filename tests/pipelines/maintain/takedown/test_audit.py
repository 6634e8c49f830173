"""What tells of an image that was taken down is named, and nothing else."""

from pathlib import Path

import pytest
from support.corpora import build, picture
from support.releases import small_tokenizer
from support.takedown_corpus import NOISE, TOML, write
from support.takedowns import take

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from pipelines.engine.parquet import parquet_bytes, read_rows
from pipelines.maintain.takedown_audit import tells
from pipelines.maintain.verify import verify_root
from schemas import duplicates
from schemas.takedown import REASON
from training.pack_plan import plan_set
from training.samples import SampleEncoder, Slicing
from training.shards import Shards


@pytest.mark.parametrize(
    "row, told",
    [
        ({"key": "0" * 16, "extra": "{}", "host": "a.example", "text": None, "reason": REASON}, False),
        ({"lines": [], "reason": "upstream", "detail": f"rows: {REASON}"}, False),
        ({"reason": "upstream", "detail": "images"}, False),
        ({"text": "what is gone", "reason": REASON}, True),
        ({"extra": '{"secret": 1}'}, True),
        ({"reason": "not_fetched", "detail": "https://a.example/a00.png"}, True),
        ({"samples": [{"set": "train", "task": "caption"}]}, True),
    ],
)
def test_a_row_tells_if_it_says_more_than_names_and_that_it_is_gone(row, told):
    assert tells(row) == told


@pytest.mark.slow
def test_a_source_that_lets_go_of_what_was_taken_down_is_no_alarm(tmp_path):
    samples = {"a00": (NOISE, "what is gone"), "a01": (picture(1)[0], "what stays")}
    write(tmp_path / "tars/0.tar", samples)
    (tmp_path / "my.toml").write_text(TOML.replace("[ocr]\n", "").replace('task = "ocr"', ""))
    root = build(tmp_path / "my.toml")
    take(tmp_path, "https://a.example/a00.png")
    del samples["a00"]
    write(tmp_path / "tars/0.tar", samples)
    build(tmp_path / "my.toml")
    assert verify_root(root).problems == []
    assert query(root, "select count(*) as n from changes where change = 'removed' and before is not null")["n"][0]


@pytest.mark.slow
def test_the_names_that_a_stage_keeps_are_no_alarm_when_it_leaves_the_configuration(tmp_path):
    write(tmp_path / "tars/0.tar", {"a00": (NOISE, "what is gone"), "a01": (picture(1)[0], "what stays")})
    toml = TOML.replace("[ocr]\n", "").replace('task = "ocr"', "")
    (tmp_path / "my.toml").write_text(toml)
    root = build(tmp_path / "my.toml")
    take(tmp_path, "https://a.example/a00.png")
    (tmp_path / "my.toml").write_text(toml.replace("[duplicates]\n", ""))
    build(tmp_path / "my.toml")
    found = verify_root(root)
    assert found.problems == [] and "duplicates/00000.parquet" in found.garbage
    rows = read_rows(root, "duplicates/00000.parquet")
    root.write(
        "duplicates/00000.parquet", parquet_bytes([row | {"of": "0" * 16} for row in rows], duplicates.STAGE.schema)
    )
    assert "duplicates/00000.parquet: has something" in verify_root(root).problems[0]


@pytest.mark.slow
def test_verify_says_what_is_left(here):
    root = open_corpus(here / "my.toml").root
    recipe = SampleEncoder(small_tokenizer(here / "tokenizer"), queries=4, length=512, slicing=Slicing(side=112))
    (packs,) = plan_set(Shards(root.url, "captions"), recipe).files
    names = [Path(root.url, "rows/00000.parquet"), Path(root.url, "images/00000.parquet"), packs.path]
    told = {path: path.read_bytes() for path in names}
    take(here, "https://a.example/a00.png")
    assert not packs.path.exists()
    for path in names:
        path.write_bytes(told[path])
    problems = [line for line in verify_root(root).problems if "taken down" in line]
    assert {line.split(":")[0] for line in problems} == {"rows", "images", str(packs.path.relative_to(root.url))}
