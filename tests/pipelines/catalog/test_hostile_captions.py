"""Captions of strangers are data everywhere: in views, shards, and on a terminal."""

import json
import tarfile
from pathlib import Path

import pytest
import webdataset
from support.catalogs import TOML
from support.corpora import build, picture, say

from pipelines.catalog.catalog import query
from pipelines.engine.commit import key_of
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from schemas.views import literal

pytestmark = pytest.mark.usefixtures("catalogs")

# What strangers write below their pictures.
HOSTILE = {
    "quotes": """it's "quoted" `here` \\ and '' there""",
    "html": "<script>alert('x')</script><img src=x onerror=alert(1)> &amp; &#0;",
    "sql": "'); drop table rows; -- \"; select * from images; /*",
    "markup": "[bold red]not bold[/] [/red] [link=http://example.com]here[/link]",
    "control": "a\x00b\x01c\x07d\x08e\x1b[31mred\x1b[0m\x1b]0;title\x07\x7f\x9b2J",
    "lines": "one\ntwo\r\nthree\u2028four\x0bfive\ttabbed",
    "directions": "\u202eright to left\u202c \ufeff \u200b\u2066",
    "astral": "\U0001f9ff\U0010ffff \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u4e2d\u6587",
    "formats": "%s %d {} {0} {key} $1 ? ?1 :name \\N NULL",
    "csv": '=cmd|" /C calc"!A0,"a","b";\t@sum(1)',
    "million": "long " * 200_000,
    "blank": "   ",
}
BYTES = {name: text.encode() for name, text in HOSTILE.items()}


def hostile_tar(path: Path) -> Path:
    """One sample a hostile caption, the caption in its JSON as well, where escapes can spell half a surrogate pair."""
    path.parent.mkdir(parents=True)
    with webdataset.TarWriter(str(path)) as tar:
        for number, (name, text) in enumerate(HOSTILE.items()):
            said = json.dumps({"said": text, "name": name}).encode()
            tar.write({"__key__": name, "png": picture(number)[0], "txt": BYTES[name], "json": said})
        strange = rb'{"url": "http://\udfff@x.example/\ud800", "said": "\ud83d alone", "n": [NaN, -Infinity, 1e999]}'
        tar.write({"__key__": "strange", "png": picture(90)[0], "txt": b"strange", "json": strange})
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Root:
    """A corpus of hostile captions, with three pictures read."""
    folder = tmp_path_factory.mktemp("hostile")
    hostile_tar(folder / "source/0.tar")
    (folder / "my.toml").write_text(TOML)
    return build(folder / "my.toml")


# Captions are data


@pytest.mark.slow
def test_hostile_captions_come_through_as_they_are(hostile):
    found = query(hostile, "select extra->>'name' as name, text from rows where text != 'strange'").to_pylist()
    assert {row["name"]: row["text"] for row in found} == HOSTILE
    found = query(hostile, "select extra->>'name' as name, extra->>'said' as said from samples").to_pylist()
    assert {row["name"]: row["said"] for row in found if row["name"]} == HOSTILE


@pytest.mark.slow
def test_half_surrogates_and_numbers_that_json_has_not_become_what_it_has(hostile):
    (row,) = query(hostile, "select url, host, extra::varchar as extra from samples where text = 'strange'").to_pylist()
    assert row["url"] == "http://\ufffd@x.example/\ufffd" and row["host"] == "x.example"
    assert json.loads(row["extra"]) == {"url": row["url"], "said": "\ufffd alone", "n": [None, None, None]}


def test_hostile_captions_stand_in_the_shards_byte_for_byte(hostile):
    urls = say("urls", hostile.url, "train").out.split()
    samples = {sample["__key__"]: sample for sample in webdataset.WebDataset(urls, shardshuffle=False)}
    expected = {name: text.encode() for name, text in HOSTILE.items() if text.strip()} | {"strange": b"strange"}
    keys = {name: f"{key_of('0.tar', name)}-caption" for name in expected}
    assert {name: samples[key]["txt"] for name, key in keys.items()} == expected
    assert len(samples) == len(expected)
    for name, key in keys.items():
        assert json.loads(samples[key]["json"])["text"] == samples[key]["txt"].decode(), name
    assert verify_root(hostile).problems == []
    (reason,) = query(hostile, "select reason from samples where trim(text) = ''").to_pylist()
    assert reason == {"reason": "no_caption"}


def test_a_terminal_is_shown_no_control_characters_and_no_markup(hostile):
    said = say("sql", hostile.url, "select text, extra from samples where length(text) < 1000")
    assert said.code == 0
    assert not [c for c in said.out if not c.isprintable() and c != "\n"]
    assert r"\x1b[31mred" in said.out
    assert "[bold red]not bold[/]" in said.out
    said = say("sql", hostile.url, "select '[/red]\x1b[31m'")
    assert said.code == 0 and "\x1b" not in said.out


def test_a_terminal_shows_columns_of_hostile_names(hostile):
    assert r"\x1b[31m[/b]" in say("sql", hostile.url, 'select 1 as "\x1b[31m[/b]"').out


@pytest.mark.slow
def test_a_question_can_hold_any_of_them(hostile):
    for name, text in HOSTILE.items():
        if "\x00" not in text:
            question = f"select extra->>'name' as n from rows where text = {literal(text)}"
            assert query(hostile, question).to_pylist() == [{"n": name}]


def test_no_control_character_of_a_root_reaches_the_terminal(corpus, tmp_path):
    steering = "\x1b]0;title\x07\x9b2J\u202e\u2066"
    manifest = Path(corpus.path("root.json"))
    settled = json.loads(manifest.read_text())
    own = {"makes": [*settled["makes"], f"a{steering}"], "stages": {f"a{steering}": {"columns": {}, "reasons": []}}}
    for said in (
        say("sql", corpus.url, f"select {steering!r} from nowhere{steering}"),
        say("sql", corpus.url, "select 1", "--output", f"{tmp_path}/a{steering}"),
        say("urls", corpus.url, f"train{steering}"),
        say("stats", f"{tmp_path}/none{steering}"),
        manifest.write_text(json.dumps(settled | own)) and say("stats", corpus.url),
        say("verify", corpus.url),
        manifest.write_text(json.dumps(settled | {"files": [{"path": steering}]})) and say("verify", corpus.url),
    ):
        shown = said.out + said.err
        assert shown and not [c for c in shown if not c.isprintable() and c != "\n"], shown


def test_tars_of_a_corpus_hold_only_plain_files(hostile):
    for path in Path(hostile.url).rglob("*.tar"):
        with tarfile.open(path) as tar:
            assert all(member.isfile() and "/" not in member.name for member in tar)
