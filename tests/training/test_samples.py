"""Samples of shards, as the tokens and pixels that are trained."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.corpora import build
from support.releases import drawn, encoded, small_tokenizer

from schemas.slices import image_tokens
from training.layout import IGNORED, SampleRejected
from training.pixels import cut, decode
from training.sample_text import texts
from training.samples import REASONS, SampleEncoder, Slicing, images
from training.shards import Sample, Shards

KEY = "0123456789abcdef"
QUERIES = 2


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> SampleEncoder:
    return SampleEncoder(small_tokenizer(tmp_path_factory.mktemp("tokenizer")), QUERIES)


def sample(task: str = "caption", **members: bytes | str) -> Sample:
    """A sample; `_0_jpg` stands for the member `0.jpg`."""
    named = {name.lstrip("_").replace("_", "."): data for name, data in members.items()}
    encoded = {name: data.encode() if isinstance(data, str) else data for name, data in named.items()}
    return {"__key__": f"{KEY}-{task}"} | encoded


def conversation(turns: object, marks: object = (), **members: bytes) -> Sample:
    said = {"conversation": {"turns": turns, "images": marks}}
    return sample("conversation", json=json.dumps(said), **members)


def said(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(contents)]


def show(recipe: SampleEncoder, ids) -> str:
    """Tokens as text; `[Q]` is an embedding."""
    marks = recipe.tokenizer.marks
    names = {
        marks.query: "[Q]", marks.image[0]: "<image>", marks.image[1]: "</image>", marks.slice[0]: "<slice>",
        marks.slice[1]: "</slice>", marks.turn[0]: "<|im_start|>", marks.turn[1]: "<|im_end|>", marks.end: "<end>",
    }  # fmt: skip
    return "".join(names.get(id) or recipe.tokenizer.decode([id]) for id in ids)


SMALL = encoded(Image.new("RGB", (60, 40), "red"), "PNG")
WIDE = encoded(Image.new("RGB", (900, 300), "blue"), "JPEG")


def test_a_caption_stands_right_behind_its_image(recipe):
    tokens = recipe.tokens(sample(png=SMALL, txt="A red field.", json="{}"))
    assert show(recipe, tokens.ids) == "<image>[Q][Q]</image>A red field.<end>"
    assert show(recipe, tokens.ids[tokens.labels != IGNORED]) == "A red field.<end>"


def test_with_an_instruction_it_becomes_an_answer(recipe):
    asked = SampleEncoder(recipe.tokenizer, QUERIES, instructions={"ocr": "What is written there?"})
    tokens = asked.tokens(sample("ocr", png=SMALL, txt="OPEN"))
    assert show(asked, tokens.ids) == (
        "<|im_start|>user\n<image>[Q][Q]</image>What is written there?<|im_end|>\n<|im_start|>assistant\nOPEN<|im_end|>"
    )
    assert show(asked, tokens.ids[tokens.labels != IGNORED]) == "OPEN<|im_end|>"
    assert show(asked, asked.tokens(sample(png=SMALL, txt="OPEN")).ids).startswith("<image>")


def test_a_conversation_shows_its_images_where_it_names_them(recipe):
    turns = said("<image_01> or <image_00>?", "The first.")
    tokens = recipe.tokens(conversation(turns, ["<image_00>", "<image_01>"], _0_png=SMALL, _1_jpg=WIDE))
    assert [one.name for one in tokens.pictures] == ["1.jpg", "0.png"]
    assert show(recipe, tokens.ids).count("<image>") == 2
    assert show(recipe, tokens.ids).endswith(
        "</slice> or <image>[Q][Q]</image>?<|im_end|>\n<|im_start|>assistant\nThe first.<|im_end|>"
    )


def test_text_alone_is_a_sample_too(recipe):
    tokens = recipe.tokens(conversation(said("Hi", "Hello.")))
    assert show(recipe, tokens.ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>"
    assert tokens.pictures == () and recipe.views(conversation(said("Hi", "Hello.")), tokens) == []
    assert show(recipe, recipe.tokens(sample(txt="Only text.")).ids) == "Only text.<end>"


def test_images_are_taken_by_their_numbers_and_not_by_their_letters():
    members = {f"_{number}_{kind}": b"" for number, kind in [(10, "jpg"), (2, "png"), (0, "webp"), (1, "jpg")]}
    assert images(sample(json="", txt="", **members)) == ["0.webp", "1.jpg", "2.png", "10.jpg"]
    assert images(sample(jpg=b"", json="") | {"__url__": "a.jpg"}) == ["jpg"]


def test_views_are_those_of_the_plan_in_the_order_of_their_places(recipe):
    one = conversation(
        said("<image_01> or <image_00>?", "The first."), ["<image_00>", "<image_01>"], _0_png=SMALL, _1_jpg=WIDE
    )
    tokens = recipe.tokens(one)
    views = recipe.views(one, tokens)
    expected = cut(decode(WIDE), Slicing().of(900, 300)) + cut(decode(SMALL), Slicing().of(60, 40))
    assert len(views) == (tokens.ids == recipe.tokenizer.marks.query).sum() / QUERIES == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(views, expected, strict=False))


@pytest.mark.parametrize("slicing", [Slicing(), Slicing("openbmb"), Slicing("openbmb", cells=4), Slicing(side=224)])
def test_a_slicing_decides_views_and_tokens(recipe, slicing):
    one = sample(jpg=WIDE, txt="x")
    mine = SampleEncoder(recipe.tokenizer, QUERIES, slicing=slicing)
    tokens, plan = mine.tokens(one), slicing.of(900, 300)
    assert [view.shape[:2] for view in mine.views(one, tokens)] == [(size.height, size.width) for size in plan.views]
    assert len(tokens.ids) == image_tokens(plan, QUERIES) + 2


def test_the_cells_of_llama_cpp_are_not_a_choice():
    with pytest.raises(ValueError, match="at most 9 cells"):
        Slicing(cells=4)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_image_that_lies_on_its_side_is_planned_as_it_is_shown(recipe, orientation):
    image, exif = Image.new("RGB", (900, 300)), Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP"):
        one = sample(jpg=encoded(image, kind, exif=exif), txt="x")
        tokens = recipe.tokens(one)
        assert tokens.pictures[0].plan.image == ((300, 900) if orientation > 4 else (900, 300))
        assert len(recipe.views(one, tokens)) == len(tokens.pictures[0].plan.views)


REJECTED = {
    "unknown_task": sample("poem", txt="x"),
    "unreadable_text": sample(txt=b"\xff"),
    "unreadable_image": sample(jpg=b"no image", txt="x"),
    "not_sliceable": sample(png=encoded(Image.new("1", (1, 100_000)), "PNG"), txt="x"),
    "no_answer": sample(png=SMALL, txt=" "),
    "unknown_image": conversation(said("<image_00>", "x"), ["<image_00>", "<image_01>"], _0_png=SMALL),
    "too_long": sample(png=SMALL, txt="word " * 2048),
}


@pytest.mark.parametrize("reason", REJECTED)
def test_what_cannot_be_trained_has_a_reason(recipe, reason):
    with pytest.raises(SampleRejected) as rejected:
        recipe.tokens(REJECTED[reason])
    assert rejected.value.reason == reason in REASONS


@pytest.mark.parametrize("broken", [
    sample("conversation", json="{}"), sample("conversation", json="["), sample("conversation"), sample(),
    conversation("Hi"), conversation([{"role": "user"}]), conversation([{"role": 1, "content": 2}]), conversation(None),
    conversation(said("a", "b"), None),
])  # fmt: skip
def test_members_that_do_not_say_what_they_should_have_a_reason(recipe, broken):
    with pytest.raises(SampleRejected, match="unreadable_text"):
        recipe.tokens(broken)


def test_an_image_that_is_cut_off_is_found_when_it_is_decoded(recipe):
    one = sample(jpg=WIDE[: len(WIDE) // 2], txt="x")
    tokens = recipe.tokens(one)
    with pytest.raises(SampleRejected, match="unreadable_image: jpg: "):
        recipe.views(one, tokens)


def test_settings_change_with_all_that_tokens_depend_on(recipe, tmp_path):
    other = small_tokenizer(tmp_path, vocab=300)
    recipes = [
        recipe, SampleEncoder(other, QUERIES), SampleEncoder(recipe.tokenizer, 3),
        SampleEncoder(recipe.tokenizer, QUERIES, 1024),
        SampleEncoder(recipe.tokenizer, QUERIES, slicing=Slicing("openbmb")),
        SampleEncoder(recipe.tokenizer, QUERIES, instructions={"ocr": "Read."}),
    ]  # fmt: skip
    assert len({json.dumps(one.settings()) for one in recipes}) == len(recipes)


def test_what_the_pipeline_packs_goes_through_whole(recipe, configure, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(drawn(number))
    entries = [
        {"id": "one", "image": "0.png", "conversations": said("<image>\nWhat is it?", "A square.")},
        {"id": "two", "image": {"<image_00>": "1.png", "<image_01>": "2.png"},
         "conversations": said("<image_01> or <image_00>?", "The first.", "Sure?", "Yes.")},
        {"id": "three", "conversations": said("Hi", "Hello.")},
    ]  # fmt: skip
    (tmp_path / "said.json").write_text(json.dumps(entries))
    source = '[source]\nkind = "conversations"\npath = "said.json"\nimages = "pictures"\n'
    root = build(configure(source + '[sets.chat]\ntask = "conversation"'))
    found = {}
    for one in Shards(root.url, "chat"):
        tokens = recipe.tokens(one)
        assert len(recipe.views(one, tokens)) == len(tokens.pictures)
        found[len(tokens.pictures)] = show(recipe, tokens.ids), list(texts(one))
    user, assistant, end = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>"
    image = "<image>[Q][Q]</image>"
    assert found == {
        0: (f"{user}Hi{end}\n{assistant}Hello.{end}", ["Hi", "Hello."]),
        1: (f"{user}{image}\nWhat is it?{end}\n{assistant}A square.{end}", ["<image>\nWhat is it?", "A square."]),
        2: (f"{user}{image} or {image}?{end}\n{assistant}The first.{end}\n{user}Sure?{end}\n{assistant}Yes.{end}",
            ["<image_01> or <image_00>?", "The first.", "Sure?", "Yes."]),
    }  # fmt: skip


def test_samples_of_plain_webdataset_are_samples(recipe, shared: Path):
    import webdataset

    tar = str(shared / "cc12m/cc12m-train-0000.tar")
    for one in webdataset.WebDataset(tar, shardshuffle=False):
        renamed = one | {"__key__": f"{KEY}-caption"}
        tokens = recipe.tokens(renamed)
        assert len(recipe.views(renamed, tokens)) * QUERIES == (tokens.ids == recipe.tokenizer.marks.query).sum()
