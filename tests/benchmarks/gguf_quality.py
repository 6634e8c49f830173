"""What quantisation costs: true claims in captions of held-out scenes, f16 against Q4_K_M, with and without importance.

    python tests/benchmarks/gguf_quality.py CHECKPOINT ROOT SET --calibrate ROOT SET [--scenes 200] [--quants Q4_K_M …]

ROOT and SET are scenes that were not trained on; samples for the importance matrix come from another set. Answers are
greedy, in llama.cpp. One JSON line: `true_claims` of each, and of torch in float32.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from schemas.scenes.claims import check
from schemas.scenes.lessons import DESCRIBE
from training.checkpoint import load_model
from training.evaluate import scenes_of
from training.figures import caption_ratios, ratio
from training.generate import GenerationRequest, Generator
from training.gguf.export import export
from training.gguf.generator import GgufGenerator
from training.gguf.imatrix import calibrate
from training.shards import Shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("root")
    parser.add_argument("set")
    parser.add_argument("--calibrate", nargs=2, metavar=("ROOT", "SET"), required=True)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--quants", nargs="*", default=["Q4_K_M"])
    options = parser.parse_args()
    shown = list(scenes_of(Shards(options.root, options.set), options.scenes))
    matter, described = calibrate(options.checkpoint, *options.calibrate, options.samples)
    figures = {"torch": claims(Generator(*load_model(options.checkpoint)), shown)}
    trials = [("F16", None), *((quant, how) for quant in options.quants for how in (None, matter))]
    for quant, importance in trials:
        with tempfile.TemporaryDirectory() as folder:
            export(options.checkpoint, Path(folder), quant, "f16", importance)
            with GgufGenerator(folder) as speaker:
                figures[quant + ("" if importance is None else " with importance")] = claims(speaker, shown)
    print(json.dumps({"benchmark": "gguf_quality", "scenes": len(shown), "calibration": described, **figures}))


def claims(speaker, shown) -> dict[str, float]:
    asks = [GenerationRequest(speaker.about(image, DESCRIBE[0]), limit=128) for image, _ in shown]
    answers = speaker.answer(asks)
    found = [check(answer.text.strip(), scene) for answer, (_, scene) in zip(answers, shown, strict=True)]
    ratios = caption_ratios(found, [scene for _, scene in shown], [answer.text for answer in answers])
    count = int(sum(ratios["false_per_mention"][1]))
    return {"true_claims": round(1 - ratio(ratios["false_per_mention"]), 4), "claims": count}


if __name__ == "__main__":
    main()
