"""Trains one round of an alignment: `python -m training.align POLICY ROOT SET RUN OUT`.

It trains the checkpoint POLICY on a shard set of pairs in the folder RUN, where it resumes, and writes the model to OUT
in float16, whole or not at all. With `--recipe FILE` its [[stages]] are trained, on `pairs`; the shape, the start and
the data that it names are replaced. `shardmill align` runs it.
"""

from pathlib import Path
from typing import Any

import torch

from schemas.checked import read_toml
from schemas.errors import UserError, answered, cannot_read
from schemas.shards import Damaged
from training.checkpoint import check_out, write_model
from training.options import at_least, program
from training.recipe import Recipe, checked
from training.train import train
from training.world import World

PAIRS = "pairs"
DPO = {
    "name": "dpo", "sets": {PAIRS: 1.0}, "trains": ["language"], "beta": 0.1, "epochs": 1, "batch": 8, "rate": 5e-5,
    "warm_up": 0.05,
}  # fmt: skip


def round_recipe(policy: Path, root: str, name: str, recipe: Path | None = None) -> Recipe:
    """The recipe of a round. Raises `UserError` for a recipe that cannot be trained."""
    given: dict[str, Any] = {}
    if recipe:
        try:
            given = read_toml(recipe)
        except (OSError, ValueError) as error:
            raise UserError(cannot_read(recipe, error)) from None
    of_round = {
        "shape": str(policy / "shape.json"), "tokenizer": str(policy), "start": {"checkpoint": str(policy)},
        "data": {PAIRS: {"root": root, "set": name}},
    }  # fmt: skip
    return checked({"stages": [DPO]} | given | of_round, str(recipe or "recipe"))


def train_round(recipe: Recipe, run: Path, out: Path, world: World, every: float = 60.0, workers: int = 0) -> None:
    """Trains a round, from where it was, and writes its model and the run's state. Raises `UserError` if `run` is
    another round's, and before the training if `out` cannot be written."""
    world.together(lambda: _check_out(recipe, run, out))
    train(recipe, run, world, workers, every)
    if not world.rank:
        write_model(run, out)


def _check_out(recipe: Recipe, run: Path, out: Path) -> None:
    if out.resolve() == Path(recipe.start.checkpoint or "").resolve():
        raise UserError(f"{out}: is the policy that is trained; name another folder for the model")
    check_out(run, out)


def main() -> None:
    parser = program("training.align", str(__doc__).split(":")[0] + ".")
    parser.add_argument("policy", type=Path, help="a folder with model.safetensors")
    parser.add_argument("root", help="folder or URL of the corpus")
    parser.add_argument("set", help="a published shard set of pairs, or one release of it")
    parser.add_argument("run", type=Path, help="folder of the run; an existing run is resumed")
    parser.add_argument("out", type=Path, help="folder of the trained model")
    parser.add_argument("--recipe", type=Path, help="a TOML file with [[stages]]")
    parser.add_argument("--threads", type=at_least(0), default=0, help="threads of torch; all cores if 0")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with answered(Damaged, OSError):
        world = World()
        recipe = world.together(lambda: round_recipe(options.policy, options.root, options.set, options.recipe))
        train_round(recipe, options.run, options.out, world)


if __name__ == "__main__":
    main()
