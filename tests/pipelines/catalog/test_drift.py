"""What moved from one release to the next: a planted shift is found, and an equal rebuild shows none."""

import json
from pathlib import Path

import pytest
from support.corpora import build, say

from pipelines.catalog.catalog import query
from pipelines.catalog.stats import corpus_stats
from pipelines.engine.root import Root

ENGLISH = "a dog number {} runs on the beach"
GERMAN = "ein Hund Nummer {} läuft am Strand entlang"
LONG = "a dog number {} runs on the long and windy beach while many other dogs look at it from the pier and bark"
DRIFTED = "select measure, value, share_before, share, distance from drift where drifted order by distance desc"


def write(folder: Path, counts: dict[str, int], licences: tuple[str, ...] = ("mit",)) -> None:
    """Conversations without images: of each text so many."""
    talks = [
        {"id": f"{text[:5]}{n}", "license": licences[n % len(licences)],
         "conversations": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text.format(n)}]}
        for text, count in counts.items() for n in range(count)
    ]  # fmt: skip
    (folder / "talks.json").write_text(json.dumps(talks))


@pytest.fixture
def config(tmp_path, configure) -> Path:
    write(tmp_path, {ENGLISH: 200, GERMAN: 20})
    return toml(configure)


def toml(configure, more: str = "") -> Path:
    return configure(
        '[source]\nkind = "conversations"\npath = "talks.json"\nimages = "."\n[measures]\n'
        f'[gates]\nlost_share = false\n[sets.talk]\ntask = "conversation"\n{more}'
    )


def drifted(root: Root) -> list[dict]:
    return query(root, DRIFTED).to_pylist()


@pytest.mark.slow
def test_a_planted_shift_is_found(config, tmp_path):
    build(config)
    write(tmp_path, {ENGLISH: 200, GERMAN: 120})
    root = build(config)
    (language,) = [row for row in drifted(root) if row["measure"] == "language"]
    assert language["value"] in ("de", "en")
    assert language["distance"] == pytest.approx(120 / 320 - 20 / 220, abs=0.0001)
    assert {row["measure"] for row in drifted(root)} <= {"language", "words"}, "the number of words is another too"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "licences", "measure", "value"),
    [
        ({ENGLISH: 200, GERMAN: 20, LONG: 150}, ("mit",), "words", None),
        ({ENGLISH: 200, GERMAN: 20}, ("mit", "cc-by-4.0"), "licence", None),
        ({GERMAN: 60}, ("mit",), "language", None),
    ],
)
def test_shifts_of_other_measures_are_found_too(counts, licences, measure, value, config, tmp_path):
    build(config)
    write(tmp_path, counts, licences)
    root = build(config)
    assert measure in {row["measure"] for row in drifted(root)}


@pytest.mark.slow
def test_an_equal_rebuild_shows_none(config, configure):
    build(config)
    root = build(toml(configure, "samples_per_shard = 7\n"))
    rows = query(root, "select distance, drifted from drift").to_pylist()
    assert len(rows) >= 3 and {(row["distance"], row["drifted"]) for row in rows} == {(0.0, False)}


@pytest.mark.slow
def test_more_of_the_same_shows_none(config, tmp_path):
    build(config)
    write(tmp_path, {ENGLISH: 260, GERMAN: 27})
    root = build(config)
    assert query(root, "select count(*) as n from drift")["n"][0].as_py() >= 3 and drifted(root) == []


@pytest.mark.slow
def test_the_first_release_has_no_drift_and_its_distributions(config):
    root = build(config)
    assert query(root, "from drift").num_rows == 0
    sql = "select value, samples from distributions where measure = 'language' order by samples desc"
    assert query(root, sql).to_pylist() == [{"value": "en", "samples": 200}, {"value": "de", "samples": 20}]


@pytest.mark.slow
def test_a_release_that_a_killed_run_published_is_recorded_by_the_next(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("pipelines.build.run.record_distributions", lambda *_: None)
        root = build(config)
    assert query(root, "from distributions").num_rows == 0
    build(config)
    known = query(root, "select distinct release from distributions")["release"].to_pylist()
    assert known == query(root, "select distinct release from releases")["release"].to_pylist()
    build(config)
    assert query(root, "select count(distinct run) as n from distributions")["n"].to_pylist() == [1]


@pytest.mark.slow
def test_the_report_has_a_chart_of_what_moved(config, tmp_path, reports):
    build(config)
    assert 'id="drift"' not in Root(f"{tmp_path}/corpus").read("report.html").decode()
    write(tmp_path, {ENGLISH: 200, GERMAN: 120})
    page = build(config).read("report.html").decode()
    assert 'id="drift"' in page and "<h3>talk: language</h3>" in page
    assert "<title>de: 9.1% before, 37.5% after</title>" in page
    assert "<h3>talk: script</h3>" not in page, "all is Latin in both"


@pytest.mark.slow
def test_stats_show_tokens_slices_languages_scripts_and_licences(config):
    tables = {title: (columns, lines) for title, columns, lines in corpus_stats(build(config))}
    columns, ((name, words, *_),) = tables["measures of shard sets"]
    assert (name, words) == ("talk", 200 * 8 + 20 * 8) and {"text tokens", "slices, llama.cpp"} <= {*columns}
    _, lines = tables["samples of shard sets"]
    assert ("talk", "language", "en", 200, "90.9%") in lines and ("talk", "language", "de", 20, "9.1%") in lines
    assert ("talk", "script", "Latin", 220, "100.0%") in lines and ("talk", "licence", "mit", 220, "100.0%") in lines


@pytest.mark.slow
def test_rare_values_are_not_named(config, tmp_path):
    write(tmp_path, {ENGLISH: 200, GERMAN: 4})
    root = build(config)
    sql = "select value, samples from distributions where measure = 'language' order by samples desc"
    assert query(root, sql).to_pylist() == [{"value": "en", "samples": 200}, {"value": "others", "samples": 4}]
    assert say("sql", root.url, "from drift").code == 0
