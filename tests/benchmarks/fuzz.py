"""5,000 mutated images and tars through the whole flow: whether a row is neither intact nor has a reason.

python tests/benchmarks/fuzz.py [--images 2500] [--tars 2500] [--seed 0]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.fuzzing import fuzz


def main(images: int, tars: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        said = fuzz(Path(folder), images, tars, seed)
    print("\n".join(said["wrong"] + said["problems"]), file=sys.stderr)
    counts = {name: len(said[name]) for name in ("wrong", "problems")}
    print(json.dumps({"benchmark": "fuzz", **said, **counts}))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=2500)
    options.add_argument("--tars", type=int, default=2500)
    options.add_argument("--seed", type=int, default=0)
    main(**vars(options.parse_args()))
