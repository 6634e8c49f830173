"""A vision-language model like MiniCPM-V: SigLIP's vision transformer, a resampler, Llama.

    model = VisionLanguageModel(SHAPES["pico"])
    hidden = model(ids, model.see(patches, grids), ids == marks.query, mask, positions)
    losses = model.losses(hidden, labels)

A view may have any grid of patches. Positions of patches fall into 70 x 70 buckets, as in llama.cpp.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from training.layout import IGNORED
from training.packs import PADDING
from training.prefix import Prefix
from training.resampler import Resampler, sine_cosine
from training.shapes import BUCKETS, Shape

Blocks = list[tuple[int, int, int]]  # rows [start, stop) of a pack, and the first place that any of them attends to


def by_matmul(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float,
    blocks: Blocks | None = None, **_: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention by its definition, where `mask` is true; arguments are [sequences, heads, length, channels] each.

    With `blocks`, places that no row of a block attends to are not computed. On a CPU, a training step of a small model
    takes half the time that it takes with torch's fused kernel.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    query, attended = query * scaling, []
    for start, stop, first in blocks or [(0, query.shape[2], 0)]:
        last = stop if blocks else key.shape[2]
        scores = query[:, :, start:stop] @ key[:, :, first:last].transpose(2, 3)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, start:stop, first:last], -torch.inf)
        attended.append(scores.softmax(-1).to(value.dtype) @ value[:, :, first:last])
    return torch.cat(attended, 2).transpose(1, 2), None


def blocks_of(positions: Tensor, rows: int = 128) -> Blocks:
    """The blocks of packs with these positions [packs, length]: `rows` each, with the first place they attend to."""
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
                hidden_act="gelu_pytorch_tanh", layer_norm_eps=shape.epsilon,
                vision_use_head=False,  # pyright: ignore[reportCallIssue]  the model reads it, no configuration declares it
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

    @contextmanager
    def _language_attends_by(self, kind: str) -> Iterator[None]:
        config = self.language.model.config
        before = config._attn_implementation
        config._attn_implementation = kind
        try:
            yield
        finally:
            config._attn_implementation = before

    @torch.no_grad()
    def reset_positions(self) -> None:
        """Sets the position table to sines and cosines of unit size; one patch of an unsliced image is one step.

        With these, a small model tells colours apart after 20,000 pictures; with small random ones, after 100,000.
        """
        vision = self.shape.vision
        steps = vision.side / vision.patch / vision.positions
        self.vision.embeddings.position_embedding.weight.copy_(_spread(vision.width, vision.positions, steps))

    def patch_states(self, patches: Tensor, grids: Tensor) -> tuple[Tensor, Tensor | None]:
        """The vision encoder alone: [views, most patches, vision width], and the mask of real patches; None if all are.

        `patches` are float [patches of all views, 3 * patch * patch], `grids` int [views, 2]: rows and columns.
        """
        embeddings, sizes = self.vision.embeddings, [tuple(grid) for grid in grids.tolist()]
        weight = embeddings.patch_embedding.weight.flatten(1)
        places = torch.cat([_buckets(rows, columns, self.shape.vision.positions) for rows, columns in sizes])
        states = F.linear(patches, weight, embeddings.patch_embedding.bias)
        states = states + embeddings.position_embedding(places.to(states.device))
        states, present = _padded(states, grids.prod(1), sizes)
        mask = None if present is None else present[:, None, None, :]
        for layer in self.vision.encoder.layers:
            states = layer(states, mask)
        return self.vision.post_layernorm(states), present

    def see(self, patches: Tensor, grids: Tensor) -> Tensor:
        """The embeddings of each view: [views, queries, language width]; arguments as for `patch_states`."""
        if not len(grids):
            return self.resampler.query.new_empty(0, *self.resampler.query.shape)
        return self.resample(*self.patch_states(patches, grids), grids)

    def resample(self, states: Tensor, present: Tensor | None, grids: Tensor) -> Tensor:
        """The second half of `see`: takes what `patch_states` returns."""
        sizes, width = [tuple(grid) for grid in grids.tolist()], self.shape.language.width
        if present is None and len(set(sizes)) == 1:
            positions = sine_cosine(width, *sizes[0]).to(states.device)[None]
        else:
            positions = torch.cat([sine_cosine(width, *size) for size in sizes]).to(states.device)
            positions, _ = _padded(positions, grids.prod(1), sizes)
        return self.resampler(states, positions, present)

    def embed(self, ids: Tensor, seen: Tensor, visual: Tensor) -> Tensor:
        """Embeddings [sequences, length, width]: of the views, in order, where `visual` is true, else of the tokens.

        Raises `ValueError` if there are more or fewer embeddings of views than places for them.
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
        prefix: Prefix | None = None,
    ) -> Tensor:
        """The language model's last states [sequences, length, width], after its norm.

        `ids`, `visual` and `positions` are [sequences, length]; `mask` is bool [sequences, 1, length, keys], true where
        a place may attend; None, with "sdpa" only, means causal attention. `seen` is what `see` returns. With a
        `prefix`, each sequence is the next token of an answer behind it; the `cache` and `mask` are of answers alone.
        """
        with self._language_attends_by("behind_prefix") if prefix else nullcontext():
            out = self.language.model(
                inputs_embeds=self.embed(ids, seen, visual), attention_mask=mask, position_ids=positions,
                past_key_values=cache, use_cache=cache is not None, blocks=blocks, prefix=prefix,
            )  # fmt: skip
        return out.last_hidden_state

    def losses(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Minus the log-probability of each token: float32 [sequences, length], 0 where nothing is learned.

        A label is at the place of its own token, and the place before it predicts it. Logits are computed only where
        something is learned.
        """
        learned = labels[:, 1:] != IGNORED
        logits = self.language.lm_head(hidden[:, :-1][learned])
        learned_losses = F.cross_entropy(logits.float(), labels[:, 1:][learned], reduction="none")
        losses = hidden.new_zeros(labels.shape, dtype=torch.float32)
        losses[:, 1:][learned] = learned_losses
        return losses


def document_mask(documents: Tensor) -> Tensor:
    """bool [packs, 1, length, length]: `training.packs.attends` for a batch. Padding attends to padding only."""
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same.tril()


def per_document(losses: Tensor, documents: Tensor) -> list[Tensor]:
    """The summed losses of each document: one float32 [documents] for each pack."""
    return [
        torch.zeros(int(of.max()) + 1, device=loss.device).index_add(0, of[of != PADDING], loss[of != PADDING])
        for loss, of in zip(losses, documents, strict=True)
    ]


@lru_cache(maxsize=4096)
def _buckets(rows: int, columns: int, side: int) -> Tensor:
    """int64 [rows * columns]: for each patch, its row in the table of positions.

    llama.cpp takes floor(70 i / n) of 70; in a table with a smaller side, 70 / side neighbours share a row.
    """
    y = torch.arange(rows) * BUCKETS // rows * side // BUCKETS
    x = torch.arange(columns) * BUCKETS // columns * side // BUCKETS
    return (y[:, None] * side + x).flatten()


def _spread(width: int, side: int, step: float) -> Tensor:
    """Like `sine_cosine`, for a square whose neighbours are `step` patches apart."""
    waves = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    turns = torch.arange(side, dtype=torch.float64)[:, None] * step * waves
    axis = torch.cat([turns.sin(), turns.cos()], 1)
    return torch.cat([axis.repeat(side, 1), axis.repeat_interleave(side, 0)], 1).float()


def _padded(flat: Tensor, counts: Tensor, sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor | None]:
    """[patches of all views, channels] as [views, most patches, channels], and the mask of patches; None if all."""
    patches = [rows * columns for rows, columns in sizes]
    if len(set(patches)) == 1:
        return flat.unflatten(0, (len(sizes), patches[0])), None
    present = torch.arange(max(patches), device=flat.device) < counts.to(flat.device)[:, None]
    padded = flat.new_zeros(*present.shape, flat.shape[-1])
    padded[present] = flat
    return padded, present
