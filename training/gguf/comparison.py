"""The same model twice, and what both are shown: torch's from a checkpoint, llama.cpp's from an export of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from training.checkpoint import load_model
from training.generate import GenerationRequest, Generator
from training.gguf.files import files
from training.gguf.generator import GgufGenerator
from training.gguf.imatrix import hidden, some
from training.gguf.probes import QUESTIONS, drawn
from training.gguf.runtime import EXACT
from training.layout import IGNORED, Tokens
from training.shards import Shards

Sample = tuple[Tokens, list[Image.Image]]


class Pair:
    """The same model twice: torch's, and the files of an export."""

    def __init__(self, folder: Path, checkpoint: Path, root: str | None, name: str | None, count: int):
        self.folder, self.checkpoint, self.count = folder, checkpoint, count
        self.language_file, self.mmproj = files(folder)
        self.model, self.tokenizer = load_model(checkpoint)
        self.speaker = Generator(self.model, self.tokenizer)
        self.query = self.tokenizer.marks.query
        self.shards = Shards(root, name) if root and name else None

    def phone(self) -> GgufGenerator:
        return GgufGenerator(self.folder, EXACT)

    def samples(self) -> Iterator[Sample]:
        """Samples of the set; or drawn pictures, with what the model says of them."""
        if self.shards:
            yield from some(self.shards, self.model, self.tokenizer, self.count)
            return
        for number, image in enumerate(drawn(self.count, self.speaker.slicing.side)):
            question = QUESTIONS[number % len(QUESTIONS)]
            prompt = self.speaker.about(image, question)
            (answer,) = self.speaker.answer([GenerationRequest(prompt, limit=24)])
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
