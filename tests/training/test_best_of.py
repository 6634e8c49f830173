"""The best of several draws by the policy's own reward."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.releases import small_tokenizer
from support.small_models import TINY, tiny

from training.best_of import best_of, log_probability, reward
from training.checkpoint import save_model
from training.generate import Generated, GenerationRequest, Generator


def image(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (56, 56, 3), np.uint8))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Generator, Generator]:
    """A policy, and the reference that it differs from."""
    tokenizer = small_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    policy, reference = tiny(), tiny()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in policy.language.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return Generator(policy, tokenizer), Generator(reference, tokenizer)


def test_the_log_probability_is_the_sum_over_tokens(models):
    policy, _ = models
    prompt = policy.about(image(1), "A red square?")
    (answer,) = policy.answer([GenerationRequest(prompt, limit=9)])
    assert log_probability(policy, prompt, answer.ids) == pytest.approx(sum(answer.log_probabilities), abs=1e-3)
    begun = [log_probability(policy, prompt, answer.ids[:n]) for n in range(1, len(answer.ids) + 1)]
    assert np.diff([0, *begun]) == pytest.approx(answer.log_probabilities, abs=1e-3)


def test_the_reward_is_by_token_and_nothing_for_equal_models(models):
    policy, reference = models
    prompt = policy.about(image(1), "A red square?")
    (answer,) = policy.answer([GenerationRequest(prompt, limit=9)])
    ids = [*answer.ids, *[policy.tokenizer.marks.turn[1]] * answer.finished]
    likelier = log_probability(policy, prompt, ids) - log_probability(reference, prompt, ids)
    assert reward(policy, reference, prompt, answer, beta=0.3) == pytest.approx(0.3 / len(ids) * likelier)
    assert reward(policy, policy, prompt, answer) == 0 == reward(policy, reference, prompt, Generated())


def test_the_best_draw_comes_first_and_what_was_cut_off_last(models):
    policy, reference = models
    prompt = policy.about(image(2), "What is written there?")
    ranked = best_of(policy, reference, prompt, 12, limit=6)
    assert len(ranked) == 12
    for finished in (True, False):
        rewards = [one.reward for one in ranked if one.answer.finished == finished]
        assert rewards == sorted(rewards, reverse=True)
    assert [one.answer.finished for one in ranked] == sorted((one.answer.finished for one in ranked), reverse=True)
    drawn = policy.answer([GenerationRequest(prompt, limit=6, temperature=0.7, seed=seed) for seed in range(12)])
    assert {tuple(one.ids) for one in drawn} == {tuple(one.answer.ids) for one in ranked}


@pytest.mark.slow
def test_the_command_prints_the_best_answer(models, tmp_path):
    policy, reference = models
    for name, model in (("policy", policy), ("reference", reference)):
        save_model(tmp_path / name, model.model, model.tokenizer)
    image(3).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "training.generate", str(tmp_path / "policy"), "A red square?", "--limit", "5",
               "--image", str(tmp_path / "a.png"), "--best-of", "3"]  # fmt: skip
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.startswith("--best-of: needs --reference")
    done = subprocess.run(
        [*command, "--reference", str(tmp_path / "reference"), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    prompt = policy.about(image(3), "A red square?")
    expected = best_of(policy, reference, prompt, 3, limit=5)
    assert [one["text"] for one in json.loads(done.stdout)] == [one.answer.text for one in expected]


@pytest.mark.parametrize("change", [{"queries": 8}, {"side": 112}, {"patch": 28}])
def test_a_reference_that_sees_images_otherwise_is_refused(change, models):
    policy, reference = models
    prompt = policy.about(image(1), "A red square?")
    vision = replace(TINY.vision, **change) if "queries" not in change else TINY.vision
    shape = replace(TINY, vision=vision, queries=change.get("queries", TINY.queries))
    other = SimpleNamespace(model=SimpleNamespace(shape=shape), tokenizer=reference.tokenizer)
    with pytest.raises(ValueError, match=rf"see images otherwise: \S*{next(iter(change))}: was \d+, is now \d+"):
        best_of(policy, other, prompt, 2)
