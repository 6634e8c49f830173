"""Images broken along their structure: each is measured, or left out with a reason; none takes long, or much memory."""

import os
import random
import resource
import time
from collections import Counter

import numpy as np
import pytest
from support.image_fuzz import broken_image

from pipelines.engine.partition_stage import Rejected
from pipelines.stages import ocr
from pipelines.stages.images import inspect
from schemas.images import REASONS, ImagesConfig
from training import pixels

SEED = int(os.environ.get("FUZZ_SEED", 1))
LIMITS = ImagesConfig(max_pixels=4_000_000, min_side=1, max_aspect_ratio=10_000)


def fuzzed(draws: random.Random, seconds: float, most: int) -> Counter:
    """How many images came to which end. Raises `AssertionError` for one that broke a promise."""
    ends: Counter = Counter()
    until, before = time.monotonic() + seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while ends.total() < most and time.monotonic() < until:
        data, begun = broken_image(draws), time.thread_time()
        try:
            row = inspect(data, LIMITS)
        except Rejected as rejected:
            assert rejected.reason in REASONS, data[:2_000]
            ends[rejected.reason] += 1
        else:
            ends["kept"] += 1
            size = (row["width"], row["height"])
            assert ocr.pixels(data).shape == (size[1], size[0], 3), data[:2_000]
            assert tuple(pixels.size_of(data)) == size and np.asarray(pixels.decode(data)).shape[1::-1] == size
        assert time.thread_time() - begun < 10, data[:2_000]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3 << 19, "1.5 GB more"
    return ends


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_broken_images_are_measured_or_left_out():
    ends = fuzzed(random.Random(SEED), 20, 400)
    assert ends["kept"] and len(ends) > 3


@pytest.mark.slow
@pytest.mark.far
@pytest.mark.filterwarnings("ignore")
def test_many_broken_images_are_measured_or_left_out():
    """By hand: minutes of random inputs. `make test` has 400 of these images.

    FUZZ_SECONDS says for how long; FUZZ_SEED, which ones.
    """
    ends = fuzzed(random.Random(SEED), float(os.environ.get("FUZZ_SECONDS", 120)), 1 << 30)
    print(dict(ends))
    assert ends["kept"] > 50 and len(ends) > 5
