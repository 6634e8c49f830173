"""Attention of many answers over the prompts in front of them, of which there is one copy each.

All draws for an image have the same prompt. A cache with a copy of it for each draw costs more time to read than all
answers do. Here the queries of a prompt's answers are multiplied with its keys together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@dataclass
class Prefix:
    """What was read before the answers, and which row of it is whose."""

    layers: Sequence[tuple[Tensor, Tensor]]  # keys and values of each layer: [prompts, heads, tokens, channels]
    absent: Tensor  # bool [prompts, tokens]: padding
    prompts: Tensor  # int64 [answers]: the prompt of each
    places: Tensor  # int64 [answers]: the number of each among the answers to its prompt
    most: int  # answers to one prompt

    @classmethod
    def of(cls, layers: Sequence[tuple[Tensor, Tensor]], present: Tensor, prompts: Sequence[int]) -> "Prefix":
        """`present` is bool [prompts, tokens]; `prompts` the prompt of each answer."""
        counts: dict[int, int] = {}
        places = []
        for prompt in prompts:
            places.append(counts.get(prompt, 0))
            counts[prompt] = places[-1] + 1
        of, place = (torch.tensor(numbers, device=present.device) for numbers in (prompts, places))
        return cls(layers, ~present, of, place, max(counts.values()))

    def keep(self, answers: Sequence[int]) -> "Prefix":
        """The prefix of some of the answers, in another order perhaps."""
        return Prefix.of(self.layers, ~self.absent, self.prompts[[*answers]].tolist())

    def together(self, states: Tensor) -> Tensor:
        """[answers, heads, channels] as [prompts, heads, most, channels], zeros where a prompt has fewer answers."""
        grid = states.new_zeros(len(self.absent), self.most, *states.shape[1:])
        grid[self.prompts, self.places] = states
        return grid.transpose(1, 2)

    def apart(self, grid: Tensor) -> Tensor:
        """The inverse of `together`."""
        return grid.transpose(1, 2)[self.prompts, self.places]


def behind_prefix(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float,
    *, prefix: Prefix, **_: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention of one further token of each answer: to its prompt in `prefix`, and to all of `key`, its own tokens.

    `query` is [answers, heads, 1, channels], `key` and `value` are [answers, heads, tokens, channels].
    """
    before = prefix.layers[module.layer_idx]  # pyright: ignore[reportArgumentType, reportCallIssue]
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value, *before = (states.repeat_interleave(groups, 1) for states in (key, value, *before))
    query = query * scaling
    scores = prefix.together(query[:, :, 0]) @ before[0].transpose(2, 3)
    scores = prefix.apart(scores.masked_fill(prefix.absent[:, None, None], -torch.inf))
    scores = torch.cat([scores, (query @ key.transpose(2, 3))[:, :, 0]], -1)
    to_prompt, to_own = scores.softmax(-1).to(value.dtype).split([prefix.absent.shape[1], key.shape[2]], -1)
    attended = prefix.apart(prefix.together(to_prompt) @ before[1]) + (to_own[:, :, None] @ value)[:, :, 0]
    return attended[:, None], None


ALL_ATTENTION_FUNCTIONS.register("behind_prefix", behind_prefix)
