"""Weak captions are rewritten, checked, and kept beside what they were."""

import json
import tarfile
from pathlib import Path

import pytest
from support.corpora import build, data_files, say, write_tar
from support.scripted_server import Scripted
from support.scripted_server import say as scripted_answer

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.catalog.stats import rewritten
from pipelines.engine.worker import Stopped
from pipelines.maintain.verify import verify_root
from schemas.errors import UserError

GOOD = "A square stands above a word in the picture."
TEXTS = (GOOD, "IMG_0001.jpg", "square word square word square word", "red, blue, green, yellow, box")
WEAK = {1: "file_name", 2: "repeated", 3: "not_fluent"}


@pytest.fixture(scope="module")
def shared_server():
    with Scripted() as server:
        yield server


@pytest.fixture
def server(shared_server) -> Scripted:
    shared_server.does()
    return shared_server


@pytest.fixture
def configured(configure, tmp_path, server):
    """Writes a configuration of a tar of eight pictures, whose captions are the four of TEXTS, twice."""
    write_tar(
        tmp_path / "data" / "0.tar", range(8), lambda number: TEXTS[number % 4] + (" Now." if number == 4 else "")
    )

    def write(captions: str = "", endpoint: str = "", more: str = '[sets.train]\ntask = "caption"'):
        return configure(
            f'[source]\nkind = "webdataset"\npath = "data/*.tar"\n[endpoints.writer]\nmodel = "scripted"\n'
            f'url = "{server.url}"\ntries = 2\n{endpoint}\n[captions]\nendpoint = "writer"\n{captions}\n{more}\n'
        )

    return write


def rows(root, columns: str) -> list[tuple]:
    table = query(root, f"select {columns} from captions order by original, key")
    return [tuple(row.values()) for row in table.to_pylist()]


def samples(root) -> dict[str, str]:
    """alt text -> what the sample teaches to say."""
    found = {}
    for tar in Path(root.path("shards")).glob("*.tar"):
        with tarfile.open(tar) as opened:
            members = {
                m.name: opened.extractfile(m).read().decode("utf-8", "replace") for m in opened if ".png" not in m.name
            }
        for name, text in members.items():
            if name.endswith(".txt"):
                found[json.loads(members[name.replace(".txt", ".json")])["key"]] = text
    by_key = {row["key"]: row["original"] for row in query(root, "select key, original from captions").to_pylist()}
    return {by_key[key]: text for key, text in found.items()}


@pytest.mark.slow
def test_weak_captions_alone_are_rewritten_and_are_what_is_learned(configured, server):
    before = len(server.asked())
    root = build(configured())
    asked = server.asked()[before:]
    assert sorted(one["text"].split("Alt text: ")[1] for one in asked) == sorted(TEXTS[n] for n in WEAK), (
        "equal ones are asked for once"
    )
    for original, verdict, answer, text, question in rows(root, "original, verdict, answer, text, question"):
        if original.startswith(GOOD):
            assert (verdict, answer, text, question) == ("good", None, original, None)
        else:
            assert (verdict, answer) == (WEAK[TEXTS.index(original)], "taken")
            assert question == "What does the picture show?"
            assert text.startswith("A ") and text != original
    learned = samples(root)
    assert learned[GOOD] == GOOD
    written = dict(rows(root, "original, text"))
    assert {original: learned[original] for original in TEXTS} == {original: written[original] for original in TEXTS}
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_all_are_rewritten_if_the_configuration_says_so(configured, server):
    before = len(server.asked())
    root = build(configured('rewrite = "all"'))
    assert len(server.asked()) - before == 5, "of eight captions, five differ"
    assert {answer for (answer,) in rows(root, "answer")} == {"taken"}


@pytest.mark.slow
def test_a_model_can_be_shown_the_picture(configured, server):
    before = len(server.asked())
    build(configured("image = true"))
    asked = server.asked()[before:]
    assert len(asked) == 6, "each weak caption of each picture"
    assert len({one["image"] for one in asked}) == 6
    assert all("Above is a picture" in one["text"] for one in asked)


@pytest.mark.slow
def test_what_does_not_pass_leaves_the_caption_as_it_came(configured, server):
    server.does(fail=[{"how": "empty", "match": "IMG_0001"}, {"how": "400", "match": "square word square"}])
    root = build(config := configured())
    found = {
        original: (answer, text, reason)
        for original, answer, text, reason in rows(root, "original, answer, text, reason")
    }
    assert found[TEXTS[1]] == ("empty_answer", TEXTS[1], None)
    assert found[TEXTS[2]] == ("too_long", TEXTS[2], None)
    assert found[TEXTS[3]][0] == "taken"
    assert len(samples(root)) == 5, "every caption is still learned"
    counts = {
        "not asked for": 2,
        "rewritten": 2,
        "stay as they came: empty_answer": 2,
        "stay as they came: too_long": 2,
    }
    assert dict(rewritten(root)) == counts
    stays = "2 stay as they came: empty_answer, 2 stay as they came: too_long"
    assert f"captions: 2 rewritten, {stays}, 2 not asked for\n" in say("run", config).out


@pytest.mark.slow
def test_a_row_that_a_server_did_not_answer_has_a_reason_and_goes_no_further(configured, server):
    server.does(fail=[{"how": "500", "match": "IMG_0001"}])
    root = build(configured())
    failed = [(original, reason) for original, reason in rows(root, "key, reason") if reason]
    assert [reason for _, reason in failed] == ["http_5xx", "http_5xx"]
    left = query(root, "select count(*) as n from selection where reason = 'upstream'").to_pylist()
    assert left == [{"n": 2}]


@pytest.mark.slow
def test_a_changed_prompt_asks_again_and_a_changed_place_does_not(configured, server, tmp_path):
    config = configured()
    build(config)
    before = len(server.asked())
    (tmp_path / "mine.txt").write_text("Write it better, as\nQuestion: …\nAnswer: …\nAlt text: {text}\n")
    build(configured(endpoint="concurrency = 2\ntimeout = 7"))
    assert len(server.asked()) == before, "who asks, and how often, decides of no answer"
    changed = configured('prompt = "mine.txt"')
    (step,) = [one for one in plan(open_corpus(changed)).stages if one.stage == "captions"]
    assert next(why for why, _ in step.reasons()).startswith("prompt ")
    build(changed)
    assert len(server.asked()) == before + 3
    (tmp_path / "mine.txt").write_text("Write it better.\n")
    with pytest.raises(UserError, match=r"captions.prompt: .*mine.txt lacks \{text\}; add it"):
        open_corpus(changed)


@pytest.mark.slow
def test_try_shows_before_and_after_and_the_run_takes_the_answers_over(configured, server):
    config = configured()
    said = say("try", "captions", config)
    assert said.code == 2
    assert "first run: shardmill run my.toml --until images" in said.err
    root = build(config, "images")
    files, before = data_files(Path(root.path(""))), len(server.asked())
    said = say("try", "captions", config, "--rows", 4)
    assert said.code == 0, said.err
    assert "IMG_0001.jpg" in said.out
    assert "of the picture." in said.out
    assert "nothing is committed" in said.out
    assert len(server.asked()) - before <= 4
    new = data_files(Path(root.path(""))).keys() - files.keys()
    assert all(name.startswith("captions/chunks/") for name in new) and new
    assert verify_root(root).garbage == []
    before = len(server.asked())
    say("try", "captions", config, "--rows", 4)
    assert len(server.asked()) == before, "what was asked is at hand"
    build(config)
    texts = [one["text"].split("Alt text: ")[1] for one in server.asked()[-3:]]
    assert sorted(texts) == sorted(TEXTS[n] for n in WEAK), "three questions in all, by two tries and a run"
    assert not Path(root.path("captions/chunks")).exists() or not [
        *Path(root.path("captions/chunks")).rglob("*.parquet")
    ]


def test_the_scripted_server_says_what_these_tests_take_for_an_answer():
    said = scripted_answer({"messages": [{"role": "user", "content": "Answer: …\nAlt text: a dog"}]})
    assert said["text"].startswith("Question: What does the picture show?\nAnswer: A ")


@pytest.mark.slow
def test_a_run_in_which_every_request_failed_ends_with_an_error_and_commits_nothing_false(configured, server):
    server.does(refuse=["seed"])
    config = configured(endpoint="timeout = 61")  # a client of its own, which never had an answer
    with pytest.raises(Stopped, match=r"endpoints.writer: every request failed, .*not permitted: seed"):
        build(config)
    assert query(open_corpus(config).root, "select count(*) n from captions").to_pylist() == [{"n": 0}]
    checked = say("check-endpoint", configured(endpoint="timeout = 63")).out
    assert "captions           failed: http_4xx: Error code: 422" in checked
    root = build(configured(endpoint='omit = ["seed"]'))
    assert {row[0] for row in rows(root, "answer")} == {None, "taken"}
    assert "captions           'There" in say("check-endpoint", configured(endpoint='omit = ["seed"]')).out


@pytest.mark.slow
def test_one_row_that_a_server_refuses_is_no_fault_of_the_server(configured, server):
    server.does(fail=[{"how": "400", "match": "Alt text"}])
    root = build(configured(endpoint="timeout = 62"))
    assert {row[0] for row in rows(root, "answer")} == {None, "too_long"}
