"""Texts of strangers are text in a report, and nothing else."""

import io
import json
import re
import tarfile

import pytest
from support.corpora import build, picture, write_tar
from support.pages import ANYTHING, Page, read
from support.reports import TOML

from pipelines.engine.root import Root
from pipelines.reports.contact_sheet import boxes
from pipelines.reports.page import brief, is_link, visible
from pipelines.reports.page import page as render
from pipelines.reports.report import REPORT, gather
from pipelines.reports.template import PAGE

HOSTILE = {
    "script": "<script>alert('x')</script>",
    "image": '<img src=x onerror="alert(1)"> &amp; &#0;',
    "attribute": """" onmouseover="alert(1)" x='y' `z`""",
    "closes": "</div></article></main></body></html></style></title><!-- ]]> --> <svg onload=alert(1)>",
    "template": "{{ 7 * 7 }} {% raw %} {# #} ${7*7}",
    "sql": "'); drop table rows; -- \"",
    "control": "a\x00b\x01c\x1b[31mred\x7f\x9b",
    "directions": "\u202eright to left\u202c \ufeff \u200b\u2066 \U000e0041",
    "lines": "\n".join(f"line {n}" for n in range(30)),
    "million": "<b>long</b> " * 100_000,
    "unseen": "seen, then " + "\x01" * 50_000,
    "quotes": "\"'" * 50_000,
}
URLS = {
    "script": "javascript:alert(1)//https://x.example",
    "image": 'https://x.example/a.png" onclick="alert(1)',
    "attribute": "https://x.example/a.png?q=1&r=%22#<b>",
    "closes": "java\nscript:alert(1)",
    "template": "https://x.example/a.png?q=1&r=%22",
    "sql": "data:text/html,<script>alert(1)</script>",
    "control": "https://x.example/\u202egpj.exe",
    "directions": " https://x.example/blank",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Root:
    """Hostile captions, URLs and names; every second one is left out, so that it stands among the examples."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "source").mkdir()
    with tarfile.open(folder / "source/<b>'0\".tar", "w") as tar:
        for number, (name, text) in enumerate(HOSTILE.items()):
            image = picture(number)[0] if number % 2 else b"<script>alert(2)</script>"
            said = json.dumps({"url": URLS.get(name), "said": text[:100]}).encode()
            for ext, data in (("png", image), ("txt", text.encode()), ("json", said)):
                info = tarfile.TarInfo(f"<i>{name}'\"&.{ext}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    (folder / "my.toml").write_text(TOML)
    return build(folder / "my.toml")


@pytest.mark.slow
def test_hostile_captions_are_text_and_nothing_else(hostile):
    page = read(hostile)
    ours = Page(re.sub(r"(?s)\{\{.*?\}\}|\{%.*?%\}", "", PAGE))
    written = {(tag, name) for tag, attrs in ours.elements for name in attrs} | {("polygon", "class")}
    assert {(tag, name) for tag, attrs in page.elements for name in attrs} <= written | {("i", "class")}
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in ours.elements}
    assert not {"script", "link", "base", "form", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert len(page.all("style")) == len(page.all("body")) == 1
    shown = {name: text for name, text in HOSTILE.items() if name not in ("control", "directions", "lines", "unseen")}
    for name, text in shown.items():
        assert re.sub(r"\s+", " ", brief(text).strip()) in page.text, name


@pytest.mark.slow
def test_whatever_is_put_in_comes_out_as_text(folder):
    """Every text that a report is made of is spoilt, down to the words that are ours: the elements stay the same."""
    write_tar(folder / "source/0.tar", range(7), lambda n: f"another {n}")
    report = gather(build(folder / "my.toml"))
    report["hosts"] = [{"host": "x.example", "rows": 2, "kept": 1, "main_reason": "too_small"}]
    report["verdicts"] = [{"value": "good", "rows": 2, "kept": 1, "total": 2}]
    report["notes"], report["run"]["detail"] = ["a note"], "a detail"
    line = {"text": "OPEN", "confidence": 0.9, "box": [0.0] * 8}
    for row in report["cards"].values():
        row |= {"read": "OPEN", "read_characters": 4, "verdict": "good", "line_count": 1, "lines": [line]}
        row |= {"of": "f" * 16, "url": "https://x.example/a.png", "pictures": row["pictures"] and row["pictures"][:1]}
        for one in row["pictures"]:
            one["boxes"] = boxes([line])

    def spoilt(value, name=""):
        if isinstance(value, dict):
            return {key: spoilt(one, key) for key, one in value.items()}
        if isinstance(value, list):
            return [spoilt(one, name) for one in value]
        ours = name in ("source", "points", "key", "task", "last", "duplicate", "status")
        return value if ours or not isinstance(value, str) else value + ANYTHING

    plain, spoiled = Page(render(report)), Page(render(spoilt(report)))
    unlike = {"details", "summary", "span", "div", "i", "a", "code"}  # what is folded, coded, and no link any more
    shape, spoiled_shape = (
        [(tag, tuple(attrs)) for tag, attrs in one.elements if tag not in unlike] for one in (plain, spoiled)
    )
    assert shape == spoiled_shape and len(shape) > 200
    assert {tag for tag, _ in plain.elements} >= {"polygon", "svg", "img", "article", "table"}
    allowed = {(tag, name) for tag, attrs in plain.elements for name in attrs} | {("i", "class"), ("span", "dir")}
    assert {(tag, name) for tag, attrs in spoiled.elements for name in attrs} <= allowed
    assert spoiled.text.count("<script>alert(1)</script>") > 50
    polygons = [attrs for tag, attrs in spoiled.elements if tag == "polygon"]
    assert polygons and all("OPENx\" onload='1' <script>" in attrs["said"] for attrs in polygons)


@pytest.mark.slow
def test_the_page_may_load_and_run_nothing(hostile):
    page = read(hostile)
    (policy,) = (attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy")
    said = dict(part.split(maxsplit=1) for part in policy.split(";"))
    assert {name: value.strip() for name, value in said.items()} == {
        "default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'", "base-uri": "'none'",
        "form-action": "'none'",
    }  # fmt: skip
    assert all(attrs["src"].startswith("data:image/webp;base64,") for attrs in page.all("img"))
    assert not {"src", "srcset", "action", "xlink:href", "data"} & {
        name for tag, attrs in page.elements if tag != "img" for name in attrs
    }
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    text = hostile.read(REPORT).decode()
    assert "url(" not in text and "@import" not in text


def test_only_http_urls_are_links(hostile):
    links = [attrs for attrs in read(hostile).all("a") if not attrs["href"].startswith("#")]
    assert {attrs["href"] for attrs in links} == {URLS["template"]}
    for attrs in links:
        assert {"noopener", "noreferrer"} <= set(attrs["rel"].split()) and attrs["referrerpolicy"] == "no-referrer"
    assert "javascript:alert(1)//https://x.example" in read(hostile).text


@pytest.mark.parametrize(
    ("url", "linked"),
    [
        ("https://x.example/ö?a=1&b=2", True), ("HTTP://x.example", True), (None, False), ("", False),
        ("javascript:alert(1)", False), ("JaVaScRiPt:alert(1)", False), ("data:text/html,x", False),
        ("//x.example", False), ("https://", False), ("https://x\n.example", False), ("https://x.example\n", False),
        ("vbscript:x", False), (" https://x.example", False), ("https://x.example/\x00", False),
        ("https:x.example", False), ("https://" + "x" * 3000, False), ("ftp://x.example/a", False),
    ],
)  # fmt: skip
def test_a_link_is_http_and_whole(url, linked):
    assert is_link(url) is linked


def test_what_is_not_seen_stands_there_by_its_code(hostile):
    assert visible("a\x00b\u202ec") == "a<i class=u>U+0000</i>b<i class=u>U+202E</i>c"
    assert visible("\ufeff" * 1200 + "x") == "<i class=u>U+FEFF ×1,200</i>x"
    assert visible("one\ntwo\tthree") == "one\ntwo\tthree"
    assert visible("می\u200cخواهم 👩\u200d💻 日本\u3000語") == "می\u200cخواهم 👩\u200d💻 日本\u3000語"
    assert visible("&<>\"'") == "&amp;&lt;&gt;&#34;&#39;"
    text = hostile.read(REPORT).decode()
    unseen = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\ufeff\U000e0000-\U000e007f]"
    assert not re.search(unseen, text)
    assert "U+202E right to left U+202C" in read(hostile).text


def test_a_megabyte_of_caption_adds_its_beginning_and_says_how_much_there_is(hostile):
    assert len(hostile.read(REPORT)) < 200_000
    text = read(hostile).text
    assert "… 1,200,000 characters" in text and "the first 3,000 of 1,200,000 characters" in text
    assert "U+0001 ×2,989" in text
    for worst in ('"' * 3000, "\x00\x01" * 1500, "&" * 3000):
        assert len(visible(worst)) < 4000


def test_folded_texts_open_to_the_whole(hostile):
    page = read(hostile)
    assert "line 5 … 229 characters" in page.text and "line 29" in page.text
    assert len(page.all("details")) == len(page.all("summary")) >= 4
