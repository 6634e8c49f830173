"""The same model twice, with inputs for both: torch's from a checkpoint, llama.cpp's from an export of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.checkpoint import load_model
from training.generate import GenerationRequest, Generator
from training.gguf.files import files
from training.gguf.generator import GgufGenerator
from training.gguf.imatrix import hidden, spread_samples
from training.gguf.probes import QUESTIONS, drawn
from training.gguf.runtime import EXACT
from training.layout import IGNORED, Tokens
from training.model import VisionLanguageModel
from training.shapes import read_checkpoint_shape
from training.shards import Shards
from training.tokenizer import Tokenizer

Sample = tuple[Tokens, list[Image.Image]]


class Pair:
    """The same model twice: in torch, and as the files of an export.

    Without `weights`, torch's has none: it can lay out samples, and compute nothing.
    """

    def __init__(
        self, folder: Path, checkpoint: Path, root: str | None, name: str | None, count: int, weights: bool = True
    ):
        self.folder, self.checkpoint, self.count, self.weights = folder, checkpoint, count, weights
        self.language_file, self.mmproj = files(folder)
        if weights:
            self.model, self.tokenizer = load_model(checkpoint)
        else:
            with torch.device("meta"):
                self.model = VisionLanguageModel(read_checkpoint_shape(checkpoint))
            self.tokenizer = Tokenizer(checkpoint)
        self.generator = Generator(self.model, self.tokenizer)
        self.query = self.tokenizer.marks.query
        self.shards = Shards(root, name) if root and name else None

    def phone(self) -> GgufGenerator:
        return GgufGenerator(self.folder, EXACT)

    def samples(self) -> Iterator[Sample]:
        """Samples of the set; without one, drawn pictures with the model's answers about them."""
        if self.shards:
            yield from spread_samples(self.shards, self.model, self.tokenizer, self.count)
            return
        for number, image in enumerate(drawn(self.count, self.generator.slicing.side)):
            question = QUESTIONS[number % len(QUESTIONS)]
            prompt = self.generator.about(image, question)
            (answer,) = self.generator.answer([GenerationRequest(prompt, limit=24)])
            reply = self.tokenizer.encode(answer.text.strip() or "A red square.")
            ids = np.concatenate([prompt.ids, np.array(reply, np.int32)])
            labels = np.where(np.arange(len(ids)) < len(prompt.ids), IGNORED, ids)
            yield Tokens(ids, labels, (self.generator.picture("image", image),)), [image]

    def pictures(self) -> list[Image.Image]:
        """The first image of each sample, and pictures that are cut into several views."""
        large = drawn(4, 3 * self.generator.slicing.side)
        if not self.shards:
            return drawn(self.count, self.generator.slicing.side) + large
        return [image for _, images in self.samples() for image in images[:1]] + large

    def logits(self, sample: Sample) -> np.ndarray:
        """Torch's logits: float32 [tokens, vocabulary]."""
        return self.model.language.lm_head(hidden(self.model, *sample, self.query)).numpy()
