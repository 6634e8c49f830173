"""Answers of an export, computed by llama.cpp, with the interface of `training.generate.Generator`.

generator = GgufGenerator("phone")
(answer,) = generator.answer([GenerationRequest(generator.about(image, "Describe the image."))])

Images go through llama.cpp's own preprocessing and token layout, as on the phone. A user's text is always text, even
where it spells a mark. Answers are computed one after another; consecutive requests about an image encode it once.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from PIL import Image

from schemas.slices import Plan, Size
from training.generate import Generated, GenerationRequest, Generator
from training.gguf.files import files
from training.gguf.runtime import DEFAULT, ImageChunk, LanguageModel, Part, Settings, Text, VisionEncoder
from training.layout import Picture, SampleRejected, Turn

KEPT = 16  # images whose embeddings are kept


class Parts(NamedTuple):
    """A prompt for llama.cpp."""

    parts: tuple[Part, ...]
    key: bytes  # equal for equal prompts
    length: int  # tokens


class GgufGenerator:
    """The model in a folder that `training.gguf.export` wrote. Raises `UserError` if llama.cpp does not load it."""

    def __init__(self, folder: str | Path, settings: Settings = DEFAULT, context: int = 0):
        language, mmproj = files(Path(folder))
        self.language = LanguageModel(language, settings, context)
        self.vision = VisionEncoder(mmproj, self.language, settings)
        self.seen: OrderedDict[bytes, list[np.ndarray]] = OrderedDict()
        self.last: tuple[bytes, int, np.ndarray] | None = None  # key and length of a prompt, and the logits after it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.vision.__exit__()
        self.language.__exit__()

    @property
    def room(self) -> int:
        """The tokens that a prompt and its answer may have."""
        return self.language.room

    @property
    def vocabulary(self) -> int:
        """The number of tokens of the vocabulary."""
        return len(self.language)

    def prompt(self, turns: Sequence[Turn], images: Mapping[str, Image.Image] = {}) -> Parts:
        """A prompt of turns and their pictures by name. Raises `SampleRejected` if it leaves no room for an answer."""
        parts: list[Part] = []
        for role, content in [*turns, Turn("assistant", [])]:
            parts += [Text("\n")] if parts else []
            parts += [Text("<|im_start|>", marks=True), Text(f"{role}\n")]
            for part in content:
                text = isinstance(part, str)
                if text and isinstance(parts[-1], Text) and not parts[-1].marks:
                    parts[-1] = Text(parts[-1].text + part)  # text between two marks is tokenized in one call
                else:
                    parts.append(Text(part) if text else images[part.name])
            parts += [Text("<|im_end|>", marks=True)]
        del parts[-1]  # the answer is not closed yet
        with self.vision.chunks(parts) as chunks:
            length = sum(map(self.vision.length, chunks))
        if length >= self.language.room:
            raise SampleRejected("too_long", f"{length} tokens of {self.language.room}")
        return Parts(tuple(parts), _key(parts), length)

    def picture(self, name: str, image: Image.Image) -> Picture:
        whole = Size(*image.size)
        return Picture(name, Plan(whole, whole))  # llama.cpp plans it itself

    def about(self, image: Image.Image, question: str) -> Parts:
        """The prompt of a question about one image."""
        return self.prompt([Turn("user", [self.picture("image", image), question])], {"image": image})

    def answer(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        """One answer for each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: GenerationRequest) -> Generated:
        answer, draws, language = Generated(), torch.Generator().manual_seed(request.seed), self.language
        logits = self.read(request.prompt)
        text = b""
        while len(answer.ids) < request.limit and not request.cancelled():
            log_probabilities = torch.from_numpy(logits).log_softmax(-1)
            token = Generator._choose(log_probabilities, request, draws)
            if request.top:
                best = log_probabilities.topk(request.top)
                answer.top.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
            answer.finished = language.ends(token)
            if answer.finished:
                break
            answer.ids.append(token)
            answer.log_probabilities.append(float(log_probabilities[token]))
            text += language.piece(token)
            if language.place >= language.room:
                break
            if len(answer.ids) < request.limit:
                logits = language.decode(np.array([token], np.int32))
        answer.text = text.decode("utf-8", "replace")
        return answer

    def read(self, prompt: Parts) -> np.ndarray:
        """The logits after a prompt, float32 [vocabulary]; the prompt that was read last is not read again."""
        if self.last and self.last[0] == prompt.key:
            _, place, logits = self.last
            self.language.rewind(place)
            return logits
        self.last = None
        self.language.rewind()
        with self.vision.chunks(prompt.parts) as chunks:
            image = _key(part for part in prompt.parts if isinstance(part, Image.Image))
            views = [chunk for chunk in chunks if not isinstance(chunk, np.ndarray)]
            seen = iter(self._see(image, views))
            for chunk in chunks:
                logits = self.language.decode(chunk if isinstance(chunk, np.ndarray) else next(seen))
        self.last = (prompt.key, self.language.place, logits)
        return logits

    def _see(self, key: bytes, views: Sequence[ImageChunk]) -> list[np.ndarray]:
        if key not in self.seen:
            self.seen[key] = [self.vision.encode(view, self.language.width) for view in views]
        self.seen.move_to_end(key)
        while len(self.seen) > KEPT:
            self.seen.popitem(last=False)
        return self.seen[key]


def _key(parts) -> bytes:
    digest = sha256()
    for part in parts:
        text = isinstance(part, Text)
        payload = part.text.encode() if text else part.tobytes()
        digest.update(repr((text and part.marks, None if text else part.size, len(payload))).encode() + payload)
    return digest.digest()
