"""Answers of a model: greedy or sampled, many at a time, each with its own images, temperature and seed.

speaker = Speaker(*load_model("checkpoint"))
prompt = speaker.prompt([Turn("user", [picture, "Describe the image."])], {"jpg": image})
(answer,) = speaker.answer([Ask(prompt)])
answer.text, answer.log_probabilities
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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
    """All that stands before an answer."""

    ids: np.ndarray  # int32 [tokens]
    views: list[np.ndarray]  # uint8 [height, width, 3] each, in the order of their places


@dataclass(frozen=True)
class GenerationRequest:
    prompt: Prompt
    limit: int = 256  # tokens of the answer
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # the likeliest tokens that have this probability together
    seed: int = 0  # the same request with the same seed draws the same
    top: int = 0  # likeliest tokens to tell at each step


@dataclass
class Generated:
    ids: list[int] = field(default_factory=list)  # the end mark is none of them
    log_probabilities: list[float] = field(default_factory=list)  # of each id, at temperature 1
    top: list[list[tuple[int, float]]] = field(default_factory=list)  # likeliest ids at each step; the end's included
    finished: bool = False  # by an end mark, not by the limit
    text: str = ""


class Generator:
    """A model that answers. What it is asked together it computes together, `at_once` at most."""

    def __init__(
        self, model: VisionLanguageModel, tokenizer: Tokenizer, slicing: Slicing | None = None, at_once: int = 64
    ):
        self.model, self.tokenizer, self.at_once = model.eval(), tokenizer, at_once
        vision, marks = model.shape.vision, tokenizer.marks
        self.slicing = slicing or Slicing(side=vision.side, patch=vision.patch)
        self.layout = Layout(tokenizer.encode, marks, model.shape.queries)
        self.ends = {marks.end, marks.turn[1]}

    def prompt(self, turns: Sequence[Turn], images: Mapping[str, Image.Image] = {}) -> Prompt:
        """Turns, and the pictures in them by name. Raises `SampleRejected` if no room is left for an answer."""
        answer = "."
        ids = self.layout.conversation([*turns, Turn("assistant", [answer])]).ids
        ids = ids[: len(ids) - len(self.tokenizer.encode(answer)) - 1]
        if len(ids) >= (limit := self.model.shape.language.context):
            raise SampleRejected("too_long", f"{len(ids)} tokens of {limit}")
        pictures = [part for turn in turns for part in turn.parts if isinstance(part, Picture)]
        return Prompt(ids, [view for one in pictures for view in cut(images[one.name], one.plan)])

    def picture(self, name: str, image: Image.Image) -> Picture:
        return Picture(name, self.slicing.of(*image.size))

    def about(self, image: Image.Image, question: str) -> Prompt:
        """A question about one image."""
        return self.prompt([Turn("user", [self.picture("image", image), question])], {"image": image})

    def answer(self, asked: Sequence[GenerationRequest]) -> list[Generated]:
        """An answer to each."""
        return [
            one
            for start in range(0, len(asked), self.at_once)
            for one in self._together(asked[start : start + self.at_once])
        ]

    @torch.inference_mode()
    def _together(self, asked: Sequence[GenerationRequest]) -> list[Generated]:
        model, device, context = self.model, self.model.device, self.model.shape.language.context
        answers = [Generated() for _ in asked]
        draws = [torch.Generator().manual_seed(ask.seed) for ask in asked]
        lengths = torch.tensor([len(ask.prompt.ids) for ask in asked])
        longest = int(lengths.max())
        ids = torch.full((len(asked), longest), self.tokenizer.marks.end)
        for row, ask in enumerate(asked):  # padded in front, so that all answers begin at one place
            ids[row, longest - len(ask.prompt.ids) :] = torch.from_numpy(ask.prompt.ids.astype(np.int64))
        positions = torch.arange(longest) - (longest - lengths)[:, None]
        there = (positions >= 0).to(device)
        own = torch.eye(longest, dtype=torch.bool, device=device)  # padding looks at itself: no row may be empty
        mask = ((there[:, None] & there[:, :, None]) | own).tril()[:, None]
        ids, positions = ids.to(device), positions.clamp(min=0).to(device)
        visual, seen, cache = (ids == self.tokenizer.marks.query) & there, self._see(asked), DynamicCache()
        going = list(range(len(asked)))
        while going:
            hidden = model(ids, seen, visual, mask, positions, cache)[:, -1]
            log_probabilities = model.language.lm_head(hidden).float().log_softmax(-1).cpu()
            chosen = []
            for row, ask in enumerate(asked):
                if row not in going:
                    chosen.append(0)  # is not looked at
                    continue
                chosen.append(token := self._choose(log_probabilities[row], ask, draws[row]))
                answer = answers[row]
                if ask.top:
                    best = log_probabilities[row].topk(ask.top)
                    answer.top.append(list(zip(best.indices.tolist(), best.values.tolist())))
                answer.finished = token in self.ends
                if not answer.finished:
                    answer.ids.append(token)
                    answer.log_probabilities.append(float(log_probabilities[row, token]))
                room = context - int(lengths[row]) - len(answer.ids)
                if answer.finished or len(answer.ids) >= ask.limit or room <= 0:
                    going.remove(row)
            ids = torch.tensor(chosen, device=device)[:, None]
            positions = positions[:, -1:] + 1
            there = torch.cat([there, there.new_ones(len(asked), 1)], 1)
            mask, visual, seen = there[:, None, None], torch.zeros_like(ids, dtype=torch.bool), seen[:0]
        for answer in answers:
            answer.text = self.tokenizer.decode(answer.ids)
        return answers

    def _see(self, asked: Sequence[GenerationRequest]) -> Tensor:
        """The embeddings of all views; a prompt's image that another prompt shows too is looked at once."""
        patch, device = self.model.shape.vision.patch, self.model.device
        views = [view for ask in asked for view in ask.prompt.views]
        unique: dict[bytes, int] = {}
        order = [unique.setdefault(view.tobytes() + repr(view.shape).encode(), len(unique)) for view in views]
        first = [order.index(number) for number in range(len(unique))]
        grids = [(views[n].shape[0] // patch, views[n].shape[1] // patch) for n in first]
        width = 3 * patch * patch
        pixels = np.concatenate([patches(views[n], patch) for n in first] or [np.empty((0, width), np.float32)])
        grids = torch.tensor(grids, dtype=torch.int64).reshape(-1, 2).to(device)
        return self.model.see(torch.from_numpy(pixels).to(device), grids)[order]

    @staticmethod
    def _choose(log_probabilities: Tensor, ask: GenerationRequest, draws: torch.Generator) -> int:
        if not ask.temperature:
            return int(log_probabilities.argmax())
        behind = log_probabilities.double() - log_probabilities.max()  # of 0 at the best, however cold it is
        probabilities = (behind / ask.temperature).softmax(-1)
        if ask.top_p < 1:
            ordered, places = probabilities.sort(descending=True)
            kept = ordered.cumsum(0) - ordered < ask.top_p
            probabilities = torch.zeros_like(probabilities).scatter(0, places[kept], ordered[kept])
        return int(torch.multinomial(probabilities, 1, generator=draws))
