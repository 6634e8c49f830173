"""A vision-language model as MiniCPM-V is one: SigLIP's vision transformer, a resampler, Llama.

    model = VisionLanguageModel(SHAPES["pico"])
    hidden = model(ids, model.see(patches, grids), ids == marks.query, mask, positions)
    losses = model.losses(hidden, labels)

Views have any grid of patches. Where a patch stands is sorted into 70 x 70 buckets, as llama.cpp does.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from training.layout import IGNORED
from training.packs import PADDING
from training.resampler import Resampler, sine_cosine
from training.shapes import BUCKETS, Shape

Blocks = list[tuple[int, int, int]]  # rows [start, stop) of a pack, and the first place that any of them looks at


def by_matmul(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float,
    blocks: Blocks | None = None, **_: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention as written down, where `mask` is true; [sequences, heads, length, channels] each.

    With `blocks`, what no row of a block looks at is not computed. On a CPU a training step of a small model takes half
    the time that it takes with torch's fused kernel.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    query, found = query * scaling, []
    for start, stop, first in blocks or [(0, query.shape[2], 0)]:
        last = stop if blocks else key.shape[2]
        scores = query[:, :, start:stop] @ key[:, :, first:last].transpose(2, 3)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, start:stop, first:last], -torch.inf)
        found.append(scores.softmax(-1).to(value.dtype) @ value[:, :, first:last])
    return torch.cat(found, 2).transpose(1, 2), None


def blocks_of(positions: Tensor, rows: int = 128) -> Blocks:
    """For packs with these positions [packs, length]: rows so many at a time, and how far back any of them looks."""
    length = positions.shape[1]
    begins = torch.arange(length, device=positions.device) - positions
    firsts = begins.amin(0).tolist()
    return [(start, min(start + rows, length), min(firsts[start : start + rows])) for start in range(0, length, rows)]


ALL_ATTENTION_FUNCTIONS.register("by_matmul", by_matmul)


class VisionLanguageModel(nn.Module):
    """`vision`, `resampler` and `language`, with fresh weights."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape, vision, language = shape, shape.vision, shape.language
        self.vision = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=vision.width, intermediate_size=vision.feed_forward, num_hidden_layers=vision.layers,
                num_attention_heads=vision.heads, image_size=vision.positions * vision.patch, patch_size=vision.patch,
                hidden_act="gelu_pytorch_tanh", layer_norm_eps=shape.epsilon, vision_use_head=False,
            )
        )  # fmt: skip
        self.resampler = Resampler(shape.queries, language.width, vision.width, shape.epsilon)
        self.language = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=language.width, intermediate_size=language.feed_forward,
                num_hidden_layers=language.layers, num_attention_heads=language.heads,
                num_key_value_heads=language.key_heads, vocab_size=language.vocab,
                max_position_embeddings=language.context, rms_norm_eps=language.epsilon,
                rope_parameters={"rope_type": "default", "rope_theta": language.theta},
                tie_word_embeddings=language.tied, bos_token_id=None, eos_token_id=None,
            )
        )  # fmt: skip
        self.attend_by("sdpa")
        if self.device.type != "meta":
            self.reset_positions()

    @property
    def device(self) -> torch.device:
        return self.resampler.query.device

    def attend_by(self, kind: str) -> None:
        """How attention is computed: "sdpa", torch's fused kernels, or "by_matmul"."""
        for config in (self.vision.config, self.language.config, self.language.model.config):
            config._attn_implementation = kind

    @torch.no_grad()
    def reset_positions(self) -> None:
        """Sines and cosines of unit size, a step a patch of an image that is not sliced.

        With these a small model tells colours apart after 20,000 pictures; with small random ones after 100,000.
        """
        vision = self.shape.vision
        steps = vision.side / vision.patch / vision.positions
        self.vision.embeddings.position_embedding.weight.copy_(_spread(vision.width, vision.positions, steps))

    def patch_states(self, patches: Tensor, grids: Tensor) -> tuple[Tensor, Tensor | None]:
        """The vision encoder alone: [views, most patches, vision width], and where there are patches; None if all.

        `patches` are float [patches of all views, 3 * patch * patch], `grids` int [views, 2]: rows and columns.
        """
        embeddings, sizes = self.vision.embeddings, [tuple(grid) for grid in grids.tolist()]
        weight = embeddings.patch_embedding.weight.flatten(1)
        places = torch.cat([_buckets(rows, columns, self.shape.vision.positions) for rows, columns in sizes])
        states = F.linear(patches, weight, embeddings.patch_embedding.bias)
        states = states + embeddings.position_embedding(places.to(states.device))
        states, there = _padded(states, grids.prod(1), sizes)
        mask = None if there is None else there[:, None, None, :]
        for layer in self.vision.encoder.layers:
            states = layer(states, mask)
        return self.vision.post_layernorm(states), there

    def see(self, patches: Tensor, grids: Tensor) -> Tensor:
        """The embeddings of each view: [views, queries, language width]; arguments as for `patch_states`."""
        if not len(grids):
            return self.resampler.query.new_empty(0, *self.resampler.query.shape)
        return self.resample(*self.patch_states(patches, grids), grids)

    def resample(self, states: Tensor, there: Tensor | None, grids: Tensor) -> Tensor:
        """The second half of `see`, from what `patch_states` returns."""
        sizes, width = [tuple(grid) for grid in grids.tolist()], self.shape.language.width
        if there is None and len(set(sizes)) == 1:
            positions = sine_cosine(width, *sizes[0]).to(states.device)[None]
        else:
            positions = torch.cat([sine_cosine(width, *size) for size in sizes]).to(states.device)
            positions, _ = _padded(positions, grids.prod(1), sizes)
        return self.resampler(states, positions, there)

    def embed(self, ids: Tensor, seen: Tensor, visual: Tensor) -> Tensor:
        """Tokens as [sequences, length, width]; where `visual` is true stand the embeddings of the views, in order.

        Raises `ValueError` if there are more or fewer of them than places.
        """
        embedded = self.language.model.embed_tokens(ids)
        seen = seen.flatten(0, 1)
        if (places := int(visual.sum())) != len(seen):
            raise ValueError(f"{len(seen)} embeddings of views for {places} places")
        return embedded.masked_scatter(visual[..., None], seen.to(embedded.dtype))

    def forward(
        self,
        ids: Tensor,
        seen: Tensor,
        visual: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        cache: Cache | None = None,
        blocks: Blocks | None = None,
    ) -> Tensor:
        """The language model's last states [sequences, length, width], its norm applied.

        `ids`, `visual` and `positions` are [sequences, length]; `mask` is bool [sequences, 1, length, keys], true
        where a place may look; None, by "sdpa" alone, where each looks at all before it. `seen` is what `see` returns.
        """
        out = self.language.model(
            inputs_embeds=self.embed(ids, seen, visual), attention_mask=mask, position_ids=positions,
            past_key_values=cache, use_cache=cache is not None, blocks=blocks,
        )  # fmt: skip
        return out.last_hidden_state

    def losses(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Minus the log-probability of each token: float32 [sequences, length], 0 where nothing is learned.

        A label stands at its own token, and is foretold by the place before it. Logits are made only where something
        is learned.
        """
        learned = labels[:, 1:] != IGNORED
        logits = self.language.lm_head(hidden[:, :-1][learned])
        found = F.cross_entropy(logits.float(), labels[:, 1:][learned], reduction="none")
        losses = hidden.new_zeros(labels.shape, dtype=torch.float32)
        losses[:, 1:][learned] = found
        return losses

    def parameters_of(self, part: str) -> int:
        return sum(one.numel() for one in getattr(self, part).parameters())


def document_mask(documents: Tensor) -> Tensor:
    """bool [packs, 1, length, length]: `training.packs.attends` for a batch. Padding looks at padding alone."""
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same.tril()


def per_document(losses: Tensor, documents: Tensor) -> list[Tensor]:
    """The sum of the losses of each document of each pack: a float32 [documents] a pack."""
    return [
        torch.zeros(int(of.max()) + 1, device=one.device).index_add(0, of[of != PADDING], one[of != PADDING])
        for one, of in zip(losses, documents)
    ]


@lru_cache(maxsize=4096)
def _buckets(rows: int, columns: int, side: int) -> Tensor:
    """int64 [rows * columns]: the row of the table of positions that each patch takes.

    llama.cpp takes floor(70 i / n) of 70; a table of a smaller side is what 70 / side neighbours share.
    """
    y = torch.arange(rows) * BUCKETS // rows * side // BUCKETS
    x = torch.arange(columns) * BUCKETS // columns * side // BUCKETS
    return (y[:, None] * side + x).flatten()


def _spread(width: int, side: int, step: float) -> Tensor:
    """As `sine_cosine`, of a square whose neighbours are less than a patch apart."""
    waves = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    turns = torch.arange(side, dtype=torch.float64)[:, None] * step * waves
    axis = torch.cat([turns.sin(), turns.cos()], 1)
    return torch.cat([axis.repeat(side, 1), axis.repeat_interleave(side, 0)], 1).float()


def _padded(flat: Tensor, counts: Tensor, sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor | None]:
    """[patches of all views, channels] as [views, most patches, channels], and where there is one; None if all are."""
    patches = [rows * columns for rows, columns in sizes]
    if len(set(patches)) == 1:
        return flat.unflatten(0, (len(sizes), patches[0])), None
    there = torch.arange(max(patches), device=flat.device) < counts.to(flat.device)[:, None]
    padded = flat.new_zeros(*there.shape, flat.shape[-1])
    padded[there] = flat
    return padded, there
