"""The names of a checkpoint's weights and sizes in GGUF, and the layouts that llama.cpp needs.

    language_keys(shape, tokenizer), language_tensors(shape)        # the file of the language model
    vision_keys(shape), vision_tensors(shape)                       # the mmproj file: encoder and resampler

Names and layouts are those that llama.cpp reads for Llama, and for MiniCPM-V 2.6 and later ("version 3").
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gguf import TokenType

from training.pre_tokenizer import pre_tokenizer
from training.shapes import BUCKETS, Shape
from training.tokenizer import Tokenizer

VERSION = 3  # of MiniCPM-V, as llama.cpp numbers it: <image>…</image>, <slice>…</slice>, rows joined by "\n"

# ChatML as `training.layout` lays it out: no system message of its own, nothing after the last turn.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] in ('text', 'media_marker') -%}{{- part['text'] -}}"
    "{%- else -%}{{- '<__media__>' -}}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>' -}}{%- if not loop.last -%}{{- '\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '\\n<|im_start|>assistant\\n' -}}{%- endif -%}"
)

Keys = dict[str, Any]
Made = Callable[[np.ndarray], np.ndarray]


def as_it_is(weight: np.ndarray) -> np.ndarray:
    return weight


class Tensor(NamedTuple):
    """A tensor of a file, and the checkpoint's weight that it is made from."""

    name: str
    source: str
    shape: tuple[int, ...]
    made: Made = as_it_is
    exact: bool = False  # whether it stays float32 in any quantisation

    @property
    def blocks(self) -> bool:
        """Whether its rows are whole blocks of 32 and can be quantised; rows of SigLIP's 4,304 channels are not."""
        return not self.exact and len(self.shape) == 2 and self.shape[1] % 32 == 0


def language_keys(shape: Shape, tokenizer: Tokenizer) -> Keys:
    """All keys of the language model's file, except those about its quantisation."""
    language = shape.language
    return {
        "llama.context_length": language.context,
        "llama.embedding_length": language.width,
        "llama.block_count": language.layers,
        "llama.feed_forward_length": language.feed_forward,
        "llama.attention.head_count": language.heads,
        "llama.attention.head_count_kv": language.key_heads,
        "llama.attention.layer_norm_rms_epsilon": language.epsilon,
        "llama.rope.dimension_count": language.width // language.heads,
        "llama.rope.freq_base": language.theta,
        "llama.vocab_size": language.vocab,
        "tokenizer.chat_template": CHAT_TEMPLATE,
        **vocabulary(tokenizer, language.vocab),
    }


def vision_keys(shape: Shape) -> Keys:
    """All keys of the mmproj file, except those about its quantisation."""
    vision = shape.vision
    return {
        "clip.has_vision_encoder": True,
        "clip.projector_type": "resampler",
        "clip.minicpmv_version": np.int32(VERSION),
        "clip.minicpmv_query_num": shape.queries,
        "clip.use_gelu": True,  # the tanh kind
        "clip.vision.image_size": vision.side,
        "clip.vision.patch_size": vision.patch,
        "clip.vision.embedding_length": vision.width,
        "clip.vision.feed_forward_length": vision.feed_forward,
        "clip.vision.block_count": vision.layers,
        "clip.vision.attention.head_count": vision.heads,
        "clip.vision.attention.layer_norm_epsilon": shape.epsilon,
        "clip.vision.projection_dim": shape.language.width,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
    }


def language_tensors(shape: Shape) -> Iterator[Tensor]:
    """The language model's tensors in the order of the file. Tied weights are stored once."""
    language = shape.language
    width, head = language.width, language.width // language.heads
    yield Tensor("token_embd.weight", "language.model.embed_tokens.weight", (language.vocab, width))
    for number in range(language.layers):
        ours, theirs = f"language.model.layers.{number}", f"blk.{number}"
        yield Tensor(f"{theirs}.attn_norm.weight", f"{ours}.input_layernorm.weight", (width,), exact=True)
        for name, heads in (("q", language.heads), ("k", language.key_heads), ("v", language.key_heads)):
            made = turning_pairs(heads) if name in "qk" else as_it_is
            yield Tensor(
                f"{theirs}.attn_{name}.weight", f"{ours}.self_attn.{name}_proj.weight", (heads * head, width), made
            )
        yield Tensor(f"{theirs}.attn_output.weight", f"{ours}.self_attn.o_proj.weight", (width, width))
        yield Tensor(f"{theirs}.ffn_norm.weight", f"{ours}.post_attention_layernorm.weight", (width,), exact=True)
        for name, sizes in (
            ("gate", (language.feed_forward, width)),
            ("up", (language.feed_forward, width)),
            ("down", (width, language.feed_forward)),
        ):
            yield Tensor(f"{theirs}.ffn_{name}.weight", f"{ours}.mlp.{name}_proj.weight", sizes)
    yield Tensor("output_norm.weight", "language.model.norm.weight", (width,), exact=True)
    if not language.tied:
        yield Tensor("output.weight", "language.lm_head.weight", (language.vocab, width))


def vision_tensors(shape: Shape) -> Iterator[Tensor]:
    """Tensors of encoder and resampler. `resampler.pos_embed_k` is required but never read: one row of the query."""
    vision, width, wide = shape.vision, shape.vision.width, shape.language.width
    embeddings = "vision.embeddings"
    yield Tensor("v.patch_embd.weight", f"{embeddings}.patch_embedding.weight", (width, 3, vision.patch, vision.patch))
    yield Tensor("v.patch_embd.bias", f"{embeddings}.patch_embedding.bias", (width,), exact=True)
    yield Tensor(
        "v.position_embd.weight", f"{embeddings}.position_embedding.weight", (BUCKETS * BUCKETS, width),
        stretched(vision.positions),
    )  # fmt: skip
    for number in range(vision.layers):
        ours, theirs = f"vision.encoder.layers.{number}", f"v.blk.{number}"
        for our, their, sizes in (
            ("layer_norm1", "ln1", (width,)),
            ("self_attn.q_proj", "attn_q", (width, width)),
            ("self_attn.k_proj", "attn_k", (width, width)),
            ("self_attn.v_proj", "attn_v", (width, width)),
            ("self_attn.out_proj", "attn_out", (width, width)),
            ("layer_norm2", "ln2", (width,)),
            ("mlp.fc1", "ffn_up", (vision.feed_forward, width)),
            ("mlp.fc2", "ffn_down", (width, vision.feed_forward)),
        ):
            yield Tensor(f"{theirs}.{their}.weight", f"{ours}.{our}.weight", sizes, exact=len(sizes) == 1)
            yield Tensor(f"{theirs}.{their}.bias", f"{ours}.{our}.bias", sizes[:1], exact=True)
    for name in ("weight", "bias"):
        yield Tensor(f"v.post_ln.{name}", f"vision.post_layernorm.{name}", (width,), exact=True)
    yield Tensor("resampler.query", "resampler.query", (shape.queries, wide), exact=True)
    yield Tensor("resampler.pos_embed_k", "resampler.query", (1, wide), lambda query: query[:1], exact=True)
    yield Tensor("resampler.kv.weight", "resampler.kv.weight", (wide, width))
    for name in ("q", "k", "v", "out"):
        yield Tensor(f"resampler.attn.{name}.weight", f"resampler.attn.{name}.weight", (wide, wide))
        yield Tensor(f"resampler.attn.{name}.bias", f"resampler.attn.{name}.bias", (wide,), exact=True)
    for norm in ("ln_q", "ln_kv", "ln_post"):
        for name in ("weight", "bias"):
            yield Tensor(f"resampler.{norm}.{name}", f"resampler.{norm}.{name}", (wide,), exact=True)
    yield Tensor("resampler.proj.weight", "resampler.proj.weight", (wide, wide))


def turning_pairs(heads: int) -> Made:
    """Reorders rows of queries or keys: transformers rotates channel i with i + d/2, llama.cpp with i + 1."""

    def made(weight: np.ndarray) -> np.ndarray:
        rows = weight.reshape(heads, 2, -1, weight.shape[1])
        return rows.swapaxes(1, 2).reshape(weight.shape)

    return made


def stretched(side: int) -> Made:
    """Repeats a table of side x side positions to llama.cpp's 70 x 70, matching `training.model`."""

    def made(table: np.ndarray) -> np.ndarray:
        square = table.reshape(side, side, -1)
        times = BUCKETS // side
        return square.repeat(times, 0).repeat(times, 1).reshape(BUCKETS * BUCKETS, -1)

    return made


def vocabulary(tokenizer: Tokenizer, size: int) -> Keys:
    """The tokenizer as llama.cpp reads it, filled up to `size` tokens. Raises `UserError` if llama.cpp cannot read it.

    `<image>` and the other image marks are plain tokens here. llama.cpp inserts them by id; if they were control
    tokens, every program that parses marks in a prompt would also parse them in a user's text. No merge makes them.
    """
    model = json.loads(tokenizer.json)["model"]
    names, marks = tokenizer.names, tokenizer.marks
    tokens: list[str] = [f"[UNUSED_{number}]" for number in range(size)]
    kinds = [TokenType.UNUSED] * size
    for token, number in model["vocab"].items():
        tokens[number], kinds[number] = token, TokenType.NORMAL
    added = json.loads(tokenizer.json)["added_tokens"]
    for entry in added:
        plain = entry["content"] in (*names.image, *names.slice)
        kind = TokenType.CONTROL if entry["special"] else TokenType.USER_DEFINED
        tokens[entry["id"]], kinds[entry["id"]] = entry["content"], TokenType.NORMAL if plain else kind
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_tokenizer(tokenizer),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds],
        "tokenizer.ggml.merges": [entry if isinstance(entry, str) else " ".join(entry) for entry in model["merges"]],
        "tokenizer.ggml.bos_token_id": marks.end if marks.begin is None else marks.begin,
        "tokenizer.ggml.eos_token_id": marks.turn[1],
        "tokenizer.ggml.padding_token_id": marks.end,
        "tokenizer.ggml.add_bos_token": marks.begin is not None,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
