"""An image as the bounds of a shard set want it: scaled down, in one format, upright, in sRGB, without metadata.

The same bytes and bounds give the same bytes, with the pinned Pillow. Transparent pixels become white, as everywhere.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isqrt
from typing import Any, NamedTuple

from PIL import Image, ImageCms

from pipelines.stages.corruption import Region, corrupted
from schemas.pictures import SIDEWAYS, open_image, orientation_of, turned, upright
from schemas.selection import FORMATS, SetConfig

ENCODER = 1  # raised when the same image and bounds give other bytes; it is in the fingerprint of sets with bounds
KEPT = {"GIF": "png", "BMP": "png", "TIFF": "png"} | {format: ext for ext, format in FORMATS.items()}
LIMITS = {"jpg": 65_500, "webp": 16_383}  # pixels a side, of the formats themselves
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "jpg": {"optimize": True, "progressive": False},
    "png": {"compress_level": 6},
    "webp": {"method": 4, "lossless": False},
}
GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
SPACES = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}  # mode -> colour space of a profile that fits


class Encoded(NamedTuple):
    data: bytes
    ext: str  # jpg, png or webp
    width: int  # pixels
    height: int
    original_width: int  # pixels, upright
    original_height: int


def ext_of(format: str, config: SetConfig) -> str:
    """The suffix of an image of this format once it is encoded: its own where possible; lossless formats become PNG,
    others JPEG."""
    return config.format or KEPT.get(format, "jpg")


def is_within(format: str, width: int, height: int, config: SetConfig) -> bool:
    """Whether an image is within all bounds, and so is copied unchanged."""
    fits = (width, height) == size_within(width, height, config, None)
    return fits and (config.format is None or FORMATS[config.format] == format)


def size_within(width: int, height: int, config: SetConfig, ext: str | None) -> tuple[int, int]:
    """The largest size of the same shape within the bounds, and within the limits of the format that is written."""
    longer, shorter = max(width, height), min(width, height)
    sides = [longer, config.max_side or longer, LIMITS.get(ext or "", longer)]
    if config.max_pixels and width * height > config.max_pixels:
        sides.append(isqrt(config.max_pixels * longer // shorter))
    side = max(1, min(sides))
    if side == longer:
        return width, height
    other = max(1, side * shorter // longer)
    if config.max_pixels:  # of a thin image, whose shorter side would be below one pixel
        side = min(side, max(1, config.max_pixels // other))
    return (side, other) if width >= height else (other, side)


def encode(data: bytes, config: SetConfig, regions: Sequence[Region] = ()) -> Encoded:
    """Encodes an image that decodes, with some regions corrupted."""
    image = open_image(data)
    format, profile, grey = _format(image), image.info.get("icc_profile"), image.mode in GREY
    ext, full = ext_of(format, config), None
    if image.format in ("JPEG", "MPO"):  # a large one is decoded at a half or less, but not below twice what is wanted
        sideways = orientation_of(image) in SIDEWAYS
        full = image.size if not sideways else (image.height, image.width)
        width, height = size_within(*full, config, ext)
        image.draft(None, (2 * height, 2 * width) if sideways else (2 * width, 2 * height))
    image = turned(image)
    image.info = {"orientation": 1} | {k: v for k, v in image.info.items() if k == "transparency"}  # turned already
    full = full or image.size
    size = size_within(*full, config, ext)
    picture = upright(_in_srgb(image, profile))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    if grey:
        picture = picture.convert("L")
    if regions:
        picture = corrupted(picture, regions, full)
    picture.info = {}  # Pillow would write what it holds: comments, profiles
    buffer = io.BytesIO()
    quality = {} if ext == "png" else {"quality": config.quality}
    picture.save(buffer, FORMATS[ext], **SETTINGS[ext], **quality)
    return Encoded(buffer.getvalue(), ext, *size, *full)


def _format(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else image.format or ""  # an MPO is a JPEG with previews behind it


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image with the colours that its profile gives it. One without a profile, or whose profile does not fit it or
    cannot be read, is taken as sRGB already."""
    if not profile:
        return image
    with suppress(ImageCms.PyCMSError, OSError, ValueError):
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(own):
            return image
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
        space = own.profile.xcolor_space  # pyright: ignore[reportAttributeAccessIssue]  typed as what it was opened from
        if SPACES.get(image.mode) == space.strip():
            mode = "RGBA" if image.mode == "RGBA" else "RGB"
            return ImageCms.profileToProfile(image, own, SRGB, outputMode=mode) or image  # None only in place
    return image
