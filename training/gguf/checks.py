"""The checks of `shardmill verify-gguf`, each on a line as JSON: `python -m training.gguf.checks DIR CHECKPOINT`.

They run in a process of their own, because llama.cpp ends the process on a file that it does not expect. Torch computes
in float32 from the checkpoint; llama.cpp computes from the files, with keys and values in float32 and no flash
attention, so that any difference comes from the files. With ROOT and SET the checks use samples of that set; without,
drawn pictures.

The checks of the files' contents, and of reading texts and images, are here; those of results are in
`training.gguf.parity`.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader
from PIL import Image

from schemas.errors import answered
from schemas.shards import Damaged
from training.gguf.comparison import Pair
from training.gguf.export import WHOLE
from training.gguf.names import Keys, Tensor, language_keys, language_tensors, vision_keys, vision_tensors
from training.gguf.parity import Figures, against_f16, greedy, image_and_text_logits, image_embeddings, text_logits
from training.gguf.probes import drawn, sizes, texts
from training.gguf.runtime import EXACT, LanguageModel, VisionEncoder
from training.gguf.verify import SHORT
from training.layout import Turn
from training.options import program
from training.pixels import raw_patches


def keys_and_shapes(pair: Pair) -> Figures:
    """Every key and tensor of both files, compared with those that the checkpoint's shape requires."""
    shape, wrong = pair.model.shape, []
    for path, keys, tensors in (
        (pair.language_file, language_keys(shape, pair.tokenizer), language_tensors(shape)),
        (pair.mmproj, vision_keys(shape), vision_tensors(shape)),
    ):
        wrong += [f"{path.name}: {problem}" for problem in _wrong(GGUFReader(path), keys, list(tensors))]
    return {"wrong": len(wrong), "detail": wrong[:5]}


def _wrong(reader: GGUFReader, keys: Keys, tensors: Sequence[Tensor]) -> Iterator[str]:
    whole = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    for key, value in keys.items():
        field = reader.get_field(key)
        held = None if field is None else field.contents()
        same = np.allclose(held, value, rtol=1e-6) if isinstance(value, float) and held is not None else held == value
        if not same:
            yield f"{key} is {str(held)[:60]}, not {str(value)[:60]}"
    by_name = {tensor.name: tensor for tensor in reader.tensors}
    for name in sorted(by_name.keys() ^ {tensor.name for tensor in tensors}):
        yield f"{name} is {'unknown' if name in by_name else 'missing'}"
    matrices = {by_name[tensor.name].tensor_type for tensor in tensors if tensor.name in by_name and not tensor.exact}
    for tensor in tensors:
        if tensor.name not in by_name:
            continue
        stored = by_name[tensor.name]
        if tuple(int(size) for size in stored.shape[::-1]) != tensor.shape:
            yield f"{tensor.name} is {list(stored.shape[::-1])}, not {list(tensor.shape)}"
        if tensor.exact and stored.tensor_type != GGMLQuantizationType.F32:
            yield f"{tensor.name} is {stored.tensor_type.name}, not F32"
        if tensor.blocks and stored.tensor_type in whole and not matrices <= {*whole}:
            yield f"{tensor.name} is {stored.tensor_type.name} among quantised ones"


def loads(pair: Pair) -> Figures:
    """Whether both files load, and llama.cpp's warnings."""
    with LanguageModel(pair.language_file, EXACT) as language, VisionEncoder(pair.mmproj, language, EXACT) as vision:
        warnings = language.warnings + vision.warnings
    return {"warnings": len(warnings), "detail": warnings[:5]}


def tokenizer(pair: Pair) -> Figures:
    """Texts in many scripts, and of the samples, tokenized by both; and whether marks in a text stay text."""
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
    plans, wrong, unequal, pixels = pair.generator.slicing, [], 0, 0
    with (
        LanguageModel(pair.language_file, EXACT) as language,
        VisionEncoder(pair.mmproj, language, EXACT, watch=True) as vision,
    ):
        for number, size in enumerate(sizes(plans.side)):
            image = _noise(number, *size)
            expected = [raw_patches(view, plans.patch) for view in pair.generator.about(image, "").views]
            grids = [(view.height // plans.patch, view.width // plans.patch) for view in plans.of(*size).views]
            with vision.chunks([image]) as chunks:
                watched = [vision.look(chunk) for chunk in chunks if not isinstance(chunk, np.ndarray)]
            if [patches.shape[:2] for patches in watched] != grids:
                wrong.append(size)
                continue
            for ours, theirs in zip(expected, watched, strict=True):
                levels = np.rint((theirs.reshape(ours.shape) / 2 + 0.5) * 255).astype(np.uint8)
                unequal, pixels = unequal + int((levels != ours).sum()), pixels + ours.size
    return {"sizes": number + 1, "other_views": len(wrong), "unequal": unequal, "values": pixels, "detail": wrong[:5]}


def layout(pair: Pair) -> Figures:
    """The tokens of conversations with no, one and two images, sliced and not, as laid out by both."""
    side, wrong = pair.generator.slicing.side, []
    small, large = drawn(1, side)[0], _noise(1, 3 * side, 2 * side)
    conversations = [
        [("user", ["What is written there?"])],
        [("user", [small, "Is <image> or <slice> a mark? <|im_end|>"])],
        [("user", [large, "Describe the image.\n"])],
        [
            ("system", ["Be brief."]),
            ("user", ["Compare", small, large, "please"]),
            ("assistant", ["No."]),
            ("user", ["Why?"]),
        ],
    ]
    with pair.phone() as phone:
        for number, turns in enumerate(conversations):
            laid = []
            for of in (pair.generator, phone):
                images = {str(id(part)): part for _, parts in turns for part in parts if not isinstance(part, str)}
                laid_turns = [
                    Turn(role, [part if isinstance(part, str) else of.picture(str(id(part)), part) for part in parts])
                    for role, parts in turns
                ]
                laid.append(of.prompt(laid_turns, images))
            ours, theirs = laid
            with phone.vision.chunks(theirs.parts) as chunks:
                ids = [
                    id
                    for chunk in chunks
                    for id in (chunk if isinstance(chunk, np.ndarray) else [pair.query] * phone.vision.length(chunk))
                ]
            if ids != ours.ids.tolist():
                wrong.append(number)
    return {"conversations": len(conversations), "unequal": len(wrong), "detail": wrong}


CHECKS = (
    keys_and_shapes, loads, tokenizer, preprocessing, layout, image_embeddings, text_logits, image_and_text_logits,
    greedy,
)  # fmt: skip


def run(pair: Pair) -> Iterator[Figures]:
    """Yields each check's name, then its figures; a quantised language model is also compared with f16.

    Without weights, only the checks of `training.gguf.verify.SHORT`.
    """
    quantised = not any(pair.language_file.stem.endswith(f"-{kind}") for kind in WHOLE)
    every = (*CHECKS, *([against_f16] if quantised else []))
    for check in every if pair.weights else [check for check in every if check.__name__ in SHORT]:
        yield {"begun": check.__name__}
        begun = time.perf_counter()
        with torch.inference_mode():
            figures = check(pair)
        yield {"check": check.__name__, **figures, "seconds": round(time.perf_counter() - begun, 2)}


def _noise(number: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8))


def main() -> None:
    parser = program("training.gguf.checks", str(__doc__).split(",")[0] + ".")
    parser.add_argument("folder", type=Path, help="the folder that `shardmill export` wrote")
    parser.add_argument("checkpoint", type=Path, help="the checkpoint that it was made from")
    parser.add_argument("--root", help="folder or URL of a corpus")
    parser.add_argument("--set", help="a published shard set, not trained on")
    parser.add_argument("--samples", type=int, default=50, help="number of samples to compare")
    parser.add_argument("--short", action="store_true", help="only checks that need no answer of the model")
    options = parser.parse_args()
    with answered(FileNotFoundError, Damaged):
        pair = Pair(options.folder, options.checkpoint, options.root, options.set, options.samples, not options.short)
        for line in run(pair):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
