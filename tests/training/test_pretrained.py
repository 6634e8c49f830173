"""Weights that others published: files as their own libraries write them, and what the model then says."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.releases import small_tokenizer
from support.small_models import TINY, tiny, views
from transformers import LlamaForCausalLM, SiglipConfig, SiglipModel

from schemas.errors import UserError
from training.model import VisionLanguageModel
from training.pretrained import check_settings, check_tokens, load_public

SQUARE = 8  # positions of the published table's side; ours has 35


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> Path:
    """Both towers and their heads, as SigLIP is published."""
    vision = tiny().vision.config.to_dict() | {"image_size": SQUARE * 14, "vision_use_head": True}
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 90,
    }
    folder = tmp_path_factory.mktemp("siglip")
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """In several files, named by an index."""
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(tiny(seed=3).language.config).save_pretrained(folder, max_shard_size="400KB")
    assert (folder / "model.safetensors.index.json").exists()
    return folder


def test_siglip_and_llama_stand_in_their_places(siglip, llama):
    model = tiny()
    resampler = {name: one.clone() for name, one in model.resampler.state_dict().items()}
    load_public(model, vision=siglip, language=llama)
    theirs = SiglipModel.from_pretrained(siglip).vision_model
    for name, one in theirs.encoder.state_dict().items():
        torch.testing.assert_close(model.vision.encoder.state_dict()[name], one, rtol=0, atol=0)
    ids = torch.randint(0, 400, (2, 9))
    said = LlamaForCausalLM.from_pretrained(llama)(ids).logits
    hidden = model(ids, torch.empty(0, 4, 256), torch.zeros_like(ids, dtype=bool), None, torch.arange(9).expand(2, -1))
    torch.testing.assert_close(model.language.lm_head(hidden), said)
    assert all(torch.equal(one, resampler[name]) for name, one in model.resampler.state_dict().items())


def test_a_table_of_positions_is_stretched_as_a_picture_is(siglip):
    model = tiny()
    load_public(model, vision=siglip)
    ours = model.vision.embeddings.position_embedding.weight.detach().unflatten(0, (35, 35))
    theirs = SiglipModel.from_pretrained(siglip).vision_model.embeddings.position_embedding.weight.detach()
    whole = theirs.unflatten(0, (SQUARE, SQUARE))
    for place, other in (((0, 0), (0, 0)), ((34, 34), (7, 7)), ((0, 34), (0, 7)), ((17, 15), (3, 3))):
        distances = (whole - ours[place]).norm(dim=-1)
        assert divmod(int(distances.argmin()), SQUARE) == other


def test_minicpm_v_as_a_whole(tmp_path):
    """Its names, with queries, keys and values in one weight, and the last product's weight on the right."""
    model, other = tiny(), tiny(seed=7)
    published = {}
    for name, one in other.named_parameters():
        part, _, rest = name.partition(".")
        if part == "resampler" and rest.startswith("attn.") and not rest.startswith("attn.out"):
            continue
        where = {"vision": "vpm", "language": "llm", "resampler": "resampler"}[part]
        renamed = (
            rest.replace("kv.", "kv_proj.") if rest.startswith("kv.") else rest.replace("attn.out.", "attn.out_proj.")
        )
        published[f"{where}.{renamed}"] = one.detach().clone()
    attn = other.resampler.attn
    for kind in ("weight", "bias"):
        published[f"resampler.attn.in_proj_{kind}"] = torch.cat([getattr(attn[name], kind).detach() for name in "qkv"])
    published["resampler.proj"] = published.pop("resampler.proj.weight").T.contiguous()
    published["resampler.pos_embed"] = torch.zeros(70, 70, 256)
    save_file(published, tmp_path / "model.safetensors")
    load_public(model, whole=tmp_path)
    for name, one in other.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], one, rtol=0, atol=0, msg=name)
    patches, grids = views((4, 4), (3, 5))
    torch.testing.assert_close(model.see(patches, grids), other.see(patches, grids))


def test_weights_of_another_shape_or_none_are_refused_in_one_line(llama, tmp_path):
    for folder, shape, said in (
        (llama, replace(TINY, language=replace(TINY.language, layers=3)), "lacks language.model.layers.2"),
        (llama, replace(TINY, language=replace(TINY.language, layers=1)), "has no place in this shape"),
        (llama, replace(TINY, language=replace(TINY.language, vocab=401)), "the shape says [401, 256]"),
        (tmp_path, TINY, "give a folder with model.safetensors"),
    ):
        with pytest.raises(UserError) as refused:
            load_public(VisionLanguageModel(shape), language=folder)
        assert said in str(refused.value) and "\n" not in str(refused.value)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"no": "map"}))
    with pytest.raises(UserError, match="cannot be read"):
        load_public(tiny(), language=tmp_path)


# Settings that no weight shows


def copied(folder: Path, to: Path, **changed: object) -> Path:
    """A copy of published weights with another config.json."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | changed))
    return to


LLAMA_3_1 = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
             "high_freq_factor": 4.0, "original_max_position_embeddings": 128}  # fmt: skip


@pytest.mark.parametrize(("changed", "said"), [
    ({"num_attention_heads": 8}, "num_attention_heads is 8, the shape has 4"),
    ({"num_key_value_heads": 4}, "num_key_value_heads is 4, the shape has 2"),
    ({"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-06, the shape has 1e-05"),
    ({"hidden_act": "gelu"}, "hidden_act is gelu, the shape has silu"),
    ({"rope_parameters": None, "rope_theta": 500_000.0}, "rope_parameters is {'rope_theta': 500000.0"),
    ({"rope_parameters": LLAMA_3_1}, "'rope_type': 'llama3'"),
    ({"num_attention_heads": "four"}, "cannot be read: "),
])  # fmt: skip
def test_settings_of_a_language_model_that_the_shape_does_not_have_are_refused(llama, tmp_path, changed, said):
    with pytest.raises(UserError) as refused:
        load_public(tiny(), language=copied(llama, tmp_path / "llama", **changed))
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'llama' / 'config.json'}: ") and said in message and "\n" not in message


@pytest.mark.parametrize("changed", [
    {"num_attention_heads": 4}, {"layer_norm_eps": 1e-5}, {"hidden_act": "gelu"}, {"patch_size": 16},
])  # fmt: skip
def test_settings_of_a_vision_encoder_that_the_shape_does_not_have_are_refused(siglip, tmp_path, changed):
    both = json.loads((siglip / "config.json").read_text())
    one = both["vision_config"] | changed
    for name, config in (("both", {"vision_config": one}), ("alone", one | {"vision_config": None})):
        with pytest.raises(UserError, match=f"config.json: vision: {next(iter(changed))} is "):
            load_public(tiny(), vision=copied(siglip, tmp_path / name, **config))


@pytest.mark.parametrize(("part", "changed"), [
    (None, {}), ("language", {"num_key_value_heads": 4}), ("language", {"rope_theta": 500_000.0}),
    ("vision", {"num_attention_heads": 4}),
])  # fmt: skip
def test_settings_of_both_parts_of_a_whole_model_are_compared(tmp_path, part, changed):
    vision = {"model_type": "idefics2", "num_attention_heads": 2, "patch_size": 14, "image_size": 980}
    language = {"model_type": "minicpmv", "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
                "rope_theta": 10_000.0, "rope_scaling": None, "query_num": 4}  # fmt: skip
    (vision if part == "vision" else language).update(changed)
    (tmp_path / "config.json").write_text(json.dumps(language | {"vision_config": vision}))
    if part is None:
        check_settings(tiny(), "whole", tmp_path)
        return
    with pytest.raises(UserError, match=f"config.json: {part}: "):
        check_settings(tiny(), "whole", tmp_path)


def test_without_a_config_weights_are_loaded_by_their_sizes_alone(llama, tmp_path):
    folder = copied(llama, tmp_path / "llama")
    (folder / "config.json").unlink()
    load_public(tiny(), language=folder)


def test_an_output_layer_of_its_own_is_not_dropped(tmp_path):
    weights = {name: weight.clone() for name, weight in tiny(seed=3).language.state_dict().items()}
    for number, head in enumerate((weights["model.embed_tokens.weight"], torch.zeros(400, 256))):
        (folder := tmp_path / str(number)).mkdir()
        save_file(weights | {"lm_head.weight": head.clone()}, folder / "model.safetensors")
    load_public(tiny(), language=tmp_path / "0")  # a copy of the embeddings
    with pytest.raises(UserError, match=r"an lm_head of its own, .* set language\.tied = false"):
        load_public(tiny(), language=tmp_path / "1")
    load_public(
        VisionLanguageModel(replace(TINY, language=replace(TINY.language, tied=False))), language=tmp_path / "1"
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_published_weights_that_are_not_finite_are_named(tmp_path, value):
    weights = {name: weight.clone() for name, weight in tiny(seed=3).language.state_dict().items() if "lm" not in name}
    weights["model.layers.0.mlp.up_proj.weight"][3, 3] = value
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.layers\.0\.mlp\.up_proj\.weight holds numbers that are not finite"):
        load_public(tiny(), language=tmp_path)


# Tokens and context


@pytest.mark.parametrize(("context", "refused"), [(128, True), (511, True), (512, False), (4096, False), (None, False)])
def test_a_context_beyond_that_of_the_weights_is_refused(context, refused, tmp_path):
    config = tiny().language.config.to_dict() | {"max_position_embeddings": context}
    config = {key: value for key, value in config.items() if key != "max_position_embeddings" or value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if not refused:
        check_settings(tiny(), "language", tmp_path)
        return
    with pytest.raises(UserError, match=f"max_position_embeddings is {context}, and the shape has a context of 512"):
        check_settings(tiny(), "language", tmp_path)


@pytest.mark.parametrize(("lines", "refused"), [
    (["a picture of something"], False), (["quite other words zzz yyy xxx"], True), (["zzzz zzzz"], True),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["language", "whole", "vision"])
def test_a_tokenizer_with_other_ids_than_that_of_the_weights_is_refused(kind, lines, refused, tmp_path):
    ours = small_tokenizer(tmp_path / "ours", ["a picture of something"])
    small_tokenizer(tmp_path / "theirs", lines)
    if not refused or kind == "vision":
        check_tokens(ours, kind, tmp_path / "theirs")
        return
    with pytest.raises(UserError, match=r"theirs/tokenizer\.json: .* has the id \d+, which is another .*tokens differ"):
        check_tokens(ours, kind, tmp_path / "theirs")


def test_a_tokenizer_with_more_tokens_than_that_of_the_weights_is_taken(tmp_path):
    ours = small_tokenizer(tmp_path / "ours", ["a picture of something"])
    read = json.loads((tmp_path / "ours/tokenizer.json").read_text())
    read["added_tokens"] = read["added_tokens"][:3]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/tokenizer.json").write_text(json.dumps(read))
    check_tokens(ours, "language", tmp_path / "theirs")
    check_tokens(ours, "language", tmp_path / "nowhere")
    (tmp_path / "theirs/tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"theirs/tokenizer\.json: cannot be read"):
        check_tokens(ours, "language", tmp_path / "theirs")
