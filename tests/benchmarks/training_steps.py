"""A shape's first steps, by the trainer as it is: tokens a second, peak memory, and whether its loss falls.

    python tests/benchmarks/training_steps.py [--shape mini] [--steps 20] [--length 1024] [--batch 1]

On a GPU where there is one, else on the CPU. AdamW trains all parts, in bfloat16 products, on packs of captioned
pictures, which it sees again and again. The checkpoint at the end is counted in neither figure.
"""

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from support.releases import captions, publish, small_tokenizer

from training.recipe import read_recipe
from training.run_log import read_log
from training.train import World, train

RECIPE = """
shape = "{shape}"
tokenizer = "tokenizer"
[data.pictures]
root = "corpus"
set = "train"
[[stages]]
name = "steps"
sets = {{ pictures = 1.0 }}
length = {length}
batch = {batch}
steps = {steps}
rate = 2e-4
warm_up = 0.1
"""


def main(shape: str, steps: int, length: int, batch: int) -> None:
    world = World()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        publish(folder / "corpus", "train", captions(200), 100)
        small_tokenizer(folder / "tokenizer")
        (folder / "recipe.toml").write_text(RECIPE.format(shape=shape, steps=steps, length=length, batch=batch))
        recipe = read_recipe(folder / "recipe.toml")
        train(recipe, folder / "run", world)
        log = read_log(folder / "run")
    if world.device.type == "cuda":
        device, peak = torch.cuda.get_device_name(), torch.cuda.max_memory_allocated()
    else:
        device, peak = "cpu", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "benchmark": "training_steps", "shape": shape, "device": device, "steps": steps,
        "tokens_a_step": round(sum(row["tokens"] for row in log) / steps), "loss": [log[0]["loss"], log[-1]["loss"]],
        "tokens_a_second": round(sum(row["tokens"] for row in log) / sum(row["seconds"] for row in log), 1),
        "peak_GB": round(peak / 1e9, 2),
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shape", default="mini")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--length", type=int, default=1024, help="tokens of a pack")
    options.add_argument("--batch", type=int, default=1, help="packs of a step")
    main(**vars(options.parse_args()))
