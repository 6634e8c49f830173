"""Pictures that take much memory or time: how many pixels may be decoded, and how many bytes are looked at."""

import pytest
from support.images import NOISE, encoded

from schemas.image_headers import look_gif
from schemas.image_kinds import UnsafeImage
from schemas.pictures import open_image

COSTLY = {
    "WEBP": {}, "AVIF": {}, "JXL": {}, "JPEG": {"progressive": True},
}  # fmt: skip


@pytest.mark.parametrize("kind", COSTLY)
def test_formats_that_take_more_memory_may_have_fewer_pixels(kind, monkeypatch):
    """With bounds of some thousand pixels. A limit of the configuration counts pixels of all formats alike."""
    image = NOISE.convert("CMYK") if kind == "JPEG" else NOISE
    data, area = encoded(image, kind, **COSTLY[kind]), 64 * 48
    monkeypatch.setattr("schemas.pictures.PIXELS", area)
    with pytest.raises(UnsafeImage, match=r"too_many_pixels: 64x48; to decode it takes \d+ bytes a pixel"):
        open_image(data, max_pixels=area)
    assert open_image(data, max_pixels=2 * area).size == open_image(data).size == (64, 48)
    monkeypatch.setattr("schemas.pictures.PIXELS", 2 * area)
    assert open_image(data, max_pixels=area).size == (64, 48)
    for usual in ("PNG", "JPEG", "TIFF", "HEIC", "GIF", "BMP"):
        monkeypatch.setattr("schemas.pictures.PIXELS", area)
        assert open_image(encoded(NOISE, usual), max_pixels=area).size == (64, 48)


@pytest.mark.parametrize("parts", [b"!\xff" + b"\1c" * 50_000 + b"\0", b"\1" * 50_000], ids=["blocks", "nothing"])
def test_a_gif_is_looked_at_no_further_than_its_bound(parts, monkeypatch):
    class Counted(bytes):
        reads = 0

        def __getitem__(self, at):
            Counted.reads += 1
            return super().__getitem__(at)

    monkeypatch.setattr("schemas.image_headers.MAX_BLOCKS", 100)
    with pytest.raises(UnsafeImage, match="more than 100 blocks"):
        look_gif(Counted(b"GIF89a\x10\0\x10\0\0\0\0" + parts + b";"))
    assert Counted.reads < 500
