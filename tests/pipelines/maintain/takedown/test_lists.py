"""Lists of what is to be taken down: keys, URLs, hosts, bytes, and lines that name nothing."""

import io
import json
import random
import re
import tarfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import ONE_PROCESS, build, picture, say
from support.takedown_corpus import EMPTY, TOML, key
from support.takedowns import take

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from pipelines.fetching.hosts import FetchFailed
from pipelines.fetching.urls import url_of
from pipelines.maintain.takedown import Line, read_list
from pipelines.maintain.verify import verify_root
from pipelines.stages.takedown_list import PLAIN, normal
from schemas.errors import UserError


@pytest.mark.slow
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


def test_a_list_that_cannot_be_read_is_said(tmp_path):
    for name, wrong in (("none.txt", "does not exist"), (".", "is a folder; name a file")):
        with pytest.raises(UserError) as error:
            read_list(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name}: {wrong}"
    (tmp_path / "latin.txt").write_bytes("ä.example".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt: cannot be read: 'utf-8' codec"):
        read_list(tmp_path / "latin.txt")


@pytest.mark.slow
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


@pytest.mark.slow
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
