"""Rounds of an alignment: each asks the best policy so far about new images, and goes on wherever it was killed."""

import json
from collections import Counter
from pathlib import Path

import pytest
from support.aligning import GOOD, align, configured
from support.corpora import build, data_files, say, shardmill
from support.paths import PROJECT
from support.scripted_server import Scripted

from flows.rounds import aligning, begin_round, evaluate_start
from pipelines.build.corpus import open_corpus
from pipelines.build.estimate import estimate, round_estimate
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.engine.alignment import read_alignment, write_alignment
from pipelines.engine.lock import Busy
from pipelines.engine.releases import read_card
from pipelines.engine.root import Corrupt, Root
from pipelines.engine.worker import StageFailed
from pipelines.maintain.verify import verify_root
from pipelines.reports.rounds import markdown, table_of
from schemas.align import checkpoint_of, figures_of
from schemas.config.file import read_config
from schemas.errors import UserError


@pytest.fixture
def server():
    with Scripted() as server:
        yield server


def rows(root, sql):
    return [tuple(row.values()) for row in query(root, sql).to_pylist()]


@pytest.mark.slow
def test_each_round_asks_the_best_policy_about_images_of_its_own(tmp_path, server):
    said: list[str] = []
    root = align(configured(tmp_path, server), 2, said.append)
    first, second = read_alignment(root)["rounds"]
    assert (first["outcome"], second["outcome"]) == ("best", "best")
    assert first["policy"]["model"] is None and second["policy"] == first["checkpoint"]
    trained = json.loads((tmp_path / "checkpoints/round-2/checkpoint/model.safetensors").read_text())
    assert trained == {"trained from": "round-1/checkpoint", "tables": 1}
    images = dict(rows(root, "select round, count(*) from instructions where reason is null group by round"))
    assert images.keys() == {1, 2} and sum(images.values()) < 9
    later = rows(root, "select distinct round, reason from instructions where reason is not null")
    assert later and {reason for _, reason in later} == {"later_round"} and min(number for number, _ in later) == 3
    asked = Counter(one["text"] for one in server.asked() if not one["sent"].count("logprobs"))
    assert asked["Describe the picture."] == 3 * sum(images.values()), "each image was asked about in one round"
    sets = dict(rows(root, 'select "set", count(*) from shards group by all'))
    pairs = dict(rows(root, "select 'round_' || round, count(*) from preferences group by all"))
    assert sets == pairs and pairs.keys() == {"round_1", "round_2"}
    assert said[-1].startswith("round 2: best: false_objects_per_response: 20.0 % before, 10.0 % now")
    assert verify_root(root).problems == [] and verify_root(root).garbage == []


@pytest.mark.slow
def test_a_condition_decides_which_pairs_a_round_is_trained_on(tmp_path, server):
    condition = "key < '8'"
    root = align(configured(tmp_path, server, images=60, table=f'where = "{condition}"\n'), 1)
    kept = rows(root, f"select key from preferences where {condition} order by key")
    assert rows(root, "select key from shards order by key") == kept
    assert 0 < len(kept) < len(rows(root, "select key from preferences"))


def test_a_condition_on_pairs_is_checked_before_anything_is_made(tmp_path, server):
    config = configured(tmp_path, server, table='where = "chosen_claim > 1"\n')
    with pytest.raises(UserError, match=r"my\.toml: align\.where: .*chosen_claim"):
        open_corpus(config)


@pytest.mark.slow
def test_a_later_round_changes_nothing_of_an_earlier_one(tmp_path, server):
    config = configured(tmp_path, server)
    root = align(config, 1)
    kept = "select * exclude (made_from) from {} where instruction in (select key from instructions where round = 1)"
    before = {stage: rows(root, kept.format(stage)) for stage in ("responses", "claims", "verdicts", "pairs")}
    card = read_card(root, "round_1")
    align(config, 3)
    assert {stage: rows(root, kept.format(stage)) for stage in before} == before
    now = read_card(root, "round_1")
    assert (now["release"], now["shards"]) == (card["release"], card["shards"])
    asked = server.count()
    align(config, 3)
    build(config)
    assert server.count() == asked and plan(open_corpus(config)).work() == 0


@pytest.mark.slow
def test_a_round_that_is_over_is_not_asked_again_whatever_changes(tmp_path, server):
    config = configured(tmp_path, server)
    root = align(config, 1)
    first = rows(root, "select * exclude (made_from) from responses where reason is null order by key")
    config.write_text(config.read_text().replace("draws = 3", "draws = 3\ntemperature = 0.9"))
    before = server.count()
    evaluate_start(open_corpus(config), print)
    assert begin_round(open_corpus(config), print) == 2
    build(config, "responses")
    new = rows(root, "select key from instructions where round = 2")
    assert server.count() - before == 3 * len(new) > 0
    kept = rows(root, "select * exclude (made_from) from responses where reason is null order by key")
    assert [row for row in kept if row in first] == first
    # images that are new come to a round that is over: they are left out, with a reason
    lines = (tmp_path / "data/instructions.jsonl").read_text()
    configured(tmp_path, server, images=40)
    (tmp_path / "data/more.jsonl").write_text((tmp_path / "data/instructions.jsonl").read_text()[len(lines) + 1 :])
    (tmp_path / "data/instructions.jsonl").write_text(lines)
    config.write_text(config.read_text().replace("draws = 3", "draws = 3\ntemperature = 0.9"))
    build(config, "responses")
    reasons = rows(root, "select i.round, r.reason, count(*) from responses r join instructions i on "
                         "i.key = r.instruction and i.partition = r.partition where r.reason = 'closed_round' "
                         "group by all")  # fmt: skip
    assert [(number, reason) for number, reason, _ in reasons] == [(1, "closed_round")]


@pytest.mark.slow
def test_a_corpus_that_was_made_before_keeps_the_answers_of_the_first_round(tmp_path, server):
    config = configured(tmp_path, server)
    text = config.read_text()
    config.write_text(text[: text.index("[align]")] + text[text.index("[beam]") :])
    root = build(config)
    everything, asked = rows(root, "select * exclude (made_from) from responses order by key"), server.count()
    config.write_text(text)
    align(config, 1)
    assert server.count() == asked, "they were answered before there were rounds"
    kept = rows(root, "select * exclude (made_from) from responses where reason is null order by key")
    assert 0 < len(kept) < len(everything) and all(row in everything for row in kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("figures", "outcomes", "why"),
    [
        ({"round-1": {"false_objects_per_response": 0.4, "recall": 0.8}}, ["worse", "best"], "30.0 % before, 10.0"),
        ({"round-1": {"false_objects_per_response": 0.1, "recall": 0.76}}, ["stopped"], "fell from 80.0 to 76.0"),
        ({"round-1": {"false_objects_per_response": 0.1, "recall": 0.8, "text_recall": 0.5},
          "start": GOOD["start"] | {"text_recall": 0.6}}, ["stopped"], "by more than 5 points (text_recall_margin)"),
    ],
)  # fmt: skip
def test_only_a_better_policy_goes_on_and_one_that_stops_seeing_ends_it(tmp_path, server, figures, outcomes, why):
    (tmp_path / "figures.json").write_text(json.dumps(GOOD | figures))
    config = configured(tmp_path, server)
    root = align(config, 2)
    made = read_alignment(root)["rounds"]
    assert [one["outcome"] for one in made] == outcomes and why in made[-1]["why"]
    assert len(made) == 1 or made[1]["policy"]["model"] is None, "the one at the start is still the best"
    asked = server.count()
    align(config, 2)
    assert server.count() == asked


@pytest.mark.slow
def test_the_table_and_the_chart_show_every_round(tmp_path, server, reports):
    root = align(configured(tmp_path, server), 2)
    columns, lines = table_of(root)
    assert columns[-4:] == ["pairs", "false object", "recall", "outcome"]
    assert [line[0] for line in lines] == ["start", "1", "2"]
    assert lines[0][-2] == "80.0 % (70.0 to 90.0)" and lines[2][-3:] == ["10.0 %", "78.0 %", "best"]
    assert markdown(columns, lines).splitlines()[2].startswith("| start | ")
    page = (tmp_path / "corpus/report.html").read_text()
    assert 'id="alignment"' in page and "2 (best)" in page and "recall: 78.0%" in page


@pytest.mark.slow
def test_plan_says_what_a_round_asks(tmp_path, server):
    config = configured(tmp_path, server)
    (responses,) = [
        one for one in estimate(open_corpus(config), plan(open_corpus(config)).stages) if one.calls is None
    ][:1]
    assert responses.each == "3 for each instruction" and round_estimate(open_corpus(config)) is None
    said = say("plan", config)
    assert "responses asks policy: calls: 3 for each instruction\n" in said.out
    assert "verdicts asks labeler: calls: 1 for each different question about an image\n" in said.out
    build(config, "instructions")
    first = round_estimate(open_corpus(config))
    assert first.instructions == 3 and first.calls["responses"] == 9
    assert first.calls["verdicts"] == "1 for each different question about an image"
    root = align(config, 1)
    second = round_estimate(open_corpus(config))
    asked = dict(rows(root, "select stage, sum(tries)::int from calls group by stage"))
    share = 3 / rows(root, "select count(*) from instructions where reason is null")[0][0]
    assert second.calls == {"responses": 9, "verdicts": round(share * asked["verdicts"])}
    line = f"responses about 9; verdicts about {second.calls['verdicts']}"
    assert f"a round of align asks about 3 instructions, in calls: {line}" in say("plan", config).out


@pytest.mark.slow
def test_the_command_aligns_and_shows_the_rounds(tmp_path, server):
    config = configured(tmp_path, server)
    said = shardmill("align", config, "--rounds", "1", PREFECT_HOME=str(tmp_path / "prefect"), COLUMNS="200")
    assert said.returncode == 0, said.stderr
    assert "round 1: best: false_objects_per_response: 30.0 % before, 20.0 % now" in said.stdout
    assert f"best policy: {tmp_path}/checkpoints/round-1/checkpoint" in said.stdout
    asked = server.count()
    again = shardmill("align", config, "--rounds", "1", PREFECT_HOME=str(tmp_path / "prefect"))
    assert again.returncode == 0 and server.count() == asked
    config.write_text(
        config.read_text().replace("share = 0.33", "share = 0.6").replace("[align]", "[align]\nrounds = 1")
    )
    more = shardmill("align", config, "--rounds", "2", PREFECT_HOME=str(tmp_path / "prefect"))
    assert more.returncode == 2 and more.stderr.count("\n") == 1 and "2 rounds need more than all images" in more.stderr


def test_the_demo_has_a_held_out_corpus_and_rounds_that_share_no_image(monkeypatch):
    monkeypatch.chdir(PROJECT)
    demo = read_config("training/recipes/align/align.toml")
    held_out = read_config("training/recipes/align/held-out.toml")
    assert demo.align.held_out == held_out.root and demo.align.held_out_set in held_out.sets
    assert demo.source[0].seed != held_out.source[0].seed and demo.align.rounds * demo.align.share <= 1
    assert all(Path(endpoint.model).exists() for endpoint in demo.endpoints.values())


def test_two_alignments_at_once_are_refused(tmp_path, server):
    config = configured(tmp_path, server)
    second = aligning(open_corpus(config))
    with aligning(open_corpus(config)), pytest.raises(Busy, match=r"checkpoints is in use by process \d+"), second:
        pass


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("share = 0.33", "share = 0.6"), "align.share: 2 rounds need more than all images; write at most 0.5"),
        (("policy_command", "# policy_command"), "align.policy_command: missing; it makes"),
        (('checkpoints = "', 'checkpoints = "s3://'), "align.checkpoints: write a folder of this machine"),
        (("{out}", "out"), "train_command: write {out} in it"),
        (("evaluate_command", "# evaluate_command"), "align: write either held_out or evaluate_command"),
        (("[responses]\nendpoint = \"policy\"\ndraws = 3", "[ocr]"), "verdicts: needs the table [responses]"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_work_is_said_in_one_line(tmp_path, server, change, line):
    config = configured(tmp_path, server)
    config.write_text(config.read_text().replace(*change))
    with pytest.raises(UserError, match=r"^[^\n]*$") as said:
        open_corpus(config)
    assert line in str(said.value)


@pytest.mark.slow
def test_commands_that_fail_are_told_with_their_last_line(tmp_path, server):
    config = configured(tmp_path, server)
    (tmp_path / "train.py").write_text("raise SystemExit('out of memory')")
    with pytest.raises(StageFailed, match=r"training of round 1: out of memory; its log is .*train\.log"):
        align(config, 1)
    (tmp_path / "train.py").write_text("print('nothing written')")
    with pytest.raises(UserError, match="ended without writing"):
        align(config, 1)
    (tmp_path / "evaluate.py").write_text("print('no figures')")
    config = configured(tmp_path / "other", server) if (tmp_path / "other").mkdir() is None else config
    (tmp_path / "other/evaluate.py").write_text("print('no figures')")
    with pytest.raises(UserError, match="printed no line of JSON"):
        align(config, 1)


@pytest.mark.slow
def test_a_damaged_file_of_rounds_stops_in_one_line(tmp_path, server):
    config = configured(tmp_path, server)
    align(config, 1)
    for text in ("{", "[]", '{"start": null, "rounds": [{"policy": 3}]}'):
        (tmp_path / "corpus/align.json").write_text(text)
        with pytest.raises(Corrupt, match=r"align\.json: cannot be read"):
            open_corpus(config)


BEGUN = {"policy": {"model": None, "revision": None}, "release": None, "checkpoint": None, "figures": None,
         "outcome": None, "why": None}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"outcome": "\x1b[2J"}, "outcome: "),
        ({"figures": {"values": {"recall": 1e301}, "intervals": {}}}, "figures.values.recall: "),
        ({"figures": {"values": {"recall": True}, "intervals": {}}}, "figures.values.recall: "),
        ({"figures": {"values": {}, "intervals": {"recall": []}}}, "figures.intervals.recall: "),
        ({"figures": {"values": {}, "intervals": {"recall": [0, 1, 2]}}}, "figures.intervals.recall: "),
        ({"checkpoint": "../.."}, "checkpoint: "),
    ],
)
def test_rounds_that_a_stranger_wrote_are_refused_in_one_line(tmp_path, change, wrong):
    root = Root(str(tmp_path))
    (tmp_path / "align.json").write_text(json.dumps({"start": None, "rounds": [BEGUN, BEGUN | change]}))
    with pytest.raises(Corrupt, match=r"^align\.json: cannot be read: rounds\.1\.[^\n]*$") as said:
        read_alignment(root)
    assert wrong in str(said.value) and "\x1b" not in str(said.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "5", "null", '{"start": NaN, "rounds": []}', '{"rounds": []}', ""])
def test_a_file_of_rounds_that_holds_anything_else_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "align.json").write_text(text)
    with pytest.raises(Corrupt, match=r"^align\.json: cannot be read: [^\n]*$"):
        read_alignment(Root(str(tmp_path)))


def test_a_policy_is_looked_for_in_the_folder_of_checkpoints_alone(tmp_path, server):
    """A model that align.json names would be loaded by the policy's command, and given to the trainer's."""
    align = read_config(configured(tmp_path, server)).align
    for model in ("/elsewhere/round-3/checkpoint", "/../round-3/checkpoint", "--out=/etc/round-3/checkpoint"):
        made = checkpoint_of(align, {"model": model, "revision": "x"})
        assert made == f"{tmp_path}/checkpoints/round-3/checkpoint"
    for model in ("/etc/passwd", "somebody/model", "--trust-remote-code", "", "x/round-1/checkpoint/..", "round-1\x1b"):
        with pytest.raises(UserError, match=r"^align\.json: [^\n\x1b]* is not the checkpoint of a round; restore the"):
            checkpoint_of(align, {"model": model, "revision": "x"})
    assert checkpoint_of(align, {"model": None, "revision": None}) is None


def test_figures_that_are_no_numbers_are_left_out(tmp_path):
    intervals = {"recall": [0, 1], "huge": [0, 10**400], "far": [0, float("inf")], "one": [0]}
    odd = {"huge": 10**400, "far": 1e308, "no": float("nan"), "more": float("inf"), "yes": True, "text": "1"}
    printed = {"recall": 1, **odd, "intervals": intervals}
    figures = figures_of(printed)
    assert figures == {"values": {"recall": 1.0}, "intervals": {"recall": [0.0, 1.0]}}
    root = Root(str(tmp_path))
    write_alignment(root, {"start": figures, "rounds": []})
    assert read_alignment(root)["start"] == figures
    assert figures_of({"recall": 1, "intervals": 5})["intervals"] == {}


ODD = ["[" * 100_000, "9" * 5000, '{"recall": ' + "9" * 5000 + "}", "\x1b[2J", "null", "[1]"]


@pytest.mark.parametrize("line", ODD)
def test_an_evaluation_that_prints_anything_else_is_told_in_one_line(tmp_path, server, line):
    config = configured(tmp_path, server)
    (tmp_path / "odd").write_text(line)
    (tmp_path / "evaluate.py").write_text(f"print(open('{tmp_path}/odd').read())")
    with pytest.raises(UserError, match=r"^align: the evaluation of start printed no line of JSON; its log is [^\n]*$"):
        evaluate_start(open_corpus(config), print)


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("steps", [
    ("train",), pytest.param(("start", "begin", "build", "evaluate"), marks=pytest.mark.slow),
])  # fmt: skip
def test_it_goes_on_from_any_step(steps, tmp_path, server):
    def killing(step: str):
        """Kills at the second time that it comes to a step, or at the start."""
        count = Counter()

        def kill(at: str) -> None:
            count[at] += 1
            if at == step and count[at] == 1 + (step != "start"):
                raise Killed

        return kill

    def told(folder):
        files = {name: sha for name, sha in data_files(folder / "corpus").items() if name != "root.json"}
        files.pop("align.json")
        return files, (folder / "corpus/align.json").read_text().replace(f"{folder}/", "")

    (tmp_path / "clean").mkdir()
    align(configured(tmp_path / "clean", server), 2)
    wanted, asked = told(tmp_path / "clean"), server.count()
    for step in steps:
        (tmp_path / step).mkdir()
        config, before = configured(tmp_path / step, server), server.count()
        with pytest.raises(Killed):
            align(config, 2, between=killing(step))
        align(config, 2)
        assert server.count() - before == asked, "nothing is asked twice"
        assert told(tmp_path / step) == wanted
