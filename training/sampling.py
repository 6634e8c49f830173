"""The next token of each of several answers: the likeliest, or one drawn by the answer's own seed."""

from collections.abc import Sequence

import torch
from torch import Tensor


def choose(
    log_probabilities: Tensor, temperatures: Sequence[float], top_p: Sequence[float], draws: Sequence[torch.Generator]
) -> list[int]:
    """A token for each row of `log_probabilities`, float [rows, tokens] on the CPU; temperature 0 takes the likeliest.

    What is drawn in a row depends on that row and its generator alone. Each draw takes one number for each token from
    its generator, as `torch.multinomial` does for one row: the token with the largest probability / number is drawn.
    """
    tokens = log_probabilities.argmax(-1)
    drawn = [row for row, temperature in enumerate(temperatures) if temperature]
    if not drawn:
        return tokens.tolist()
    rows = log_probabilities[drawn]
    behind = rows.double() - rows.amax(-1, keepdim=True)  # 0 at the best token, at any temperature
    probabilities = (behind / torch.tensor([temperatures[row] for row in drawn], dtype=torch.float64)[:, None]).softmax(
        -1
    )
    bounds = torch.tensor([top_p[row] for row in drawn], dtype=torch.float64)[:, None]
    if (bounds < 1).any():
        ordered, places = probabilities.sort(-1, descending=True)
        kept = (ordered.cumsum(-1) - ordered < bounds) | (bounds >= 1)
        probabilities = torch.zeros_like(probabilities).scatter(-1, places, ordered * kept)
    numbers = torch.stack(
        [torch.empty_like(p).exponential_(1, generator=draws[row]) for p, row in zip(probabilities, drawn, strict=True)]
    )
    tokens[drawn] = (probabilities / numbers).argmax(-1)
    return tokens.tolist()
