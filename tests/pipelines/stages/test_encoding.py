"""Images as the bounds of a shard set want them."""

import io
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from support.images import KINDS
from support.images import encoded as saved_as

from pipelines.stages.encoding import encode, is_within, size_within
from schemas.pictures import upright
from schemas.selection import SetConfig

BLOCKS = np.kron(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10, np.ones((50, 50), np.uint8))  # 200 x 300


def picture(mode: str = "RGB") -> Image.Image:
    """300 x 200 pixels of blocks, each with a grey of its own."""
    return Image.fromarray(BLOCKS).convert(mode)


def saved(image: Image.Image, format: str, **more) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **more)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def close(one: Image.Image, other: Image.Image, most: float = 6) -> bool:
    """Whether the middles of blocks look alike."""
    a, b = (np.asarray(image.convert("RGB").resize((6, 4), Image.Resampling.BOX), float) for image in (one, other))
    return np.abs(a - b).max() <= most


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 40_000), st.integers(1, 40_000), st.integers(1, 5000), st.none() | st.integers(256, 10**8),
    st.sampled_from(["jpg", "webp", "png", None]),
)  # fmt: skip
def test_a_size_is_within_all_bounds_and_as_large_as_they_allow(width, height, side, pixels, ext):
    if max(width, height) > 20 * min(width, height):
        return
    config = SetConfig(max_side=side, max_pixels=pixels)
    w, h = size_within(width, height, config, ext)
    assert 1 <= w <= width and 1 <= h <= height and max(w, h) <= side
    assert w * h <= (pixels or 10**12)
    assert (w >= h) == (width >= height) or w == h
    if (w, h) != (width, height):
        longer = max(w, h) + 1
        assert (
            longer > side
            or longer > {"jpg": 65_500, "webp": 16_383}.get(ext, 10**9)
            or (pixels and longer * longer * min(width, height) > pixels * max(width, height))
        )
    assert size_within(w, h, config, ext) == (w, h), "twice is as once"


@pytest.mark.parametrize("format", KINDS)
@pytest.mark.parametrize("wanted", ["jpg", "png", "webp", None])
def test_any_format_becomes_the_one_that_is_asked_for_or_keeps_its_own(format, wanted):
    data = saved_as(picture(), format)
    encoded = encode(data, SetConfig(max_side=150, format=wanted))
    image = opened(encoded.data)
    own = {"WEBP": "webp", "PNG": "png", "GIF": "png", "BMP": "png", "TIFF": "png"}.get(format, "jpg")
    assert encoded.ext == (wanted or own)
    assert image.format == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[encoded.ext]
    assert image.size == (150, 100) == encoded[2:4] and encoded[4:] == (300, 200)
    assert close(image, picture())
    assert encode(data, SetConfig(max_side=150, format=wanted)) == encoded


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_pixels_of_any_mode_look_as_every_reader_here_sees_them(mode):
    image = picture("RGBA") if mode in ("RGBA", "LA") else picture()
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(np.where(BLOCKS > 100, 255, 0).astype(np.uint8)))
    image = Image.fromarray(BLOCKS.astype(np.uint16) << 8) if mode == "I;16" else image.convert(mode)
    data = saved(image, "TIFF" if mode == "CMYK" else "PNG")
    encoded = opened(encode(data, SetConfig(max_side=150, format="png")).data)
    assert close(encoded, upright(opened(data)), 12 if mode == "1" else 1)  # dots are no blocks
    assert encoded.mode == ("L" if mode in ("1", "L", "LA", "I;16") else "RGB")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_is_upright_and_says_nothing_of_its_making(format, orientation):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a camera"
    data = saved(picture(), format, exif=exif)
    encoded = encode(data, SetConfig(max_side=150, format="jpg"))
    size = (200, 300) if orientation >= 5 else (300, 200)
    assert encoded[4:] == size and encoded[2:4] == (size[0] // 2, size[1] // 2)
    image = opened(encoded.data)
    assert close(image, upright(opened(data)))
    assert not image.getexif() and b"camera" not in encoded.data


@pytest.mark.parametrize("format", ["jpg", "png", "webp"])
def test_comments_and_profiles_are_left_out(format):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(picture(), "JPEG", comment=b"mine alone", icc_profile=profile, dpi=(300, 300))
    image = opened(encode(data, SetConfig(max_side=150, format=format)).data)
    assert not {"comment", "icc_profile", "exif"} & image.info.keys()
    assert close(image, picture())


def swapped() -> bytes:
    """A profile of sRGB's own curves with red and green swapped: pixels of (255, 0, 0) are green."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data = data.replace(b"sRGB", b"mine").replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    return bytes(data.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_those_that_a_profile_means(mode):
    data = saved(Image.new("RGB", (300, 200), (255, 0, 0)).convert(mode), "PNG", icc_profile=swapped())
    red, green, blue = opened(encode(data, SetConfig(max_side=150)).data).getpixel((50, 50))
    assert green > 200 and red < 60 and blue < 60


@pytest.mark.parametrize("profile", [b"", b"no profile at all", swapped()[:200], swapped()[:-300]])
def test_a_profile_that_cannot_be_read_changes_nothing(profile):
    data = saved(picture(), "PNG", icc_profile=profile)
    assert close(opened(encode(data, SetConfig(max_side=150)).data), picture(), 1)


def test_a_profile_of_another_kind_of_pixels_changes_nothing():
    data = saved(picture("L"), "PNG", icc_profile=swapped())
    assert close(opened(encode(data, SetConfig(max_side=150)).data), picture(), 1)


def test_the_bytes_are_those_of_the_encoder_that_fingerprints_name():
    """If this fails after Pillow was raised, raise ENCODER too: the same images would come out with other bytes."""
    draws = np.random.default_rng(0)
    noise = Image.fromarray(draws.integers(0, 256, (20, 30, 3), np.uint8)).resize((300, 200), Image.Resampling.BICUBIC)
    data = saved(noise, "PNG")
    digests = {
        format: sha256(encode(data, SetConfig(max_side=150, format=format)).data).hexdigest()[:16]
        for format in ("jpg", "png", "webp")
    }
    assert digests == {"jpg": "e378014ead90af71", "png": "1c857d7da1433be0", "webp": "152fbcab9b264f31"}


def test_an_image_within_all_bounds_is_known_by_its_measures():
    config = SetConfig(max_side=300, max_pixels=60_000, format="jpg")
    assert is_within("JPEG", 300, 200, config)
    assert not is_within("JPEG", 301, 100, config)
    assert not is_within("JPEG", 250, 250, config)
    assert not is_within("PNG", 30, 20, config)
    assert is_within("TIFF", 30, 20, SetConfig(max_side=300))


@pytest.mark.slow
def test_a_thin_image_is_within_the_pixels_too():
    config = SetConfig(max_pixels=256)
    for size, within in (((1, 60_000), (1, 256)), ((60_000, 2), (256, 1)), ((1, 256), (1, 256)), ((3, 300), (1, 160))):
        assert size_within(*size, config, "png") == size_within(*within, config, "png") == within


def test_an_image_that_a_format_cannot_hold_is_made_smaller():
    data = saved(Image.new("L", (17_000, 900)), "PNG")
    assert encode(data, SetConfig(format="webp"))[1:4] == ("webp", 16_383, 867)
