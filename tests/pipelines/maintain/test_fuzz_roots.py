"""Roots that a stranger has been at: every command ends, in one line where it cannot go on."""

import json
import os
import shutil
from pathlib import Path

import pytest
from support.root_fuzzing import CHANGES, bound, cards, fuzz_roots, make, read_card, sparse, write_card

from pipelines.engine.releases import load_card
from pipelines.engine.root import Corrupt, Root
from pipelines.exports.export import export
from pipelines.maintain.verify import verify_root
from schemas.checked import checked, plain_json
from schemas.shards import Card, checked_document


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def root(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "corpus"))


@pytest.mark.slow
def test_commands_bear_whatever_stands_in_a_root(tmp_path):
    check(fuzz_roots(tmp_path, count=2 * len(CHANGES)))


@pytest.mark.slow
@pytest.mark.far
def test_commands_bear_whatever_stands_in_a_root_for_minutes(tmp_path):
    """By hand: minutes of random inputs. `make test` has two roots of each change."""
    check(fuzz_roots(tmp_path, seconds=300, seed=1))


def check(said: dict) -> None:
    assert said["wrong"] == []
    assert said["codes"].keys() > {"verify 0", "verify 1"}
    assert said["slowest"] < 10 and said["memory"] < 1 << 30


@pytest.mark.parametrize(
    ("plant", "said"),
    [(os.mkfifo, "is not a file"), (Path.mkdir, "is not a file"), (bound, "is not a file"),
     (lambda path: path.symlink_to("/dev/zero"), "is not a file"), (sparse, "")],
    ids=["pipe", "folder", "socket", "device", "without end"],
)  # fmt: skip
@pytest.mark.parametrize("field", ["tar", "index"])
def test_what_is_no_file_ends_verify_and_exports_in_one_line(plant, said, field, root, tmp_path):
    entry = load_card(Root(str(root)), "train")["shards"][0]
    path = root / "shards" / entry[field]
    path.unlink()
    plant(path)
    problems = verify_root(Root(str(root))).problems
    assert any(problem.startswith(f"shards/{entry[field]}: ") and said in problem for problem in problems), problems
    with pytest.raises(Corrupt, match=entry[field]):
        export(Root(str(root)), "train", "trl", Root(str(tmp_path / "out")))


CARD = [
    ({"samples": None}, "samples: "), ({"samples_per_shard": {}}, "samples_per_shard: "), ({"bytes": [1]}, "bytes: "),
    ({"samples_per_shard": 0}, "samples_per_shard: "), ({"samples": -1}, "samples: "), ({"bytes": 1 << 60}, "bytes: "),
    ({"samples": True}, "samples: "), ({"bytes": 1.5}, "bytes: "), ({"groups": [{}]}, "groups.0.first: "),
    ({"shards": {}}, "shards: "), ({"settings": []}, "settings: "), ({"release": "x"}, "release: "),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), CARD)
def test_a_card_is_checked_where_it_is_read_and_its_field_is_named(change, said, root):
    path = root / "shards/train.json"
    card = read_card(path) | change
    if "shards" in change or "release" in change:
        path.write_text(json.dumps(card))
    else:
        write_card(root, path, card)
    with pytest.raises(Corrupt, match=rf"shards/train\.json: is damaged: {said}"):
        load_card(Root(str(root)), "train")
    assert any(said in problem for problem in verify_root(Root(str(root))).problems)


@pytest.mark.parametrize(
    ("text", "said"),
    [('{"a": 1, "a": 2}', "has 'a' twice"), ("[NaN]", "NaN is not a number"), ("[-Infinity]", "-Infinity"),
     ("[1e999]", "Out of range"), ('["\\ud800"]', "surrogates"), ("[" * 60 + "]" * 60, "more than 50 levels"),
     ("[" * 100_000, "more than 50 levels"), ("9" * 5000, "limit"), ("", "Expecting value")],
)  # fmt: skip
def test_json_that_not_every_reader_reads_alike_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        plain_json(text)


def test_what_a_newer_version_says_on_a_card_is_kept(root):
    card = read_card(root / "shards/train.json") | {"more": [1]}
    assert checked(Card, card) == card


DOCUMENTS = [
    (b"[]", "not a JSON object"), (b"{}", "key: "), (b'{"key": 5}', "key: "),
    (b'{"key": "k", "width": "x"}', "width: "),
    (b'{"key": "k", "conversation": {"turns": [], "images": []}}', "conversation.turns: "),
    (b'{"key": "k", "conversation": "[1]"}', "conversation: "), (b'{"key": "k", "pair": {}}', "pair.question: "),
    (b'{"key": "k", "ocr": [5]}', "ocr.0: "), (b'{"key": "k", "extra": [1]}', "extra: "),
]  # fmt: skip


@pytest.mark.parametrize(("data", "said"), DOCUMENTS)
def test_the_document_of_a_sample_is_checked_where_it_is_read(data, said):
    with pytest.raises(ValueError, match=said):
        checked_document(data)


def test_the_corpus_itself_is_whole(root):
    assert [path.name for path in cards(root)] == ["small.json", "talks.json", "train.json"]
    assert verify_root(Root(str(root))).problems == []
