"""The best of several draws by the policy's own reward, without a labeler (RLAIF-V's self-feedback).

The reward of an answer of T tokens is (beta / T) log(policy / reference): what the training for preferences made
likelier. Without the length, short answers win.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from training.model import VisionLanguageModel, document_mask
from training.requests import Generated, GenerationRequest, Prompt
from training.shapes import difference
from training.tokenizer import Tokenizer


class Speaker(Protocol):
    """What is needed of a `training.generate.Generator`."""

    model: VisionLanguageModel
    tokenizer: Tokenizer

    def answer(self, requests: Sequence[GenerationRequest]) -> list[Generated]: ...
    def see(self, prompts: Sequence[Prompt]) -> tuple[Tensor, list[list[int]]]: ...


class Ranked(NamedTuple):
    reward: float
    answer: Generated


def best_of(
    policy: Speaker, reference: Speaker, prompt: Prompt, draws: int, beta: float = 0.1, temperature: float = 0.7,
    limit: int = 256, seed: int = 0,
) -> list[Ranked]:  # fmt: skip
    """`draws` answers of the policy, the best one first; those that were cut off at `limit` come last.

    Raises `ValueError` if the two models have different tokens, or images are other tokens for them.
    """
    if policy.tokenizer.identity != reference.tokenizer.identity:
        raise ValueError("policy and reference have different tokenizers")
    if (changed := difference(_views(policy), _views(reference))) is not None:
        raise ValueError(f"policy and reference see images otherwise: {changed}")
    how = {"limit": limit, "temperature": temperature}
    answers = policy.answer([GenerationRequest(prompt, seed=seed + number, **how) for number in range(draws)])
    ranked = [Ranked(reward(policy, reference, prompt, answer, beta), answer) for answer in answers]
    return sorted(ranked, key=lambda one: (not one.answer.finished, -one.reward))


def _views(of: Speaker) -> dict[str, int]:
    """What decides the views of an image and the places of their embeddings."""
    shape = of.model.shape
    return {"queries": shape.queries, "vision.side": shape.vision.side, "vision.patch": shape.vision.patch}


def reward(policy: Speaker, reference: Speaker, prompt: Prompt, answer: Generated, beta: float = 0.1) -> float:
    """(beta / T) log(policy / reference) of an answer of T tokens, its end mark included."""
    ids = [*answer.ids, *[policy.tokenizer.marks.turn[1]] * answer.finished]
    if not ids:
        return 0.0
    likelier = log_probability(policy, prompt, ids) - log_probability(reference, prompt, ids)
    return beta / len(ids) * likelier


@torch.inference_mode()
def log_probability(generator: Speaker, prompt: Prompt, ids: Sequence[int]) -> float:
    """The summed log-probability of an answer's tokens behind a prompt."""
    model = generator.model
    whole = torch.from_numpy(np.concatenate([prompt.ids, ids]).astype(np.int64))[None].to(model.device)
    seen, (places,) = generator.see([prompt])
    visual, positions = (
        whole == generator.tokenizer.marks.query,
        torch.arange(whole.shape[1], device=model.device)[None],
    )
    visual[:, len(prompt.ids) :] = False
    hidden = model(whole, seen[places], visual, document_mask(torch.zeros_like(whole)), positions)[0]
    behind = model.language.lm_head(hidden[len(prompt.ids) - 1 : -1]).float().log_softmax(-1)
    return float(behind.gather(1, whole[0, len(prompt.ids) :, None]).sum())
