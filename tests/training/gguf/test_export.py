"""GGUF files: every weight where llama.cpp looks for it, quantised by llama.cpp itself."""

# ruff: noqa: E402 (what the extra brings is imported after it is looked for)

import json
import re
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.corpora import say
from support.paths import TESTS
from support.phones import save_shape, save_tiny
from support.releases import RELEASE, captions, publish
from support.small_models import TINY

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
pytest.importorskip("llama_cpp", reason="the extra gguf is not installed")

from gguf import GGUFReader, quants

from schemas.errors import UserError
from training.checkpoint import load_model
from training.gguf.export import export, warnings_of
from training.gguf.imatrix import calibrate, gathering, hidden, spread_samples
from training.gguf.names import language_tensors, pre_tokenizer, stretched, vision_tensors
from training.model import _buckets
from training.shapes import SHAPES
from training.shards import Shards
from training.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return str(publish(tmp_path_factory.mktemp("corpus"), "train", captions(24), 10))


@pytest.fixture(scope="module")
def importance(checkpoint, corpus):
    return calibrate(checkpoint, corpus, "train", 12)


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {one.name: quants.dequantize(one.data, one.tensor_type) for one in GGUFReader(path).tensors}


def kinds(path: Path) -> dict[str, str]:
    return {one.name: one.tensor_type.name for one in GGUFReader(path).tensors}


def test_every_weight_of_a_checkpoint_is_in_the_files_once(checkpoint, tmp_path):
    export(checkpoint, tmp_path, "F32", "f32")
    weights = load_file(checkpoint / "model.safetensors")
    made = [*language_tensors(TINY), *vision_tensors(TINY)]
    sources = [one.source for one in made if one.name != "resampler.pos_embed_k"]
    assert sorted(sources) == sorted(weights)
    found = tensors(tmp_path / "model-F32.gguf") | tensors(tmp_path / "mmproj-model-f32.gguf")
    for theirs, ours in {
        "token_embd.weight": "language.model.embed_tokens.weight",
        "blk.1.ffn_down.weight": "language.model.layers.1.mlp.down_proj.weight",
        "blk.1.attn_v.weight": "language.model.layers.1.self_attn.v_proj.weight",
        "v.blk.1.ffn_up.weight": "vision.encoder.layers.1.mlp.fc1.weight",
        "v.patch_embd.weight": "vision.embeddings.patch_embedding.weight",
        "resampler.query": "resampler.query",
        "resampler.proj.weight": "resampler.proj.weight",
    }.items():
        assert (found[theirs] == weights[ours].numpy()).all(), theirs
    ours = weights["language.model.layers.1.self_attn.q_proj.weight"].numpy()
    assert not (found["blk.1.attn_q.weight"] == ours).all()  # rows in another order, the same rows
    assert sorted(map(tuple, found["blk.1.attn_q.weight"])) == sorted(map(tuple, ours))


@pytest.mark.parametrize("side", [1, 2, 5, 7, 10, 14, 35, 70])
def test_a_table_of_positions_is_stretched_as_training_shares_it(side):
    """llama.cpp takes row floor(70 y / rows) * 70 + floor(70 x / columns) of the stretched table."""
    table = np.arange(side * side, dtype=np.float32)[:, None]
    wide = stretched(side)(table)
    for rows, columns in ((9, 9), (7, 12), (1, 71), (70, 3), (100, 33)):
        y, x = np.arange(rows) * 70 // rows, np.arange(columns) * 70 // columns
        theirs = wide[(y[:, None] * 70 + x).ravel(), 0]
        assert (theirs == table[_buckets(rows, columns, side).numpy(), 0]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_checkpoint_of_half_precision_is_the_same_file(tmp_path, dtype):
    """Weights are those of the checkpoint, whatever it stores them as."""
    export(save_tiny(tmp_path / "half", dtype), tmp_path / "half-phone", "F32", "f32")
    weights = load_file(tmp_path / "half" / "model.safetensors")
    found = tensors(tmp_path / "half-phone" / "model-F32.gguf")["output_norm.weight"]
    assert (found == weights["language.model.norm.weight"].float().numpy()).all()


def test_matrices_are_quantised_and_norms_and_biases_stay_exact(checkpoint, tmp_path):
    export(checkpoint, tmp_path, "Q4_K_M", "Q8_0")
    language, vision = kinds(tmp_path / "model-Q4_K_M.gguf"), kinds(tmp_path / "mmproj-model-Q8_0.gguf")
    assert {kind for name, kind in language.items() if "norm" in name} == {"F32"}
    assert {kind for name, kind in language.items() if "norm" not in name} == {"Q4_K", "Q6_K"}
    exact = {name for name, kind in vision.items() if kind == "F32"}
    assert exact == {name for name in vision if ".ln" in name or "post_ln" in name or "bias" in name} | {
        "resampler.query", "resampler.pos_embed_k",
    }  # fmt: skip
    assert {vision[name] for name in vision.keys() - exact} == {"Q8_0", "F16"}
    assert vision["v.patch_embd.weight"] == "F16"  # a convolution: its rows are 14 weights


def test_the_small_file_is_small(tmp_path):
    """Q4_K_M is at most 0.35 of f16 on a random shape of width 512."""
    shape = replace(TINY, language=replace(TINY.language, width=512, feed_forward=1536, layers=4, vocab=2048))
    card = export(save_shape(tmp_path / "wide", shape), tmp_path / "phone", "Q4_K_M")
    assert card["of_unquantised"] < 0.35
    assert not {"Q5_0", "Q8_0", "Q5_1"} & set(kinds(tmp_path / "phone" / "model-Q4_K_M.gguf").values())  # no way out


def test_untied_embeddings_have_an_output_of_their_own(tmp_path):
    export(save_shape(tmp_path / "untied", tied=False), tmp_path / "phone", "F16")
    assert "output.weight" in kinds(tmp_path / "phone" / "model-F16.gguf")


def test_the_card_says_what_it_was_made_of(checkpoint, tmp_path, importance):
    (tmp_path / "trained").mkdir()
    for file in checkpoint.iterdir():
        (tmp_path / "trained" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "trained" / "state.json").write_text(json.dumps({"step": 9, "releases": {"train": "3f2a9c81d04e"}}))
    matter, described = importance
    card = export(tmp_path / "trained", tmp_path / "phone", "Q4_K_M", imatrix=matter, calibration=described)
    assert card == json.loads((tmp_path / "phone" / "card.json").read_text())
    digest = sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert card["checkpoint"] == {"name": "trained", "sha256": digest}
    assert card["trained_on"] == {"train": "3f2a9c81d04e"}
    assert card["quantisation"]["importance"] == described
    assert described == {"set": "train", "release": RELEASE, "samples": 12, "tokens": described["tokens"]}
    for name, file in card["files"].items():
        data = (tmp_path / "phone" / name).read_bytes()
        assert file == {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    assert sorted(path.name for path in (tmp_path / "phone").iterdir()) == sorted([*card["files"], "card.json"])
    parameters = sum(one.numel() for one in load_model(checkpoint)[0].parameters())
    stretched = (70 * 70 - 35 * 35) * TINY.vision.width + TINY.language.width  # and the row that is never read
    assert card["parameters"] == parameters + stretched


# The importance matrix


def test_importance_is_the_mean_square_of_what_a_matrix_is_given(checkpoint, corpus):
    """Against sums of the same inputs, computed with no hook: the last norm's output, and the first norm's."""
    model, tokenizer = load_model(checkpoint)
    samples = list(spread_samples(Shards(corpus, "train"), model, tokenizer, 5))
    with torch.inference_mode():
        with gathering(model) as found:
            states = [hidden(model, *sample, tokenizer.marks.query) for sample in samples]
            for one in states:
                model.language.lm_head(one)
        assert len(found) == len([one for one in language_tensors(TINY) if not one.exact])
        last = torch.cat(states).square().mean(0).numpy()
        texts = [torch.from_numpy(laid.ids[laid.ids != tokenizer.marks.query]).long() for laid, _ in samples]
        assert sum(map(len, texts)) < sum(len(laid.ids) for laid, _ in samples)  # images count too
    np.testing.assert_allclose(found["token_embd.weight"], last, rtol=1e-5)
    for number in range(TINY.language.layers):
        same = [found[f"blk.{number}.attn_{name}.weight"] for name in "qkv"]
        assert (same[0] == same[1]).all() and (same[0] == same[2]).all()
        assert found[f"blk.{number}.ffn_down.weight"].shape == (TINY.language.feed_forward,)


def test_what_matters_is_stored_more_exactly(checkpoint, tmp_path, importance):
    matter, _ = importance
    export(checkpoint, tmp_path / "with", "Q4_K_M", imatrix=matter)
    export(checkpoint, tmp_path / "without", "Q4_K_M")
    export(checkpoint, tmp_path / "exact", "F32")
    informed, blind, exact = (tensors(next((tmp_path / name).glob("model*"))) for name in ("with", "without", "exact"))
    better = 0
    for name, weights in matter.items():
        errors = [float((weights * (one[name] - exact[name]) ** 2).sum()) for one in (informed, blind)]
        assert errors[0] < errors[1] * 1.05, name
        better += errors[0] < errors[1] * 0.95
    assert better > len(matter) / 2


def test_the_smallest_kinds_ask_for_it(checkpoint, tmp_path, importance):
    with pytest.raises(UserError, match="imatrix"):
        export(checkpoint, tmp_path, "IQ2_XXS")
    assert not list(tmp_path.glob("model*"))
    card = export(checkpoint, tmp_path, "IQ2_XXS", imatrix=importance[0])
    assert card["of_unquantised"] < 0.25


# Mistakes


def test_a_folder_that_cannot_be_written_or_holds_another_export_is_refused(checkpoint, tmp_path):
    (tmp_path / "afile").write_text("mine")
    for out in ("afile", "afile/below"):
        said = say("export", checkpoint, tmp_path / out)
        assert said.code == 2 and " another" in said.err and said.err.count("\n") == 1, said
    phone = tmp_path / "my phone"
    said = say("export", checkpoint, phone, "--quant", "F16")
    assert said.code == 0 and f"verify-gguf '{phone}' --checkpoint " in said.out
    before = {file.name: file.read_bytes() for file in phone.iterdir()}
    said = say("export", checkpoint, phone, "--quant", "Q8_0", "--calibrate", "/nowhere", "train")
    assert (
        said.err == f"shardmill: {phone}: holds model-F16.gguf of another export; choose another folder, or remove it\n"
    )
    assert (said.code, {file.name: file.read_bytes() for file in phone.iterdir()}) == (2, before)
    assert say("export", checkpoint, phone, "--quant", "F16").code == 0


@pytest.mark.parametrize("words", [["export", "none", "out"], ["verify-gguf", "out", "--checkpoint", "none"]])
def test_what_is_no_checkpoint_is_told_what_one_is(tmp_path, words):
    for name in ("model.gguf", "mmproj.gguf") if "verify-gguf" in words else ():
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes(b"")
    said = say(*(tmp_path / word if word in ("none", "out") else word for word in words))
    assert said.code == 2 and said.err.count("\n") == 1
    assert "none: is not a checkpoint, shape.json is missing; name a folder that `python -m training.check" in said.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--quant", "Q9"], "--quant"),
        (["--mmproj", "Q4_K"], "--mmproj"),
        (["--calibrate", "/nowhere", "train"], "/nowhere"),
    ],
)
def test_a_mistake_is_answered_in_one_line(checkpoint, tmp_path, words, named):
    said = say("export", checkpoint, tmp_path / "phone", *words)
    assert said.code in (1, 2) and named in said.err and said.err.count("\n") == 1


def test_a_damaged_sample_is_named_in_one_line(checkpoint, corpus, tmp_path):
    copytree(corpus, tmp_path / "corpus")
    for tar in (tmp_path / "corpus/shards").glob("*.tar"):
        tar.write_bytes(tar.read_bytes().replace(b"PNG", b"GNP"))
    said = say("export", checkpoint, tmp_path / "phone", "--calibrate", tmp_path / "corpus", "train")
    assert said.code == 1 and "is not what was published" in said.err and said.err.count("\n") == 1


def test_the_command_writes_the_files(checkpoint, corpus, tmp_path):
    how = ["--mmproj", "Q8_0", "--calibrate", corpus, "train", "--samples", "3"]
    said = say("export", checkpoint, tmp_path, *how)
    assert said.code == 0 and "model-Q4_K_M.gguf" in said.out
    assert json.loads((tmp_path / "card.json").read_text())["quantisation"]["importance"]["samples"] == 3


def with_weight(checkpoint: Path, folder: Path, name: str, value: float) -> Path:
    """A copy of a checkpoint, the first number of one weight replaced."""
    copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    weights[name].flatten()[0] = value
    save_file(weights, folder / "model.safetensors")
    return folder


MATRIX, KV = "language.model.layers.0.mlp.up_proj.weight", "resampler.kv.weight"


@pytest.mark.parametrize(("name", "value", "quant", "vision", "said"), [
    (MATRIX, 1e6, "F16", "f16", "F16 cannot hold; choose --quant F32"),
    (MATRIX, 1e6, "Q4_K_M", "f16", "F16 cannot hold; choose --quant F32"),
    (KV, 1e6, "F32", "f16", "F16 cannot hold; choose --mmproj f32"),
    (KV, 1e8, "F32", "Q8_0", "Q8_0 cannot hold; choose --mmproj f32"),
    ("vision.embeddings.patch_embedding.weight", -1e5, "F32", "Q8_0", "F16 cannot hold; choose --mmproj f32"),
])  # fmt: skip
def test_a_weight_that_its_type_cannot_hold_is_named(checkpoint, tmp_path, name, value, quant, vision, said):
    copy = with_weight(checkpoint, tmp_path / "copy", name, value)
    with pytest.raises(UserError, match=rf"{name} has weights that {said}$"):
        export(copy, tmp_path / "phone", quant, vision)
    assert not [*(tmp_path / "phone").iterdir()]
    export(copy, tmp_path / "phone", "F32", "f32")


@pytest.mark.parametrize(("name", "value", "quant", "vision"), [
    ("language.model.norm.weight", np.nan, "F16", "f16"), ("language.model.norm.weight", -np.inf, "Q4_K_M", "f16"),
    (MATRIX, np.inf, "F32", "f32"), ("resampler.ln_q.bias", np.nan, "Q8_0", "Q8_0"),
])  # fmt: skip
def test_a_weight_that_is_not_finite_is_named_whatever_it_is_stored_as(
    checkpoint, tmp_path, name, value, quant, vision
):
    copy = with_weight(checkpoint, tmp_path / "copy", name, value)
    with pytest.raises(UserError, match=f"{name} holds numbers that are not finite"):
        export(copy, tmp_path / "phone", quant, vision)
    assert not [*(tmp_path / "phone").iterdir()]


@pytest.mark.parametrize(("name", "value", "quant"), [(MATRIX, 1e6, "F16"), (MATRIX, 1e6, "Q8_0"), (KV, np.nan, "F16")])
def test_a_failed_export_leaves_an_earlier_one_as_it_was(checkpoint, tmp_path, name, value, quant):
    export(checkpoint, tmp_path / "phone", quant)
    before = {file.name: file.read_bytes() for file in (tmp_path / "phone").iterdir()}
    copy = with_weight(checkpoint, tmp_path / "copy", name, value)
    with pytest.raises(UserError):
        export(copy, tmp_path / "phone", quant)
    assert {file.name: file.read_bytes() for file in (tmp_path / "phone").iterdir()} == before


def test_a_full_disk_is_one_line_and_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.gguf.export.GGUFWriter.write_tensor_data", fails)
    with pytest.raises(UserError, match=r"phone: cannot be written: No space left on device$"):
        export(checkpoint, tmp_path / "phone", "F16")
    assert not [*(tmp_path / "phone").iterdir()]


@pytest.mark.parametrize("number", [400, 401, 1500])
def test_a_token_without_an_embedding_is_named(checkpoint, tmp_path, number):
    copytree(checkpoint, tmp_path / "copy")
    read = json.loads((checkpoint / "tokenizer.json").read_text())
    read["model"]["vocab"]["zzzz"] = number
    (tmp_path / "copy" / "tokenizer.json").write_text(json.dumps(read))
    with pytest.raises(UserError, match=rf"ids up to {number}; the shape has room for 400$"):
        export(tmp_path / "copy", tmp_path / "phone", "F16")


@pytest.mark.parametrize(("stages", "said"), [
    ([{"side": 28}], 'plan = "llama.cpp" and side = 28'), ([{"plan": "openbmb"}], 'plan = "openbmb" and side = 56'),
    ([{"side": None}, {"side": 112, "plan": "openbmb"}], 'plan = "openbmb" and side = 112'),
    ([{"side": None, "plan": "llama.cpp"}], None), ([{"side": 28}, {"side": 56}], None), ([], None),
])  # fmt: skip
def test_a_model_whose_images_were_cut_otherwise_is_warned_of(checkpoint, tmp_path, stages, said):
    copytree(checkpoint, tmp_path / "copy")
    assert not [*warnings_of(tmp_path / "copy")]
    state = {"stages": [{"name": f"stage{number}", **one} for number, one in enumerate(stages)]}
    (tmp_path / "copy" / "state.json").write_text(json.dumps(state))
    (warning,) = [*warnings_of(tmp_path / "copy")] or (None,)
    if said is None:
        assert warning is None
        return
    assert warning.startswith(f"stage stage{len(stages) - 1} was trained with {said}; llama.cpp cuts images ")
    shown = " ".join(say("export", tmp_path / "copy", tmp_path / "phone", "--quant", "F16").out.split())
    assert f"warning: {warning}" in shown


def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(checkpoint, tmp_path):
    read = json.loads((checkpoint / "tokenizer.json").read_text())
    assert pre_tokenizer(Tokenizer(checkpoint)) == "gpt-2"
    digits = [{"type": "Digits", "individual_digits": True}, read["pre_tokenizer"]]
    for name, value, said in (
        ("normalizer", {"type": "Lowercase"}, "normalizer Lowercase"),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": digits}, "pre_tokenizer Digits, ByteLevel"),
        ("model", {**read["model"], "ignore_merges": True}, "pre_tokenizer ByteLevel with model.ignore_merges"),
        ("model", {**read["model"], "byte_fallback": True}, "model.byte_fallback True"),
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**read, name: value}))
        with pytest.raises(UserError, match=f"llama.cpp cannot read its {re.escape(said)}; "):
            pre_tokenizer(Tokenizer(tmp_path))


def test_names_are_complete_for_every_shape():
    for shape in SHAPES.values():
        for of in (language_tensors, vision_tensors):
            names = [one.name for one in of(shape)]
            assert len(names) == len(set(names))


@pytest.mark.slow
def test_mini_is_exported_fast_and_in_little_memory():
    """The figures that `tests/benchmarks/gguf_export.py` prints: under a minute, under 1.2 times the checkpoint."""
    benchmark = TESTS / "benchmarks" / "gguf_export.py"
    done = subprocess.run([sys.executable, str(benchmark)], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures["seconds"] < 60
    assert figures["peak_of_checkpoint"] < 1.2
    assert figures["language_of_f16"] < 0.35
