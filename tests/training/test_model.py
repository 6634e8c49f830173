"""The model: samples of a pack do not see each other, views of different sizes do not either."""

import numpy as np
import pytest
import torch
from support.small_models import TINY, tiny, views
from transformers import SiglipVisionConfig, SiglipVisionModel

from training.layout import IGNORED
from training.model import blocks_of, document_mask, per_document
from training.packs import PADDING, attends, places

QUERY = 1  # the id that stands for an embedding


@pytest.fixture(scope="module")
def model():
    return tiny()


class Sample:
    """Some tokens, around as many views as are given."""

    def __init__(self, number: int, tokens: int, *grids: tuple[int, int]):
        torch.manual_seed(number)
        pieces = [torch.randint(2, 400, (3,))]
        for _ in grids:
            pieces += [torch.full((4,), QUERY), torch.randint(2, 400, (2,))]
        pieces.append(torch.randint(2, 400, (tokens,)))
        self.ids = torch.cat(pieces)
        self.labels = torch.where((self.ids != QUERY) & (torch.rand(len(self.ids)) < 0.6), self.ids, IGNORED)
        self.labels[0] = IGNORED
        self.views = views(*grids, seed=number)


SAMPLES = [Sample(0, 30, (4, 4)), Sample(1, 5), Sample(2, 17, (4, 4), (2, 6), (3, 3)), Sample(3, 40, (1, 8))]


def packed(model, samples: list[Sample], length: int, blocks: bool = False) -> torch.Tensor:
    """The loss of each sample, all in one pack."""
    documents, positions = (torch.from_numpy(one).long()[None] for one in places([len(s.ids) for s in samples], length))
    ids, labels = torch.zeros(1, length, dtype=torch.int64), torch.full((1, length), IGNORED)
    used = sum(len(sample.ids) for sample in samples)
    ids[0, :used] = torch.cat([sample.ids for sample in samples])
    labels[0, :used] = torch.cat([sample.labels for sample in samples])
    seen = model.see(*(torch.cat([sample.views[n] for sample in samples]) for n in range(2)))
    visual = ids == QUERY
    hidden = model(
        ids, seen, visual, document_mask(documents), positions, blocks=blocks_of(positions, 16) if blocks else None
    )
    (losses,) = per_document(model.losses(hidden, labels), documents)
    return losses


def alone(model, sample: Sample) -> torch.Tensor:
    """The loss of one sample without pack, mask or padding, by transformers' own loss."""
    ids = sample.ids[None]
    embedded = model.language.get_input_embeddings()(ids).clone()
    for number, view in enumerate(torch.split(sample.views[0], sample.views[1].prod(1).tolist())):
        if len(view):
            place = (ids[0] == QUERY).nonzero()[4 * number : 4 * number + 4, 0]
            embedded[0, place] = model.see(view, sample.views[1][number : number + 1])[0]
    out = model.language(inputs_embeds=embedded, labels=sample.labels[None])
    return out.loss * (sample.labels[1:] != IGNORED).sum()


@pytest.mark.parametrize("attention, blocks", [("sdpa", False), ("by_matmul", False), ("by_matmul", True)])
@torch.no_grad()
def test_a_sample_in_a_pack_has_the_loss_that_it_has_alone(model, attention, blocks):
    model.attend_by(attention)
    found = packed(model, SAMPLES, 160, blocks)
    model.attend_by("sdpa")
    for one, sample in zip(found, SAMPLES, strict=False):
        count = int((sample.labels != IGNORED).sum())
        assert abs(one - alone(model, sample)) / count < 1e-5


@pytest.mark.parametrize("attention, blocks", [("sdpa", False), ("by_matmul", True)])
@torch.no_grad()
def test_a_samples_loss_does_not_move_when_its_neighbours_change(model, attention, blocks):
    model.attend_by(attention)
    before = packed(model, SAMPLES[:3], 160, blocks)
    others = Sample(9, len(SAMPLES[0].ids) - 3), Sample(8, 20, (2, 2))
    after = packed(model, [others[0], SAMPLES[1], SAMPLES[2], others[1]], 160, blocks)
    model.attend_by("sdpa")
    torch.testing.assert_close(after[1:3], before[1:], rtol=0, atol=1e-4)
    assert abs(after[0] - before[0]) > 1


@torch.no_grad()
def test_without_the_document_mask_neighbours_do_matter(model):
    """What the two tests above would miss if the mask did nothing: restarted positions alone isolate nobody."""
    samples = [SAMPLES[0], SAMPLES[1]]
    documents, positions = (torch.from_numpy(one).long()[None] for one in places([len(s.ids) for s in samples], 160))
    ids = torch.zeros(1, 160, dtype=torch.int64)
    ids[0, : sum(len(s.ids) for s in samples)] = torch.cat([s.ids for s in samples])
    seen = model.see(*SAMPLES[0].views)
    causal = torch.ones(1, 1, 160, 160, dtype=torch.bool).tril()
    labels = torch.where(documents == 1, ids, IGNORED)
    labels[0, len(SAMPLES[0].ids)] = IGNORED
    loss = {
        mask.sum(): model.losses(model(ids, seen, ids == QUERY, mask, positions), labels).sum()
        for mask in (causal, document_mask(documents))
    }
    one, other = loss.values()
    assert abs(one - other) > 0.1


def test_the_mask_of_a_batch_is_that_of_its_packs():
    lengths = [[5, 3, 4], [12], []]
    documents = [places(one, 16)[0] for one in lengths]
    mask = document_mask(torch.stack([torch.from_numpy(one) for one in documents]))
    assert mask.shape == (3, 1, 16, 16)
    for one, of in zip(mask[:, 0], documents, strict=False):
        assert (one.numpy() == attends(of)).all()
        assert one.any(1).all()


def test_blocks_reach_back_as_far_as_any_row_looks():
    lengths = [[5, 3, 20], [9, 19]]
    documents, positions = (
        torch.from_numpy(np.stack(one)) for one in zip(*(places(one, 30) for one in lengths), strict=True)
    )
    mask = document_mask(documents)[:, 0]
    for start, stop, first in blocks_of(positions, 8):
        looked = (mask & (documents != PADDING)[:, :, None])[:, start:stop].any(1).any(0).nonzero()[:, 0]
        assert first <= looked.min() and looked.max() < stop


@torch.no_grad()
def test_views_of_different_sizes_are_seen_as_each_is_alone(model):
    grids = [(4, 4), (1, 9), (6, 2), (4, 4)]
    flat, sizes = views(*grids)
    together = model.see(flat, sizes)
    for one, view, size in zip(together, torch.split(flat, sizes.prod(1).tolist()), sizes, strict=False):
        torch.testing.assert_close(one, model.see(view, size[None])[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_encoder_is_siglips(model):
    """A square view of as many patches as SigLIP's own table: pixels through its convolution and its own forward."""
    vision = TINY.vision
    own = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=vision.width, intermediate_size=vision.feed_forward, num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads, image_size=35 * 14, patch_size=14, hidden_act="gelu_pytorch_tanh",
            layer_norm_eps=1e-6, vision_use_head=False,
        )
    ).eval()  # fmt: skip
    own.load_state_dict(model.vision.state_dict())
    flat, grid = views((35, 35))
    pixels = flat.reshape(35, 35, 3, 14, 14).permute(2, 0, 3, 1, 4).reshape(1, 3, 490, 490)
    states, there = model.patch_states(flat, grid)
    assert there is None
    torch.testing.assert_close(states, own(pixels).last_hidden_state, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [70, 35, 14, 10])
def test_a_patch_takes_the_place_in_the_table_that_llama_cpp_gives_it(side):
    """llama.cpp: floor(70 i / n) of 70 x 70; there a smaller table stands repeated."""
    from training.model import _buckets

    table = torch.arange(side * side).reshape(side, side)
    expanded = table.repeat_interleave(70 // side, 0).repeat_interleave(70 // side, 1).flatten()
    for rows, columns in ((8, 8), (1, 13), (33, 7), (70, 70)):
        theirs = [(70 * y // rows) * 70 + 70 * x // columns for y in range(rows) for x in range(columns)]
        assert _buckets(rows, columns, side).tolist() == expanded[theirs].tolist()


def test_too_many_or_too_few_views_are_a_bug(model):
    ids = torch.tensor([[5, QUERY, QUERY, QUERY, QUERY, 6]])
    seen = model.see(*views((2, 2), (2, 2)))
    with pytest.raises(ValueError, match="8 embeddings of views for 4 places"):
        model.embed(ids, seen, ids == QUERY)


def test_every_weight_is_learned(model):
    """Nothing stands in the model that the loss does not reach."""
    fresh = tiny(seed=1)
    packed(fresh, SAMPLES, 160).sum().backward()
    idle = [name for name, one in fresh.named_parameters() if one.grad is None or not one.grad.abs().sum()]
    assert idle == []
