"""Alignments without Prefect: a scripted policy and labeler, a trainer and an evaluation that are short scripts."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from support.corpora import ONE_PROCESS, build, picture
from support.scripted_server import Scripted

from flows.rounds import begin_round, end_round, evaluate_start, is_over, train_policy
from pipelines.build.corpus import open_corpus
from pipelines.engine.root import Root

TRAIN = """
import json, sys
from pathlib import Path
policy, pairs, out, number = sys.argv[1:]
rows = sum(1 for _ in Path(pairs).rglob("*.parquet"))
Path(out).mkdir(exist_ok=True)
trained = {"trained from": "/".join(Path(policy).parts[-2:]), "tables": rows}
(Path(out) / "model.safetensors").write_text(json.dumps(trained))
print("trained", number)
"""
EVALUATE = """
import json, sys
from pathlib import Path
figures = json.loads(Path(__file__).with_name("figures.json").read_text())
print("looking")
print(json.dumps(figures[Path(sys.argv[1]).parent.name if "/" in sys.argv[1] else "start"]))
"""
GOOD = {
    "start": {"false_objects_per_response": 0.3, "recall": 0.8, "intervals": {"recall": [0.7, 0.9]}},
    "round-1": {"false_objects_per_response": 0.2, "recall": 0.79},
    "round-2": {"false_objects_per_response": 0.1, "recall": 0.78},
    "round-3": {"false_objects_per_response": 0.05, "recall": 0.78},
}


def configured(folder: Path, server: Scripted, images: int = 9, more: str = "", table: str = "") -> Path:
    """A configuration of an alignment in a folder, whose rounds each ask about a third of the images."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    lines = []
    for number in range(images):
        (data / f"{number}.png").write_bytes(picture(number)[0])
        lines.append(json.dumps({"image_path": f"{number}.png", "question": "Describe the picture."}))
    (data / "instructions.jsonl").write_text("\n".join(lines))
    (folder / "train.py").write_text(TRAIN)
    (folder / "evaluate.py").write_text(EVALUATE)
    if not (folder / "figures.json").exists():
        (folder / "figures.json").write_text(json.dumps(GOOD))
    python = sys.executable
    config = folder / "my.toml"
    config.write_text(
        f'root = "corpus"\n[source]\nkind = "instructions"\npath = "data"\n'
        f'[endpoints.policy]\nmodel = "scripted"\nurl = "{server.url}"\n'
        f'[endpoints.labeler]\nmodel = "scripted"\nurl = "{server.url}"\n'
        f'[responses]\nendpoint = "policy"\ndraws = 3\n{more}[verdicts]\nlabelers = ["labeler"]\n'
        f'[align]\ncheckpoints = "checkpoints"\nshare = 0.33\n'
        f"policy_command = '{python} -c \"print(1)\" {{policy}} {{round}}'\n"
        f"train_command = '{python} {folder}/train.py {{policy}} {{pairs}} {{out}} {{round}}'\n"
        f"evaluate_command = '{python} {folder}/evaluate.py {{policy}}'\n{table}{ONE_PROCESS}"
    )
    return config


def align(
    config: Path,
    rounds: int = 2,
    say: Callable[[str], None] = lambda line: None,
    between: Callable[[str], None] = lambda step: None,
) -> Root:
    """The steps of the flow one after another, in this process. `between` is called before each of them."""
    between("start")
    evaluate_start(open_corpus(config), say)
    while not is_over(open_corpus(config), rounds):
        between("begin")
        begin_round(open_corpus(config), say)
        between("build")
        build(config)
        between("train")
        train_policy(open_corpus(config), say)
        between("evaluate")
        say(end_round(open_corpus(config), say))
    return open_corpus(config).root
