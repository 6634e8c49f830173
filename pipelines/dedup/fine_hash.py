"""A second perceptual hash, of 256 bits: it tells apart pictures that are near by the 64 bits of the first one.

Photographs: the signs of 16 x 16 frequencies (DCT) of 64 x 64 pixels, which keep most of their values when a picture is
compressed, scaled or cropped a little. On plain ground (pages, forms, certificates, logos) a few words change no sign:
there the bits say in which of many narrow steps each frequency lies, moved by the mean colour, so that other words, or
another colour, change a third of them. Integer arithmetic, so that every machine has the same bits.
"""

import hashlib
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

SIDE, FREQUENCIES = 64, 16
PLAIN = 0.55  # share of the pixels that differ from the next ones by at most SMOOTH levels: more is plain ground
SMOOTH = 2
STEP = 0.5  # of a frequency on plain ground, in levels of grey
COLOUR_STEP = 24  # levels of the mean colour
NEAR = 36  # bits by which copies of one picture differ at most, as tests/benchmarks/fine_hash.py measures

COSINES = np.rint(
    4096 * np.cos(math.pi * (2 * np.arange(SIDE) + 1) * np.arange(1, FREQUENCIES + 1)[:, None] / (2 * SIDE))
).astype(np.int64)
_DRAWN = np.frombuffer(hashlib.shake_256(b"shardmill fine hash").digest(8 * FREQUENCIES**2), "<u2").reshape(4, -1)
OFFSETS = 0.2 + 0.6 * _DRAWN[0] / 65536  # where the steps of each frequency begin
WEIGHTS = (_DRAWN[1:] - 32768.0) / 32768  # of the mean Y, Cb and Cr


def fine_hash(grey: Image.Image, mean_colour: Callable[[], tuple[float, float, float]]) -> str:
    """64 hex digits. `grey` is the upright picture; its mean Y, Cb and Cr are asked for only on plain ground."""
    pixels = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)).astype(np.int64)
    strengths = (COSINES @ pixels @ COSINES.T).ravel()
    if is_plain(grey):
        y, blue, red = mean_colour()
        moved = (WEIGHTS[0] * y + WEIGHTS[1] * blue + WEIGHTS[2] * red) / COLOUR_STEP
        steps = np.floor(strengths / (4096**2 * SIDE**2 / 4 * STEP) + OFFSETS + moved)
        bits = steps.astype(np.int64) & 1
    else:
        bits = strengths < 0
    return np.packbits(bits.astype(np.uint8)).tobytes().hex()


def is_plain(grey: Image.Image) -> bool:
    """Whether most of a picture is ground without texture."""
    pixels = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX)).astype(np.int16)
    across, down = np.abs(np.diff(pixels, axis=1))[:-1], np.abs(np.diff(pixels, axis=0))[:, :-1]
    return bool((np.maximum(across, down) <= SMOOTH).mean() >= PLAIN)


def bits_apart(one: str, other: str) -> int:
    """The bits in which two hashes of equal length differ."""
    return (int(one, 16) ^ int(other, 16)).bit_count()
