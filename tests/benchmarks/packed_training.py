"""Real tokens a second that packed training learns from, against batches padded to their longest sample.

    python tests/benchmarks/packed_training.py [--samples 256] [--batch 32] [--length 2048] [--threads 1]

Forward and backward passes of a language model of `pico`'s width, on samples as long as captions and texts of web
images are, half and half (`pack_planner.make_lengths`; llama.cpp's slicing, 64 embeddings a view). Padded batches are
of `--batch` samples, drawn at random, each with plain causal attention and no more padding than its longest sample
needs; packs are of `--length` tokens, each sample sees only itself. Both take the same samples. `ratio` is the packs'
real tokens a second by the batches'; `fill` is the share of places that hold tokens. `sdpa` and `by_matmul` are ways
to compute attention; batches have the better one of the two. On a CPU a second is one of the processor's.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from pack_planner import make_lengths

from training.layout import IGNORED
from training.model import VisionLanguageModel, blocks_of, document_mask
from training.packs import places, plan_packs
from training.shapes import PICO

Passes = Iterator[tuple[torch.Tensor, torch.Tensor]]  # documents and positions, [rows, length] each


def padded(lengths: np.ndarray, batch: int) -> Passes:
    for start in range(0, len(lengths), batch):
        some = lengths[start : start + batch]
        positions = torch.arange(int(some.max())).expand(len(some), -1)
        yield torch.where(positions < torch.from_numpy(some)[:, None], 0, -1), positions


def packed(lengths: np.ndarray, length: int, at_once: int) -> Passes:
    packs = [places(lengths[pack], length) for pack in plan_packs(lengths, length)]
    for start in range(0, len(packs), at_once):
        documents, positions = (
            torch.from_numpy(np.stack(one)).long() for one in zip(*packs[start : start + at_once], strict=True)
        )
        yield documents, positions


def seconds(model: VisionLanguageModel, passes: list, device: str, is_packed: bool) -> float:
    """Of one forward and backward pass over everything; a token in four is learned."""
    draws, nobody = torch.Generator().manual_seed(0), torch.empty(0, 1, PICO.language.width, device=device)
    ready = []
    for documents, positions in passes:
        ids = torch.randint(0, 600, documents.shape, generator=draws)
        labels = torch.where((torch.rand(ids.shape, generator=draws) < 0.25) & (documents >= 0), ids, IGNORED)
        ready.append([one.to(device) for one in (ids, labels, documents, positions)])
    clock = time.process_time if device == "cpu" else time.perf_counter  # others may be busy on the same cores
    started = clock()
    for ids, labels, documents, positions in ready:
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            if is_packed:
                mask, blocks = document_mask(documents), blocks_of(positions) if device == "cpu" else None
            else:
                mask, blocks = document_mask(torch.zeros_like(documents)), None  # causal; padding stands behind
            hidden = model(ids, nobody, ids < 0, mask, positions, blocks=blocks)
            model.losses(hidden, labels).sum().backward()
        model.zero_grad()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - started


def main(samples: int, batch: int, length: int, threads: int, repeats: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kinds, draws = make_lengths(samples), np.random.default_rng(1)
    lengths = draws.permutation(np.concatenate([kinds["captions"], kinds["text in images"]]))[:samples]
    model = VisionLanguageModel(replace(PICO, language=replace(PICO.language, context=length))).to(device)
    work = {
        "padded": list(padded(lengths, batch)),
        "packed": list(packed(lengths, length, 1 if device == "cpu" else 4)),
    }
    found: dict[str, dict[str, float]] = {name: {} for name in work}
    for kind in ("sdpa", "by_matmul"):
        model.attend_by(kind)
        for name, passes in work.items():
            took = min(seconds(model, passes, device, name == "packed") for _ in range(repeats))
            found[name][kind] = round(int(lengths.sum()) / took)
    best = {name: max(one.values()) for name, one in found.items()}
    fill = {
        name: round(int(lengths.sum()) / sum(documents.numel() for documents, _ in passes), 4)
        for name, passes in work.items()
    }
    print(json.dumps({
        "benchmark": "packed_training", "device": device, "samples": samples, "batch": batch, "length": length,
        "tokens": int(lengths.sum()), "bar": 2.5, "ratio": round(best["packed"] / best["padded"], 2),
        "tokens_per_second": found, "fill": fill,
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--samples", type=int, default=256)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--length", type=int, default=2048)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--repeats", type=int, default=2)
    main(**vars(options.parse_args()))
