"""The results of an export, compared with torch: embeddings, logits, answers. Each check returns its figures."""

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
NEAR = 1e-2  # two tokens whose logits are this close may swap


def image_embeddings(pair: Pair) -> Figures:
    """Embeddings of views: `largest` is the largest difference from torch when torch rounds as llama.cpp does.

    It is in units of the embeddings' root mean square, since each model has its own scale. `plain` is the largest
    difference from torch without rounding, `relative` the root mean square of that difference.
    """
    rounded, plain, square, whole, views, values = 0.0, 0.0, 0.0, 0.0, 0, 0
    with LanguageModel(pair.language_file, EXACT) as language, VisionEncoder(pair.mmproj, language, EXACT) as vision:
        for image in pair.pictures()[-24:]:
            cut = pair.generator.about(image, "").views
            theirs, ours = np.array(vision.views(image, language.width)), seen(pair.model, cut).numpy()
            with rounding(pair.model):
                rounded = max(rounded, float(abs(theirs - seen(pair.model, cut).numpy()).max()))
            plain, views, values = max(plain, float(abs(theirs - ours).max())), views + len(ours), values + ours.size
            square, whole = square + float(((theirs - ours) ** 2).sum()), whole + float((ours**2).sum())
    unit = (whole / values) ** 0.5
    return {"views": views, "largest": rounded / unit, "plain": plain / unit, "relative": (square / whole) ** 0.5}


@contextmanager
def rounding(model: VisionLanguageModel) -> Iterator[None]:
    """Makes torch round where llama.cpp uses float16 on a CPU, for any file: in the patch embedding, and in GELU."""

    class Gelu(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            looked_up = F.gelu(x.half().float(), approximate="tanh").half().float()
            return torch.where(x >= 10, x, torch.where(x <= -10, 0.0, looked_up))

    perceptrons: list[Any] = [layer.mlp for layer in model.vision.encoder.layers]  # typed as tensors or modules
    exact = [perceptron.activation_fn for perceptron in perceptrons]
    see, weight = model.see, model.vision.embeddings.patch_embedding.weight
    whole = weight.data
    try:
        weight.data = whole.half().float()
        for perceptron in perceptrons:
            perceptron.activation_fn = Gelu()
        model.see = lambda patches, grids: see(patches.half().float(), grids)
        yield
    finally:
        del model.see
        weight.data = whole
        for perceptron, activation in zip(perceptrons, exact, strict=True):
            perceptron.activation_fn = activation


def text_logits(pair: Pair) -> Figures:
    """The logits of every token of texts without an image."""
    lines = [ids[:64] for text in texts()[:20] if (ids := pair.tokenizer.encode(text))]
    with LanguageModel(pair.language_file, EXACT) as language:
        differences = []
        for ids in lines:
            array = np.array(ids, np.int32)
            language.rewind()
            logits = language.decode(array, every=True)
            differences.append(abs(logits - pair.logits((Tokens(array, array, ()), []))).max())
    return {"texts": len(lines), "largest": float(max(differences))}


def image_and_text_logits(pair: Pair) -> Figures:
    """The logits of every text token of samples with images; llama.cpp encodes the images itself."""
    differences = []
    with LanguageModel(pair.language_file, EXACT) as language, VisionEncoder(pair.mmproj, language, EXACT) as vision:
        for sample in list(pair.samples())[:16]:
            theirs, places = read(language, vision, pair.query, sample)
            differences.append(abs(theirs - pair.logits(sample)[places]).max())
    return {"samples": len(differences), "largest": float(max(differences))}


def greedy(pair: Pair, at_once: int = 10) -> Figures:
    """Greedy answers: they are equal, except where torch's two best tokens are nearly equally likely."""
    pictures, wrong, near = pair.pictures()[: pair.count], [], 0
    with pair.phone() as phone:
        for start in range(0, len(pictures), at_once):
            shown = pictures[start : start + at_once]
            prompts = [pair.generator.about(image, QUESTIONS[0]) for image in shown]
            requests = [GenerationRequest(prompt, limit=96, top=2) for prompt in prompts]
            for image, ours in zip(shown, pair.generator.answer(requests), strict=True):
                (theirs,) = phone.answer([GenerationRequest(phone.about(image, QUESTIONS[0]), limit=96)])
                if ours.ids == theirs.ids:
                    continue
                first = next((n for n, (a, b) in enumerate(zip(ours.ids, theirs.ids, strict=False)) if a != b), None)
                first = min(len(ours.ids), len(theirs.ids)) if first is None else first
                (_, best), (_, second) = ours.top[first]
                if best - second < NEAR:
                    near += 1
                else:
                    wrong.append([ours.text, theirs.text])
    return {"pictures": len(pictures), "unequal": len(wrong), "near": near, "detail": wrong[:2]}


def against_f16(pair: Pair) -> Figures:
    """Divergence of the answers' next-token distributions from the same checkpoint's in f16, per token."""
    divergences, agree = [], []
    with tempfile.TemporaryDirectory() as folder:
        export(pair.checkpoint, Path(folder), "F16", "f16")
        whole, sees = files(Path(folder))
        with (
            LanguageModel(pair.language_file, EXACT) as ours, VisionEncoder(pair.mmproj, ours, EXACT) as our_vision,
            LanguageModel(whole, EXACT) as theirs, VisionEncoder(sees, theirs, EXACT) as their_vision,
        ):  # fmt: skip
            for sample in pair.samples():
                quantised, places = read(ours, our_vision, pair.query, sample)
                exact, _ = read(theirs, their_vision, pair.query, sample)
                before = [number for number, place in enumerate(places) if _predicts_answer(sample[0], place)]
                p, q = (torch.from_numpy(logits[before]).log_softmax(-1) for logits in (exact, quantised))
                divergences += (p.exp() * (p - q)).sum(-1).tolist()
                agree += (p.argmax(-1) == q.argmax(-1)).tolist()
    return {
        "tokens": len(agree), "kl": max(0.0, float(np.mean(divergences))),
        "kl_99": float(np.quantile(divergences, 0.99)), "same_top": float(np.mean(agree)),
    }  # fmt: skip


def read(language: LanguageModel, vision: VisionEncoder, query: int, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """llama.cpp's logits for a sample's text tokens, [text tokens, vocabulary], and the places of these tokens."""
    (laid, images), logits, text_places = sample, [], []
    seen = iter([view for image in images for view in vision.views(image, language.width)])
    language.rewind()
    for visual, run in groupby(enumerate(laid.ids.tolist()), key=lambda pair: pair[1] == query):
        places, ids = zip(*run, strict=True)
        if not visual:
            logits.append(language.decode(np.array(ids, np.int32), every=True))
            text_places += places
            continue
        language.decode(next(seen))
    return np.concatenate(logits), np.array(text_places)


def _predicts_answer(laid: Tokens, place: int) -> bool:
    """Whether this place predicts a token of an answer."""
    return place + 1 < len(laid.labels) and laid.labels[place + 1] >= 0
