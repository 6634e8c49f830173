"""The 256-bit hash: other words on one form are far apart, copies of one picture are near."""

import io
import random

import numpy as np
import pytest
from benchmarks.fine_hash import COPIES, card, certificate, form, hashes, jpeg, marked, scaled, soft_noise, solid
from PIL import Image

from pipelines.dedup.fine_hash import NEAR, bits_apart, fine_hash, is_plain
from pipelines.stages.images import inspect
from schemas.images import ImagesConfig


def apart(one: Image.Image, other: Image.Image) -> int:
    return bits_apart(hashes(one)[1], hashes(other)[1])


@pytest.mark.parametrize("kind", [certificate, form, card])
def test_other_words_on_one_layout_are_far_apart(kind):
    images = [kind(random.Random(number)) for number in range(5)]
    assert min(apart(images[0], other) for other in images[1:]) > NEAR
    assert all(is_plain(image.convert("L")) for image in images)


@pytest.mark.parametrize("kind", [certificate, form, card, soft_noise])
@pytest.mark.parametrize("copied", [lambda i: jpeg(i, 30), lambda i: jpeg(i, 60), lambda i: scaled(i, 0.5)])
def test_copies_are_near(kind, copied):
    image = kind(random.Random(3))
    assert apart(image, copied(image)) <= NEAR


@pytest.mark.slow
@pytest.mark.parametrize("name", COPIES)
def test_copies_of_textured_pictures_are_near_even_cropped_or_marked(name):
    for number in range(2):
        image = soft_noise(random.Random(number))
        assert apart(image, COPIES[name](image)) <= NEAR
    assert apart(image, soft_noise(random.Random(99))) > 90


def test_solid_grounds_are_told_apart_by_their_colour():
    images = [solid(random.Random(number)) for number in range(6)]
    far = [apart(one, other) for number, one in enumerate(images) for other in images[:number]]
    assert min(far) > NEAR
    assert apart(images[0], jpeg(images[0], 50)) <= NEAR


def test_a_watermark_on_plain_ground_is_another_text():
    image = certificate(random.Random(1))
    assert hashes(image)[1] != hashes(marked(image))[1] or np.array_equal(image, marked(image))


def test_the_hash_is_that_of_the_upright_picture_in_any_format():
    image = soft_noise(random.Random(1))
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=exif)
    row = inspect(buffer.getvalue(), ImagesConfig())
    assert (row["width"], row["height"]) == image.size and bits_apart(row["phash256"], hashes(image)[1]) < 8


def test_the_bits_are_those_of_every_machine():
    """A golden value: the hash is made of whole numbers and a few plain sums."""
    ramp = Image.fromarray(np.add.outer(np.arange(90) * 2, np.arange(120)).astype(np.uint8))
    assert fine_hash(ramp, lambda: (0.0, 0.0, 0.0)) == RAMP
    assert fine_hash(Image.new("L", (9, 9), 200), lambda: (200.0, 128.0, 128.0)) == GREY


RAMP = "a68a5924b4d16aaa94512b24569bad75528a2564cadb75ae8a5134a6d95baeb5"
GREY = "5420ffe6ff58a05b1d3704bfb042f7f5cad6af86a09e079a62482bd933ee81ed"
