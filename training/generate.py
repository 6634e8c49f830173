"""Answers of a model: greedy or sampled, many at a time, each with its own images, temperature and seed.

generator = Generator(*load_model("checkpoint"))
prompt = generator.prompt([Turn("user", [picture, "Describe the image."])], {"jpg": image})
(answer,) = generator.answer([GenerationRequest(prompt)])
answer.text, answer.log_probabilities

`python -m training.generate CHECKPOINT QUESTION --image FILE` prints an answer. With `--best-of N` and `--reference
CHECKPOINT` it is the best of N by the policy's own reward, see `training.best_of`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from schemas.errors import UserError, answered
from schemas.printable import printable
from training.best_of import best_of
from training.key_cache import BufferedCache
from training.layout import Layout, Picture, SampleRejected, Turn
from training.model import VisionLanguageModel
from training.options import at_least, between, program, text
from training.pixels import cut, decode, patches
from training.prefix import Prefix
from training.requests import Generated, GenerationRequest, Prompt
from training.samples import Slicing
from training.sampling import choose
from training.tokenizer import Tokenizer


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
        answers, going = [Generated() for _ in requests], list(range(len(requests)))
        draws = [torch.Generator().manual_seed(request.seed) for request in requests]
        read, rows = self._read([request.prompt for request in requests])
        prefix, cache = Prefix.of(read.cache.states, read.present, rows), BufferedCache()
        positions, hidden = read.positions[rows], read.hidden[rows]
        model, nothing = self.model, hidden.new_empty(0, 1, hidden.shape[-1])
        while True:
            log_probabilities = model.language.lm_head(hidden).float().log_softmax(-1).cpu()
            chosen = self._next(log_probabilities, [requests[row] for row in going], [draws[row] for row in going])
            self._tell(log_probabilities, chosen, requests, answers, going)
            kept = [place for place, row in enumerate(going) if self._goes_on(requests[row], answers[row])]
            if not kept:
                break
            if len(kept) < len(going):  # finished rows leave the batch
                kept = cache.keep(kept)
                going, chosen = [going[place] for place in kept], [chosen[place] for place in kept]
                prefix, positions = prefix.keep(kept), positions[kept]
            ids, positions = torch.tensor(chosen, device=model.device)[:, None], positions + 1
            visual = torch.zeros_like(ids, dtype=torch.bool)
            hidden = model(ids, nothing, visual, None, positions, cache, prefix=prefix)[:, -1]
        for answer in answers:
            answer.text = self.tokenizer.decode(answer.ids)
        return answers

    @staticmethod
    def _next(
        log_probabilities: Tensor, requests: Sequence[GenerationRequest], draws: Sequence[torch.Generator]
    ) -> list[int]:
        temperatures, top_p = [request.temperature for request in requests], [request.top_p for request in requests]
        return choose(log_probabilities, temperatures, top_p, draws)

    def _tell(
        self, log_probabilities: Tensor, chosen: Sequence[int], requests: Sequence[GenerationRequest],
        answers: Sequence[Generated], going: Sequence[int],
    ) -> None:  # fmt: skip
        """Adds the chosen tokens to the answers that they belong to."""
        most = max(requests[row].top for row in going)
        best = log_probabilities.topk(most) if most else None
        likely = log_probabilities.gather(1, torch.tensor(chosen)[:, None])[:, 0].tolist()
        for place, (row, token) in enumerate(zip(going, chosen, strict=True)):
            answer, top = answers[row], requests[row].top
            if best and top:
                answer.top.append(
                    list(zip(best.indices[place, :top].tolist(), best.values[place, :top].tolist(), strict=True))
                )
            answer.finished = token in self.ends
            if not answer.finished:
                answer.ids.append(token)
                answer.log_probabilities.append(likely[place])

    def _goes_on(self, request: GenerationRequest, answer: Generated) -> bool:
        room = self.room - len(request.prompt.ids) - len(answer.ids)
        return not (answer.finished or len(answer.ids) >= request.limit or room <= 0 or request.cancelled())

    def _read(self, prompts: Sequence[Prompt]) -> tuple["Read", list[int]]:
        """The model behind these prompts, and the row of each. Equal ones have one row, and what prompts about the same
        pictures begin with is computed once: the draws and the questions of an image share its computation."""
        seen, places = self.see(prompts)
        names = [(prompt.ids.tobytes(), tuple(of)) for prompt, of in zip(prompts, places, strict=True)]
        unique = {name: row for row, name in reversed([*enumerate(names)])}
        order = {name: number for number, name in enumerate(unique)}
        once = [(prompts[row], places[row]) for row in unique.values()]
        begun = [(prompt.ids[: self._begin(prompt)], of) for prompt, of in once]
        shared = {(ids.tobytes(), tuple(of)): (ids, of) for ids, of in begun}
        if len(shared) == len(once):  # nothing is shared: in one go
            read = self._append(None, [(prompt.ids, of) for prompt, of in once], seen)
        else:
            number = {name: place for place, name in enumerate(shared)}
            read = self._append(None, list(shared.values()), seen)
            read = read.select([number[ids.tobytes(), tuple(of)] for ids, of in begun])
            rest = [(prompt.ids[len(ids) :], []) for (prompt, _), (ids, _) in zip(once, begun, strict=True)]
            read = self._append(read, rest, seen)
        return read, [order[name] for name in names]

    def _begin(self, prompt: Prompt) -> int:
        """How many tokens there are up to the last picture, of which at least one is left for the question."""
        (places,) = np.nonzero(prompt.ids == self.tokenizer.marks.query)
        return min(int(places[-1]) + 1, len(prompt.ids) - 1) if len(places) else 0

    def _append(self, read: "Read | None", parts: Sequence[tuple[np.ndarray, list[int]]], seen: Tensor) -> "Read":
        """The model behind further tokens of each row, with the numbers of their views among those that were seen."""
        device, rows = self.model.device, len(parts)
        lengths = torch.tensor([len(ids) for ids, _ in parts])
        longest = max(1, int(lengths.max()))
        ids = torch.full((rows, longest), self.tokenizer.marks.end)
        for row, (own, _) in enumerate(parts):  # padded in front, so that all of them end at the same place
            ids[row, longest - len(own) :] = torch.from_numpy(own.astype(np.int64))
        before = torch.zeros(rows, dtype=torch.int64) if read is None else read.positions.cpu()[:, 0] + 1
        offsets = torch.arange(longest) - (longest - lengths)[:, None]
        present = (offsets >= 0).to(device)
        own = torch.eye(longest, dtype=torch.bool, device=device)  # padding attends to itself: no row may be empty
        mask = ((present[:, None] & present[:, :, None]) | own).tril()
        cache = BufferedCache() if read is None else read.cache
        if read is not None:
            earlier = read.present[:, None].expand(-1, longest, -1) & present[:, :, None]
            mask, present = torch.cat([earlier, mask], 2), torch.cat([read.present, present], 1)
        ids, positions = ids.to(device), (before[:, None] + offsets.clamp(min=0)).to(device)
        visual = (ids == self.tokenizer.marks.query) & present[:, -longest:]
        order = [number for _, numbers in parts for number in numbers]
        hidden = self.model(ids, seen[order], visual, mask[:, None], positions, cache)[:, -1]
        last = (before + lengths - 1).to(device)[:, None]
        return Read(cache, present, last, hidden)

    def see(self, prompts: Sequence[Prompt]) -> tuple[Tensor, list[list[int]]]:
        """The embeddings of all different views, and for each prompt the numbers of its own."""
        patch, device = self.model.shape.vision.patch, self.model.device
        unique: dict[bytes, int] = {}
        views: list[np.ndarray] = []
        places: list[list[int]] = []
        for prompt in prompts:
            numbers = []
            for view in prompt.views:
                name = view.tobytes() + repr(view.shape).encode()
                if name not in unique:
                    unique[name] = len(views)
                    views.append(view)
                numbers.append(unique[name])
            places.append(numbers)
        width = 3 * patch * patch
        pixels = np.concatenate([patches(view, patch) for view in views] or [np.empty((0, width), np.float32)])
        grids = [(view.shape[0] // patch, view.shape[1] // patch) for view in views]
        grids = torch.tensor(grids, dtype=torch.int64).reshape(-1, 2).to(device)
        return self.model.see(torch.from_numpy(pixels).to(device), grids), places

    @staticmethod
    def _choose(log_probabilities: Tensor, request: GenerationRequest, draws: torch.Generator) -> int:
        """The next token of one answer; `log_probabilities` are float [tokens]."""
        (token,) = Generator._next(log_probabilities[None], [request], [draws])
        return token


@dataclass
class Read:
    """What the model has read, a row an answer."""

    cache: BufferedCache
    present: Tensor  # bool [rows, keys of the cache]: those that are no padding
    positions: Tensor  # int64 [rows, 1], of the last token
    hidden: Tensor  # [rows, width], behind the last token

    def select(self, rows: Sequence[int]) -> "Read":
        """Some rows, any of them as often as it is named."""
        if [*rows] == [*range(len(self.present))]:
            return self
        index = torch.tensor(rows, device=self.present.device)
        self.cache.batch_select_indices(index)
        return Read(self.cache, self.present[index], self.positions[index], self.hidden[index])


def main() -> None:
    from training.checkpoint import load_model

    parser = program("training.generate", "Prints a model's answer.")
    parser.add_argument("checkpoint", help="a folder with model.safetensors")
    parser.add_argument("question", type=text, help="what the model is asked")
    parser.add_argument("--image", type=Path, help="the picture that is asked about")
    parser.add_argument(
        "--temperature", type=between(0, 1e6), default=0.0, help="0: the likeliest token; with --best-of: 0.7"
    )
    parser.add_argument("--limit", type=at_least(1), default=256, help="most tokens of an answer")
    parser.add_argument(
        "--seed", type=at_least(-(1 << 63), (1 << 64) - 1), default=0, help="another seed draws other answers"
    )
    parser.add_argument("--best-of", type=at_least(1), metavar="N", help="draw N answers and print the best one")
    parser.add_argument("--reference", help="the checkpoint that the policy was aligned from; needed by --best-of")
    parser.add_argument("--beta", type=between(0, 1e10), default=0.1, help="beta of the stage that aligned the policy")
    parser.add_argument("--json", action="store_true", help="print all answers with their rewards, the best one first")
    options = parser.parse_args()
    with answered(SampleRejected, OSError, ValueError):
        if options.best_of and not options.reference:
            raise UserError("--best-of: needs --reference, the checkpoint that the policy was aligned from")
        if options.reference and not options.best_of:
            raise UserError("--reference: is for --best-of; give it too, or leave the reference out")
        generator = Generator(*load_model(options.checkpoint))
        prompt = generator.prompt([Turn("user", [options.question])])
        if options.image:
            prompt = generator.about(decode(options.image.read_bytes()), options.question)
        how = {"limit": options.limit, "seed": options.seed}
        if options.best_of:
            how |= {"beta": options.beta, "temperature": options.temperature or 0.7}
            ranked = best_of(generator, Generator(*load_model(options.reference)), prompt, options.best_of, **how)
        else:
            request = GenerationRequest(prompt, temperature=options.temperature, **how)
            ranked = [(None, answer) for answer in generator.answer([request])]
    if options.json:
        print(
            json.dumps(
                [{"text": answer.text, "reward": value, "finished": answer.finished} for value, answer in ranked]
            )
        )
    else:
        print(printable(ranked[0][1].text))  # a model may answer with escapes of a terminal


if __name__ == "__main__":
    main()
