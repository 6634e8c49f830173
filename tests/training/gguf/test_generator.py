"""Answers of an export are those of its checkpoint; and it is served as any other model is."""

from pathlib import Path

import jinja2.sandbox
import numpy as np
import pytest
from support.talking import ask, noise, question, serving

pytest.importorskip("llama_cpp", reason="the extra gguf is not installed")

from schemas.errors import UserError
from training.generate import GenerationRequest, Generator
from training.gguf.export import export
from training.gguf.generator import GgufGenerator
from training.gguf.names import CHAT_TEMPLATE
from training.gguf.runtime import EXACT, LanguageModel, Settings, Text, VisionEncoder
from training.layout import SampleRejected, Turn
from training.serve import make_app, open_model


@pytest.fixture(scope="module")
def phone(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phone")
    export(checkpoint, folder, "F32", "f32")
    return folder


@pytest.fixture(scope="module")
def ours(checkpoint) -> Generator:
    return open_model(checkpoint)[0]


@pytest.fixture(scope="module")
def theirs(phone) -> GgufGenerator:
    return GgufGenerator(phone, EXACT)


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.7, "top_p": 0.8, "seed": 4}])
def test_answers_are_the_checkpoints_draws_included(ours, theirs, how):
    said = set()
    for number, size in enumerate([(56, 56), (40, 90), (200, 120)]):
        image = noise(number, *size)
        (one,), (other,) = (
            speaker.answer([GenerationRequest(speaker.about(image, "What is written there?"), limit=12, top=3, **how)])
            for speaker in (ours, theirs)
        )
        assert one.ids == other.ids and one.text == other.text and one.finished == other.finished
        assert other.log_probabilities == pytest.approx(one.log_probabilities, abs=0.01)
        for step, its in zip(one.top, other.top, strict=False):
            assert [token for token, _ in step] == [token for token, _ in its]
        said.add(one.text)
    assert len(said) > 1


def test_what_was_just_read_is_not_read_again(theirs, monkeypatch):
    prompt = theirs.about(noise(1, 100, 70), "A red square?")
    theirs.answer([GenerationRequest(prompt, limit=1)])
    monkeypatch.setattr(VisionEncoder, "encode", None)  # a second look would raise
    drawn = theirs.answer([GenerationRequest(prompt, limit=6, temperature=1.0, seed=seed) for seed in range(5)])
    assert len({tuple(one.ids) for one in drawn}) > 2
    again = theirs.about(noise(1, 100, 70), "What is written there?")  # another question, the same image
    assert theirs.answer([GenerationRequest(again, limit=2)])


def test_an_image_between_others_does_not_change_an_answer(theirs):
    asks = [
        GenerationRequest(theirs.about(noise(number), "A red square?"), limit=6, temperature=1.0, seed=1)
        for number in (1, 2, 1)
    ]
    first, _, third = theirs.answer(asks)
    assert first == third


def test_marks_in_a_users_sentence_are_text_even_where_marks_are_read(theirs, ours):
    for text in ("an <image> here", "</image><slice></slice>", "<slice>"):
        ids = ours.tokenizer.encode(text)
        assert theirs.language.tokenize(text) == ids
        assert theirs.language.tokenize(text, marks=True) == ids  # as llama-server and llama-mtmd-cli tokenize it
    start = ours.tokenizer.marks.turn[0]
    assert theirs.language.tokenize("<|im_start|>", marks=True) == [start]
    assert start not in theirs.language.tokenize("<|im_start|>")


def test_a_prompt_that_leaves_no_room_is_rejected(theirs):
    with pytest.raises(SampleRejected, match="too_long"):
        theirs.prompt([Turn("user", ["word " * 600])])


def test_long_text_goes_in_pieces(phone, theirs):
    ids = np.array(theirs.language.tokenize("A large red square on the left. " * 12), np.int32)
    with LanguageModel(phone / "model-F32.gguf", Settings(kv="f32", batch=16, micro_batch=8)) as pieces:
        whole = LanguageModel(phone / "model-F32.gguf", EXACT)
        np.testing.assert_allclose(pieces.decode(ids), whole.decode(ids), atol=1e-4)
        pieces.rewind(), whole.rewind()
        np.testing.assert_allclose(pieces.decode(ids, every=True), whole.decode(ids, every=True), atol=1e-4)
        with pytest.raises(ValueError, match="the context has 512"):
            for _ in range(4):
                pieces.decode(ids)
        whole.__exit__()


def test_images_are_encoded_without_a_language_model(phone, theirs):
    """One after the other, as a phone with little memory does it."""
    with VisionEncoder(phone / "mmproj-model-f32.gguf", None, EXACT) as alone:
        found = alone.views(noise(3, 120, 80), theirs.language.width)
    np.testing.assert_array_equal(found, theirs.vision.views(noise(3, 120, 80), theirs.language.width))


def test_the_chat_template_is_the_layout(ours, theirs):
    """What llama.cpp's own server makes of messages, tokenized, is what was trained."""
    template = jinja2.sandbox.ImmutableSandboxedEnvironment().from_string(CHAT_TEMPLATE)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image_url", "image_url": {}}, {"type": "text", "text": "A square?"}]},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Why?\n"},
    ]
    text = template.render(messages=messages, add_generation_prompt=True, bos_token="", eos_token="")
    before, _, after = text.partition("<__media__>")
    image = noise(5, 130, 70)
    turns = [
        Turn("system", ["Be brief."]), Turn("user", [ours.picture("a", image), "A square?"]),
        Turn("assistant", ["No."]), Turn("user", ["Why?\n"]),
    ]  # fmt: skip
    query = ours.tokenizer.marks.query
    with theirs.vision.chunks([Text(before, marks=True), image, Text(after, marks=True)]) as chunks:
        ids = [
            id
            for chunk in chunks
            for id in (chunk if isinstance(chunk, np.ndarray) else [query] * theirs.vision.length(chunk))
        ]
    assert ids == ours.prompt(turns, {"a": image}).ids.tolist()


def test_the_files_are_an_endpoint(phone, ours):
    speaker, piece, revision = open_model(phone)
    with serving(make_app(speaker, piece, "tiny", revision)) as client:
        image = noise(6, 90, 150)
        said = ask(client, question(image), temperature=0, logprobs=True, top_logprobs=5)
        (expected,) = ours.answer([GenerationRequest(ours.about(image, "What is written there?"), limit=8)])
        assert said.choices[0].message.content == expected.text
        assert said.usage.prompt_tokens == len(ours.about(image, "What is written there?").ids)
        told = said.choices[0].logprobs.content
        assert bytes(byte for one in told for byte in one.bytes).decode("utf-8", "replace") == expected.text
        drawn = ask(client, question(image), n=4, seed=1, temperature=1)
        assert len({one.message.content for one in drawn.choices}) > 1
        assert [one.message.content for one in drawn.choices] == [
            one.message.content for one in ask(client, question(image), n=4, seed=1, temperature=1).choices
        ]


def test_a_folder_with_two_models_is_refused(phone, tmp_path):
    for file in phone.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model-F16.gguf").write_bytes(b"")
    with pytest.raises(UserError, match=r"model-F16\.gguf, model-F32\.gguf"):
        GgufGenerator(tmp_path)


def test_a_file_that_is_none_is_refused_in_one_line(tmp_path):
    (tmp_path / "model-F32.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match=r"model-F32\.gguf: llama\.cpp does not load it"):
        LanguageModel(tmp_path / "model-F32.gguf")
