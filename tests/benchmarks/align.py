"""One round of an alignment of pico, with its own verdicts or with a control: what the policy gains and loses.

    python tests/benchmarks/align.py FOLDER [--labels self|truth|shuffled|whole|random] [--seed 0] [--fewer 1] [--start]
    python tests/benchmarks/align.py --table FILE

    self        pico judges single claims of its own responses
    truth       a server that knows the scenes judges them: the upper bound
    shuffled    as many claims are rejected as by pico, by a hash: labels without meaning
    whole       pico judges whole responses instead of single claims
    random      the pairs of `self`, half of them with their sides exchanged: as many, of the same lengths

With `--fewer 1`, pairs are left out whose chosen response has over one accepted claim fewer than the rejected one.

800 scenes, ten draws, the pairs of LOOP's settings: at most four an instruction, 1,600 in all; one epoch. FOLDER keeps
the responses, which all of these share, and what was trained. Evaluated on 500 other scenes. Prints one line of JSON:
the figures of `training.evaluate`, with intervals; `--start` prints those of pico itself. What was done before is not
done again. `--table FILE` prints a table of such lines: means over the seeds, of the intervals too.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.releases import publish
from support.truth_server import TruthServer, scenes_of

from pipelines.catalog.catalog import query
from pipelines.engine.root import Root
from training.shards import Shards

PROJECT = Path(__file__).parents[2]
SCENES = """root = "{root}"
[source]
kind = "scenes"
count = {count}
seed = {seed}
side = 126
noise = 0
planted = 0
print_height = [0.16, 0.22]
"""
ASKING = """[endpoints.policy]
model = "{pico}"
command = "{python} -m training.serve {{model}} --name {{model}} --port {{port}}"
concurrency = 64
[endpoints.labeler]
{labeler}
concurrency = 64
[instructions]
questions = ["Describe the image."]
[responses]
endpoint = "policy"
draws = {draws}
max_tokens = 100
{claims}[verdicts]
labelers = ["labeler"]
min_mass = 0
[pairs]
per_instruction = 4
[sets.pairs]
task = "preference"
where = "{where}"
{beam}"""
SAYS_ENOUGH = "chosen_claims - chosen_false >= rejected_claims - rejected_false - {fewer}"
BEAM = '[beam]\noptions = ["--direct_running_mode=in_memory", "--direct_num_workers=1"]\n'
FIGURES = (
    "false_per_response", "false_objects_per_response", "sampled_per_response", "sampled_false_objects_per_response",
    "recall", "text_recall", "words", "yes_no", "claims",
)  # fmt: skip


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    return done.stdout


def configured(
    folder: Path, root: str, labels: str, url: str, options: argparse.Namespace, where: str = "true"
) -> Path:
    pico = PROJECT / "training/pico"
    served = (
        f'model = "{pico}"\ncommand = "{sys.executable} -m training.serve {{model}} --name {{model}} --port {{port}}"'
    )
    claims = ""
    if labels == "whole":
        claims = f'[endpoints.divider]\nmodel = "whole"\nurl = "{url}"\n[claims]\nendpoint = "divider"\n'
    labeler = f'model = "{labels}"\nurl = "{url}"' if labels in ("truth", "shuffled") else served
    config = folder / f"{root}.toml"
    config.write_text(
        SCENES.format(root=root, count=options.scenes, seed=4242)
        + ASKING.format(
            pico=pico, python=sys.executable, labeler=labeler, draws=options.draws, claims=claims, where=where,
            beam=BEAM,
        )
    )  # fmt: skip
    return config


def labelled(folder: Path, labels: str, options: argparse.Namespace) -> Path:
    """A corpus with the pairs of these labels; responses are taken over from that of `self`."""
    root = folder / labels
    if labels == "self" or not (folder / "self").exists():
        run("-P", "-m", "pipelines.build", str(configured(folder, "self", "self", "", options)))
    if labels == "self":
        return root
    if not root.exists():
        shutil.copytree(folder / "self", root)
    if labels == "random":
        exchanged(folder / "self", root)
        return root
    scenes = folder / "scenes.json"
    scenes.write_text(json.dumps(scenes_of(Root(str(folder / "self")))))
    accepted = query(Root(str(folder / "self")), "select avg(accepted::double) as yes from verdicts").to_pylist()
    serving = TruthServer(scenes, labels, accepted[0]["yes"])
    with serving if labels != "random" else nullcontext():
        run("-P", "-m", "pipelines.build", str(configured(folder, labels, labels, serving.url, options)))
    return root


def without_silence(folder: Path, root: Path, labels: str, options: argparse.Namespace) -> Path:
    """A corpus of the pairs whose chosen response has few accepted claims fewer, at most; no model is asked for it."""
    kept = folder / f"{root.name}-fewer-{options.fewer}"
    if not kept.exists():
        shutil.copytree(root, kept)
    where = SAYS_ENOUGH.format(fewer=options.fewer)
    config = configured(folder, kept.name, labels, "http://127.0.0.1:9/v1", options, where)
    run("-P", "-m", "pipelines.build", str(config))
    return kept


def exchanged(source: Path, root: Path) -> None:
    """Publishes the pairs of a corpus in another root, half of them with their sides exchanged, by a hash."""

    def samples():
        shards = Shards(str(source), "pairs")
        for number in range(len(shards)):
            sample = shards[number]
            document = json.loads(sample["json"])
            pair = document["pair"]
            if hashlib.sha256(sample["__key__"].encode()).digest()[0] % 2:
                pair["chosen"], pair["rejected"] = pair["rejected"], pair["chosen"]
            members = {name: data for name, data in sample.items() if not name.startswith("__") and name != "json"}
            yield sample["__key__"], members | {"json": json.dumps(document).encode()}

    publish(root, "pairs", samples(), 1000)


def trained(folder: Path, root: Path, options: argparse.Namespace) -> Path:
    """The checkpoint that was trained on a corpus's pairs."""
    pairs = query_size(root)
    place = folder / f"{root.name}-{options.seed}"
    place.mkdir(exist_ok=True)
    recipe = place / "recipe.toml"
    steps = max(1, min(options.pairs, pairs) // 8)
    recipe.write_text(
        f'seed = {options.seed}\n[[stages]]\nname = "dpo"\nsets = {{ pairs = 1.0 }}\ntrains = ["language"]\n'
        f"beta = 0.1\nsteps = {steps}\nbatch = 8\nrate = 5e-5\nwarm_up = 0.05\n"
    )
    out = place / "checkpoint"
    words = [str(PROJECT / "training/pico"), str(root), "pairs", str(place / "run"), str(out), "--recipe", str(recipe)]
    run("-P", "-m", "training.align", *words)
    return out


def table(lines: list[dict]) -> str:
    """Lines of the benchmark as a table of Markdown, a column for each kind of labels."""
    kinds = list(dict.fromkeys(line["labels"] for line in lines))
    runs = {kind: [line for line in lines if line["labels"] == kind] for kind in kinds}
    rows = [["figure", *(f"{kind} ({len(runs[kind])})" for kind in kinds)], ["---"] * (len(kinds) + 1)]
    for name in FIGURES:
        scale = 1 if name in ("words", "claims") else 100
        row = [name]
        for kind in kinds:
            found = f"{mean(line[name] for line in runs[kind]) * scale:.1f}"
            if all(name in line["intervals"] for line in runs[kind]):
                low, high = (mean(line["intervals"][name][side] for line in runs[kind]) * scale for side in (0, 1))
                found += f" ({low:.1f} to {high:.1f})"
            row.append(found)
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def query_size(root: Path) -> int:
    return len(Shards(str(root), "pairs"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print a table of the lines in a file")
    parser.add_argument("--labels", choices=("self", "truth", "shuffled", "whole", "random"), default="self")
    parser.add_argument("--fewer", type=int, help="accepted claims that the chosen response of a pair may have fewer")
    parser.add_argument("--start", action="store_true", help="evaluate pico itself")
    parser.add_argument("--scenes", type=int, default=800)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=1600)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.table:
        print(table([json.loads(line) for line in options.table.read_text().splitlines()]))
        return
    if options.fewer is not None and options.labels == "random":
        parser.error("--fewer: the pairs of random have no verdicts; leave one of them out")
    if options.folder is None:
        parser.error("name a folder, or --table FILE")
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    held_out = folder / "held-out.toml"
    held_out.write_text(
        SCENES.format(root="held-out", count=options.held_out, seed=999) + f'[sets.held_out]\ntask = "caption"\n{BEAM}'
    )
    run("-P", "-m", "pipelines.build", str(held_out))
    line: dict = {"benchmark": "align", "labels": "start" if options.start else options.labels}
    checkpoint = PROJECT / "training/pico"
    if not options.start:
        root = labelled(folder, options.labels, options)
        if options.fewer is not None:
            root = without_silence(folder, root, options.labels, options)
            line["labels"] = f"{options.labels}, {options.fewer} fewer"
        checkpoint = trained(folder, root, options)
        sides = [json.loads(sample["json"])["pair"] for sample in Shards(str(root), "pairs")]
        shorter = sum(len(pair["chosen"].split()) < len(pair["rejected"].split()) for pair in sides)
        line |= {"seed": options.seed, "pairs": len(sides), "chosen_shorter": round(shorter / max(1, len(sides)), 3)}
    said = run("-P", "-m", "training.evaluate", str(checkpoint), str(folder / "held-out"), "held_out")
    figures = json.loads(re.findall(r"^\{.*\}$", said, re.M)[-1])
    line |= {name: figures[name] for name in FIGURES}
    line["intervals"] = {name: figures["intervals"][name] for name in FIGURES if name in figures["intervals"]}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
