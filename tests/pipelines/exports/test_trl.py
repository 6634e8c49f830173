"""Exported conversations in TRL's own preparation of data, with a model and processor made here."""

import datasets
import pytest
from support.published import caption, image, publish, talk
from support.small_llava import tiny_llava

from pipelines.engine.root import Root
from pipelines.exports.export import export

WHY = [("user", "Why?"), ("assistant", "So.")]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["caption", "conversation"])
def test_trl_s_collator_gives_each_image_its_tokens(tmp_path, monkeypatch, task):
    """Of captions and of conversations with several images; marks in answers are texts."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    turns = [
        ("user", "Is <image_00> like <image_01>?"),
        ("assistant", "No <image>."),
        ("user", "Why?"),
        ("assistant", "So."),
    ]
    samples = {
        "caption": [caption(n, f"Picture {n} <image>.", image(n)) for n in range(4)],
        "conversation": [
            talk(n, turns, [("<image_00>", image(2 * n)), ("<image_01>", image(2 * n + 1))]) for n in range(4)
        ],
    }[task]  # fmt: skip
    export(publish(tmp_path / "root", "all", samples), "all", "trl", Root(str(tmp_path / "out")))
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    _, processor = tiny_llava(["Is like? No image. Why? So. Picture Describe the."], tmp_path / "llava")
    batch = DataCollatorForVisionLanguageModeling(processor)([loaded[n] for n in range(4)])
    images = 1 if task == "caption" else 2
    assert batch["pixel_values"].shape == (4 * images, 3, 28, 28)
    mark = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert (batch["input_ids"] == mark).sum(1).tolist() == [images * 4] * 4  # patches of an image
    words = processor.tokenizer.decode(batch["input_ids"][0], skip_special_tokens=False).replace("<image>", "")
    assert ("Is  like ?" in words) == (task == "conversation")
