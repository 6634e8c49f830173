"""`training.look` shows samples as the model gets them, in an HTML file and in the terminal."""

import os
import re
import subprocess
import sys
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.paths import PROJECT
from support.recipes import DPO, SFT, make, pair, recipe, toml
from support.releases import captions, drawn, publish

from training.begin import encoder_of
from training.layout import IGNORED
from training.look import look, main
from training.look_page import page
from training.shown import Shown, show
from training.tokenizer import Tokenizer

TALK = {**SFT, "name": "talk", "sets": {"talks": 1.0}, "length": 512}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("look"))


def shown(made, count=3) -> list[Shown]:
    return look(made, made.stages[0], count)[0]


class Text(HTMLParser):
    """The text of a page, what of it is marked as learned, and its pictures."""

    def __init__(self, html: str):
        super().__init__()
        self.text, self.learned, self.pictures, self.tags, self.open = "", [], [], [], [""]
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs))
        elif tag not in ("meta", "br"):
            self.open.append(dict(attrs).get("class") or "")

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        self.text += data
        if "learned" in self.open[-1].split():
            self.learned.append(data)


def test_the_pieces_of_a_sample_are_its_tokens(folder):
    """Every token once, in order, and learned as its label says."""
    made = recipe(folder, TALK)
    tokenizer = Tokenizer(made.tokenizer)
    encoder = encoder_of(made, made.stages[0], tokenizer, made.model_shape())
    from training.shards import Shards

    for sample in Shards(str(folder / "corpus"), "talks"):
        found, tokens = show(sample, "talks", made.stages[0], encoder), encoder.tokens(sample)
        (part,) = found.parts
        learned = np.concatenate([[piece.learned] * piece.tokens for piece in part.pieces])
        assert learned.tolist() == (tokens.labels != IGNORED).tolist()
        plain = "".join(piece.text for piece in part.pieces if piece.kind == "text")
        assert plain == tokenizer.decode(tokens.ids) and "Which is larger, <b>left</b> or right?" in plain
        told = [piece.text for piece in part.pieces if piece.learned]
        assert told == [f"The first & {int(sample['__key__'][:16], 16)}.", "<|im_end|>"]
        views = [piece.tokens for piece in part.pieces if piece.kind == "view"]
        assert views == [made.model_shape().queries] * sum(len(image.views) for image in found.images)
        assert [image.name for image in found.images] == ["0.png", "1.png"]


@pytest.mark.parametrize("task", ["caption", "ocr", "conversation", "pair"])
def test_the_page_shows_what_is_learned_and_every_view(task, folder, tmp_path):
    samples = {
        "caption": (f"{1:016x}-caption", {"png": drawn(9), "json": b"{}", "txt": b"<script>alert(1)</script> & so"}),
        "ocr": (f"{1:016x}-ocr", {"png": drawn(9), "json": b"{}", "txt": "EXIT\n\u202e\x1b[31m".encode()}),
        "conversation": None,
        "pair": pair(1, "A <star>.", "No."),
    }  # fmt: skip
    if samples[task]:
        publish(tmp_path / "corpus", "mine", [samples[task]], 4)
        made = recipe(folder, {**(DPO if task == "pair" else SFT), "sets": {"captions": 1.0}, "length": 512},
                      instructions={"ocr": "What is written there?"})  # fmt: skip
        data = {"captions": made.data["captions"].model_copy(update={"root": str(tmp_path / "corpus"), "set": "mine"})}
        made = made.model_copy(update={"data": data})
    else:
        made = recipe(folder, TALK)
    found = shown(made, 1)
    html = page("a <title>", "about", found, [], made.model_shape().queries)
    read = Text(html)
    expected = {
        "caption": ["<script>alert(1)</script> & so", "<|endoftext|>"],
        "ocr": ["EXIT↵\n\\u202e\\x1b[31m", "<|im_end|>"],
        "conversation": [read.learned[1], "<|im_end|>"], "pair": ["A <star>.", "<|im_end|>", "No.", "<|im_end|>"],
    }[task]  # fmt: skip
    assert [
        text for text in read.learned if text not in ("learned", "made more likely", "made less likely")
    ] == expected
    assert "script" not in read.tags and "\x1b" not in html and "\u202e" not in html
    assert "http" not in html and "url(" not in html  # nothing is loaded
    (sample,) = found
    views = [view for image in sample.images for view in image.views]
    assert len(read.pictures) == len(views) > (2 if task == "conversation" else 0)
    for picture, view in zip(read.pictures, views, strict=False):
        data = b64decode(picture["src"].removeprefix("data:image/webp;base64,"))
        assert Image.open(BytesIO(data)).size == view.size


def test_a_stage_without_answers_shows_that_no_text_is_learned(folder):
    (sample,) = shown(recipe(folder, {**SFT, "answers": 0, "truth": 1.0}), 1)
    assert sample.tokens(learned=True) == 0 and sample.tokens() > 10


def test_samples_are_drawn_by_the_seed_from_all_sets(folder):
    made = recipe(folder, {**SFT, "sets": {"captions": 1.0, "others": 0.1}, "length": 512})
    first, again, other = ([sample.name for sample in look(made, made.stages[0], 6, seed)[0]] for seed in (0, 0, 1))
    assert first == again != other and len({*first}) == 6
    assert {sample.set for sample in shown(made, 4)} == {"captions", "others"}


def test_what_is_left_out_is_shown_with_its_reason(folder, tmp_path):
    samples = [
        *captions(3), (f"{7:016x}-ocr", {"png": b"no png", "json": b"{}", "txt": b"x"}),
        (f"{8:016x}-poem", {"txt": b"x"}), (f"{9:016x}-ocr", {"png": drawn(1), "txt": b"word " * 900}),
    ]  # fmt: skip
    publish(tmp_path / "corpus", "mine", samples, 4)
    made = recipe(folder, {**SFT, "length": 512})
    data = {"captions": made.data["captions"].model_copy(update={"root": str(tmp_path / "corpus"), "set": "mine"})}
    found, lost, _ = look(made.model_copy(update={"data": data}), made.stages[0], 50)
    assert len(found) == 3 and {one.reason for one in lost} == {"unreadable_image", "unknown_task", "too_long"}
    html = page("t", "a", found, lost, 4)
    assert "Left out" in html and "<b>too_long</b>" in html


# The command


def run(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.look", *map(str, words)], capture_output=True, text=True, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_writes_a_page_and_prints_the_text_without_colours_in_a_pipe(folder, tmp_path):
    path = toml(folder, SFT, TALK)
    done = run(path, "--stage", "talk", "-n", "2", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and done.stdout.count("Which is larger, <b>left</b> or right?") == 2
    assert re.search(r".The first & \d\.<\|im_end\|>.\n", done.stdout) and "[view 1: 4]" in done.stdout
    assert (tmp_path / "look-talk.html").exists() and len([*tmp_path.iterdir()]) == 1


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command in this process: its exit code and what it prints."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["look", *map(str, words)])
        monkeypatch.chdir(tmp_path)
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.mark.parametrize(("words", "said"), [
    (["--stage", "stf"], "--stage: {path} has no stage 'stf'; choose from sft, talk\n"),
    ([], "{path}: has several stages; name one with --stage: sft, talk\n"),
    (["--stage", "talk", "--out", "nowhere/look.html"], "No such file or directory"),
])  # fmt: skip
def test_a_mistake_is_one_line(words, said, folder, command):
    path = toml(folder, SFT, TALK)
    code, _, err = command(path, *words)
    assert code == 2 and said.format(path=path) in err and err.count("\n") == 1


def test_a_set_that_is_not_there_is_one_line(folder, tmp_path, command):
    path = toml(folder, SFT)
    path.write_text(path.read_text().replace('set = "captions"', 'set = "catpions"'))
    code, _, err = command(path)
    assert code == 2 and err.startswith("data.captions: ") and err.count("\n") == 1
    assert "unknown shard set 'catpions'; published: " in err


def test_a_look_that_is_interrupted_leaves_the_old_page(folder, tmp_path, command, monkeypatch):
    (tmp_path / "look-sft.html").write_text("old")

    def interrupted(*words):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.look.page", interrupted)
    assert command(toml(folder, SFT)) == (130, "", "interrupted\n")
    assert (tmp_path / "look-sft.html").read_text() == "old" and len([*tmp_path.iterdir()]) == 1


def test_a_set_of_which_nothing_is_trained_is_said(folder, tmp_path, command):
    path = toml(folder, {**SFT, "length": 5})
    code, out, err = command(path)
    assert code == 2 and "too_long" in out and "no sample that was drawn is trained" in err
    assert (tmp_path / "look-sft.html").exists()


@pytest.mark.parametrize("text", ["A sign.<|endoftext|> And", "<image> twice <image>", "</slice>", "no mark"])
def test_text_that_spells_a_mark_is_shown_otherwise_than_the_mark(text, tmp_path, folder):
    publish(tmp_path / "corpus", "captions", [(f"{1:016x}-caption", {"png": drawn(0), "txt": text.encode()})], 4)
    made = recipe(folder, SFT)
    data = {"captions": made.data["captions"].model_copy(update={"root": str(tmp_path / "corpus")})}
    (found,) = shown(made.model_copy(update={"data": made.data | data}))
    said = "".join(piece.text for piece in found.pieces if piece.kind == "text")
    assert said == re.sub(r"(</?(?:image|slice)>|<\|endoftext\|>)", r"\\\1", text)
    assert [piece.text for piece in found.pieces if piece.kind == "mark"][-1] == "<|endoftext|>"


@pytest.mark.parametrize(("number", "ended"), [(3, False), (14, False), (100, True)])
def test_it_says_if_the_sets_have_no_more(number, ended, folder, tmp_path, monkeypatch, capsys):
    words = ["look", str(toml(folder, SFT)), "-n", str(number), "--out", str(tmp_path / "page.html")]
    monkeypatch.setattr(sys, "argv", words)
    main()
    assert (f"no more than 14 of {number} samples" in capsys.readouterr().out) == ended
