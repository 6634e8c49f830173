"""`shardmill takedown`: of an image and all that was said of it nothing is left, and nothing else is touched."""

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.corpora import ONE_PROCESS, build, data_files, in_this_process, picture, say
from support.hostile_server import Hostile, image
from support.paths import PROJECT, TESTS
from support.releases import small_tokenizer
from support.takedowns import take

from pipelines.build.corpus import open_corpus
from pipelines.build.run import Run, run_stage
from pipelines.catalog.catalog import query
from pipelines.engine.commit import replace_rows
from pipelines.engine.ledger import Ledger
from pipelines.engine.make_partition import make_partition
from pipelines.engine.parquet import parquet_bytes, read_rows
from pipelines.engine.root import Root
from pipelines.engine.workers import Workers
from pipelines.fetching.hosts import FetchFailed
from pipelines.fetching.urls import url_of
from pipelines.maintain.takedown import Line, read_list, releases_with
from pipelines.maintain.takedown_audit import tells
from pipelines.maintain.verify import verify_root
from pipelines.stages.takedown_list import PLAIN, TakedownList, normal
from schemas import duplicates
from schemas.errors import UserError
from schemas.takedown import REASON
from training.pack_plan import plan_set
from training.samples import SampleEncoder, Slicing
from training.shards import Shards

TOML = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "tars/*.tar"
[duplicates]
[ocr]
[sets.captions]
task = "caption"
samples_per_shard = 8
[sets.texts]
task = "ocr"
[sets.texts.ocr]
{ONE_PROCESS}""".replace("[sets.texts.ocr]\n", "")

COUNT = 60
EMPTY = "[gates]\nempty_sets = false\n"  # a set may be empty


def noise() -> bytes:
    """A PNG that looks like none of the pictures."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (8, 8), random.Random(5).randbytes(192)).resize((224, 224)).save(buffer, "PNG")
    return buffer.getvalue()


NOISE = noise()


def write(path: Path, samples: dict[str, tuple[bytes, str]]) -> None:
    """A tar of name -> bytes and text; each says its URL."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, (data, text) in samples.items():
            said = json.dumps({"url": f"https://{name[0]}.example/{name}.png", "secret": f"secret of {name}"})
            for ext, payload in (("png", data), ("txt", text.encode()), ("json", said.encode())):
                info = tarfile.TarInfo(f"{name}.{ext}")
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))


def touched_up(data: bytes) -> bytes:
    """Other bytes that look the same."""
    image = Image.open(io.BytesIO(data))
    image.putpixel((0, 0), (1, 2, 3))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Ten partitions of six pictures. b03 has the bytes of a00 and another text; e24 looks like it."""
    here = tmp_path_factory.mktemp("takedown")
    names = [f"{'abcde'[n // 12]}{n:02d}" for n in range(COUNT)]
    samples = {name: (picture(n)[0], f"what {name} shows") for n, name in enumerate(names)}
    samples["a00"] = (NOISE, samples["a00"][1])
    samples["b13"] = (samples["a00"][0], "told of b13")
    samples["e50"] = (touched_up(samples["a00"][0]), "told of e50")
    for number in range(10):
        write(here / f"tars/{number}.tar", dict(list(samples.items())[6 * number : 6 * number + 6]))
    (here / "my.toml").write_text(TOML)
    with patch("support.corpora.reports", True):
        build(here / "my.toml")
    return here


@pytest.fixture
def reported():
    """Runs write the report, whose words must be gone, too."""
    with patch("support.corpora.reports", True):
        yield


@pytest.fixture
def here(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def cells(value: object):
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, str | bytes | int | float | None):
        yield str(value)
    else:
        for one in value:
            yield from cells(one)


def told_anywhere(root: Path, *texts: str, data: bytes = b"") -> list[str]:
    """The files under a root, hidden ones included, that have any of some texts in a cell or anywhere, or the bytes."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        raw = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            every = [*list(cells(table.to_pylist())), str(table.schema.metadata)]
        else:
            every = [raw.decode("latin-1")]
        if any(text in cell for text in texts for cell in every) or (data and data in raw):
            found.append(str(path.relative_to(root)))
    return found


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


def key(root: Root, name: str) -> str:
    sql = f"select key from rows where url = 'https://{name[0]}.example/{name}.png'"
    return query(root, sql)["key"][0].as_py()


@pytest.mark.usefixtures("reported")
def test_nothing_is_left(here):
    root = open_corpus(here / "my.toml").root
    data = NOISE
    gone = [key(root, name) for name in ("a00", "b13")]
    secrets = (sha256(data).hexdigest(), "what a00 shows", "told of b13", "secret of a00", "secret of b13")
    assert len(told_anywhere(Path(root.url), *secrets, data=data[60:200])) > 5
    recipe = SampleEncoder(small_tokenizer(here / "tokenizer"), queries=4, length=512, slicing=Slicing(side=112))
    (packs,) = plan_set(Shards(root.url, "captions"), recipe).files
    assert str(packs.path.relative_to(root.url)) in told_anywhere(Path(root.url), sha256(data).hexdigest())
    Path(root.url, "images/.tmp-killed").write_bytes(data)
    Path(root.url, "images/00000-0123456789abcdef.tar").write_bytes(b"\0" * 512 + data)
    done = take(here, "https://a.example/a00.png")
    assert (done.rows, done.others) == (1, 1)
    assert told_anywhere(Path(root.url), *secrets, data=data[60:200]) == []
    found = verify_root(root)
    assert found.problems == [] and found.garbage == []
    rows = query(root, f"select key, reason, left_out_by, text, ocr_text, url from samples where key in {tuple(gone)}")
    assert {tuple(row.values())[1:] for row in rows.to_pylist()} == {("taken_down", "rows", None, "", None)}
    assert query(root, "select count(*) n from accounting where reason = 'taken_down'")["n"][0].as_py() == 1
    assert query(root, f"select count(*) n from shards where key in {tuple(gone)}")["n"][0].as_py() == 0


def test_only_what_held_it_is_made_anew(here):
    root = open_corpus(here / "my.toml").root
    before = data_files(Path(root.url))
    done = take(here, "https://a.example/a00.png")
    after = data_files(Path(root.url))
    assert {stage.stage: stage.made for stage in done.stages} == {
        "rows": 0, "images": 2, "duplicates": 3, "ocr": 3, "selection": 3, "shards": done.stages[-1].made,
    }  # fmt: skip
    changed = {name.split("/")[1].split(".")[0] for name in before if name.startswith(("images/", "ocr/"))
               and after.get(name) != before[name]}  # fmt: skip
    assert {name[:5] for name in changed} <= {"00000", "00002", "00008"}, "a00, b13, and e50 which is kept now"
    tars = {name for name in before if name.startswith("shards/") and name.endswith(".tar")}
    assert 0 < done.stages[-1].made < len(tars)
    assert len(tars - after.keys()) <= done.stages[-1].made


def test_near_duplicates_are_named_and_stay(here):
    root = open_corpus(here / "my.toml").root
    done = take(here, "https://a.example/a00.png")
    assert [(one.key, one.url) for one in done.near] == [(key(root, "e50"), "https://e.example/e50.png")]
    assert done.near[0].distance <= 3
    kept = query(root, "select d.reason from duplicates d join rows r using (key) where url like '%e50.png'")
    assert kept.to_pylist() == [{"reason": None}], "it was the duplicate of one that is gone"


@pytest.mark.parametrize("kind", ["key", "sha256", "host", "parquet"])
def test_kinds_of_lists(here, kind):
    root = open_corpus(here / "my.toml").root
    if kind == "parquet":
        pq.write_table(pa.table({"URL": ["https://a.example/a01.png"], "sha256": [None]}), here / "list.parquet")
        assert read_list(here / "list.parquet") == read_list_of(here, "https://a.example/a01.png")
        return
    line = {"key": key(root, "a01"), "sha256": sha256(picture(1)[0]).hexdigest().upper(), "host": "A.example"}[kind]
    done = take(here, "# asked for by mail", line)
    assert done.rows == (12 if kind == "host" else 1)
    assert verify_root(root).problems == []


def read_list_of(here: Path, line: str) -> list[Line]:
    (here / "one.txt").write_text(line)
    return read_list(here / "one.txt")


@pytest.mark.parametrize("line", ["../etc", "0123", "a b.example", "ftp://x.example/y"])
def test_a_line_that_names_nothing_is_said(tmp_path, line):
    with pytest.raises(UserError, match=r"line 1: .* is not a URL, host, key"):
        read_list_of(tmp_path, line)


def test_lines_that_name_nothing_are_told_and_remembered(here):
    named = [key(open_corpus(here / "my.toml").root, "b12"), sha256(picture(1)[0]).hexdigest(), "*.C.example"]
    named += ["HTTPS://D.example:443/d36.png#at", "https://d.example/d37.png"]
    blind = ["photo18.jpg", "https://d.example/D38.png", "0" * 16, "f" * 64]
    (here / "list.txt").write_text("\n".join(named + blind))
    said = say("takedown", here / "my.toml", here / "list.txt")
    assert said.code == 0 and "16 rows taken down" in said.out, said.err
    told = re.findall("^matches no row: (.*)$", said.out, re.MULTILINE)
    assert told == blind
    (here / "list.txt").write_text("\n".join(f"no{n}.example" for n in range(1025)))
    said = say("takedown", here / "my.toml", here / "list.txt")
    assert said.out.count("matches no row: no") == 20 and "matches no row: 1,005 more lines\n" in said.out
    remembered = Path(open_corpus(here / "my.toml").root.url, "takedown.parquet")
    assert {"no3.example", "photo18.jpg"} <= {*pq.read_table(remembered)["value"].to_pylist()}


SPELLED = "HTTPS://X.Example:443/a b.png#top"


@pytest.mark.parametrize("line", [SPELLED, "https://x.example/a%20b.png", "https://X.EXAMPLE/a%20b.png#else"])
def test_a_url_is_known_however_it_is_spelled(tmp_path, line):
    """Where it is taken down, and when its source has it again in another file."""
    said = json.dumps({"url": SPELLED})
    for name in ("1", "2"):
        (tmp_path / "tars").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / f"tars/{name}.tar", "w") as tar:
            for ext, payload in (("png", picture(int(name))[0]), ("json", said.encode())):
                info = tarfile.TarInfo(f"{name}.{ext}")
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))
    second = (tmp_path / "tars/2.tar").rename(tmp_path / "2.tar")
    (tmp_path / "my.toml").write_text(TOML.replace("[ocr]\n", "").partition("[sets.texts]")[0] + EMPTY + ONE_PROCESS)
    build(tmp_path / "my.toml")
    done = take(tmp_path, line.replace(" ", "%20"))
    assert (done.rows, done.nothing) == (1, [])
    second.rename(tmp_path / "tars/2.tar")
    build(tmp_path / "my.toml")
    reasons = query(open_corpus(tmp_path / "my.toml").root, "select reason, count(*) n from rows group by all")
    assert reasons.to_pylist() == [{"reason": "taken_down", "n": 2}]


def test_what_looks_like_a_normal_form_is_one():
    spell = random.Random(0)
    parts = ["http://", "https://", "a", "B", ".", "-", "/", "//", "/./", "/../", "..", "~", "_", "9", ":80", "%41"]
    plain = [url for _ in range(200_000)
             if re.fullmatch(PLAIN, url := "".join(spell.choices(parts[:2]) + spell.choices(parts, k=6)))]  # fmt: skip
    assert len({*plain}) > 200
    for url in {*plain}:
        with suppress(FetchFailed):
            assert str(url_of(url)) == url
    assert normal("HTTP://A.example:80/B#c") == "http://a.example/B" and normal("http://[/x") == "http://[/x"


@pytest.mark.usefixtures("reported")
def test_it_does_not_come_back(here):
    """Neither under its own name when its source is split again, nor under another in a new tar."""
    root = open_corpus(here / "my.toml").root
    take(here, "https://a.example/a00.png")
    first = {f"a{n:02d}": (picture(n)[0] if n else NOISE, f"what a{n:02d} shows") for n in range(6)}
    write(here / "tars/0.tar", first | {"x98": (picture(98)[0], "a new one")})
    write(here / "tars/new.tar", {"x99": (NOISE, "told of x99")})
    build(here / "my.toml")
    secrets = (sha256(NOISE).hexdigest(), "what a00 shows", "told of x99", "secret of x99")
    assert told_anywhere(Path(root.url), *secrets, data=NOISE[60:200]) == []
    assert verify_root(root).problems == []
    assert "a new one" in query(root, "select text from samples where reason is null")["text"].to_pylist()


def test_bytes_that_are_only_known_once_they_are_here(here):
    """As from a server: the source does not say what they are."""
    corpus = open_corpus(here / "my.toml")
    take(here, sha256(NOISE).hexdigest())
    ledger = Ledger.start(corpus.root, "test", "0")
    partition = int(query(corpus.root, "select partition from rows where url like '%a01.png'")["partition"][0].as_py())
    rows = read_rows(corpus.root, f"rows/{partition:05d}.parquet")
    for row in rows:  # as if it had not been known
        if row["reason"] == "taken_down":
            row |= {"reason": None, "text": "told again", "file": "tars/0.tar", "made_from": "f" * 32}
            row |= {"member": "a00.png", "byte_offset": 512, "size": len(NOISE)}
    source = corpus.rows[None].source
    with tarfile.open(here / "tars/0.tar") as tar:
        member = tar.getmember("a00.png")
    for row in rows:
        if row["text"] == "told again":
            row |= {"file": source.files()[0].path, "byte_offset": member.offset_data, "size": member.size}
    replace_rows(corpus.root, ledger, corpus.rows[None], partition, rows)
    make_partition(corpus.made["images"], corpus.root, ledger, partition)
    assert "taken_down" in query(corpus.root, "select reason from images")["reason"].to_pylist()
    with in_this_process():
        run_stage(Run(corpus, ledger, Workers(corpus.config.beam, corpus.root)), "images")
    assert "told again" not in query(corpus.root, "select text from rows")["text"].to_pylist()
    assert "taken_down" not in query(corpus.root, "select reason from images")["reason"].to_pylist()


@pytest.mark.usefixtures("reported")
def test_bytes_that_come_back_from_a_server_are_in_the_ledger_without_what_was_said_of_them(tmp_path):
    (tmp_path / "laion").mkdir()
    fetch = '[fetch]\ncontact = "us@example.org"\nallow_hosts = ["localhost"]\n'
    config = tmp_path / "my.toml"
    config.write_text(f'root = "corpus"\n[source]\nkind = "laion"\npath = "laion"\n{fetch}[sets.train]\n{ONE_PROCESS}')
    with Hostile() as server:
        for name, number, numbers in (("one", 0, [1]), ("two", 1, [1, 2, 3])):  # another host has the same bytes
            table = {"url": [server.url(f"/good/{n}", name) for n in numbers], "text": [f"{name} {n}" for n in numbers]}
            pq.write_table(pa.table(table), tmp_path / f"laion/{number}.parquet")
            root = build(config)
            if name == "one":
                take(tmp_path, sha256(image("/good/1")).hexdigest())
    assert verify_root(root).problems == []
    assert told_anywhere(Path(root.url), "two 1") == []
    last = "run = (select max(run) from runs)"
    changes = query(root, f"select stage, change, count(*) n from changes where {last} group by all order by all")
    assert [tuple(one.values()) for one in changes.to_pylist()] == [
        ("images", "added", 3), ("images", "changed", 1), ("rows", "added", 3), ("rows", "changed", 1),
        ("selection", "added", 3), ("shards", "added", 2),
    ]  # fmt: skip


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


def test_models_that_had_it_are_named(here):
    corpus = open_corpus(here / "my.toml")
    card = json.loads(Path(corpus.root.url, "shards/captions.json").read_text())
    for name, release in (("one", card["release"]), ("two", "0123456789ab")):
        (here / f"models/{name}").mkdir(parents=True)
        (here / f"models/{name}/state.json").write_text(json.dumps({"releases": [f"captions@{release}"]}))
    (here / "list.txt").write_text("https://a.example/a00.png")
    said = say("takedown", here / "my.toml", here / "list.txt", "--models", here / "models")
    assert said.code == 0, said.err
    assert "one/state.json" in said.out.replace("\n", "") and "two/state.json" not in said.out
    again = say("takedown", here / "my.toml", "--models", here / "models")
    assert "0 rows taken down" in again.out and "one/state.json" in again.out.replace("\n", "")


# Sets that no run makes


def leave_out(here: Path, name: str) -> None:
    """Takes a shard set out of the configuration."""
    text = (here / "my.toml").read_text()
    begin = text.index(f"[sets.{name}]")
    (here / "my.toml").write_text(text[:begin] + text[text.index("[", begin + 1) :])


def cards(root: Path) -> list[str]:
    return sorted(path.stem.split("@")[0] for path in root.glob("shards/*.json"))


@pytest.mark.usefixtures("reported")
def test_a_set_that_is_in_the_configuration_no_more_is_withdrawn_with_all_its_releases(here):
    root = Path(open_corpus(here / "my.toml").root.url)
    for where in ("where = \"host != 'a.example'\"\n", ""):  # a release that has nothing of it; the first again
        (here / "my.toml").write_text(TOML.replace("[sets.captions]\n", f"[sets.captions]\n{where}"))
        build(here / "my.toml")
    dirty = [*releases_with(Root(str(root)), TakedownList(key=frozenset({key(Root(str(root)), "a00")})))]
    assert cards(root).count("captions") == 3 and sum(name.startswith("captions@") for name in dirty) == 1
    leave_out(here, "captions")
    (here / "list.txt").write_text("https://a.example/a00.png")
    said = say("takedown", here / "my.toml", here / "list.txt")
    assert said.code == 0, said.err
    assert "withdrawn, because it had some of this and is no longer configured: shard set captions\n" in said.out
    assert cards(root) == ["texts"] * len(cards(root))
    assert [path.name for path in root.glob("shards/captions*")] == []
    assert told_anywhere(root, sha256(NOISE).hexdigest(), "what a00 shows", data=NOISE[60:200]) == []
    assert verify_root(Root(str(root))).problems == []
    again = say("takedown", here / "my.toml", here / "list.txt")
    assert "withdrawn" not in again.out


def test_a_set_that_had_nothing_of_it_stays_though_it_is_in_the_configuration_no_more(here):
    root = open_corpus(here / "my.toml").root
    leave_out(here, "captions")
    (here / "my.toml").write_text((here / "my.toml").read_text() + "[sets.few]\nwhere = \"host = 'c.example'\"\n")
    build(here / "my.toml")
    (here / "my.toml").write_text((here / "my.toml").read_text().partition("[sets.few]")[0])
    before = data_files(Path(root.url))
    done = take(here, "https://a.example/a00.png")
    after = data_files(Path(root.url))
    assert done.withdrawn == ["captions"]
    few = {name for name in before if name.startswith("shards/few")}
    assert len(few) > 2 and {name: after.get(name) for name in few} == {name: before[name] for name in few}


@pytest.mark.usefixtures("reported")
def test_bytes_of_a_row_that_its_source_has_no_more_go_out_of_a_set_that_no_run_makes(here):
    """The list names bytes; no row is left by which a key could be found."""
    root = open_corpus(here / "my.toml").root
    leave_out(here, "captions")
    write(here / "tars/0.tar", {"a01": (picture(1)[0], "what a01 shows")})
    write(here / "tars/2.tar", {"b14": (picture(14)[0], "what b14 shows")})
    build(here / "my.toml")
    done = take(here, sha256(NOISE).hexdigest())
    assert done.rows == 0 and done.withdrawn == ["captions"]
    assert told_anywhere(Path(root.url), data=NOISE[60:200]) == []
    assert verify_root(root).problems == []


class PowerCut(BaseException):
    """As if it was killed."""


@pytest.mark.slow
@pytest.mark.usefixtures("reported")
def test_a_set_is_withdrawn_whatever_file_was_the_last_to_go(here):
    """Each run is ended after one file more; what then stands there lets the next go on."""
    root = open_corpus(here / "my.toml").root
    leave_out(here, "captions")
    (here / "list.txt").write_text("https://a.example/a00.png")

    def cut(name: str) -> None:
        if name == "takedown:removed":
            raise PowerCut

    for ended in range(200):
        try:
            with patch("pipelines.maintain.takedown.point", cut):
                done = take(here, *["https://a.example/a00.png"][: not ended])
            break
        except PowerCut:
            pass
    assert ended > 10 and done.removed == 0
    assert cards(Path(root.url)) == ["texts"] * 2
    assert told_anywhere(Path(root.url), sha256(NOISE).hexdigest(), "what a00 shows", data=NOISE[60:200]) == []
    found = verify_root(root)
    assert found.problems == [] and found.garbage == []


KILLED = """
import os, sys
os.setpgid(0, 0)
sys.path[:0] = [{tests!r}, {main!r}]
from pathlib import Path
from support.takedowns import take
take(Path({here!r}), "https://a.example/a00.png")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        "takedown:remembered",
        "takedown:blanked",
        "images:payload",
        "ocr:committed",
        "shards:release",
        "takedown:removed",
    ],
)
@pytest.mark.usefixtures("reported")
def test_killed_and_run_again(here, point):
    root = open_corpus(here / "my.toml").root
    script = KILLED.format(tests=str(TESTS), main=str(PROJECT), here=str(here))
    killed = subprocess.run([sys.executable, "-c", script], env={**os.environ, "SHARDMILL_KILL_AT": point}, timeout=300)
    assert killed.returncode == -9, "it came to that point"
    take(here)
    secrets = (sha256(NOISE).hexdigest(), "what a00 shows", "told of b13", "secret of a00")
    assert told_anywhere(Path(root.url), *secrets, data=NOISE[60:200]) == []
    assert verify_root(root).problems == []
