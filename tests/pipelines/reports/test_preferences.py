"""Preferences in the report: numbers as the stages have them, claims as they were judged, strangers' text as text."""

import json
import re
import shutil
from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS, build, picture, write_tar
from support.pages import ANYTHING, Page, read
from support.scripted_server import Scripted

from pipelines.catalog.catalog import query
from pipelines.catalog.stats import share
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.root import Root
from pipelines.reports.page import page as render
from pipelines.reports.report import gather, write_report
from pipelines.stages.pairs import candidates, read_scores

QUESTIONS = ("Describe the picture.", "What is <script>alert('x')</script> on the \"left\"? {{ 7 * 7 }} \u202eright")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Root:
    """Pairs of four pictures that a policy was asked about; one in ten verdicts failed."""
    folder = tmp_path_factory.mktemp("preferences")
    (folder / "data").mkdir()
    lines = []
    for number in range(4):
        (folder / f"data/{number}.png").write_bytes(picture(number)[0])
        lines += [{"image_path": f"{number}.png", "question": question} for question in QUESTIONS]
    (folder / "data/instructions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Scripted(fail=[{"how": "400", "share": 0.1, "match": "answer yes or no"}]) as server:
        names = ("policy", "divider", "labeler")
        endpoints = "".join(
            f'[endpoints.{n}]\nrevision = "1"\nmodel = "scripted"\nurl = "{server.url}"\n' for n in names
        )
        (folder / "my.toml").write_text(
            f'root = "corpus"\n[source]\nkind = "instructions"\npath = "data"\n{endpoints}'
            '[responses]\nendpoint = "policy"\ndraws = 5\n[claims]\nendpoint = "divider"\n'
            '[verdicts]\nlabelers = ["labeler"]\n[pairs]\nper_instruction = 3\n'
            f'[sets.dpo]\ntask = "preference"\n{ONE_PROCESS}'
        )
        return build(folder / "my.toml")


@pytest.fixture
def page(root) -> Page:
    return read(root)


def count(root: Root, what: str) -> int:
    return query(root, f"select count(*) as n from {what}")["n"][0].as_py()


@pytest.mark.slow
def test_every_step_has_the_numbers_of_its_stage(root, page):
    said = gather(root)["preferences"]
    steps = {step["stage"]: step for step in said["funnel"] + said["steps"]}
    assert list(steps) == [
        "instructions", "responses", "claims", "verdicts", "scored", "candidates", "drawn", "kept pairs",
    ]  # fmt: skip
    for step in steps.values():
        left_out = sum(reason["rows"] for reason in step["reasons"])
        assert step["rows"] == step["kept"] + step["before"] + left_out > 0, step
    scores = read_scores(root, list(read_commits(root, "responses")))
    assert steps["instructions"]["kept"] == 8 and steps["responses"]["kept"] == steps["scored"]["rows"] == 40
    assert steps["scored"]["kept"] == (~scores.failed).sum() < 40
    assert steps["candidates"]["kept"] == len(candidates(scores).chosen) == steps["drawn"]["rows"]
    assert steps["drawn"]["kept"] == count(root, "pairs where chosen is not null") == steps["kept pairs"]["rows"]
    assert steps["kept pairs"]["kept"] == count(root, "preferences") == said["kept"]
    for step in steps.values():
        assert f"{step['kept']:,} of {step['rows']:,}" in page.text
        for reason in step["reasons"]:
            assert f"{reason['reason']} {reason['rows']:,} {share(reason['rows'], step['rows'])}" in page.text


@pytest.mark.slow
def test_distributions_count_each_response_and_each_pair_once(root):
    said = gather(root)["preferences"]
    charts = {chart["title"]: chart["bars"] for chart in said["charts"]}
    assert len(charts) == 3

    def bars(title: str) -> dict[str, tuple[int, int]]:
        found = (
            re.match(r"(.+): ([\d,]+) \(.*%\), ([\d,]+) of them in kept pairs", bar["label"]) for bar in charts[title]
        )
        return {one[1]: (int(one[2]), int(one[3])) for one in found}

    wrong = query(root, "select -score as n, count(*) as m from scores where score is not null group by 1").to_pylist()
    assert {value: all_of for value, (all_of, _) in bars("rejected claims of a response").items()} == {
        str(row["n"]): row["m"] for row in wrong
    }
    margins = query(root, """select margin as n, count(*) as m, count(*) filter (reason is null) as k from pairs
                             where chosen is not null group by 1""").to_pylist()  # fmt: skip
    assert bars("margin of a pair, claims") == {str(row["n"]): (row["m"], row["k"]) for row in margins}
    ratios = bars("rejected to chosen text, words").values()
    assert [sum(column) for column in zip(*ratios, strict=True)] == [sum(row["m"] for row in margins), said["kept"]]


@pytest.mark.slow
def test_what_they_cost_is_what_the_view_says(root, page):
    (row,) = query(root, "from cost where stage = 'verdicts'").to_pylist()
    cells = (row["calls"], row["failed"], row["tokens_in"] + row["tokens_out"], row["seconds"], row["calls_a_pair"],
             row["tokens_a_pair"], row["seconds_a_pair"])  # fmt: skip
    assert row["failed"] > 0
    assert f"verdicts {row['endpoint']} " + " ".join(f"{cell:,}" for cell in cells) in page.text


@pytest.mark.slow
def test_kept_pairs_are_shown_with_their_image_and_what_the_labelers_rejected_is_marked(root, page):
    shown = gather(root)["preferences"]["pairs"]
    assert 6 < len(shown) == min(12, count(root, "preferences"))
    rejected, accepted = [], []
    for pair in shown:
        (source,) = [one["source"] for one in pair["pictures"]]
        assert source in {attrs["src"] for attrs in page.all("img")}
        for side in ("chosen", "rejected"):
            assert pair[side] in page.text
            response = query(root, f"from scores where key = '{pair[f'{side}_key']}'").to_pylist()[0]
            assert (response["text"], response["score"]) == (pair[side], pair[f"{side}_score"])
            judged = query(root, f"""
                select c.claims[v.number + 1].claim as claim, v.accepted
                from verdicts v join claims c on c.key = v.response where v.response = '{response["key"]}'
                order by number""").to_pylist()  # fmt: skip
            rejected += [one["claim"] for one in judged if not one["accepted"]]
            accepted += [one["claim"] for one in judged if one["accepted"]]
            assert sum(not one["accepted"] for one in judged) == -response["score"]
    text = root.read("report.html").decode()
    marked = re.findall(r'<li class="bad"[^>]*>rejected: <div class="t" dir="auto">(.*?)</div>', text)
    plain = re.findall(r'<li title[^>]*>accepted: <div class="t" dir="auto">(.*?)</div>', text)
    assert marked == rejected and plain == accepted and rejected


@pytest.mark.slow
def test_another_seed_shows_others_and_the_same_one_the_same(root):
    first, again, other = (gather(root, seed)["preferences"]["pairs"] for seed in (0, 0, 1))
    assert first == again and [pair["key"] for pair in other] != [pair["key"] for pair in first]


def test_a_hostile_question_is_text(root, page):
    visible = QUESTIONS[1].replace("\u202e", "U+202E ")
    assert re.sub(r"\s", "", visible) in re.sub(r"\s", "", page.text)
    assert not {"script", "iframe", "object", "link"} & {tag for tag, _ in page.elements}


@pytest.mark.slow
def test_whatever_is_put_in_comes_out_as_text(root):
    """Every text of the section is spoilt, down to the words that are ours: the elements stay the same."""
    report = gather(root)

    def spoiled(value, name=""):
        if isinstance(value, str) and name != "source":
            return value + ANYTHING
        if isinstance(value, dict):
            return {key: spoiled(one, key) for key, one in value.items()}
        return [spoiled(one, name) for one in value] if isinstance(value, list) else value

    sound = Page(render(report))
    report["preferences"] = spoiled(report["preferences"] | {"note": None})
    bad = Page(render(report))
    unlike = {"details", "summary", "span", "div", "i"}  # what is folded, and what is not seen
    shapes = [[(tag, tuple(attrs)) for tag, attrs in page.elements if tag not in unlike] for page in (sound, bad)]
    assert shapes[0] == shapes[1] and len(shapes[0]) > 200
    allowed = {(tag, name) for tag, attrs in sound.elements for name in attrs} | {("i", "class"), ("span", "dir")}
    assert {(tag, name) for tag, attrs in bad.elements for name in attrs} <= allowed
    assert bad.text.count("<script>alert(1)</script>") > 50


@pytest.mark.slow
def test_what_is_damaged_leaves_a_note(root, tmp_path):
    shutil.copytree(root.url, tmp_path / "corpus")
    copy = Root(str(tmp_path / "corpus"))
    path = next(path for path in sorted(Path(copy.url, "claims").glob("*.parquet")) if path.name[0].isdigit())
    sound = path.read_bytes()
    for data, note in (
        (sound[:4] + bytes(200) + sound[204:], "cannot be read, `shardmill verify` says more"),
        (sound[:-1], "claims: missing"),
    ):
        path.write_bytes(data)
        write_report(copy)
        page = read(copy)
        assert note in page.text and f"{count(root, 'preferences')} pairs are kept" in page.text


@pytest.mark.slow
def test_a_corpus_without_preferences_says_nothing_of_them(tmp_path):
    write_tar(tmp_path / "source/0.tar", range(2))
    (tmp_path / "my.toml").write_text(
        f'root = "corpus"\n[source]\nkind = "webdataset"\npath = "source"\n[sets.train]\n{ONE_PROCESS}'
    )
    page = read(build(tmp_path / "my.toml"))
    assert "preferences" not in page.ids() and "Preferences" not in page.text
