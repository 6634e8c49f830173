"""What an export computes, held against torch: embeddings, logits, answers. Each check returns its figures."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from training.generate import GenerationRequest
from training.gguf.comparison import Pair, Sample
from training.gguf.export import export
from training.gguf.files import files
from training.gguf.imatrix import seen
from training.gguf.probes import QUESTIONS, texts
from training.gguf.runtime import EXACT, LanguageModel, VisionEncoder
from training.layout import Tokens
from training.model import VisionLanguageModel

Figures = dict[str, Any]
NEAR = 1e-2  # two tokens whose logits are no further apart may change places


def image_embeddings(pair: Pair) -> Figures:
    """What the resampler makes of views: the largest difference from torch where torch rounds as llama.cpp does.

    In units of the embeddings' root mean square, since their scale is the model's own choice. `plain` is the largest
    from torch as it is, `relative` its root mean square.
    """
    rounded, plain, square, whole, views, values = 0.0, 0.0, 0.0, 0.0, 0, 0
    with LanguageModel(pair.language_file, EXACT) as language, VisionEncoder(pair.mmproj, language, EXACT) as sight:
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
    with LanguageModel(pair.language_file, EXACT) as language:
        found = []
        for ids in lines:
            array = np.array(ids, np.int32)
            language.rewind()
            found.append(abs(language.decode(array, every=True) - pair.logits((Tokens(array, array, ()), []))).max())
    return {"texts": len(lines), "largest": float(max(found))}


def image_and_text_logits(pair: Pair) -> Figures:
    """Logits of every text token of samples with their images, which llama.cpp encodes itself."""
    found = []
    with LanguageModel(pair.language_file, EXACT) as language, VisionEncoder(pair.mmproj, language, EXACT) as sight:
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
            asks = [GenerationRequest(pair.speaker.about(image, QUESTIONS[0]), limit=96, top=2) for image in some]
            for image, ours in zip(some, pair.speaker.answer(asks)):
                (theirs,) = speaker.answer([GenerationRequest(speaker.about(image, QUESTIONS[0]), limit=96)])
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
            LanguageModel(pair.language_file, EXACT) as ours, VisionEncoder(pair.mmproj, ours, EXACT) as our_sight,
            LanguageModel(whole, EXACT) as theirs, VisionEncoder(sees, theirs, EXACT) as their_sight,
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


def read(language: LanguageModel, sight: VisionEncoder, query: int, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
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
