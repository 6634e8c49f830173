"""Answers of an export, computed by llama.cpp, with the face of `training.generate.Generator`.

speaker = GgufSpeaker("phone")
(answer,) = speaker.answer([Ask(speaker.about(image, "Describe the image."))])

Images go through llama.cpp's own preprocessing and token layout, as on the phone. What a user wrote is text, whatever
marks it spells. Answers are computed one after the other; what is asked about one image in a row encodes it once.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from PIL import Image

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
    """A folder that `training.gguf.export` wrote. Raises `UserError` for one that llama.cpp does not load."""

    def __init__(self, folder: str | Path, settings: Settings = DEFAULT, context: int = 0):
        language, mmproj = files(Path(folder))
        self.language = LanguageModel(language, settings, context)
        self.sight = VisionEncoder(mmproj, self.language, settings)
        self.seen: OrderedDict[bytes, list[np.ndarray]] = OrderedDict()
        self.last: tuple[bytes, int, np.ndarray] | None = None  # a prompt, its length, and the logits behind it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sight.__exit__()
        self.language.__exit__()

    def prompt(self, turns: Sequence[Turn], images: Mapping[str, Image.Image] = {}) -> Parts:
        """Turns, and the pictures in them by name. Raises `SampleRejected` if no room is left for an answer."""
        parts: list[Part] = []
        for role, said in [*turns, Turn("assistant", [])]:
            parts += [Text("\n")] if parts else []
            parts += [Text("<|im_start|>", marks=True), Text(f"{role}\n")]
            for part in said:
                text = isinstance(part, str)
                if text and isinstance(parts[-1], Text) and not parts[-1].marks:
                    parts[-1] = Text(parts[-1].text + part)  # what stands between two marks is tokenized in one go
                else:
                    parts.append(Text(part) if text else images[part.name])
            parts += [Text("<|im_end|>", marks=True)]
        del parts[-1]  # the answer is open
        with self.sight.chunks(parts) as chunks:
            length = sum(map(self.sight.length, chunks))
        if length >= self.language.room:
            raise SampleRejected("too_long", f"{length} tokens of {self.language.room}")
        return Parts(tuple(parts), _key(parts), length)

    def picture(self, name: str, image: Image.Image) -> Picture:
        return Picture(name, None)  # llama.cpp plans it

    def about(self, image: Image.Image, question: str) -> Parts:
        """A question about one image."""
        return self.prompt([Turn("user", [self.picture("image", image), question])], {"image": image})

    def answer(self, asked: Sequence[GenerationRequest]) -> list[Generated]:
        """An answer to each."""
        return [self._answer(ask) for ask in asked]

    def _answer(self, ask: GenerationRequest) -> Generated:
        answer, draws, language = Generated(), torch.Generator().manual_seed(ask.seed), self.language
        logits = self.read(ask.prompt)
        said = b""
        while len(answer.ids) < ask.limit:
            log_probabilities = torch.from_numpy(logits).log_softmax(-1)
            token = Generator._choose(log_probabilities, ask, draws)
            if ask.top:
                best = log_probabilities.topk(ask.top)
                answer.top.append(list(zip(best.indices.tolist(), best.values.tolist())))
            answer.finished = language.ends(token)
            if answer.finished:
                break
            answer.ids.append(token)
            answer.log_probabilities.append(float(log_probabilities[token]))
            said += language.piece(token)
            if language.place >= language.room:
                break
            if len(answer.ids) < ask.limit:
                logits = language.decode(np.array([token], np.int32))
        answer.text = said.decode("utf-8", "replace")
        return answer

    def read(self, prompt: Parts) -> np.ndarray:
        """The logits behind a prompt, float32 [vocabulary]; one that was just read is not read again."""
        if self.last and self.last[0] == prompt.key:
            _, place, logits = self.last
            self.language.rewind(place)
            return logits
        self.last = None
        self.language.rewind()
        with self.sight.chunks(prompt.parts) as chunks:
            image = _key(part for part in prompt.parts if isinstance(part, Image.Image))
            views = [chunk for chunk in chunks if not isinstance(chunk, np.ndarray)]
            seen = iter(self._see(image, views))
            for chunk in chunks:
                logits = self.language.decode(chunk if isinstance(chunk, np.ndarray) else next(seen))
        self.last = (prompt.key, self.language.place, logits)
        return logits

    def _see(self, key: bytes, views: Sequence[ImageChunk]) -> list[np.ndarray]:
        if key not in self.seen:
            self.seen[key] = [self.sight.encode(view, self.language.width) for view in views]
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
