"""From an image's bytes to RGB pixels: the one way for all modules that measure, read or train."""

import io

import numpy as np
from PIL import Image, ImageOps

Image.MAX_IMAGE_PIXELS = None  # callers look at the size of an untrusted image before they decode it
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I;16N"}


def open_image(data: bytes) -> Image.Image:
    """An image that is not decoded yet. Decoders may raise any exception on untrusted bytes."""
    return Image.open(io.BytesIO(data), formats=FORMATS)


def upright(image: Image.Image) -> Image.Image:
    """An image of one of MODES as RGB, turned as its EXIF says, with white for what is transparent."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("PA", "LA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
