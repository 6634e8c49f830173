"""The pixels of an image's views, equal to llama.cpp's or to OpenBMB's, as the plan decides.

plan = plan_llama_cpp(*size_of(data))
for view in cut(decode(data), plan):
    embeddings = encoder(patches(view))
"""

import numpy as np
from PIL import Image

from schemas import pictures
from schemas.pictures import open_image, upright
from schemas.slices import Plan, Size

# The normalised value of each of the 256 levels of a channel: mean and deviation 0.5, in float32, as both originals do.
LEVELS = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def size_of(data: bytes) -> Size:
    """The size of an image as it is shown, mostly from its header only. Raises whatever its decoder raises."""
    return Size(*pictures.size_of(data))


def decode(data: bytes) -> Image.Image:
    """An image as it is shown, as RGB. Raises whatever its decoder raises."""
    return upright(open_image(data))


def cut(image: Image.Image, plan: Plan) -> list[np.ndarray]:
    """The views: uint8 arrays of shape [height, width, 3], the overview first, then the cells row by row.

    Raises `ValueError` if the image is not RGB or does not have the size of the plan.
    """
    if image.mode != "RGB" or image.size != plan.image:
        expected = "RGB {} x {}".format(*plan.image)
        raise ValueError(f"the plan is for {expected}, the image is {image.mode} {image.width} x {image.height}")
    views = [np.asarray(_resize(image, plan.overview))]
    if plan.rows:
        refined = Image.new("RGB", plan.refined)
        left, top = (plan.refined.width - plan.picture.width) // 2, (plan.refined.height - plan.picture.height) // 2
        refined.paste(_resize(image, plan.picture), (left, top))
        grid = np.asarray(refined).reshape(plan.rows, plan.cell.height, plan.columns, plan.cell.width, 3)
        views += [grid[row, :, column] for row in range(plan.rows) for column in range(plan.columns)]
    return views


def patches(view: np.ndarray, patch: int = 14) -> np.ndarray:
    """The input of the vision encoder: float32 from -1 to 1 of shape [patches, 3 * patch * patch].

    Patches go row by row from the top left. Within a patch, the order is that of a convolution's weight: channel, y, x.
    """
    return LEVELS[raw_patches(view, patch)]


def raw_patches(view: np.ndarray, patch: int = 14, out: np.ndarray | None = None) -> np.ndarray:
    """The same as uint8, a quarter of the bytes: the encoder takes `LEVELS` of it. Written into `out` if given."""
    rows, columns = view.shape[0] // patch, view.shape[1] // patch
    if out is None:
        out = np.empty((rows * columns, 3 * patch * patch), np.uint8)
    blocks = view.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 4, 1, 3)
    out.reshape(rows, columns, 3, patch, patch)[...] = blocks
    return out


def _resize(image: Image.Image, size: Size) -> Image.Image:
    """Bicubic, across and then down: Pillow chooses the order by itself from version 13 on."""
    across = image.resize((size.width, image.height), Image.Resampling.BICUBIC)
    return across.resize(size, Image.Resampling.BICUBIC)
