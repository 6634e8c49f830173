"""What becomes of an image's bytes: kept as they came, or left out with a reason of its own."""

import io
import json
import struct
import zlib
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image, ImageCms
from support import images
from support.corpora import ONE_PROCESS, build, picture

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.engine.partition_stage import Rejected
from pipelines.engine.payload import read_payload
from pipelines.maintain.verify import verify_root
from pipelines.stages.images import inspect
from schemas.images import REASONS, ImagesConfig
from schemas.pictures import open_image, upright
from training.pixels import decode
from training.samples import images as image_members
from training.shards import Shards

RAMP = Image.fromarray(np.linspace(0, 255, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint8))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be this large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


FRAMES = {"save_all": True, "append_images": [NOISE]}
WHOLE = {kind: encoded(NOISE, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}
LEFT_OUT = {
    "random bytes": (bytes(range(256)) * 8, "not_an_image"),
    "nothing": (b"", "not_an_image"),
    "text": (b"this is no image", "not_an_image"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "not_an_image"),
    "a pickle": (b"cos\nsystem\n(S'touch pwned'\ntR.", "not_an_image"),
    "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", "not_an_image"),
    "HTML after blanks": (b"\n\n  <HTML><head></head></HTML>", "not_an_image"),
    **{f"half a {kind}": (data[: len(data) // 2], "truncated") for kind, data in WHOLE.items() if kind != "TIFF"},
    **{f"the head of a {kind}": (WHOLE[kind][:20], "truncated") for kind in ("JPEG", "PNG", "WEBP", "GIF")},
    "a bomb": (bomb(50_000, 50_000), "too_many_pixels"),
    "a narrow bomb": (bomb(1, 2_000_000_000), "too_many_pixels"),
    "one pixel": (encoded(NOISE.resize((1, 1))), "too_small"),
    "a line": (encoded(NOISE.resize((64, 9))), "too_small"),
    "a banner": (encoded(NOISE.resize((211, 10))), "extreme_aspect_ratio"),
    "a skyscraper": (encoded(NOISE.resize((10, 211))), "extreme_aspect_ratio"),
    "an animated GIF": (encoded(RAMP, "GIF", **FRAMES), "animated"),
    "an animated WebP": (encoded(RAMP, "WEBP", **FRAMES), "animated"),
    "an animated PNG": (encoded(RAMP, "PNG", **FRAMES), "animated"),
    "a TIFF of pages": (encoded(RAMP, "TIFF", **FRAMES), "animated"),
    "floats": (encoded(Image.new("F", (64, 48), 0.5), "TIFF"), "unsupported_mode"),
    "Lab": (encoded(Image.new("LAB", (64, 48)), "TIFF"), "unsupported_mode"),
    "too many bytes": (encoded(NOISE, "BMP") + b"\0" * 60_000, "too_large"),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFT_OUT)
def test_each_fault_has_its_reason(what):
    data, reason = LEFT_OUT[what]
    with pytest.raises(Rejected) as rejected:
        inspect(data, ImagesConfig(max_bytes=60_000))
    assert rejected.value.reason == reason and reason in REASONS


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_images_of_each_format_are_measured(kind):
    said = inspect(WHOLE[kind], ImagesConfig())
    assert (said["format"], said["width"], said["height"]) == (kind, 64, 48) and len(said["phash"]) == 16


def test_a_phones_jpeg_with_a_preview_behind_it_is_a_jpeg():
    said = inspect(encoded(RAMP, "MPO", save_all=True, append_images=[NOISE]), ImagesConfig())
    assert said["format"] == "JPEG"


def test_limits_are_the_configurations():
    banner = encoded(NOISE.resize((211, 10)))
    assert inspect(banner, ImagesConfig(max_aspect_ratio=30))["width"] == 211
    with pytest.raises(Rejected, match="too_many_pixels"):
        inspect(WHOLE["PNG"], ImagesConfig(max_pixels=64 * 48 - 1))


# Pixels


def near(image: Image.Image, expected: Image.Image, by: int) -> bool:
    """Whether two images are the same but for some levels."""
    one, other = (np.asarray(each, np.int16) for each in (image, expected))
    return one.shape == other.shape and int(np.abs(one - other).max()) <= by


def pixels(data: bytes) -> Image.Image:
    return upright(open_image(data))


@pytest.mark.parametrize("turned", range(1, 9))
def test_images_stand_upright_as_their_exif_says(turned):
    """The stored pixels are undone by what EXIF says: all eight orientations show the same picture."""
    T = Image.Transpose
    back = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90,
            7: T.TRANSVERSE, 8: T.ROTATE_270}  # fmt: skip
    stored = RAMP.transpose(back[turned]) if turned > 1 else RAMP
    exif = Image.Exif()
    exif[0x0112] = turned
    assert near(pixels(encoded(stored, "PNG", exif=exif)), RAMP, 0)
    assert near(pixels(encoded(stored, "JPEG", exif=exif, quality=98, subsampling=0)), RAMP, 6)


def test_every_kind_of_pixels_becomes_rgb():
    grey = RAMP.convert("L")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) << 8)
    assert near(pixels(encoded(sixteen)), grey.convert("RGB"), 0)
    assert near(pixels(encoded(sixteen, "TIFF")), grey.convert("RGB"), 0)
    assert near(pixels(encoded(grey)), grey.convert("RGB"), 0)
    few = RAMP.quantize(16)
    assert near(pixels(encoded(few)), few.convert("RGB"), 0)
    assert near(pixels(encoded(RAMP.convert("CMYK"), "JPEG", quality=98)), RAMP, 8)
    assert near(pixels(encoded(RAMP.convert("1"))), RAMP.convert("1").convert("RGB"), 0)


def test_what_is_transparent_is_white():
    for image in (Image.new("RGBA", (20, 20), (255, 0, 0, 0)), Image.new("LA", (20, 20), (0, 0))):
        assert pixels(encoded(image)).getpixel((3, 3)) == (255, 255, 255)
    half = pixels(encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 128)))).getpixel((3, 3))
    assert half[0] == 255 and abs(half[1] - 127) <= 1
    few = Image.new("P", (20, 20), 1)
    few.putpalette([0, 0, 0, 9, 9, 9])
    assert pixels(encoded(few, transparency=1)).getpixel((3, 3)) == (255, 255, 255)
    assert pixels(encoded(Image.new("RGB", (20, 20), (1, 2, 3)), transparency=(1, 2, 3))).getpixel((3, 3)) == (255,) * 3


# In a corpus


def test_bytes_are_kept_as_they_came_and_each_fault_is_accounted_for(tmp_path):
    (tmp_path / "pictures").mkdir()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    good = {f"good-{kind}": data for kind, data in WHOLE.items()} | {
        "good-exif": encoded(RAMP, "JPEG", exif=Image.Exif(), icc_profile=profile), "good-text": picture(0)[0],
        "good-with-a-tail": WHOLE["JPEG"] + b"tail",
    }  # fmt: skip
    bad = {what: data for what, (data, _) in LEFT_OUT.items() if data}
    for name, data in (good | bad).items():
        (tmp_path / "pictures" / f"{name}.jpg").write_bytes(data)
    config = tmp_path / "my.toml"
    config.write_text(
        'root = "corpus"\n[source]\nkind = "folder"\npath = "pictures"\n[images]\nmax_bytes = 60000\n' + ONE_PROCESS
    )
    root = build(config)
    rows = query(root, "select i.*, r.file from images i join rows r using (key)").to_pylist()
    assert {row["file"].removesuffix(".jpg"): row["reason"] for row in rows} == {
        name: LEFT_OUT[name][1] if name in LEFT_OUT else None for name in good | bad
    }
    payload = next(name for name in root.files("images") if name.endswith(".tar"))
    for row in rows:
        if row["reason"] is None:
            data = good[row["file"].removesuffix(".jpg")]
            assert row["sha256"] == sha256(data).hexdigest()
            assert read_payload(root, "images", {**row, "payload": payload}) == data
    assert (verify_root(root).problems, verify_root(root).garbage) == ([], [])


@pytest.mark.slow
def test_shards_carry_each_format_under_its_suffix(tmp_path):
    """AVIF, HEIC and JPEG XL from a folder into shards, from which training reads them, each upright."""
    (tmp_path / "pictures").mkdir()
    kinds = {"avif": "AVIF", "heic": "HEIC", "jxl": "JXL", "jpg": "JPEG"}
    for suffix, kind in kinds.items():
        image = RAMP.rotate(10 * len(suffix) * ord(suffix[1]))
        (tmp_path / f"pictures/{suffix}.{suffix}").write_bytes(images.encoded(image, kind))
        (tmp_path / f"pictures/{suffix}.txt").write_text(f"a picture in {kind}")
    toml = f'root = "corpus"\n[source]\nkind = "folder"\npath = "pictures"\n[sets.train]\n{ONE_PROCESS}'
    (tmp_path / "my.toml").write_text(toml)
    root = build(tmp_path / "my.toml")
    rows = query(root, "SELECT format, reason, phash256 FROM samples").to_pylist()
    assert {(row["format"], row["reason"]) for row in rows} == {(kind, None) for kind in kinds.values()}
    assert len({row["phash256"] for row in rows}) == 4
    samples = list(Shards(str(tmp_path / "corpus"), "train"))
    assert {name for sample in samples for name in image_members(sample)} == {"avif", "heic", "jxl", "jpg"}
    assert all(decode(sample[image_members(sample)[0]]).size == RAMP.size for sample in samples)
    assert verify_root(root).problems == []


def test_no_limit_of_the_aspect_ratio_is_inf(tmp_path):
    (tmp_path / "source").mkdir()
    for size in ((1, 300), (300, 1), (1, 1)):
        Image.new("RGB", size).save(tmp_path / "source" / f"{size[0]}x{size[1]}.png")
    text = (
        'root = "corpus"\n[source]\nkind = "folder"\npath = "source"\n[images]\nmin_side = 1\nmax_aspect_ratio = inf\n'
    )
    (tmp_path / "my.toml").write_text(text + ONE_PROCESS)
    root = build(tmp_path / "my.toml", "images")
    assert query(root, "select distinct reason from images").to_pylist() == [{"reason": None}]
    corpus = open_corpus(tmp_path / "my.toml")
    settings = json.dumps(corpus.made["images"].settings(), allow_nan=False)
    assert '"max_aspect_ratio": "inf"' in settings and plan(corpus, "images").work() == 0
