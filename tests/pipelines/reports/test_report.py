"""The report: numbers as in `stats`, boxes where the words are, strangers' text as text, a note for what is damaged."""

import base64
import hashlib
import io
import json
import random
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont
from support.corpora import ONE_PROCESS, build, data_files, picture, say, write_tar
from support.pages import ANYTHING, Page, read

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from pipelines.catalog.gates import GateFailed
from pipelines.catalog.stats import corpus_stats
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.root import Root
from pipelines.maintain.clean import clean_root
from pipelines.maintain.verify import verify_root
from pipelines.reports import contact_sheet
from pipelines.reports.contact_sheet import boxes, thumbnail
from pipelines.reports.page import brief, is_link, visible
from pipelines.reports.page import page as render
from pipelines.reports.report import REPORT, gather, look_at, write_report
from pipelines.reports.template import PAGE
from schemas.stages import STAGES

TOML = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "source"
[sets.train]
[sets.wide]
where = "width > 300"
[gates]
empty_sets = false
{ONE_PROCESS}"""


def measured_left_out(text: str) -> str:
    """A report without what is measured: the head, and what the last run changed."""
    measured = r"<title>[^<]*</title>|<header>.*?</header>|<section id=\"changes\">.*?</section>"
    return re.sub(measured, "", text, flags=re.DOTALL)


def pixels(attrs: dict[str, str]) -> np.ndarray:
    kind, data = attrs["src"].split(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with a corpus of two tars, to be read only; some rows are left out."""
    folder = tmp_path_factory.mktemp("report")
    write_tar(folder / "source/0.tar", range(8))
    write_tar(folder / "source/1.tar", range(8, 16))
    dot = io.BytesIO()
    Image.new("RGB", (5, 5)).save(dot, "PNG")
    with tarfile.open(folder / "source/1.tar", "a") as tar:
        for name, data in (("dot.png", dot.getvalue()), ("dot.txt", b"a dot"), ("alone.txt", b"no image")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (folder / "my.toml").write_text(TOML)
    build(folder / "my.toml")
    return folder


@pytest.fixture
def folder(built, tmp_path) -> Path:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def root(folder) -> Root:
    return open_corpus(folder / "my.toml").root


# Numbers


def test_a_run_ends_by_writing_it_and_its_numbers_are_those_of_stats(built):
    root = open_corpus(built / "my.toml").root
    report, page = gather(root), read(root)
    (_, _, lines), (_, _, sets), _ = corpus_stats(root)
    said, stage = [], None
    for name, _, rows, reason, count, share in lines:
        stage = name or stage
        if reason == "kept":
            said.append((stage, rows, count, {}))
            assert f"{stage} {count:,} of {rows:,}, {share}" in page.text
        elif reason != "upstream":
            said[-1][3][reason] = count
            assert f"{reason} {count:,} {share} {STAGES[stage].reasons[reason]}" in page.text
    assert [(one["stage"], one["rows"], one["kept"]) for one in report["funnel"]] == [one[:3] for one in said]
    assert [{why["reason"]: why["rows"] for why in one["reasons"]} for one in report["funnel"]] == [s[3] for s in said]
    assert said[0][3] == {"no_image": 1} and said[1][3] == {"too_small": 1}
    assert [(c["set"], c["release"], c["samples"]) for c in report["sets"]] == [(s[0], s[2], s[3]) for s in sets]
    assert all(f"{s[0]} {s[1]} {s[2]} {s[3]}" in page.text for s in sets)
    assert "my.toml" in page.text and "completed" in page.text and root.url in page.text


def test_bars_are_as_long_as_their_shares(built):
    page = read(open_corpus(built / "my.toml").root)
    bars = [attrs for tag, attrs in page.elements if tag == "i" and "title" in attrs]
    widths = {attrs["title"]: float(attrs["style"].removeprefix("width:").removesuffix("%")) for attrs in bars}
    assert widths["kept: 16"] == pytest.approx(100 * 16 / 18, abs=0.01)
    assert widths["no_image: 1"] == widths["too_small: 1"] == pytest.approx(100 / 18, abs=0.01)
    assert widths["left out before: 2"] == pytest.approx(200 / 18, abs=0.01)


def test_every_reason_leads_to_examples_of_the_rows_it_left_out(built):
    root = open_corpus(built / "my.toml").root
    page = read(root)
    links = {attrs["href"][1:] for attrs in page.all("a") if attrs["href"].startswith("#")}
    assert {"left-rows-no_image", "left-images-too_small"} <= links <= page.ids()
    for reason in ("no_image", "too_small"):
        (row,) = query(root, f"select key, member, i.detail from rows r join images i using (key) "
                             f"where '{reason}' in (r.reason, i.reason)").to_pylist()  # fmt: skip
        assert row["key"] in page.text
    assert "left out because 5x5 caption a dot" in page.text


def test_histograms_count_every_value_once(built):
    root = open_corpus(built / "my.toml").root
    counts = query(root, "select count(width) w, count(size) s, count(text) t from samples").to_pylist()
    assert counts == [{"w": 16, "s": 16, "t": 18}]
    drawn = {chart["title"]: chart["bars"] for chart in gather(root)["charts"]}
    said = {title: sum(int(re.search(r": (\d+) \(", bar["label"])[1]) for bar in bars) for title, bars in drawn.items()}
    assert said == {"width, pixels": 16, "height, pixels": 16, "width to height": 16, "file size, bytes": 16,
                    "caption, characters": 18}  # fmt: skip
    (bar,) = drawn["width, pixels"]
    assert bar["label"] == "200 to 251: 16 (100.0%), 16 of them selected"
    kept = [int(re.search(r", (\d+) of them selected", bar["label"])[1]) for bar in drawn["caption, characters"]]
    assert sum(kept) == 16


def test_hosts_are_those_of_yield_by_host(tmp_path, configure: Callable[..., Path]):
    (tmp_path / "images").mkdir()
    draws, table = random.Random(0), []
    for n in range(60):
        host = draws.choice(("a.example", "b.example", "all-well.example"))
        lost = host != "all-well.example" and draws.random() < {"a.example": 0.7, "b.example": 0.3}[host]
        (tmp_path / f"images/{n}.png").write_bytes(b"\x89PNG" if lost else picture(n)[0])
        table.append({"url": f"https://{host}/{n}.png", "text": f"number {n}", "file": f"{n}.png"})
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "table.parquet")
    source = '[source]\nkind = "laion"\npath = "table.parquet"\nimages = "images"\nimage_column = "file"\n'
    root = build(configure(f"{source}[sets.a]"))
    lost = query(root, "select host, rows, kept, main_reason from yield_by_host where kept < rows "
                       "order by rows - kept desc, rows desc, host").to_pylist()  # fmt: skip
    assert len(lost) == 2 and gather(root)["hosts"] == lost
    assert all(f"{one['host']} {one['rows']} {one['kept']} " in read(root).text for one in lost)


def test_of_a_large_corpus_some_partitions_are_looked_into_and_one_with_each_reason(folder):
    for n in range(2, 8):
        write_tar(folder / f"source/{n}.tar", range(100 * n, 100 * n + 3))
    root = build(folder / "my.toml")
    commits = {stage: read_commits(root, stage) for stage in ("rows", "images", "selection")}
    with patch("pipelines.reports.report.LOOK_AT", 5):
        looked = look_at(commits)
        report = gather(root)
        text = Page(write_and_read(root)).text
    assert 1 in looked and 2 <= len(looked) < 8
    assert f"from {len(looked)} of 8 partitions" in text
    assert report["rows"] == 36 and {why["reason"] for why in report["left_out"][0]["reasons"]} == {"no_image"}
    assert look_at(commits) == set(range(8))


def write_and_read(root: Root) -> str:
    root.create()
    write_report(root)
    return root.read(REPORT).decode()


# What strangers wrote

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


# Pictures


def turned(image: Image.Image, orientation: int) -> bytes:
    """A JPEG that is stored turned, with an EXIF mark that says so."""
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # of Image.Transpose
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    (image if undo is None else image.transpose(undo)).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("width", [300, 1000, 3000])
def test_a_thumbnail_is_upright_and_small_whatever_exif_says(orientation, width):
    image = Image.new("RGB", (width, width // 2), "white")
    image.paste((255, 0, 0), (0, 0, width // 4, width // 4))
    found = thumbnail(turned(image, orientation))
    small = pixels({"src": found["source"]}).astype(int)
    assert small.shape == (128, 256, 3) and (found["width"], found["height"]) == (256, 128)
    assert found["full"] == (width, width // 2)
    red = (small[..., 0] > 200) & (small[..., 1] < 90)
    assert red[:58, :58].mean() > 0.95 and red[70:].mean() < 0.01 and red[:, 70:].mean() < 0.01


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_a_thumbnail_shows_any_mode_that_images_keeps(mode):
    image, buffer = Image.new("L", (40, 20), 255), io.BytesIO()
    image.paste(0, (0, 0, 20, 20))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    elif mode != "L":
        image = image.convert("RGB").convert(mode)
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    small = pixels({"src": thumbnail(buffer.getvalue())["source"]})
    assert small.shape == (20, 40, 3) and small[:, :18].max() < 40 and small[:, 22:].min() > 215


def test_a_thumbnail_of_noise_is_no_larger_than_others():
    buffer = io.BytesIO()
    Image.frombytes("RGB", (512, 512), random.Random(0).randbytes(3 * 512 * 512)).save(buffer, "PNG")
    assert len(thumbnail(buffer.getvalue())["source"]) < 1.4 * contact_sheet.BYTES


def test_a_picture_too_large_to_decode_for_a_thumbnail_is_named(folder, root, monkeypatch):
    monkeypatch.setattr(contact_sheet, "PIXELS", 224 * 223)
    page = Page(write_and_read(root))
    assert not page.all("img") and "no thumbnail: 224x224 is too large" in page.text


def test_boxes_that_are_none_are_not_drawn():
    line = {"text": "x" * 500, "confidence": 0.5, "box": [1.0, 2.0, 3.25, 2.0, 3.25, 4.0, 1.0, 4.0]}
    wrong = [{**line, "box": []}, {**line, "box": [1.0] * 7}, {**line, "box": [float("nan")] * 8}]
    assert boxes([*wrong, line]) == [{"points": "1,2 3.25,2 3.25,4 1,4", "text": "x" * 200, "confidence": 0.5}]


PLACES = {"EXIT": (60, 40), "BREAD": (300, 330)}  # of words in a picture of 600 x 400 pixels


@pytest.mark.slow
def test_ocr_boxes_lie_where_the_words_are(tmp_path, configure: Callable[..., Path]):
    """The polygons against the words' known places, and against the dark pixels of the thumbnail that is shown."""
    (tmp_path / "pictures").mkdir()
    image, font = Image.new("RGB", (600, 400), "white"), ImageFont.load_default(48)
    pen = ImageDraw.Draw(image)
    known = {}
    for word, place in PLACES.items():
        pen.text(place, word, "black", font)
        known[word] = pen.textbbox(place, word, font)
    for orientation in (1, 6, 3):
        (tmp_path / f"pictures/{orientation}.jpg").write_bytes(turned(image, orientation))
    root = build(configure('[source]\nkind = "folder"\npath = "pictures"\n[ocr]\n[sets.read]\ntask = "ocr"\n'))
    drawn = list(drawings(read(root)))
    assert len(drawn) == 3
    for source, view, found in drawn:
        small = pixels(source)
        assert view == [0, 0, 600, 400] and small.shape == (171, 256, 3)
        assert found.keys() == known.keys()
        inside = np.zeros(small.shape[:2], bool)
        for word, points in found.items():
            box = [*points.min(axis=0), *points.max(axis=0)]
            assert np.abs(np.array(box) - known[word]).max() < 14, word  # pixels of 600
            left, top, right, bottom = (np.array(box) * 256 / 600).round().astype(int)
            inside[top - 1 : bottom + 2, left - 1 : right + 2] = True
        dark = small.mean(axis=2) < 128
        assert dark.sum() > 200 and not dark[~inside].any()


def drawings(page: Page) -> Iterator[tuple[dict, list[int], dict[str, np.ndarray]]]:
    """Of each picture with boxes: its element, the view of the drawing on it, and each box's corners by its word."""
    elements = [(tag, attrs) for tag, attrs in page.elements if tag in ("img", "svg", "polygon")]
    for (_, image), (tag, svg) in pairwise(elements):
        if tag == "svg" and "preserveaspectratio" in svg:
            following = elements[elements.index((tag, svg)) + 1 :]
            found = takewhile(lambda element: element[0] == "polygon", following)
            corners = {re.fullmatch(r"\d+\. (.+) \(\d\.\d\d\)", polygon["said"])[1]:
                       np.array([corner.split(",") for corner in polygon["points"].split()], float)
                       for _, polygon in found}  # fmt: skip
            yield image, [int(n) for n in svg["viewbox"].split()], corners


# Which ones are shown


def test_samples_are_drawn_by_hash_and_so_stay(folder, monkeypatch):
    monkeypatch.setattr(contact_sheet, "SAMPLES", 16)
    root = open_corpus(folder / "my.toml").root

    def shown(seed: int) -> list[str]:
        (train,) = (one for one in gather(root, seed)["sheets"] if one["set"] == "train")
        return [place["key"] for place in train["places"]]

    def first(seed: int) -> list[str]:
        keys = query(root, "select key from selection where len(samples) > 0")["key"].to_pylist()
        return sorted(keys, key=lambda key: hashlib.md5(f"{seed}/{key}".encode()).hexdigest())[:8]

    before = shown(0)
    assert before == first(0)[: len(before)] and len(before) == 8
    assert shown(1) == first(1) and set(shown(1)) != set(before)
    write_tar(folder / "source/2.tar", range(16, 20))
    build(folder / "my.toml")
    assert shown(0) == first(0)
    assert set(before) - set(shown(0)) <= set(before[-4:])  # four new ones push out four at most, the last ones first
    said = say("report", root.url, "--seed", "1")
    assert (said.code, said.out) == (0, f"wrote {root.url}/report.html\n")
    assert all(key in root.read(REPORT).decode() for key in first(1))


def test_an_image_is_shown_in_every_set_that_it_is_in(tmp_path, configure: Callable[..., Path]):
    write_tar(tmp_path / "source/0.tar", range(3))
    root = build(configure('[source]\nkind = "webdataset"\npath = "source"\n[sets.a]\n[sets.b]\nweight = 0.5'))
    page = read(root)
    samples = query(root, "select len(samples) n from selection")["n"].to_pylist()
    assert len(page.all("img")) == sum(samples) > 3
    assert {"set-1", "set-2"} <= page.ids()
    for image in page.all("img"):
        number = int(query(root, f"select text from rows where key = '{image['alt'][-16:]}'")["text"][0].as_py()[8:])
        shown, drawn = pixels(image).astype(int), np.asarray(Image.open(io.BytesIO(picture(number)[0])).convert("RGB"))
        assert np.abs(shown - drawn).mean() < 6


def test_a_duplicate_stands_beside_the_row_that_was_kept(tmp_path, configure: Callable[..., Path]):
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        (tmp_path / f"pictures/{number}.png").write_bytes(picture(number // 2)[0])
    root = build(configure('[source]\nkind = "folder"\npath = "pictures"\nrows_per_partition = 1\n[duplicates]'))
    duplicates = query(root, "select key, of from duplicates where of is not null").to_pylist()
    page = read(root)
    alts = [image["alt"][-16:] for image in page.all("img")]
    assert len(duplicates) == 2 and "left-duplicates-exact_duplicate" in page.ids()
    for row in duplicates:
        assert (row["key"], row["of"]) in list(pairwise(alts))
        assert f"duplicate of {row['of']}" in page.text


def test_conversations_are_shown_turn_by_turn_with_all_their_images(tmp_path, configure: Callable[..., Path]):
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        (tmp_path / f"pictures/{number}.png").write_bytes(picture(number)[0])
    said = [{"role": role, "content": f"{role} <b>says</b> {n} " + "word " * 400 * (n == 0)}
            for n in range(5) for role in ("user", "assistant")]  # fmt: skip
    said[0]["content"] = "<image_00> and <image_01>: " + said[0]["content"]
    image = {"<image_00>": "0.png", "<image_01>": "1.png"}
    gone = {"id": 2, "image": {"<image_00>": "0.png", "<image_01>": "gone.png"}, "conversations": said[2:4]}
    (tmp_path / "all.json").write_text(json.dumps([{"id": 1, "image": image, "conversations": said}, gone]))
    source = '[source]\nkind = "conversations"\npath = "all.json"\nimages = "pictures"\n'
    root = build(configure(f'{source}[sets.talk]\ntask = "conversation"'))
    page = read(root)
    (sheet,) = gather(root)["sheets"]
    assert sheet["rows"] == 1 and len(page.all("img")) == 2 + 1
    (lost,) = query(root, "select key from rows where reason = 'no_image'")["key"].to_pylist()
    assert f"the image of {lost} was left out" in page.text and f"left out because {lost}: rows: no_image" in page.text
    assert "user <image_00> and <image_01>: user <b>says</b> 0 word word" in page.text
    assert "assistant assistant <b>says</b> 2 and 4 more turns" in page.text and "says</b> 3" not in page.text


def test_before_there_is_a_selection_what_is_kept_so_far_is_shown(tmp_path, configure: Callable[..., Path]):
    write_tar(tmp_path / "source/0.tar", range(3))
    root = build(configure('[source]\nkind = "webdataset"\npath = "source"\n[sets.a]'), "images")
    page = read(root)
    assert len(page.all("img")) == 3
    assert "3 kept so far, 100.0%" in page.text and "no shard set is published yet" in page.text


# What changed


def test_the_last_run_s_changes_stand_there_with_before_and_after(folder):
    write_tar(folder / "source/0.tar", range(7), lambda n: "a <new> caption" if n == 2 else f"picture {n}")
    root = build(folder / "my.toml")
    page = read(root)
    counts = query(root, "select stage, change, count(*) n from changes where run = (select max(run) from runs) "
                         "group by all").to_pylist()  # fmt: skip
    for stage in ("rows", "images", "selection", "shards"):
        said = [next((c["n"] for c in counts if (c["stage"], c["change"]) == (stage, change)), 0)
                for change in ("added", "changed", "removed")]  # fmt: skip
        assert f"{stage} {said[0]} {said[1]} {said[2]}" in page.text, stage
    (key,) = query(root, "select key from rows where text = 'a <new> caption'")["key"].to_pylist()
    assert f"{key} text picture 2 a <new> caption" in page.text


def test_a_run_that_a_gate_stopped_is_in_it_with_the_reason(folder):
    config = folder / "my.toml"
    config.write_text(config.read_text().replace("[gates]", '[gates]\nmany = "kept > 100"'))
    write_tar(folder / "source/2.tar", range(16, 18))
    with pytest.raises(GateFailed):
        build(config)
    text = read(open_corpus(config).root).text
    assert "failed" in text and "gate many: kept > 100 does not hold" in text
    assert "selection 18 of 20, 90.0%" in text and "train caption" in text


# The same, and not part of the data


def test_equal_roots_give_equal_reports_but_for_what_is_measured(folder, built, root):
    before = root.read(REPORT).decode()
    assert write_and_read(root).replace(str(folder), str(built)) == before
    for path in (folder / "corpus", folder / "prefect"):
        shutil.rmtree(path, ignore_errors=True)
    build(folder / "my.toml")
    again = root.read(REPORT).decode()
    assert again != before and measured_left_out(again) == measured_left_out(before)
    assert len(measured_left_out(again)) > 0.8 * len(again)


def test_it_is_no_data_and_no_garbage(root):
    before = data_files(Path(root.url))
    assert "report.html" not in before
    assert verify_root(root).garbage == [] and verify_root(root).problems == []
    assert clean_root(root, 0, keep=1) == (0, 0) and root.exists(REPORT)
    root.remove(REPORT)
    assert verify_root(root).problems == []
    assert say("report", root.url).code == 0 and root.exists(REPORT)
    assert data_files(Path(root.url)) == before


@pytest.mark.parametrize("place", ["memory://report-test/{}"])
def test_it_stands_in_an_object_store_as_well(built, tmp_path, place, configure: Callable[..., Path]):
    shutil.copytree(built / "source", tmp_path / "source")
    toml = TOML.replace('root = "corpus"', "").replace(ONE_PROCESS, "")
    root = build(configure(toml, root=place.format(tmp_path.name)))
    here = open_corpus(built / "my.toml").root
    assert measured_left_out(write_and_read(root)) == measured_left_out(write_and_read(here))
    assert say("report", root.url).out == f"wrote {root.url_of(REPORT)}\n"


# Damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path: Path) -> None:
    """Blanks bytes at the beginning, of which a footer tells nothing."""
    data = bytearray(path.read_bytes())
    data[8:800] = bytes(792)
    path.write_bytes(data)


def one(root: Root, pattern: str) -> Path:
    return sorted(Path(root.url).glob(pattern))[0]


DAMAGE = {
    "an image tar is gone": (lambda root: one(root, "images/*.tar").unlink(), "are gone"),
    "an image tar is cut": (lambda root: cut(one(root, "images/00000-*.tar")), "are gone"),
    "an image tar has other bytes": (lambda root: spoil(one(root, "images/00000-*.tar")), "are not those that were"),
    "a partition is gone": (lambda root: one(root, "images/00001.parquet").unlink(), "1 of 2 partitions are not there"),
    "a partition is cut": (lambda root: cut(one(root, "selection/00000.parquet")), "1 of 2 partitions are not there"),
    "a partition's rows are damaged": (lambda root: spoil(one(root, "rows/00000.parquet")), "cannot be read"),
    "a stage is gone": (lambda root: shutil.rmtree(root.path("selection")), "kept so far"),
    "a card is damaged": (lambda root: cut(one(root, "shards/train.json")), "0 samples in 1 shard set"),
    "all shards are gone": (lambda root: shutil.rmtree(root.path("shards")), "no shard set is published yet"),
    "all stages are gone": (lambda root: [shutil.rmtree(root.path(s)) for s in root.folders("")],
                            "nothing is made yet"),
    "the ledger is gone": (lambda root: shutil.rmtree(root.path("runs")), "no run is on record"),
    "the ledger is damaged": (lambda root: cut(one(root, "runs/*/run.parquet")), "no run is on record"),
    "a stage's changes are damaged": (lambda root: cut(one(root, "runs/*/changes-rows.parquet")), "cannot be read"),
    "all changes are damaged": (lambda root: [*map(cut, Path(root.url).glob("runs/*/changes-*"))], "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_missing_or_damaged_leaves_a_note(root, what):
    do, note = DAMAGE[what]
    do(root)
    said = say("report", root.url)
    assert (said.code, said.err) == (0, "")
    assert note in read(root).text


def test_a_root_that_was_never_run_is_named_in_one_line(tmp_path):
    said = say("report", tmp_path)
    assert said.code == 2 and said.err.startswith(f"shardmill: {tmp_path}: no corpus found here")
    assert not (tmp_path / REPORT).exists()
    assert "nothing is made yet" in Page(write_and_read(Root(str(tmp_path / "empty")))).text


def test_a_source_without_rows_has_a_report(tmp_path, configure: Callable[..., Path]):
    none = pa.array([], pa.string())
    pq.write_table(pa.table({"url": none, "text": none}), tmp_path / "0.parquet")
    root = build(configure('[source]\nkind = "laion"\npath = "*.parquet"\n[sets.train]\n[gates]\nempty_sets = false'))
    assert "0 rows in" in read(root).text
