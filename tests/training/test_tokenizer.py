"""Tokenizers that never make a mark of plain text."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import PROJECT
from support.releases import LINES, captions, publish, small_tokenizer
from transformers import AutoTokenizer

from schemas.errors import UserError
from training.layout import Layout, Picture, Turn
from training.samples import Slicing
from training.tokenizer import Names, Tokenizer, save, train

NAMES = Names().all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder) -> Tokenizer:
    return Tokenizer(folder)


def changed(folder: Path, to: Path, change) -> Path:
    """A copy of a tokenizer with other JSON."""
    said = json.loads((folder / "tokenizer.json").read_text())
    change(said)
    to.write_text(json.dumps(said))
    return to


def ids_of_marks(tokenizer: Tokenizer) -> set[int]:
    marks = tokenizer.marks
    return {*marks.image, *marks.slice, marks.query, *marks.turn, marks.end}


@given(st.lists(st.one_of(st.sampled_from(NAMES), st.text(st.characters(codec="utf-8"))), max_size=8).map("".join))
@settings(deadline=None)
def test_any_text_comes_back_whole_and_holds_no_mark(tokenizer, text):
    ids = tokenizer.encode(text)
    assert not ids_of_marks(tokenizer) & {*ids}
    assert tokenizer.decode(ids) == text


def test_tokenizers_itself_does_read_marks_in_text(folder):
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert plain.encode("an <image> tag", add_special_tokens=False).tokens.count("<image>") == 1


def test_marks_are_found_by_their_names(folder, tokenizer):
    said = json.loads((folder / "tokenizer.json").read_text())
    id_of = {token["content"]: token["id"] for token in said["added_tokens"]}
    assert tokenizer.marks.image == (id_of["<image>"], id_of["</image>"])
    assert tokenizer.marks.slice == (id_of["<slice>"], id_of["</slice>"])
    assert tokenizer.marks.turn == (id_of["<|im_start|>"], id_of["<|im_end|>"])
    assert (tokenizer.marks.query, tokenizer.marks.end) == (id_of["<unk>"], id_of["<|endoftext|>"])
    assert tokenizer.marks.begin is None
    assert tokenizer.encode("\n") == [tokenizer.marks.line_break] == [said["model"]["vocab"]["Ċ"]]
    assert len(tokenizer) == len(said["model"]["vocab"])


def test_a_layout_takes_it(tokenizer):
    layout = Layout(tokenizer.encode, tokenizer.marks, queries=2)
    picture = Picture("jpg", Slicing().of(100, 50))
    tokens = layout.conversation([Turn("user", [picture, "An <image> tag?"]), Turn("assistant", ["Yes </s>."])])
    assert tokenizer.decode(tokens.ids.tolist()) == "user\nAn <image> tag?\nassistant\nYes </s>."
    assert (tokens.ids == tokenizer.marks.query).sum() == 2


def test_a_copy_in_another_process_reads_no_marks_either(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("an <image> tag") == tokenizer.encode("an <image> tag")
    assert (copy.marks, copy.identity) == (tokenizer.marks, tokenizer.identity)


def test_its_identity_is_its_content(folder, tokenizer, tmp_path):
    (tmp_path / "other.json").write_text((folder / "tokenizer.json").read_text())
    assert Tokenizer(tmp_path / "other.json").identity == tokenizer.identity
    merges = changed(folder, tmp_path / "merges.json", lambda said: said["model"]["merges"].pop())
    others = [Tokenizer(merges), Tokenizer(folder, Names(end="<|im_end|>"))]
    assert len({tokenizer.identity, *(other.identity for other in others)}) == 3


def test_what_a_file_says_of_cutting_padding_and_templates_is_not_followed(folder, tokenizer, tmp_path):
    def add(said):
        said["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
        said["padding"] = {"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                           "pad_type_id": 0, "pad_token": "<unk>"}  # fmt: skip
        said["post_processor"] = {
            "type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "single": [{"SpecialToken": {"id": "<unk>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<unk>": {"id": "<unk>", "ids": [1], "tokens": ["<unk>"]}},
        }  # fmt: skip

    assert Tokenizer(changed(folder, tmp_path / "t.json", add)).encode(LINES[0]) == tokenizer.encode(LINES[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_mark_is_named(folder, tmp_path, name):
    def drop(said):
        said["added_tokens"] = [token for token in said["added_tokens"] if token["content"] != name]

    with pytest.raises(UserError) as error:
        Tokenizer(changed(folder, tmp_path / "t.json", drop))
    assert str(error.value) == f"{tmp_path / 't.json'}: has no special token {name}; add it to its added_tokens"


def test_a_mark_that_is_not_special_is_refused_since_text_would_become_it(folder, tmp_path):
    def loosen(said):
        next(token for token in said["added_tokens"] if token["content"] == "<slice>")["special"] = False

    with pytest.raises(UserError, match="has no special token <slice>"):
        Tokenizer(changed(folder, tmp_path / "t.json", loosen))


def test_a_line_break_that_is_not_one_token_is_refused(folder, tmp_path):
    def lose(said):
        said["pre_tokenizer"]["add_prefix_space"] = True

    with pytest.raises(UserError, match="a line break is 2 tokens"):
        Tokenizer(changed(folder, tmp_path / "t.json", lose))


@pytest.mark.parametrize("content", [None, "{}", "no JSON", "\udcff"])
def test_what_is_no_tokenizer_is_answered_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError) as error:
        Tokenizer(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/tokenizer.json: ") and "\n" not in str(error.value)


def test_training_twice_gives_the_same_tokenizer(folder, tmp_path):
    save(train(LINES, 400), tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()


def test_training_learns_words_of_the_texts(tokenizer):
    assert len(tokenizer.encode(" large red square")) < len(tokenizer.encode(" egral der erauqs"))
    assert 264 < len(tokenizer) <= 400


def test_transformers_reads_the_same_folder(folder, tokenizer):
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs(LINES[0], add_special_tokens=False)["input_ids"] == tokenizer.encode(LINES[0])
    assert theirs.convert_tokens_to_ids("<|im_end|>") == theirs.eos_token_id == tokenizer.marks.turn[1]


def command(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "training.tokenizer", *map(str, words)], cwd=PROJECT, capture_output=True, text=True
    )


def test_the_command_trains_on_the_texts_of_a_set(tmp_path):
    root = publish(tmp_path / "corpus", "train", captions(30), each=10)
    done = command(root, "train", tmp_path / "out", "--vocab", 300)
    assert (done.returncode, done.stderr) == (0, "")
    tokenizer = Tokenizer(tmp_path / "out")
    assert len(tokenizer) == 300 and done.stdout.startswith(f"{tmp_path / 'out'}: 300 tokens, of 30 samples")
    assert len(tokenizer.encode("Picture")) < 4


@pytest.mark.parametrize(("words", "said"), [
    (["train", "out", "--vocab", "263"], "--vocab: 263 is too few"), (["test", "out"], "unknown shard set 'test'"),
])  # fmt: skip
def test_the_command_answers_what_is_wrong_in_one_line(tmp_path, words, said):
    root = publish(tmp_path / "corpus", "train", captions(2), each=10)
    done = command(root, *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr
