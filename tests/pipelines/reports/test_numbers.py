"""The numbers of a report are those of `stats`."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import build, picture, write_tar
from support.pages import Page, read
from support.reports import write_and_read

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from pipelines.catalog.stats import corpus_stats
from pipelines.engine.commit_cache import read_commits
from pipelines.reports.report import gather, look_at
from schemas.stages import STAGES


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
