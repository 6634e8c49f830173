"""Weights that others published: files as their own libraries write them, and what the model then says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.small_models import TINY, tiny, views
from transformers import LlamaForCausalLM, SiglipConfig, SiglipModel

from schemas.errors import UserError
from training.model import VisionLanguageModel
from training.pretrained import load_public

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
