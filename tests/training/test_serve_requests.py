"""What a request may leave out, and what it must have; what the revision of a served model covers."""

import json
import shutil

import pytest
from pydantic import ValidationError

from training.chat import Asked, Message, Refused, check, read
from training.serve import open_model

USUAL = {"model": "tiny", "messages": [{"role": "user", "content": "What?"}]}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


class Speaker:
    room, vocabulary = 100, 10

    def picture(self, name, image):
        raise AssertionError("no image is looked at")

    def prompt(self, turns, images):
        return turns


def prompt_of(*messages: dict):
    return read(Speaker(), [Message(**message) for message in messages], 100, 100, lambda: False)


@pytest.mark.parametrize("name", [
    "temperature", "top_p", "n", "seed", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens", "stop",
    "response_format", "tools", "stream",
])  # fmt: skip
def test_a_field_that_is_null_is_not_given(name):
    asked = Asked.model_validate(USUAL | {name: None})
    check(asked)
    assert asked == Asked.model_validate(USUAL)


@pytest.mark.parametrize("given", [{"messages": None}, {"model": None}, {"n": 0}, {"top_p": 0}, {"temperature": -1}])
def test_what_must_be_given_and_bounds_stay(given):
    with pytest.raises(ValidationError):
        Asked.model_validate(USUAL | given)


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": []}])
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_message_without_content_is_refused(content, role):
    with pytest.raises(Refused, match=r"^messages\.1\.content: is missing or empty") as refused:
        prompt_of({"role": "user", "content": ""}, {"role": role, **content})
    assert refused.value.param == "messages.1.content" and refused.value.status == 400


@pytest.mark.parametrize("role", ["system", "assistant"])
@pytest.mark.parametrize("content", [[IMAGE], [{"type": "text", "text": "A"}, IMAGE]])
def test_an_image_of_another_role_than_user_is_refused(role, content):
    with pytest.raises(Refused, match=rf"^messages\.0\.content\.\d: an image of {role}; "):
        prompt_of({"role": role, "content": content})


@pytest.mark.parametrize("name", ["model.safetensors", "shape.json", "tokenizer.json"])
def test_a_revision_is_of_weights_shape_and_tokenizer(name, checkpoint, tmp_path):
    model = shutil.copytree(checkpoint, tmp_path / "model")
    before = open_model(model)[2]
    assert before == open_model(checkpoint)[2]
    if name == "shape.json":
        shape = json.loads((model / name).read_text())
        shape["language"]["theta"] = 5e5
        (model / name).write_text(json.dumps(shape))
    elif name == "tokenizer.json":
        (model / name).write_text((model / name).read_text() + " ")
    else:
        data = bytearray((model / name).read_bytes())
        data[-1] ^= 1
        (model / name).write_bytes(data)
    assert open_model(model)[2] != before
