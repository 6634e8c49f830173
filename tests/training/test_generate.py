"""Answers: what a cache, a batch or a seed must not change, and what they must."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.releases import small_tokenizer
from support.small_models import tiny

from training.generate import GenerationRequest, Generator, Prompt
from training.layout import SampleRejected, Turn
from training.model import document_mask
from training.sampling import choose


@pytest.fixture(scope="module")
def speaker(tmp_path_factory) -> Generator:
    return Generator(tiny(), small_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def image(number: int, width: int = 56, height: int = 56) -> Image.Image:
    draws = np.random.default_rng(number)
    return Image.fromarray(draws.integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def prompts(speaker) -> list[Prompt]:
    """One image, a sliced one, none, and two."""
    two = {"a": image(3), "b": image(4)}
    parts = [speaker.picture(name, one) for name, one in two.items()]
    return [
        speaker.about(image(1), "What is written there?"),
        speaker.about(image(2, 150, 90), "A red square?"),
        speaker.prompt([Turn("user", ["OPEN 24 HOURS"])]),
        speaker.prompt([Turn("user", [*parts, "two"]), Turn("assistant", ["stars"]), Turn("user", ["PARKING"])], two),
    ]


@torch.no_grad()
def logits(speaker: Generator, prompt: Prompt, answer: list[int]) -> torch.Tensor:
    """Log-probabilities behind a prompt and the beginning of an answer, computed in one go."""
    ids = torch.cat([torch.from_numpy(prompt.ids).long(), torch.tensor(answer, dtype=torch.int64)])[None]
    seen, (places,) = speaker.see([prompt])
    seen = seen[places]
    visual = ids == speaker.tokenizer.marks.query
    positions = torch.arange(ids.shape[1])[None]
    hidden = speaker.model(ids, seen, visual, document_mask(torch.zeros_like(ids)), positions)
    return speaker.model.language.lm_head(hidden[0, -1]).log_softmax(-1)


@pytest.mark.slow
def test_a_greedy_answer_is_the_likeliest_token_time_after_time(speaker, prompts):
    for prompt in prompts:
        (answer,) = speaker.answer([GenerationRequest(prompt, limit=12)])
        assert len(answer.ids) == 12 or answer.finished
        for number, (token, probability) in enumerate(zip(answer.ids, answer.log_probabilities, strict=True)):
            expected = logits(speaker, prompt, answer.ids[:number])
            assert token == expected.argmax()
            assert probability == pytest.approx(float(expected[token]), abs=1e-4)


def test_an_answer_is_the_same_among_others(speaker, prompts):
    asks = [
        GenerationRequest(prompt, limit=8 + number, temperature=0.9, seed=number)
        for number, prompt in enumerate(prompts)
    ]
    together = speaker.answer(asks)
    for ask, one in zip(asks, together, strict=False):
        (alone,) = speaker.answer([ask])
        assert alone.ids == one.ids and alone.text == one.text
        assert one.log_probabilities == pytest.approx(alone.log_probabilities, abs=1e-4)


def test_draws_for_one_prompt_are_what_each_is_alone(speaker, prompts):
    """They attend to one copy of it, and end at different times."""
    asks = [
        GenerationRequest(prompts[draw % 3], limit=3 + draw * 7 % 11, temperature=0.9, seed=draw) for draw in range(12)
    ]
    for ask, one in zip(asks, speaker.answer(asks), strict=True):
        (alone,) = speaker.answer([ask])
        assert alone.ids == one.ids
        assert one.log_probabilities == pytest.approx(alone.log_probabilities, abs=1e-4)


def test_a_seed_draws_the_same_again_and_another_seed_something_else(speaker, prompts):
    def drawn(seed: int) -> list[int]:
        return speaker.answer([GenerationRequest(prompts[0], limit=20, temperature=1.0, seed=seed)])[0].ids

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(4)}) == 4


def test_draws_follow_the_models_probabilities(speaker, prompts):
    """The first token of 2,000 draws at temperature 1/4: by chi square, what the softmax says."""
    expected = (logits(speaker, prompts[2], []) * 4).softmax(-1)
    draws = torch.Generator().manual_seed(0)
    log_probabilities = logits(speaker, prompts[2], [])
    found = torch.zeros(len(expected))
    for _ in range(2000):
        found[Generator._choose(log_probabilities, GenerationRequest(prompts[2], temperature=0.25), draws)] += 1
    likely = expected > 0.005
    assert likely.sum() > 5
    deviation = ((found - 2000 * expected) ** 2 / (2000 * expected))[likely].sum()
    assert deviation < int(likely.sum()) + 5 * (2 * int(likely.sum())) ** 0.5


def test_top_p_leaves_out_what_is_unlikely(speaker, prompts):
    log_probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draws = torch.Generator().manual_seed(0)
    ask = GenerationRequest(prompts[2], temperature=1.0, top_p=0.7)
    assert {Generator._choose(log_probabilities, ask, draws) for _ in range(200)} == {0, 1}


def test_the_likeliest_tokens_are_told_and_sum_to_at_most_one(speaker, prompts):
    (answer,) = speaker.answer([GenerationRequest(prompts[0], limit=3, top=5)])
    assert len(answer.top) >= 1
    for step in answer.top:
        probabilities = [np.exp(one) for _, one in step]
        assert len(step) == 5 and probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1.0001


def test_it_ends_at_the_end_mark(speaker, prompts):
    (whole,) = speaker.answer([GenerationRequest(prompts[0], limit=12)])
    end = whole.ids[6]
    early = Generator(speaker.model, speaker.tokenizer)
    early.ends = {end}
    (answer,) = early.answer([GenerationRequest(prompts[0], limit=12, top=1)])
    assert answer.finished and answer.ids == whole.ids[: whole.ids.index(end)]
    assert [best for ((best, _),) in answer.top] == [*answer.ids, end]


def test_a_prompt_is_the_conversation_up_to_its_answer(speaker):
    picture = speaker.picture("image", image(1))
    turns = [Turn("user", [picture, "What is written there?"])]
    prompt = speaker.prompt(turns, {"image": image(1)})
    whole = speaker.layout.conversation([*turns, Turn("assistant", ["OPEN 24 HOURS"])])
    assert (whole.ids[: len(prompt.ids)] == prompt.ids).all()
    assert (whole.labels[: len(prompt.ids)] == -100).all() and whole.labels[len(prompt.ids)] != -100
    assert [view.shape for view in prompt.views] == [(56, 56, 3)]


def test_a_prompt_that_leaves_no_room_is_rejected(speaker):
    with pytest.raises(SampleRejected, match="too_long"):
        speaker.prompt([Turn("user", ["word " * 600])])


def test_the_context_ends_an_answer(speaker):
    prompt = speaker.prompt([Turn("user", ["a " * 240])])
    (answer,) = speaker.answer([GenerationRequest(prompt, limit=10_000)])
    assert answer.finished or len(prompt.ids) + len(answer.ids) == 512


def computed(speaker: Generator, monkeypatch, requests: list[GenerationRequest]) -> list[tuple[int, int]]:
    """(rows, tokens a row) of each call of the language model for these requests."""
    sizes, forward = [], speaker.model.forward
    monkeypatch.setattr(
        speaker.model,
        "forward",
        lambda ids, *more, **with_: sizes.append(tuple(ids.shape)) or forward(ids, *more, **with_),
    )
    speaker.answer(requests)
    monkeypatch.undo()
    return sizes


def test_the_prompt_of_several_draws_is_computed_once(speaker, prompts, monkeypatch):
    draws = [GenerationRequest(prompts[0], limit=3, temperature=1.0, seed=seed) for seed in range(10)]
    first, *steps = computed(speaker, monkeypatch, draws)
    assert first == (1, len(prompts[0].ids))
    assert all(rows <= 10 and tokens == 1 for rows, tokens in steps) and len(steps) <= 2


def test_what_questions_about_one_image_begin_with_is_computed_once(speaker, monkeypatch):
    asked = ["Is there a red square?", "A star?", "What is written there?", "A star?"]
    requests = [GenerationRequest(speaker.about(image(1), question), limit=1, top=3) for question in asked]
    requests.append(GenerationRequest(speaker.about(image(2), "A star?"), limit=1))
    lengths = [len(request.prompt.ids) for request in requests]
    begin, rest = computed(speaker, monkeypatch, requests)
    assert begin[0] == 2 and rest[0] == 4, "two images, four different prompts"
    assert begin[1] + rest[1] == max(lengths)
    together = speaker.answer(requests)
    for request, one in zip(requests, together, strict=True):
        (alone,) = speaker.answer([request])
        assert one.ids == alone.ids and len(one.top) == bool(request.top)
        assert one.log_probabilities == pytest.approx(alone.log_probabilities, abs=1e-4)


def test_answers_that_ended_leave_the_batch(speaker, prompts, monkeypatch):
    limits = [2, 5, 3, 9]
    requests = [GenerationRequest(prompt, limit=limit) for prompt, limit in zip(prompts, limits, strict=False)]
    ended = [len(answer.ids) + answer.finished for answer in speaker.answer(requests)]
    steps = [rows for rows, tokens in computed(speaker, monkeypatch, requests) if tokens == 1]
    assert steps == [sum(end > step for end in ended) for step in range(1, max(ended))]


def test_draws_are_those_that_torch_draws_for_each_row_alone():
    """Bit for bit: what was drawn by a seed before is drawn today."""
    log_probabilities = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    temperatures, top_p = [0.7, 0.0, 1.0, 0.3, 1.0], [1.0, 1.0, 0.6, 0.9, 1.0]
    for seed in range(50):
        found = choose(
            log_probabilities, temperatures, top_p, [torch.Generator().manual_seed(seed + row) for row in range(5)]
        )
        for row, token in enumerate(found):
            if not temperatures[row]:
                assert token == log_probabilities[row].argmax()
                continue
            behind = log_probabilities[row].double() - log_probabilities[row].max()
            probabilities = (behind / temperatures[row]).softmax(-1)
            if top_p[row] < 1:
                ordered, places = probabilities.sort(descending=True)
                kept = ordered.cumsum(0) - ordered < top_p[row]
                probabilities = torch.zeros_like(probabilities).scatter(0, places[kept], ordered[kept])
            draws = torch.Generator().manual_seed(seed + row)
            assert token == int(torch.multinomial(probabilities, 1, generator=draws))


def test_an_image_asked_about_twice_is_looked_at_once(speaker, prompts, monkeypatch):
    looked = []
    see = speaker.model.see
    monkeypatch.setattr(speaker.model, "see", lambda patches, grids: looked.append(len(grids)) or see(patches, grids))
    speaker.answer(
        [
            GenerationRequest(prompts[0], limit=1),
            GenerationRequest(prompts[0], limit=1),
            GenerationRequest(prompts[1], limit=1),
        ]
    )
    assert looked == [1 + len(prompts[1].views)]
