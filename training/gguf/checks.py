"""What `shardmill verify-gguf` measures, each on a line as JSON: `python -m training.gguf.checks DIR CHECKPOINT`.

A process of its own, because llama.cpp ends the process on a file that it does not expect. Torch computes in float32
from the checkpoint; llama.cpp from the files, with keys and values in float32 and no flash attention, so that what
differs is the files' doing. With ROOT and SET, samples of that set are looked at; without, drawn pictures.

Here is what the files say and how they read texts and images; what they compute is in `training.gguf.parity`.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader
from PIL import Image

from schemas.errors import UserError
from schemas.shards import Damaged
from training.gguf.comparison import Pair
from training.gguf.export import WHOLE
from training.gguf.names import Keys, Tensor, language_keys, language_tensors, vision_keys, vision_tensors
from training.gguf.parity import Figures, against_f16, greedy, image_and_text_logits, image_embeddings, text_logits
from training.gguf.probes import drawn, sizes, texts
from training.gguf.runtime import EXACT, LanguageModel, VisionEncoder
from training.layout import Turn
from training.pixels import raw_patches


def keys_and_shapes(pair: Pair) -> Figures:
    """Every key and tensor of both files, held against what the checkpoint's shape asks for."""
    shape, wrong = pair.model.shape, []
    for path, keys, tensors in (
        (pair.language_file, language_keys(shape, pair.tokenizer), language_tensors(shape)),
        (pair.mmproj, vision_keys(shape), vision_tensors(shape)),
    ):
        wrong += [f"{path.name}: {one}" for one in _wrong(GGUFReader(path), keys, list(tensors))]
    return {"wrong": len(wrong), "detail": wrong[:5]}


def _wrong(reader: GGUFReader, keys: Keys, tensors: Sequence[Tensor]) -> Iterator[str]:
    whole = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    for key, value in keys.items():
        field = reader.get_field(key)
        found = None if field is None else field.contents()
        same = (
            np.allclose(found, value, rtol=1e-6) if isinstance(value, float) and found is not None else found == value
        )
        if not same:
            yield f"{key} is {str(found)[:60]}, not {str(value)[:60]}"
    there = {one.name: one for one in reader.tensors}
    for name in sorted(there.keys() ^ {one.name for one in tensors}):
        yield f"{name} is {'unknown' if name in there else 'missing'}"
    matrices = {there[one.name].tensor_type for one in tensors if one.name in there and not one.exact}
    for one in tensors:
        if one.name not in there:
            continue
        stored = there[one.name]
        if tuple(int(size) for size in stored.shape[::-1]) != one.shape:
            yield f"{one.name} is {list(stored.shape[::-1])}, not {list(one.shape)}"
        if one.exact and stored.tensor_type != GGMLQuantizationType.F32:
            yield f"{one.name} is {stored.tensor_type.name}, not F32"
        if one.blocks and stored.tensor_type in whole and not matrices <= {*whole}:
            yield f"{one.name} is {stored.tensor_type.name} among quantised ones"


def loads(pair: Pair) -> Figures:
    """Whether both files load, and what llama.cpp warns of."""
    with LanguageModel(pair.language_file, EXACT) as language, VisionEncoder(pair.mmproj, language, EXACT) as sight:
        said = language.warnings + sight.warnings
    return {"warnings": len(said), "detail": said[:5]}


def tokenizer(pair: Pair) -> Figures:
    """Texts of many scripts, and of the samples, tokenized by both; and whether marks in a text stay text."""
    corpus = texts()
    if pair.shards:
        corpus += [pair.tokenizer.decode(laid.ids) for laid, _ in pair.samples()]
    image_marks = {*pair.tokenizer.marks.image, *pair.tokenizer.marks.slice}
    with LanguageModel(pair.language_file, EXACT) as language:
        wrong = [text for text in corpus if language.tokenize(text) != pair.tokenizer.encode(text)]
        read = [text for text in corpus if image_marks.intersection(language.tokenize(text, marks=True))]
    return {"texts": len(corpus), "unequal": len(wrong), "marks_read": len(read), "detail": (wrong + read)[:3]}


def preprocessing(pair: Pair) -> Figures:
    """Views, grids and pixels of images of odd, tiny, tall and wide sizes."""
    plans, wrong, unequal, pixels = pair.speaker.slicing, [], 0, 0
    with (
        LanguageModel(pair.language_file, EXACT) as language,
        VisionEncoder(pair.mmproj, language, EXACT, watch=True) as sight,
    ):
        for number, size in enumerate(sizes(plans.side)):
            image = _noise(number, *size)
            expected = [raw_patches(view, plans.patch) for view in pair.speaker.about(image, "").views]
            grids = [(view.height // plans.patch, view.width // plans.patch) for view in plans.of(*size).views]
            with sight.chunks([image]) as chunks:
                found = [sight.look(chunk) for chunk in chunks if not isinstance(chunk, np.ndarray)]
            if [one.shape[:2] for one in found] != grids:
                wrong.append(size)
                continue
            for ours, theirs in zip(expected, found):
                levels = np.rint((theirs.reshape(ours.shape) / 2 + 0.5) * 255).astype(np.uint8)
                unequal, pixels = unequal + int((levels != ours).sum()), pixels + ours.size
    return {"sizes": number + 1, "other_views": len(wrong), "unequal": unequal, "values": pixels, "detail": wrong[:5]}


def layout(pair: Pair) -> Figures:
    """Tokens of conversations with no, one and two images, sliced and not, as both lay them out."""
    side, wrong = pair.speaker.slicing.side, []
    one, two = drawn(1, side)[0], _noise(1, 3 * side, 2 * side)
    conversations = [
        [("user", ["What is written there?"])],
        [("user", [one, "Is <image> or <slice> a mark? <|im_end|>"])],
        [("user", [two, "Describe the image.\n"])],
        [
            ("system", ["Be brief."]),
            ("user", ["Compare", one, two, "please"]),
            ("assistant", ["No."]),
            ("user", ["Why?"]),
        ],
    ]
    with pair.phone() as speaker:
        for number, said in enumerate(conversations):
            laid = []
            for of in (pair.speaker, speaker):
                images = {str(id(part)): part for _, parts in said for part in parts if not isinstance(part, str)}
                turns = [
                    Turn(role, [part if isinstance(part, str) else of.picture(str(id(part)), part) for part in parts])
                    for role, parts in said
                ]
                laid.append(of.prompt(turns, images))
            ours, theirs = laid
            with speaker.sight.chunks(theirs.parts) as chunks:
                ids = [
                    id
                    for chunk in chunks
                    for id in (chunk if isinstance(chunk, np.ndarray) else [pair.query] * speaker.sight.length(chunk))
                ]
            if ids != ours.ids.tolist():
                wrong.append(number)
    return {"conversations": len(conversations), "unequal": len(wrong), "detail": wrong}


CHECKS = (
    keys_and_shapes, loads, tokenizer, preprocessing, layout, image_embeddings, text_logits, image_and_text_logits,
    greedy,
)  # fmt: skip


def run(pair: Pair) -> Iterator[Figures]:
    """Says what begins, and then what came of it; a quantised language model is held against f16 too."""
    quantised = not any(pair.language_file.stem.endswith(f"-{kind}") for kind in WHOLE)
    for check in (*CHECKS, *([against_f16] if quantised else [])):
        yield {"begun": check.__name__}
        begun = time.perf_counter()
        with torch.inference_mode():
            figures = check(pair)
        yield {"check": check.__name__, **figures, "seconds": round(time.perf_counter() - begun, 2)}


def _noise(number: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.gguf.checks", description=__doc__.split(",")[0] + ".")
    parser.add_argument("folder", type=Path, help="what `shardmill export` wrote")
    parser.add_argument("checkpoint", type=Path, help="what it was made from")
    parser.add_argument("--root", help="folder or URL of a corpus")
    parser.add_argument("--set", help="a published shard set, not trained on")
    parser.add_argument("--samples", type=int, default=50)
    options = parser.parse_args()
    try:
        pair = Pair(options.folder, options.checkpoint, options.root, options.set, options.samples)
        for told in run(pair):
            print(json.dumps(told), flush=True)
    except (UserError, FileNotFoundError, Damaged) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
