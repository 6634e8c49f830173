"""An export against its checkpoint in real llama.cpp: what is right passes, and each way to be wrong is found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.corpora import say
from support.phones import save_shape, save_tiny
from support.releases import captions, publish
from support.small_models import TINY

pytest.importorskip("llama_cpp", reason="the extra gguf is not installed")

from gguf import GGUFReader

from training.gguf import checks as gguf_checks
from training.gguf import export as exporter
from training.gguf import names as gguf_names
from training.gguf.checks import keys_and_shapes, run
from training.gguf.comparison import Pair
from training.gguf.export import export
from training.gguf.verify import bars, judge, kinds_of, speed, verify


@pytest.fixture(scope="module")
def exact(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    export(checkpoint, folder, "F32", "f32")
    return folder


def checked(folder, checkpoint, root=None, name=None, samples=4, kl=0.05, same_top=0.9):
    """The checks, in this process, and the bars that they miss."""
    told = run(Pair(folder, checkpoint, root, name, samples))
    checks = {one.pop("check"): one for one in told if "check" in one}
    return checks, judge(checks, bars(*kinds_of(folder), kl, same_top))


def test_a_float32_export_is_the_checkpoint(checkpoint, exact):
    checks, missed = checked(exact, checkpoint, samples=50)
    assert not missed
    assert checks["text_logits"]["largest"] < 1e-4
    assert checks["image_embeddings"]["largest"] < 1e-3
    assert checks["image_embeddings"]["views"] > 50
    assert checks["image_embeddings"]["largest"] < checks["image_embeddings"]["plain"] / 3  # llama.cpp's own rounding
    assert checks["preprocessing"] | {"sizes": 60, "unequal": 0, "other_views": 0} == checks["preprocessing"]
    assert checks["preprocessing"]["values"] > 1e6
    assert checks["tokenizer"]["texts"] > 400
    assert checks["greedy"]["pictures"] == 50


def test_a_float16_export_is_nearly(checkpoint, tmp_path):
    export(checkpoint, tmp_path, "F16", "f16")
    checks, _ = checked(tmp_path, checkpoint, samples=8)
    assert checks["text_logits"]["bars"]["largest"] == {"bar": "≤ 0.01", "holds": True}
    assert 1e-5 < checks["image_embeddings"]["largest"] < 1e-2


def test_rows_that_are_no_whole_blocks_stay_float16_and_are_right(tmp_path):
    """As the 4,304 channels of SigLIP's perceptrons."""
    checkpoint = save_shape(tmp_path / "checkpoint", replace(TINY, vision=replace(TINY.vision, feed_forward=144)))
    export(checkpoint, tmp_path / "phone", "Q4_K_M", "Q8_0")
    found = keys_and_shapes(Pair(tmp_path / "phone", checkpoint, None, None, 1))
    assert found == {"wrong": 0, "detail": []}
    kinds = {one.name: one.tensor_type.name for one in GGUFReader(tmp_path / "phone/mmproj-model-Q8_0.gguf").tensors}
    assert kinds["v.blk.0.ffn_down.weight"] == "F16" and kinds["v.blk.0.ffn_up.weight"] == "Q8_0"


def test_a_quantised_export_is_held_against_float16_on_held_out_samples(checkpoint, tmp_path):
    corpus = str(publish(tmp_path, "held_out", captions(24), 10))
    export(checkpoint, tmp_path / "phone", "Q4_K_M", "Q8_0")
    checks, _ = checked(tmp_path / "phone", checkpoint, corpus, "held_out", samples=12)
    figures = checks["against_f16"]
    assert 0 < figures["kl"] < figures["kl_99"] and 0 < figures["same_top"] < 1 and figures["tokens"] > 100
    assert checks["image_embeddings"]["bars"]["relative"]["holds"]
    bar = list(bars("Q4_K_M", "Q8_0", kl=figures["kl"] / 2, same_top=figures["same_top"]))
    assert judge(checks, bar) == ["against_f16.kl"]


# Each way to be wrong is found


def wrong(checkpoint, tmp_path, monkeypatch, name, value):
    """Checks of an export that was made with something else in its place."""
    with monkeypatch.context() as patch:
        patch.setattr(exporter if hasattr(exporter, name) else gguf_names, name, value)
        export(checkpoint, tmp_path, "F32", "f32")
    return checked(tmp_path, checkpoint)


def test_unpermuted_queries_and_keys_fail(checkpoint, tmp_path, monkeypatch):
    checks, missed = wrong(checkpoint, tmp_path, monkeypatch, "turning_pairs", lambda heads: gguf_names.as_it_is)
    assert "text_logits.largest" in missed and set(missed) <= {"text_logits.largest", "greedy.unequal"}
    assert checks["text_logits"]["largest"] > 0.1


def test_positions_in_another_order_fail(checkpoint, tmp_path, monkeypatch):
    right = gguf_names.stretched

    def turned(side):
        return lambda table: right(side)(table).reshape(70, 70, -1).swapaxes(0, 1).reshape(4900, -1)

    _, missed = wrong(checkpoint, tmp_path, monkeypatch, "stretched", turned)
    assert "image_embeddings.largest" in missed and set(missed) <= {"image_embeddings.largest", "greedy.unequal"}


def test_another_image_size_fails(checkpoint, tmp_path, monkeypatch):
    keys = exporter.vision_keys
    monkeypatch.setattr(gguf_checks, "CHECKS", (gguf_checks.keys_and_shapes, gguf_checks.preprocessing))
    smaller = {"clip.vision.image_size": 70}
    _, missed = wrong(checkpoint, tmp_path, monkeypatch, "vision_keys", lambda shape: keys(shape) | smaller)
    assert {"keys_and_shapes.wrong", "preprocessing.other_views"} <= set(missed)


def test_marks_that_a_user_could_write_fail(checkpoint, tmp_path, monkeypatch):
    keys = exporter.language_keys

    def special(shape, tokenizer):
        found = keys(shape, tokenizer)
        kinds = [3 if token == "<image>" else kind for token, kind in zip(
            found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=False)]  # fmt: skip
        return found | {"tokenizer.ggml.token_type": kinds}

    _, missed = wrong(checkpoint, tmp_path, monkeypatch, "language_keys", special)
    assert missed == ["keys_and_shapes.wrong", "tokenizer.marks_read"]


def test_another_splitting_of_words_fails(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_checks, "CHECKS", (gguf_checks.keys_and_shapes, gguf_checks.tokenizer))
    _, missed = wrong(checkpoint, tmp_path, monkeypatch, "pre_tokenizer", lambda tokenizer: "llama-bpe")
    assert {"keys_and_shapes.wrong", "tokenizer.unequal"} <= set(missed)


@pytest.mark.slow
def test_a_file_on_which_llama_cpp_ends_the_process_is_a_failed_check(checkpoint, tmp_path, monkeypatch):
    keys = exporter.vision_keys
    monkeypatch.setattr(exporter, "vision_keys", lambda shape: keys(shape) | {"clip.minicpmv_query_num": 5})
    export(checkpoint, tmp_path, "F32", "f32")
    found = verify(tmp_path, checkpoint, samples=2)
    assert not found["passed"] and found["speed"] is None
    failed = [figures["failed"] for figures in found["checks"].values() if "ended by" in str(figures.get("failed"))]
    assert failed and failed[0].startswith("ended by SIGABRT")


@pytest.mark.slow
def test_half_a_file_is_answered_in_one_line(checkpoint, exact, tmp_path):
    for file in exact.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 60_000 if "model-F32" in file.name else None])
    said = say("verify-gguf", tmp_path, "--checkpoint", checkpoint)
    assert said.code in (1, 2) and said.err.count("\n") == 1 and "model-F32" in said.err + said.out


@pytest.mark.slow
def test_the_command_prints_one_json_and_its_exit_code_is_the_verdict(checkpoint, exact, tmp_path):
    said = say("verify-gguf", exact, "--checkpoint", checkpoint, "--samples", "3", "--json")
    assert said.code == 0 and json.loads(said.out)["passed"]
    assert json.loads((exact / "card.json").read_text())["parity"]["checks"] == json.loads(said.out)["checks"]
    other = save_tiny(tmp_path / "other")
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-40_000] + bytes(40_000))
    said = say("verify-gguf", exact, "--checkpoint", other, "--samples", "3")
    assert said.code == 1 and "missed" in said.err and "MISSED" in said.out


@pytest.mark.slow
def test_a_folder_without_files_is_named(checkpoint, tmp_path):
    said = say("verify-gguf", tmp_path, "--checkpoint", checkpoint)
    assert said.code == 2 and said.err.startswith(f"shardmill: {tmp_path}") and said.err.count("\n") == 1


# What `export` itself checks


def test_an_export_ends_with_the_checks_that_take_seconds(checkpoint, tmp_path):
    said = say("export", checkpoint, tmp_path, "--quant", "F16")
    assert said.code == 0 and not said.err
    agrees = "llama.cpp agrees on keys and shapes, loads, tokenizer, layout; compare its answers too: shardmill verify-"
    assert agrees in said.out.replace("\n", " ")


@pytest.mark.parametrize(("name", "value", "missed"), [
    ("pre_tokenizer", lambda tokenizer: "llama-bpe", "tokenizer.unequal"),
    ("CHAT_TEMPLATE", "{{ messages }}", "keys_and_shapes.wrong"),
    ("VERSION", 2, "layout.unequal"),
])  # fmt: skip
def test_an_export_that_llama_cpp_reads_otherwise_ends_with_1(checkpoint, tmp_path, monkeypatch, name, value, missed):
    monkeypatch.setattr(gguf_names, name, value)
    said = say("export", checkpoint, tmp_path, "--quant", "F32")
    assert said.code == 1 and missed in said.err and said.err.count("\n") == 1


def test_an_export_says_where_llama_cpp_is_missing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("training.gguf.verify.find_spec", lambda name: None)
    said = say("export", checkpoint, tmp_path, "--quant", "F16")
    assert said.code == 0 and "not checked in llama.cpp: llama_cpp is not installed; run: " in said.out


def test_short_checks_read_no_weights(checkpoint, exact, monkeypatch):
    monkeypatch.setattr("training.gguf.comparison.load_model", None)
    told = run(Pair(exact, checkpoint, None, None, 1, weights=False))
    assert [one["check"] for one in told if "check" in one] == ["keys_and_shapes", "loads", "tokenizer", "layout"]


def test_speed_is_measured_with_both_loaded_and_one_after_the_other(exact):
    found = [speed(exact, apart, tokens=8, times=1) for apart in (False, True)]
    for one in found:
        assert all(one[name] > 0 for name in ("load", "view", "picture", "prompt", "decode", "answer"))
        assert one["peak"] > one["before"]


@pytest.mark.slow
def test_tuning_goes_step_by_step_and_never_backwards(exact):
    said = say("tune-gguf", exact, "--tokens", "4", "--json")
    assert said.code == 0
    steps = json.loads(said.out)
    assert [step["name"] for step in steps] == ["threads", "batch", "micro_batch", "flash", "kv"]
    for step in steps:
        assert step["gain"] >= 1
        assert step["tried"][step["chosen"]] == pytest.approx(min(step["tried"].values()), rel=0.04)
    flash = steps[-1]["settings"]["flash"]
    assert ("q8_0" in steps[-1]["tried"]) == flash
