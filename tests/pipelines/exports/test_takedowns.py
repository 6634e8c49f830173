"""A takedown names what was exported where: each export that holds, or may hold, a release that had some of it."""

import json
from unittest.mock import patch

import pytest
from support.corpora import build, picture, say

from pipelines.engine.root import Root
from pipelines.exports.export import export

SETS = "[sets.all]\n[sets.one]\nwhere = \"text = 'picture 1'\"\n"


@pytest.mark.slow
def test_exports_of_what_was_taken_down_are_named(tmp_path, configure):
    """Of every form, over an older export, and of one that was killed; not those of a set that had nothing of it."""
    (tmp_path / "src").mkdir()
    for number in range(3):
        (tmp_path / f"src/{number}.png").write_bytes(picture(number)[0])
        (tmp_path / f"src/{number}.txt").write_text(f"picture {number}")
    config = configure(f'[source]\nkind = "folder"\npath = "src"\n{SETS}')
    root = build(config)
    for form in ("huggingface", "trl", "llava", "minicpm-v"):
        export(root, "all", form, Root(str(tmp_path / f"out/{form}")))
        export(root, "one", form, Root(str(tmp_path / f"out/one-{form}")))
    export(root, "one", "llava", Root(str(tmp_path / "out/over")))
    for folder in ("killed", "over"):
        killed = patch("pipelines.exports.target.point", side_effect=[None, KeyboardInterrupt])
        with killed, pytest.raises(KeyboardInterrupt):
            export(root, "all", "llava", Root(str(tmp_path / f"out/{folder}")))
    entries = json.loads((tmp_path / "out/minicpm-v/conversations.json").read_text())
    (key,) = (entry["id"] for entry in entries if entry["conversations"][1]["content"] == "picture 0")
    (tmp_path / "list.txt").write_text(key)
    said = say("takedown", config, tmp_path / "list.txt", "--models", tmp_path / "out")
    assert said.code == 0, said.err
    named = [line.rpartition("out/")[2] for line in said.out.splitlines() if line.startswith("made from a release")]
    folders = ["huggingface", "killed", "llava", "minicpm-v", "over", "trl"]
    assert sorted(named) == [f"{folder}/.export.json" for folder in folders]
