"""The speed and the memory of an export on this machine: `python -m training.gguf.speed DIR`, one JSON.

It does not import torch, so that nearly all of the measured memory is llama.cpp's. With `--apart`, the image is encoded
and the encoder freed before the language model is loaded, as on a phone with little memory.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from gguf import GGUFReader
from PIL import Image

from schemas.errors import answered
from training.gguf.files import files
from training.gguf.probes import drawn
from training.gguf.runtime import KV, LanguageModel, Settings, VisionEncoder
from training.options import at_least, program

QUESTION = "Describe the image."


def measure(folder: Path, settings: Settings, apart: bool = False, tokens: int = 64, times: int = 3) -> dict[str, Any]:
    """Measures one picture of six cells, one question, and an answer of `tokens` tokens.

    `load`, `view`, `picture` and `answer` are in seconds, `prompt` and `decode` in tokens a second, `peak` and `before`
    in bytes. `answer` is the whole wait of a user: for the picture, the prompt, and the tokens.
    """
    language_file, mmproj = files(folder)
    before, image = peak(), picture(mmproj)
    begun = time.perf_counter()
    if apart:
        with VisionEncoder(mmproj, None, settings) as vision:
            loaded = time.perf_counter() - begun
            width = _value(mmproj, "clip.vision.projection_dim")
            views, looked = _look(vision, image, width, times)
        begun = time.perf_counter()
        with LanguageModel(language_file, settings) as language:
            loaded += time.perf_counter() - begun
            read, spoken = _speak(language, views, tokens, times)
    else:
        with LanguageModel(language_file, settings) as language, VisionEncoder(mmproj, language, settings) as vision:
            loaded = time.perf_counter() - begun
            views, looked = _look(vision, image, language.width, times)
            read, spoken = _speak(language, views, tokens, times)
    length = sum(map(len, views)) + len(QUESTION)
    return {
        "settings": asdict(settings), "apart": apart, "load": loaded, "view": looked / len(views), "picture": looked,
        "prompt": length / read, "decode": tokens / spoken, "answer": looked + read + spoken, "peak": peak(),
        "before": before,
    }  # fmt: skip


def picture(mmproj: Path) -> Image.Image:
    """A picture of three by two cells."""
    side = _value(mmproj, "clip.vision.image_size")
    return drawn(1, 2 * side)[0].resize((3 * side, 2 * side))


def peak() -> int:
    """The peak memory of this process, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def _look(vision: VisionEncoder, image: Image.Image, width: int, times: int) -> tuple[list[np.ndarray], float]:
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        views = vision.views(image, width)
        seconds.append(time.perf_counter() - begun)
    return views, median(seconds)


def _speak(language: LanguageModel, views: Sequence[np.ndarray], tokens: int, times: int) -> tuple[float, float]:
    read, spoken = [], []
    for _ in range(times):
        language.rewind()
        begun = time.perf_counter()
        for view in views:
            language.decode(view)
        logits = language.decode(np.array(language.tokenize(QUESTION), np.int32))
        middle = time.perf_counter()
        for _ in range(tokens):
            logits = language.decode(np.array([logits.argmax()], np.int32))
        read.append(middle - begun)
        spoken.append(time.perf_counter() - middle)
    return median(read), median(spoken)


def _value(path: Path, key: str) -> int:
    return int(GGUFReader(path).get_field(key).contents())


def main() -> None:
    parser = program("training.gguf.speed", str(__doc__).split(":")[0] + ".")
    parser.add_argument("folder", type=Path, help="the folder that `shardmill export` wrote")
    parser.add_argument("--apart", action="store_true", help="encode the image before the language model is loaded")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--times", type=int, default=3, help="repetitions, of which the median counts")
    parser.add_argument("--threads", type=at_least(1), default=os.cpu_count() or 1, help="threads of llama.cpp")
    parser.add_argument("--batch", type=int, default=2048, help="tokens in a batch")
    parser.add_argument("--micro-batch", type=int, default=512, help="tokens that are computed at once")
    parser.add_argument("--flash", action="store_true", help="use flash attention")
    parser.add_argument("--kv", choices=KV, default="f16", help="type of the key-value cache")
    options = parser.parse_args()
    settings = Settings(options.threads, options.batch, options.micro_batch, options.flash, options.kv)
    with answered():
        print(json.dumps(measure(options.folder, settings, options.apart, options.tokens, options.times)))


if __name__ == "__main__":
    main()
