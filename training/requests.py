"""What a generator is asked, and what it answers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np


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
    cancelled: Callable[[], bool] = lambda: False  # asked at each token: whether the client is gone


@dataclass
class Generated:
    ids: list[int] = field(default_factory=list)  # without the end mark
    log_probabilities: list[float] = field(default_factory=list)  # of each id, at temperature 1
    top: list[list[tuple[int, float]]] = field(default_factory=list)  # likeliest ids at each step, the end included
    finished: bool = False  # whether it ended with an end mark, not at the limit
    text: str = ""
