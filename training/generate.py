"""Answers of a model: greedy or sampled, many at a time, each with its own images, temperature and seed.

generator = Generator(*load_model("checkpoint"))
prompt = generator.prompt([Turn("user", [picture, "Describe the image."])], {"jpg": image})
(answer,) = generator.answer([GenerationRequest(prompt)])
answer.text, answer.log_probabilities
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from training.layout import Layout, Picture, SampleRejected, Turn
from training.model import VisionLanguageModel
from training.pixels import cut, patches
from training.samples import Slicing
from training.tokenizer import Tokenizer


class Prompt(NamedTuple):
    """The input of the model before an answer."""

    ids: np.ndarray  # int32 [tokens]
    views: list[np.ndarray]  # uint8 [height, width, 3] each, in the order of their places


AnyPrompt = TypeVar("AnyPrompt")


@dataclass(frozen=True)
class GenerationRequest(Generic[AnyPrompt]):
    prompt: AnyPrompt  # of the generator that answers it
    limit: int = 256  # tokens of the answer
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # draw from the likeliest tokens that together have this probability
    seed: int = 0  # the same request with the same seed draws the same answer
    top: int = 0  # how many of the likeliest tokens to report at each step
    cancelled: Callable[[], bool] = lambda: False  # asked at each token: whether nobody waits for the answer any more


@dataclass
class Generated:
    ids: list[int] = field(default_factory=list)  # without the end mark
    log_probabilities: list[float] = field(default_factory=list)  # of each id, at temperature 1
    top: list[list[tuple[int, float]]] = field(default_factory=list)  # likeliest ids at each step, the end included
    finished: bool = False  # whether it ended with an end mark, not at the limit
    text: str = ""


class Generator:
    """A model that answers requests, at most `at_once` of them in one batch."""

    def __init__(
        self, model: VisionLanguageModel, tokenizer: Tokenizer, slicing: Slicing | None = None, at_once: int = 64
    ):
        self.model, self.tokenizer, self.at_once = model.eval(), tokenizer, at_once
        vision, marks = model.shape.vision, tokenizer.marks
        self.slicing = slicing or Slicing(side=vision.side, patch=vision.patch)
        self.layout = Layout(tokenizer.encode, marks, model.shape.queries)
        self.ends = {marks.end, marks.turn[1]}

    @property
    def room(self) -> int:
        """The tokens that a prompt and its answer may have."""
        return self.model.shape.language.context

    @property
    def vocabulary(self) -> int:
        """The number of tokens of the vocabulary."""
        return len(self.tokenizer)

    def prompt(self, turns: Sequence[Turn], images: Mapping[str, Image.Image] = {}) -> Prompt:
        """A prompt of turns and their pictures by name. Raises `SampleRejected` if it leaves no room for an answer."""
        answer = "."
        ids = self.layout.conversation([*turns, Turn("assistant", [answer])]).ids
        ids = ids[: len(ids) - len(self.tokenizer.encode(answer)) - 1]
        if len(ids) >= (limit := self.room):
            raise SampleRejected("too_long", f"{len(ids)} tokens of {limit}")
        pictures = [part for turn in turns for part in turn.parts if isinstance(part, Picture)]
        return Prompt(ids, [view for picture in pictures for view in cut(images[picture.name], picture.plan)])

    def picture(self, name: str, image: Image.Image) -> Picture:
        return Picture(name, self.slicing.of(*image.size))

    def about(self, image: Image.Image, question: str) -> Prompt:
        """The prompt of a question about one image."""
        return self.prompt([Turn("user", [self.picture("image", image), question])], {"image": image})

    def answer(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        """One answer for each request."""
        return [
            generated
            for start in range(0, len(requests), self.at_once)
            for generated in self._together(requests[start : start + self.at_once])
        ]

    @torch.inference_mode()
    def _together(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        model, device, context = self.model, self.model.device, self.model.shape.language.context
        answers = [Generated() for _ in requests]
        draws = [torch.Generator().manual_seed(request.seed) for request in requests]
        lengths = torch.tensor([len(request.prompt.ids) for request in requests])
        longest = int(lengths.max())
        ids = torch.full((len(requests), longest), self.tokenizer.marks.end)
        for row, request in enumerate(requests):  # padded in front, so that all answers begin at the same place
            ids[row, longest - len(request.prompt.ids) :] = torch.from_numpy(request.prompt.ids.astype(np.int64))
        positions = torch.arange(longest) - (longest - lengths)[:, None]
        present = (positions >= 0).to(device)
        own = torch.eye(longest, dtype=torch.bool, device=device)  # padding attends to itself: no row may be empty
        mask = ((present[:, None] & present[:, :, None]) | own).tril()[:, None]
        ids, positions = ids.to(device), positions.clamp(min=0).to(device)
        visual, seen, cache = (ids == self.tokenizer.marks.query) & present, self._see(requests), DynamicCache()
        going = list(range(len(requests)))
        while going:
            hidden = model(ids, seen, visual, mask, positions, cache)[:, -1]
            log_probabilities = model.language.lm_head(hidden).float().log_softmax(-1).cpu()
            chosen = []
            for row, request in enumerate(requests):
                if row not in going:
                    chosen.append(0)  # a place holder: this row is finished
                    continue
                chosen.append(token := self._choose(log_probabilities[row], request, draws[row]))
                answer = answers[row]
                if request.top:
                    best = log_probabilities[row].topk(request.top)
                    answer.top.append(list(zip(best.indices.tolist(), best.values.tolist())))
                answer.finished = token in self.ends
                if not answer.finished:
                    answer.ids.append(token)
                    answer.log_probabilities.append(float(log_probabilities[row, token]))
                room = context - int(lengths[row]) - len(answer.ids)
                if answer.finished or len(answer.ids) >= request.limit or room <= 0:
                    going.remove(row)
            going = [row for row in going if not requests[row].cancelled()]
            ids = torch.tensor(chosen, device=device)[:, None]
            positions = positions[:, -1:] + 1
            present = torch.cat([present, present.new_ones(len(requests), 1)], 1)
            mask, visual, seen = present[:, None, None], torch.zeros_like(ids, dtype=torch.bool), seen[:0]
        for answer in answers:
            answer.text = self.tokenizer.decode(answer.ids)
        return answers

    def _see(self, requests: Sequence[GenerationRequest]) -> Tensor:
        """The embeddings of all views; an image that several prompts share is encoded once."""
        patch, device = self.model.shape.vision.patch, self.model.device
        views = [view for request in requests for view in request.prompt.views]
        unique: dict[bytes, int] = {}
        order = [unique.setdefault(view.tobytes() + repr(view.shape).encode(), len(unique)) for view in views]
        first = [order.index(number) for number in range(len(unique))]
        grids = [(views[n].shape[0] // patch, views[n].shape[1] // patch) for n in first]
        width = 3 * patch * patch
        pixels = np.concatenate([patches(views[n], patch) for n in first] or [np.empty((0, width), np.float32)])
        grids = torch.tensor(grids, dtype=torch.int64).reshape(-1, 2).to(device)
        return self.model.see(torch.from_numpy(pixels).to(device), grids)[order]

    @staticmethod
    def _choose(log_probabilities: Tensor, request: GenerationRequest, draws: torch.Generator) -> int:
        if not request.temperature:
            return int(log_probabilities.argmax())
        behind = log_probabilities.double() - log_probabilities.max()  # 0 at the best token, at any temperature
        probabilities = (behind / request.temperature).softmax(-1)
        if request.top_p < 1:
            ordered, places = probabilities.sort(descending=True)
            kept = ordered.cumsum(0) - ordered < request.top_p
            probabilities = torch.zeros_like(probabilities).scatter(0, places[kept], ordered[kept])
        return int(torch.multinomial(probabilities, 1, generator=draws))
