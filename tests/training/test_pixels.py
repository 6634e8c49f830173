"""Pixels of views against those that llama.cpp makes, and against OpenBMB's one resize and crops."""

from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from schemas.slices import Size, plan_llama_cpp, plan_openbmb
from training.pixels import cut, patches

# Of `drawn` images, by the llama.cpp of llama-cpp-python 0.3.36: width, height, views, SHA-256 of all their bytes
LLAMA_CPP = [
    (1, 1, 1, "ad8c5f4d30e45b2a"),
    (100, 50, 1, "aaeb172bddc4140b"),
    (448, 448, 1, "4f05e8415b6fb58e"),
    (449, 449, 3, "3f68901d09d1d013"),
    (450, 3, 3, "8fbb90b895f7850c"),
    (3, 450, 3, "5d496bd661d1d374"),
    (640, 480, 3, "1bda6f5156a2cb30"),
    (480, 1300, 4, "c37f4b8b1038b3fc"),
    (1500, 997, 9, "404995b74fddb97a"),
]


def drawn(width: int, height: int) -> Image.Image:
    """Stripes and noise, the same everywhere."""
    y, x, channel = np.ogrid[:height, :width, :3]
    return Image.fromarray(((x * x * 3 + y * (7 + x) * (channel + 1)) % 256).astype(np.uint8))


@pytest.mark.parametrize(("width", "height", "views", "digest"), LLAMA_CPP)
def test_views_have_the_bytes_that_llama_cpp_makes(width, height, views, digest):
    made = cut(drawn(width, height), plan_llama_cpp(width, height))
    assert len(made) == views
    assert sha256(b"".join(view.tobytes() for view in made)).hexdigest().startswith(digest)


@pytest.mark.parametrize("size", [(100, 50), (449, 449), (640, 480), (480, 1300), (30, 2000), (1500, 997)])
def test_openbmb_views_are_one_resize_and_crops_row_by_row(size):
    image, plan = drawn(*size), plan_openbmb(*size)
    overview, *cells = cut(image, plan)
    assert np.array_equal(overview, image.resize(plan.overview, Image.Resampling.BICUBIC))
    if cells:
        refined, (width, height) = image.resize(plan.refined, Image.Resampling.BICUBIC), plan.cell
        boxes = [(x, y, x + width, y + height) for y in range(0, refined.height, height)
                 for x in range(0, refined.width, width)]  # fmt: skip
        assert len(boxes) == len(cells) == plan.columns * plan.rows
        assert all(np.array_equal(cell, refined.crop(box)) for cell, box in zip(cells, boxes, strict=False))


def test_a_refined_image_lies_on_black_in_the_centre():
    plan = plan_llama_cpp(449, 100)
    assert (plan.refined, plan.picture) == ((1344, 294), (1321, 294))
    _, left, right = cut(Image.new("RGB", (449, 100), "white"), plan)
    row = np.hstack([left, right])[100, :, 0]
    assert row.tolist() == 11 * [0] + 1321 * [255] + 12 * [0]


@pytest.mark.parametrize("size", [(100, 50), (640, 480), (480, 1300)])
def test_a_view_has_the_size_that_was_planned_and_its_patches_are_in_rows(size):
    plan = plan_llama_cpp(*size)
    views = cut(drawn(*size), plan)
    assert [Size(view.shape[1], view.shape[0]) for view in views] == plan.views
    for view in views:
        made = patches(view)
        assert made.dtype == np.float32
        assert made.shape == (view.shape[0] // 14 * (view.shape[1] // 14), 3 * 14 * 14)
        down, across = view.shape[0] // 14 - 1, 1
        patch = made[down * (view.shape[1] // 14) + across].reshape(3, 14, 14)
        for channel, y, x in [(0, 0, 0), (1, 0, 13), (2, 13, 5)]:
            value = np.float32(view[down * 14 + y, across * 14 + x, channel])
            assert patch[channel, y, x] == (value / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def test_black_is_minus_one_and_white_is_one():
    assert patches(np.array([[[0, 255, 51]]], np.uint8), patch=1)[0].tolist() == pytest.approx([-1, 1, -0.6])


def test_a_plan_for_another_image_is_refused():
    for image in (drawn(50, 100), drawn(100, 50).convert("L")):
        with pytest.raises(ValueError, match="the plan is for RGB 100 x 50, the image is"):
            cut(image, plan_llama_cpp(100, 50))
