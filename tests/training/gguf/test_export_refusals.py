"""What an export refuses or warns of: weights that are not those of the shape, folders of something else."""

import json
from shutil import copytree

import pytest
from safetensors.torch import load_file, save_file
from support.corpora import say

pytest.importorskip("gguf", reason="the extra gguf is not installed")
pytest.importorskip("llama_cpp", reason="the extra gguf is not installed")

from schemas.errors import UserError
from training.gguf.export import export, warnings_of


@pytest.mark.parametrize(("step", "warned"), [(3, True), (1, True), (4, False)])
def test_a_model_whose_stage_was_not_finished_is_warned_of(checkpoint, tmp_path, step, warned):
    copytree(checkpoint, tmp_path / "copy")
    state = {"stage": "sft", "step": step, "stages": [{"name": "sft", "steps": 4}]}
    (tmp_path / "copy" / "state.json").write_text(json.dumps(state))
    assert any("stage sft is not finished" in line for line in warnings_of(tmp_path / "copy")) == warned


@pytest.mark.parametrize("change", ["a layer less in the shape", "a layer more in the file", "a weight less"])
def test_weights_that_are_not_those_of_the_shape_are_refused(checkpoint, tmp_path, change):
    copytree(checkpoint, tmp_path / "copy")
    shape, weights = json.loads((checkpoint / "shape.json").read_text()), load_file(checkpoint / "model.safetensors")
    if "shape" in change:
        shape["language"]["layers"] -= 1
    elif "more" in change:
        weights["language.model.layers.9.mlp.up_proj.weight"] = weights["resampler.query"].clone()
    else:
        del weights["resampler.query"]
    (tmp_path / "copy" / "shape.json").write_text(json.dumps(shape))
    save_file(weights, tmp_path / "copy" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"model\.safetensors: (lacks|has an unknown) weight .*the shape\.json beside"):
        export(tmp_path / "copy", tmp_path / "phone", "F16")
    assert not (tmp_path / "phone").exists()


@pytest.mark.parametrize("state", ["{", "[]", '{"stages": [5]}', '{"tokenizer": "0"}'])
def test_a_state_that_does_not_fit_is_one_line_before_a_file_is_written(checkpoint, tmp_path, state):
    copytree(checkpoint, tmp_path / "copy")
    (tmp_path / "copy" / "state.json").write_text(state)
    with pytest.raises(UserError, match=r"state\.json"):
        export(tmp_path / "copy", tmp_path / "phone", "F16")
    assert not (tmp_path / "phone").exists()


@pytest.mark.parametrize("files", [["model.safetensors"], ["shape.json", "tokenizer.json"], ["latest.json"]])
def test_an_export_is_not_written_into_a_model_or_a_run(checkpoint, tmp_path, files):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"is the folder of a (model|run), and an export would be written into it"):
        export(checkpoint, tmp_path, "F16")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


@pytest.mark.parametrize(("words", "said"), [
    (["--quant", "F16", "--calibrate", "corpus", "train"], "--calibrate: F16 holds all weights alike"),
    (["--quant", "F32", "--calibrate", "corpus", "train"], "--calibrate: F32 holds all weights alike"),
    (["--calibrate", "corpus", "train", "--samples", "0"], "greater than or equal to 1"),
    (["--calibrate", "corpus", "train", "--samples", "-3"], "greater than or equal to 1"),
])  # fmt: skip
def test_a_calibration_that_is_not_used_is_refused(checkpoint, tmp_path, words, said):
    done = say("export", checkpoint, tmp_path / "phone", *words)
    assert done.code == 2 and said in " ".join(done.err.split()) and not (tmp_path / "phone").exists()
