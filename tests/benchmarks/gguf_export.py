"""A checkpoint of the `mini` shape, 0.4 billion random weights in float16, as Q4_K_M: time, and memory by its size.

`python tests/benchmarks/gguf_export.py [--speed]` prints one JSON line; if asked, with how fast llama.cpp answers and
in how much memory, vision and language loaded together and one after the other.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from support.releases import LINES, small_tokenizer

from training.gguf.verify import speed
from training.model import VisionLanguageModel
from training.shapes import SHAPES

EXPORT = """
import json, sys
from pathlib import Path
from training.gguf.export import export
from training.gguf.speed import peak
card = export(sys.argv[1], Path(sys.argv[2]), "Q4_K_M", "f16")
print(json.dumps([card["seconds"], peak(), card["of_unquantised"], card["files"]]))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "mini"
        size = make(checkpoint)
        command = [sys.executable, "-c", EXPORT, str(checkpoint), f"{folder}/phone"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        seconds, peak, ratio, files = json.loads(done.stdout)
        ways = {"together": False, "apart": True} if "--speed" in sys.argv else {}
        speeds = {name: speed(Path(folder) / "phone", apart, tokens=16, times=1) for name, apart in ways.items()}
    sizes = {name: file["bytes"] for name, file in files.items()}
    print(json.dumps({
        "benchmark": "gguf_export", "seconds": seconds, "checkpoint_bytes": size, "peak_bytes": peak,
        "peak_of_checkpoint": round(peak / size, 3), "language_of_f16": round(ratio, 3), "bytes": sizes, **speeds,
    }))  # fmt: skip


def make(checkpoint: Path) -> int:
    """Random weights, without ever holding them in float32; returns the bytes of the file."""
    with torch.device("meta"):
        model = VisionLanguageModel(SHAPES["mini"])
    small_tokenizer(checkpoint, LINES)
    torch.manual_seed(0)
    weights = {name: (0.02 * torch.randn(one.shape)).half() for name, one in model.named_parameters()}
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    (checkpoint / "shape.json").write_text(json.dumps(model.shape.as_dict()))
    return (checkpoint / "model.safetensors").stat().st_size


if __name__ == "__main__":
    main()
