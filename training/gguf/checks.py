"""What `shardmill verify-gguf` measures, each on a line as JSON: `python -m training.gguf.checks DIR CHECKPOINT`.

A process of its own, because llama.cpp ends the process on a file that it does not expect. Torch computes in float32
from the checkpoint; llama.cpp from the files, with keys and values in float32 and no flash attention, so that what
differs is the files' doing. With ROOT and SET, samples of that set are looked at; without, drawn pictures.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader
from PIL import Image
from torch import nn
from torch.nn import functional as F

from schemas.config import UserError
from schemas.shards import Damaged
from training.checkpoint import load_model
from training.generate import Ask, Speaker
from training.gguf.export import WHOLE, export
from training.gguf.files import files
from training.gguf.imatrix import hidden, seen, some
from training.gguf.names import Keys, Tensor, language_keys, language_tensors, vision_keys, vision_tensors
from training.gguf.runtime import EXACT, Language, Sight
from training.gguf.speaker import GgufSpeaker
from training.gguf.subjects import QUESTIONS, drawn, sizes, texts
from training.layout import IGNORED, Tokens, Turn
from training.model import VisionLanguageModel
from training.pixels import raw_patches
from training.shards import Shards

Figures = dict[str, Any]
Sample = tuple[Tokens, list[Image.Image]]
NEAR = 1e-2  # two tokens whose logits are no further apart may change places


class Pair:
    """The same model twice: torch's, and the files of an export."""

    def __init__(self, folder: Path, checkpoint: Path, root: str | None, name: str | None, count: int):
        self.folder, self.checkpoint, self.count = folder, checkpoint, count
        self.language_file, self.mmproj = files(folder)
        self.model, self.tokenizer = load_model(checkpoint)
        self.speaker = Speaker(self.model, self.tokenizer)
        self.query = self.tokenizer.marks.query
        self.shards = Shards(root, name) if root and name else None

    def phone(self) -> GgufSpeaker:
        return GgufSpeaker(self.folder, EXACT)

    def samples(self) -> Iterator[Sample]:
        """Samples of the set; or drawn pictures, with what the model says of them."""
        if self.shards:
            yield from some(self.shards, self.model, self.tokenizer, self.count)
            return
        for number, image in enumerate(drawn(self.count, self.speaker.slicing.side)):
            question = QUESTIONS[number % len(QUESTIONS)]
            prompt = self.speaker.about(image, question)
            (answer,) = self.speaker.answer([Ask(prompt, limit=24)])
            said = self.tokenizer.encode(answer.text.strip() or "A red square.")
            ids = np.concatenate([prompt.ids, np.array(said, np.int32)])
            labels = np.where(np.arange(len(ids)) < len(prompt.ids), IGNORED, ids)
            yield Tokens(ids, labels, (self.speaker.picture("image", image),)), [image]

    def pictures(self) -> list[Image.Image]:
        """What the samples show, and pictures that are cut into several views."""
        large = drawn(4, 3 * self.speaker.slicing.side)
        if not self.shards:
            return drawn(self.count, self.speaker.slicing.side) + large
        return [image for _, images in self.samples() for image in images[:1]] + large

    def logits(self, sample: Sample) -> np.ndarray:
        """Torch's: float32 [tokens, vocabulary]."""
        return self.model.language.lm_head(hidden(self.model, *sample, self.query)).numpy()


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
        if not one.exact and len(one.shape) == 2 and stored.tensor_type in whole and not matrices <= {*whole}:
            yield f"{one.name} is {stored.tensor_type.name} among quantised ones"


def loads(pair: Pair) -> Figures:
    """Whether both files load, and what llama.cpp warns of."""
    with Language(pair.language_file, EXACT) as language, Sight(pair.mmproj, language, EXACT) as sight:
        said = language.warnings + sight.warnings
    return {"warnings": len(said), "detail": said[:5]}


def tokenizer(pair: Pair) -> Figures:
    """Texts of many scripts, and of the samples, tokenized by both; and whether marks in a text stay text."""
    corpus = texts()
    if pair.shards:
        corpus += [pair.tokenizer.decode(laid.ids) for laid, _ in pair.samples()]
    image_marks = {*pair.tokenizer.marks.image, *pair.tokenizer.marks.slice}
    with Language(pair.language_file, EXACT) as language:
        wrong = [text for text in corpus if language.tokenize(text) != pair.tokenizer.encode(text)]
        read = [text for text in corpus if image_marks.intersection(language.tokenize(text, marks=True))]
    return {"texts": len(corpus), "unequal": len(wrong), "marks_read": len(read), "detail": (wrong + read)[:3]}


def preprocessing(pair: Pair) -> Figures:
    """Views, grids and pixels of images of odd, tiny, tall and wide sizes."""
    plans, wrong, unequal, pixels = pair.speaker.slicing, [], 0, 0
    with Language(pair.language_file, EXACT) as language, Sight(pair.mmproj, language, EXACT, watch=True) as sight:
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


def image_embeddings(pair: Pair) -> Figures:
    """What the resampler makes of views: the largest difference from torch where torch rounds as llama.cpp does.

    In units of the embeddings' root mean square, since their scale is the model's own choice. `plain` is the largest
    from torch as it is, `relative` its root mean square.
    """
    rounded, plain, square, whole, views, values = 0.0, 0.0, 0.0, 0.0, 0, 0
    with Language(pair.language_file, EXACT) as language, Sight(pair.mmproj, language, EXACT) as sight:
        for image in pair.pictures()[-24:]:
            cut = pair.speaker.about(image, "").views
            theirs, ours = np.array(sight.views(image, language.width)), seen(pair.model, cut).numpy()
            with rounding(pair.model):
                rounded = max(rounded, float(abs(theirs - seen(pair.model, cut).numpy()).max()))
            plain, views, values = max(plain, float(abs(theirs - ours).max())), views + len(ours), values + ours.size
            square, whole = square + float(((theirs - ours) ** 2).sum()), whole + float((ours**2).sum())
    unit = (whole / values) ** 0.5
    return {"views": views, "largest": rounded / unit, "plain": plain / unit, "relative": (square / whole) ** 0.5}


@contextmanager
def rounding(model: VisionLanguageModel) -> Iterator[None]:
    """Torch with the steps that llama.cpp takes in float16 on a CPU, whatever the file: embedding patches, and GELU."""

    class Gelu(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            looked_up = F.gelu(x.half().float(), approximate="tanh").half().float()
            return torch.where(x >= 10, x, torch.where(x <= -10, 0.0, looked_up))

    perceptrons = [layer.mlp for layer in model.vision.encoder.layers]
    exact = [one.activation_fn for one in perceptrons]
    see, weight = model.see, model.vision.embeddings.patch_embedding.weight
    whole = weight.data
    try:
        weight.data = whole.half().float()
        for one in perceptrons:
            one.activation_fn = Gelu()
        model.see = lambda patches, grids: see(patches.half().float(), grids)
        yield
    finally:
        del model.see
        weight.data = whole
        for one, activation in zip(perceptrons, exact):
            one.activation_fn = activation


def text_logits(pair: Pair) -> Figures:
    """Logits of every token of texts without an image."""
    lines = [ids[:64] for text in texts()[:20] if (ids := pair.tokenizer.encode(text))]
    with Language(pair.language_file, EXACT) as language:
        found = []
        for ids in lines:
            array = np.array(ids, np.int32)
            language.rewind()
            found.append(abs(language.decode(array, every=True) - pair.logits((Tokens(array, array, ()), []))).max())
    return {"texts": len(lines), "largest": float(max(found))}


def image_and_text_logits(pair: Pair) -> Figures:
    """Logits of every text token of samples with their images, which llama.cpp encodes itself."""
    found = []
    with Language(pair.language_file, EXACT) as language, Sight(pair.mmproj, language, EXACT) as sight:
        for sample in list(pair.samples())[:16]:
            theirs, at = read(language, sight, pair.query, sample)
            found.append(abs(theirs - pair.logits(sample)[at]).max())
    return {"samples": len(found), "largest": float(max(found))}


def greedy(pair: Pair, at_once: int = 10) -> Figures:
    """Greedy answers: equal, but where torch's two best tokens are nearly equally good."""
    pictures, wrong, near = pair.pictures()[: pair.count], [], 0
    with pair.phone() as speaker:
        for start in range(0, len(pictures), at_once):
            some = pictures[start : start + at_once]
            asks = [Ask(pair.speaker.about(image, QUESTIONS[0]), limit=96, top=2) for image in some]
            for image, ours in zip(some, pair.speaker.answer(asks)):
                (theirs,) = speaker.answer([Ask(speaker.about(image, QUESTIONS[0]), limit=96)])
                if ours.ids == theirs.ids:
                    continue
                first = next((n for n, (a, b) in enumerate(zip(ours.ids, theirs.ids)) if a != b), None)
                first = min(len(ours.ids), len(theirs.ids)) if first is None else first
                (_, best), (_, second) = ours.top[first]
                if best - second < NEAR:
                    near += 1
                else:
                    wrong.append([ours.text, theirs.text])
    return {"pictures": len(pictures), "unequal": len(wrong), "near": near, "detail": wrong[:2]}


def against_f16(pair: Pair) -> Figures:
    """How far the answers' next-token distributions are from those of the same checkpoint in f16, a token."""
    divergences, agree = [], []
    with tempfile.TemporaryDirectory() as folder:
        export(pair.checkpoint, Path(folder), "F16", "f16")
        whole, sees = files(Path(folder))
        with (
            Language(pair.language_file, EXACT) as ours, Sight(pair.mmproj, ours, EXACT) as our_sight,
            Language(whole, EXACT) as theirs, Sight(sees, theirs, EXACT) as their_sight,
        ):  # fmt: skip
            for sample in pair.samples():
                quantised, at = read(ours, our_sight, pair.query, sample)
                exact, _ = read(theirs, their_sight, pair.query, sample)
                before = [number for number, place in enumerate(at) if _foretells(sample[0], place)]
                p, q = (torch.from_numpy(one[before]).log_softmax(-1) for one in (exact, quantised))
                divergences += (p.exp() * (p - q)).sum(-1).tolist()
                agree += (p.argmax(-1) == q.argmax(-1)).tolist()
    return {
        "tokens": len(agree), "kl": max(0.0, float(np.mean(divergences))),
        "kl_99": float(np.quantile(divergences, 0.99)), "same_top": float(np.mean(agree)),
    }  # fmt: skip


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


def read(language: Language, sight: Sight, query: int, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """llama.cpp's logits for a sample's text tokens, [text tokens, vocabulary], and where these stand."""
    (laid, images), found, at = sample, [], []
    seen = iter([view for image in images for view in sight.views(image, language.width)])
    language.rewind()
    for visual, run in groupby(enumerate(laid.ids.tolist()), key=lambda pair: pair[1] == query):
        places, ids = zip(*run)
        if not visual:
            found.append(language.decode(np.array(ids, np.int32), every=True))
            at += places
            continue
        language.decode(next(seen))
    return np.concatenate(found), np.array(at)


def _foretells(laid: Tokens, place: int) -> bool:
    """Whether an answer's token stands behind this place."""
    return place + 1 < len(laid.labels) and laid.labels[place + 1] >= 0


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
