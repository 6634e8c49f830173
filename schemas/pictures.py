"""From an image's bytes to pixels: the one way for all modules that measure, read, show or train.

Nothing is decoded before `schemas.image_headers.look` has seen that its decoder's work is bounded, so that no module
decodes what another refused.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, _avif
from PIL.AvifImagePlugin import AvifImageFile
from PIL.Image import Transpose
from PIL.WebPImagePlugin import WebPImageFile

from schemas.exif import orientation
from schemas.image_boxes import without_exif
from schemas.image_headers import look
from schemas.image_kinds import UnsafeImage, kind_of

Image.MAX_IMAGE_PIXELS = None  # callers look at the size of an untrusted image before they decode it
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")     # Pillow's own, beside AVIF
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I;16N"}
# Bytes for each pixel that decoding and conversion take at most, as measured: for so many pixels, a GB
PIXELS, USUAL = 100_000_000, 10
MEMORY: dict[str | None, int] = {"WEBP": 12, "CMYK": 12, "AVIF": 15, "JXL": 20}
BAND = 2_000_000            # pixels that are converted at a time

TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}       # by EXIF orientation
SIDEWAYS = {5, 6, 7, 8}     # orientations that swap width and height
MAY_TURN_PNG = (b"eXIf", b"exif", b"XML:com.adobe.xmp")     # a PNG without these has no orientation


def open_image(data: bytes, max_pixels: int | None = None) -> Image.Image:
    """An image that is not decoded yet, but for JPEG XL. Its `info["frames"]` says how many frames or pages it has.

    Raises `UnsafeImage` for an image that must not be decoded; decoders may raise any exception on untrusted bytes.
    """
    header = look(data)
    _check_pixels(header.size, max_pixels, MEMORY.get(header.kind, USUAL))
    opened = OPENERS[header.kind](data) if header.kind in OPENERS else Image.open(io.BytesIO(data), formats=FORMATS)
    _check_pixels(opened.size, max_pixels, MEMORY.get("CMYK" if is_slow_cmyk(opened) else header.kind, USUAL))
    opened.info["frames"] = max(header.frames, getattr(opened, "n_frames", 1) if header.kind in COUNTED else 1)
    return opened


COUNTED = {"PNG", "WEBP", "AVIF"}       # whose decoders know how many frames there are without reading them


def _check_pixels(size: tuple[int, int] | None, most: int | None, memory: int) -> None:
    """`memory`: bytes that decoding takes for each pixel. Who allows more pixels than `PIXELS` allows more memory."""
    if size is None or most is None:
        return
    if size[0] * size[1] > most:
        raise UnsafeImage("too_many_pixels", f"{size[0]}x{size[1]}")
    if size[0] * size[1] * memory > max(most, PIXELS) * USUAL:
        needed = f"to decode it takes {memory} bytes a pixel, {memory / USUAL:g} times as many as most formats"
        raise UnsafeImage("too_many_pixels", f"{size[0]}x{size[1]}; {needed}")


def is_slow_cmyk(image: Image.Image) -> bool:
    """Whether an image is a progressive JPEG of four colours."""
    return image.mode == "CMYK" and "progressive" in image.info


class _Avif(AvifImageFile):
    """Opens an image by Pillow in one thread, with the decoder's orientation instead of that in EXIF."""

    def _open(self) -> None:
        self._decoder = _avif.AvifDecoder(self.fp.read() if self.fp else b"", "auto", 1)
        self._size, self.n_frames, self._mode, _, _, self.info["orientation"], _ = self._decoder.get_info()
        self.is_animated = self.n_frames > 1
        self.seek(0)


def _open_avif(data: bytes) -> Image.Image:
    """Opens an AVIF without its EXIF: libavif refuses damaged EXIF, and EXIF does not turn an AVIF."""
    return _Avif(io.BytesIO(without_exif(data)))


class _WebP(WebPImageFile):
    """Gives back the decoder of a picture, which has two copies of it, before its pixels are copied twice more."""

    def _get_next(self) -> tuple[bytes, int, int]:
        frame = super()._get_next()
        if self.n_frames == 1:
            self._decoder = None
        return frame


def _open_webp(data: bytes) -> Image.Image:
    return _WebP(io.BytesIO(data))


def _open_heic(data: bytes) -> Image.Image:
    import pillow_heif
    from pillow_heif.as_plugin import HeifImageFile

    options = pillow_heif.options
    options.DECODE_THREADS, options.THUMBNAILS, options.DEPTH_IMAGES, options.AUX_IMAGES = 1, False, False, False
    opened = HeifImageFile(io.BytesIO(data))
    opened.format = "HEIC"
    return opened


def _open_jxl(data: bytes) -> Image.Image:
    """Opens a JPEG XL, which decodes it at once: the plugin cannot wait. Packed JPEGs are read as JPEG."""
    from pillow_jxl import Decoder

    is_jpeg, info, pixels, *_ = Decoder(num_threads=0)(data)
    if is_jpeg:
        image = turned(open_image(pixels))
    else:
        image = Image.frombuffer(info.mode, (info.width, info.height), pixels, "raw", info.mode, 0, 1)
    image.format = "JXL"
    return image


OPENERS: dict[str | None, Callable[[bytes], Image.Image]] = {
    "AVIF": _open_avif, "HEIC": _open_heic, "JXL": _open_jxl, "WEBP": _open_webp,
}


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation by which the pixels have to be turned; 1: not at all. Damaged metadata is ignored.

    A PNG has to be decoded first if its EXIF comes after its pixels. TIFF, HEIC and JPEG XL turn their pixels
    themselves.
    """
    if image.format in ("TIFF", "HEIC", "JXL"):
        return 1
    if image.format == "AVIF":
        return image.info["orientation"]
    exif = image.info.get("exif")
    if exif is None and isinstance(text := image.info.get("Raw profile type exif"), str):     # of ImageMagick, in PNG
        try:
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
        except ValueError:
            exif = None
    return orientation(exif, image.info.get("XML:com.adobe.xmp") or image.info.get("xmp"))


def size_of(data: bytes, max_pixels: int | None = None) -> tuple[int, int]:
    """Width and height of an image as it is shown, mostly from its header. Raises what `open_image` raises."""
    image = open_image(data, max_pixels)
    if not is_sized_by_header(data):
        image.load()
    return (image.height, image.width) if orientation_of(image) in SIDEWAYS else image.size


def is_sized_by_header(data: bytes) -> bool:
    """Whether `size_of` decodes nothing. JPEG XL is decoded at once; in a PNG, EXIF may follow the pixels."""
    kind = kind_of(data)
    return kind != "JXL" and not (kind == "PNG" and any(mark in data for mark in MAY_TURN_PNG))


def turned(image: Image.Image) -> Image.Image:
    """The image as it is shown, in its own mode. Decodes it."""
    _load(image)
    turn = TURNS.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)


def upright(image: Image.Image) -> Image.Image:
    """An image of one of MODES as RGB, turned as its EXIF says, with white for what is transparent."""
    return _turned_as(image, "RGB", _rgb)


def upright_grey(image: Image.Image) -> Image.Image:
    """`upright(image).convert("L")`, with a quarter of the memory."""
    return _turned_as(image, "L", lambda band: _rgb(band).convert("L"))


def _turned_as(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Converts a band of rows at a time, since some conversions take four times the memory of the image."""
    _load(image)
    if image.mode == mode and "transparency" not in image.info:
        whole = image
    else:
        whole, rows = Image.new(mode, image.size), max(1, BAND // image.width)
        for top in range(0, image.height, rows):
            band = image.crop((0, top, image.width, min(top + rows, image.height)))
            whole.paste(convert(band), (0, top))
    turn = TURNS.get(orientation_of(image))
    return whole if turn is None else whole.transpose(turn)


def _load(image: Image.Image) -> None:
    """Raises `ValueError` for a HEIC whose pixels are not as many as its header says."""
    size = image.size
    image.load()
    if image.format == "HEIC" and image.size != size:
        raise ValueError(f"its header says {size[0]}x{size[1]}, its pixels are {image.width}x{image.height}")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("PA", "LA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
