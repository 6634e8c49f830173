"""One way from bytes to pixels: every format upright, damaged metadata ignored, and nothing hostile decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from support.images import (
    FRAME,
    KINDS,
    NOISE,
    avif_of,
    box,
    chunk,
    encoded,
    exif,
    jpeg_of_scans,
    names_itself,
    png,
    segment,
    sequence_of_av1,
    tag,
    turned_by,
    with_exif,
)

from pipelines.engine.partition_stage import Rejected
from pipelines.reports.contact_sheet import thumbnail
from pipelines.stages import ocr, own
from pipelines.stages.images import inspect
from schemas.image_headers import MAX_SCANS, look
from schemas.image_kinds import UnsafeImage, kind_of
from schemas.images import REASONS, ImagesConfig
from schemas.pictures import open_image, size_of, upright, upright_grey
from training import pixels

LIMITS = ImagesConfig()
DOORS = {
    "ocr": ocr.pixels,
    "users' stages": own._pixels,
    "report": thumbnail,
    "training": pixels.decode,
    "slices": pixels.size_of,
}


def shape(data: bytes) -> tuple[int, int]:
    """Width and height that `images` states, which are those that everybody else sees."""
    row = inspect(data, LIMITS)
    size = (row["width"], row["height"])
    assert ocr.pixels(data).shape[1::-1] == pixels.decode(data).size == tuple(pixels.size_of(data)) == size
    assert thumbnail(data)["full"] == size
    return size


# Formats


@pytest.mark.parametrize("kind", KINDS)
def test_each_format_is_read_and_named(kind):
    data = encoded(NOISE, kind)
    row = inspect(data, LIMITS)
    assert row["format"] == kind == kind_of(data)
    assert len(row["phash"]) == 16 and len(row["phash256"]) == 64
    assert shape(data) == (64, 48)
    difference = np.abs(np.asarray(upright(open_image(data)), np.int16) - np.asarray(NOISE, np.int16))
    assert difference.mean() < 20


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF", "HEIC", "JXL"])
def test_what_is_transparent_is_white_in_each_format(kind):
    clear = encoded(Image.new("RGBA", (64, 48), (200, 0, 0, 0)), kind, **({} if kind == "TIFF" else {"lossless": True}))
    assert min(np.asarray(upright(open_image(clear))).flat) >= 254


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_file_of_boxes_is_truncated(kind, share):
    data = encoded(NOISE, kind)
    with pytest.raises(Rejected) as rejected:
        inspect(data[: int(len(data) * share)], LIMITS)
    assert rejected.value.reason == "truncated"


def test_a_cut_jpeg_xl_is_no_image_of_something_else():
    data = encoded(NOISE, "JXL")
    for cut in (2, 12, len(data) // 2):
        with pytest.raises(Rejected) as rejected:
            inspect(data[:cut], LIMITS)
        assert rejected.value.reason == "unreadable"


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\x20ftypisom\0\0\2\0isomiso2",
        b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
        b"8BPS\0\1",
        b"\x01\0\x09\0",
    ],
    ids=["MP4", "JPEG 2000", "Photoshop", "WMF"],
)
def test_other_formats_are_named_as_none_that_is_read(data):
    with pytest.raises(Rejected) as rejected:
        inspect(data + bytes(100), LIMITS)
    assert rejected.value.reason == "not_an_image" and "starts with" in rejected.value.detail


def test_an_avif_of_several_frames_is_animated():
    moving = encoded(NOISE, "AVIF", save_all=True, append_images=[NOISE.rotate(90)])
    with pytest.raises(Rejected, match="animated: 2 frames"):
        inspect(moving, LIMITS)


def test_a_heic_of_several_pictures_is_its_primary_one():
    several = encoded(NOISE, "HEIC", save_all=True, append_images=[NOISE.resize((80, 80))], primary_index=0)
    assert shape(several) == (64, 48)


def test_a_heic_of_other_pixels_than_its_header_says_is_unreadable():
    data = encoded(NOISE.resize((64, 64)), "HEIC")
    other = data.replace(struct.pack(">II", 64, 64), struct.pack(">II", 64, 48))
    assert other != data
    with pytest.raises(Rejected, match="unreadable"):
        inspect(other, LIMITS)


def test_a_jpeg_inside_a_jpeg_xl_is_turned_as_the_jpeg_says(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(with_exif(encoded(NOISE, "JPEG"), turned_by(6)))
    with Image.open(path) as image, pytest.warns(UserWarning):
        data = encoded(image, "JXL")
    assert inspect(data, LIMITS)["format"] == "JXL" and shape(data) == (48, 64)


# EXIF


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIC"])
def test_width_and_height_are_those_of_the_upright_picture(kind, orientation):
    stated = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": b"Exif\0\0" + turned_by(orientation)}
    data = encoded(NOISE, kind, **stated)
    assert shape(data) == ((48, 64) if orientation >= 5 else (64, 48))


def test_exif_behind_the_pixels_of_a_png_counts():
    data = encoded(NOISE)
    late = data[:-12] + chunk(b"eXIf", turned_by(8)) + data[-12:]
    assert shape(late) == (48, 64)


def test_xmp_counts_where_exif_says_nothing():
    said = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    data = encoded(NOISE, "JPEG")
    assert shape(data[:2] + segment(0xE1, said) + data[2:]) == (48, 64)


DAMAGED = {
    "empty": b"",
    "no order of bytes": b"XX*\0\x08\0\0\0\1\0",
    "cut in its head": b"II*\0",
    "cut in a tag": exif(tag(0x0112, 3, 1, 6))[:14],
    "a place beyond the end": b"II*\0\xff\xff\xff\x7f" + bytes(20),
    "more tags than there are": b"II*\0\x08\0\0\0\xff\xff" + tag(0x010F, 2, 4, 0),
    "an orientation of text": exif(tag(0x0112, 2, 9, 26), behind=b"Top-left\0"),
    "an orientation of bytes": exif(tag(0x0112, 1, 4, 0x06060606)),
    "an orientation of 0": turned_by(0),
    "an orientation of 9": turned_by(9),
    "an orientation of 65535": turned_by(65535),
    "a type that does not exist": exif(tag(0x0112, 77, 1, 6)),
    "a block that names itself": exif(tag(0x8769, 4, 1, 8)),
    "a sub-block beyond the end": exif(tag(0x8769, 4, 1, 1 << 30), tag(0x8825, 4, 1, 99)),
    "fractions of nothing": exif(tag(0x011A, 5, 1, 26), behind=bytes(8)),
    "fractions beyond the end": exif(tag(0x011A, 5, 9, 1 << 30)),
    "strange text": exif(tag(0x010F, 2, 8, 26), behind=b"\xff\xfe\0\xd8\0\xd8\x80\x81"),
}


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_damaged_exif_leaves_a_picture_as_it_is(what, kind):
    block, data = DAMAGED[what], encoded(NOISE, kind)
    if kind == "JPEG":
        data = with_exif(data, block)
    elif kind == "PNG":
        data = data[:33] + chunk(b"eXIf", block) + data[33:]
    elif kind == "WEBP":
        body = box_of_webp(b"VP8X", b"\x08\0\0\0" + struct.pack("<I", 63)[:3] + struct.pack("<I", 47)[:3])
        data = data[8:12] + body + data[12:] + box_of_webp(b"EXIF", block)
        data = b"RIFF" + struct.pack("<I", len(data)) + data
    else:
        honest = exif(tag(0x010F, 2, 200, 26), behind=b"#" * 200)
        whole = encoded(NOISE, kind, exif=honest)
        assert whole.count(honest) == 1
        data = whole.replace(honest, (block + bytes(len(honest)))[: len(honest)])
    assert shape(data) == (64, 48)


def box_of_webp(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


# Hostile files


def gif(*blocks: bytes) -> bytes:
    frame = b",\0\0\0\0\x10\0\x10\0\0\2\2\x4c\1\0"
    return b"GIF89a\x10\0\x10\0\0\0\0" + b"".join(blocks) + frame + b";"


def tiff(*tags: bytes, behind: bytes = b"") -> bytes:
    size = (tag(256, 4, 1, 64), tag(257, 4, 1, 48), tag(258, 3, 1, 8), tag(259, 3, 1, 1), tag(262, 3, 1, 1))
    return exif(*size, *tags, behind=behind)


def tiled(*tags: bytes) -> bytes:
    return tiff(*tags, tag(324, 4, 1, 0), tag(325, 4, 1, 10))


def big_tiff(**sides: int) -> bytes:
    """A TIFF of 64-bit places, with tiles."""
    numbers = {256: 64, 257: 48, 258: 8, 259: 8, 262: 1, 322: sides["tile"], 323: sides["tile"], 324: 0, 325: 10}
    tags = b"".join(struct.pack("<HHQQ", number, 4, 1, value) for number, value in numbers.items())
    return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, len(numbers)) + tags + bytes(8)


def bmp_of_runs(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + head + bytes(1024) + b"\1\0\0\0" * height


HOSTILE = {
    "a JPEG of 101 scans": (jpeg_of_scans(MAX_SCANS), "too_many_scans"),
    "a JPEG of 3,000 scans of 100 megapixels": (jpeg_of_scans(3000, 10_000, 9_999), "too_many_scans"),
    "scans behind padding": (jpeg_of_scans(200).replace(b"\xff\xda", b"\xff\xff\xff\xda"), "too_many_scans"),
    "scans behind restarts": (jpeg_of_scans(200).replace(b"\xff\xda", b"\xff\xd0\xff\xd7\xff\xda"), "too_many_scans"),
    "a JPEG of empty segments": (b"\xff\xd8" + b"\xff\xe5\0\2" * 50_000 + encoded(NOISE, "JPEG")[2:], "too_complex"),
    "a JPEG of much EXIF": (
        b"\xff\xd8" + segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 90 + encoded(NOISE, "JPEG")[2:], "too_complex"),
    "EXIF that names itself": (with_exif(encoded(NOISE, "JPEG"), names_itself(3000, 25_000)), "too_complex"),
    "an index of previews that names itself": (
        b"\xff\xd8" + segment(0xE2, b"MPF\0" + names_itself(3000, 25_000)) + encoded(NOISE, "JPEG")[2:], "too_complex"),
    "a PNG of empty chunks": (png(64, 48, chunk(b"teXt", b"") * 120_000), "too_complex"),
    "a PNG of empty pixels": (png(64, 48, chunk(b"IDAT", b"") * 120_000), "too_complex"),
    "a GIF of a long comment": (gif(b"!\xfe" + (b"\xff" + b"c" * 255) * 5_000 + b"\0"), "too_complex"),
    "a GIF of tiny blocks": (gif(b"!\xff" + b"\1c" * 1_100_000 + b"\0"), "too_complex"),
    "a GIF of nothing": (gif(b"\1" * 1_100_000), "too_complex"),
    "a WebP of many chunks": (encoded(NOISE, "WEBP") + box_of_webp(b"JUNK", b"") * 120_000, "too_complex"),
    "a TIFF of many strips": (tiff(tag(273, 4, 1_200_000, 99), behind=bytes(4_800_000)), "too_complex"),
    "a TIFF of many fractions": (tiff(tag(282, 5, 20_000, 99), behind=bytes(160_000)), "too_complex"),
    "a TIFF that names itself": (names_itself(60_000, 900_000), "too_complex"),
    "a sub-block that names itself": (
        tiff(tag(0x8769, 4, 1, 86), behind=names_itself(3000, 25_000)[8:]), "too_complex"),
    "a TIFF of a tile": (tiled(tag(322, 4, 1, 45_008), tag(323, 4, 1, 45_008)), "too_complex"),
    "a TIFF of a long tile": (tiled(tag(322, 3, 1, 65_520), tag(323, 3, 1, 128)), "too_complex"),
    "a TIFF of a tile that is said twice": (
        tiled(tag(322, 4, 1, 16), tag(322, 4, 1, 32_768), tag(323, 4, 1, 32_768)), "too_complex"),
    "a TIFF of a tile and of two widths": (
        tiled(tag(256, 4, 1, 1 << 30), tag(322, 4, 1, 32_768), tag(323, 4, 1, 32_768)), "too_complex"),
    "a large TIFF of a tile": (big_tiff(tile=32_768), "too_complex"),
    "a BMP of runs": (bmp_of_runs(10_000, 9_000), "too_complex"),
    "an AVIF of hidden frames": (avif_of(*[FRAME] * 9), "too_complex"),
    "an AVIF of many units": (avif_of(*[bytes([0x12, 0])] * 120_000), "too_complex"),
    "an AVIF of many boxes": (box(b"ftyp", b"avif", bytes(4)) + box(b"free") * 11_000, "too_complex"),
    "an AVIF that refers and refers": (box(b"ftyp", b"avif", bytes(4)) + box(b"meta", bytes(4), box(
        b"iref", bytes(4), box(b"dimg", b"\0\1\xff\xff" + b"\0\2" * 70_000))), "too_complex"),
    "a HEIC of layers": (box(b"ftyp", b"heic", bytes(4)) + box(b"meta", bytes(4), box(
        b"iinf", bytes(4), b"\0\1", box(b"infe", b"\2\0\0\0", b"\0\1\0\0", b"iovl", b"\0"))), "too_complex"),
    "an AVIF of larger frames than its boxes say": (avif_of(sequence_of_av1(16_384, 16_384), FRAME), "too_many_pixels"),
    "an AVIF of large frames at some rate": (
        avif_of(sequence_of_av1(16_384, 16_384, still=False, timed=True), FRAME), "too_many_pixels"),
    "an AVIF of large frames behind small ones": (
        avif_of(sequence_of_av1(64, 48), FRAME, sequence_of_av1(16_384, 16_384, still=False, points=3), FRAME),
        "too_many_pixels"),
    "a WebP of 268 megapixels": (
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xfe\x3f\0" * 2 + bytes(20), "too_many_pixels"),
    "a JPEG XL of a billion pixels": (b"\xff\x0a" + (0b11 << 1 | (1 << 29) << 3 | 1 << 33).to_bytes(9, "little") +
                                      bytes(99), "too_many_pixels"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_no_door_decodes_what_is_hostile(what):
    data, reason = HOSTILE[what]
    assert reason in REASONS
    with pytest.raises(Rejected) as rejected:
        inspect(data, LIMITS)
    assert rejected.value.reason == reason
    if reason == "too_many_pixels":  # a limit of the configuration, which others have no say in
        return
    for opened in DOORS.values():
        with pytest.raises(UnsafeImage, match=reason):
            opened(data)


@pytest.mark.parametrize("options", [{}, {"save_all": True, "append_images": [NOISE]}, {"subsampling": "4:0:0"}])
def test_the_frames_of_an_avif_are_seen_whatever_its_boxes_say(options):
    data = encoded(NOISE, "AVIF", **options)
    lies = data.replace(b"ispe" + struct.pack(">III", 0, 64, 48), b"ispe" + struct.pack(">III", 0, 16, 16))
    assert lies != data and look(lies).size == look(data).size == (64, 48)


@pytest.mark.parametrize("side", [16, 64, 2048])
def test_honest_tiles_of_a_tiff_are_read(side):
    count = -(-64 // side) * -(-48 // side)
    tile = zlib.compress(bytes(side * side))
    sizes = {256: 64, 257: 48, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    begin = 8 + 2 + 12 * 10 + 4
    places = struct.pack(f"<{2 * count}L", *[begin + 8 * count] * count, *[len(tile)] * count)
    lists = (tag(324, 4, count, begin), tag(325, 4, count, begin + 4 * count))
    if count == 1:
        lists = (tag(324, 4, 1, begin + 8), tag(325, 4, 1, len(tile)))
    data = exif(*(tag(number, 4, 1, value) for number, value in sizes.items()), *lists, behind=places + tile)
    assert shape(data) == (64, 48)


def test_the_decoder_of_a_webp_is_given_back_and_its_pixels_stay():
    for mode in ("RGB", "RGBA"):
        data = encoded(NOISE.convert(mode), "WEBP", lossless=True)
        image = open_image(data)
        image.load()
        image.load()
        assert image._decoder is None and image.convert(mode).tobytes() == NOISE.convert(mode).tobytes()


def test_honest_progressive_pictures_are_read():
    big = NOISE.resize((640, 480))
    data = encoded(big, "JPEG", progressive=True, quality=95)
    assert 5 < data.count(b"\xff\xda") < 20
    assert shape(with_exif(data, turned_by(1))) == (640, 480)
    assert shape(jpeg_of_scans(MAX_SCANS - 1)) == (640, 480)


def test_scans_of_a_thumbnail_inside_exif_are_not_counted():
    small = jpeg_of_scans(500, 64, 48)
    assert len(small) < 60_000
    assert shape(with_exif(encoded(NOISE, "JPEG"), turned_by(1) + small)) == (64, 48)
    assert look(encoded(NOISE, "JPEG") + jpeg_of_scans(500)).kind == "JPEG", "nor is what stands behind the picture"


def test_frames_are_counted_without_decoding_them():
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        moving = encoded(NOISE, kind, save_all=True, append_images=[NOISE.rotate(n) for n in range(1, 7)])
        with pytest.raises(Rejected, match="animated: 7 frames"):
            inspect(moving, LIMITS)


@pytest.mark.slow
def test_hashes_of_grey_bands_are_those_of_the_whole():
    """Converted a few rows at a time, the pixels are those of a conversion in one piece."""
    for image in (NOISE.convert("RGBA"), NOISE.quantize(9), NOISE.convert("CMYK"), NOISE.convert("LA")):
        kind = "TIFF" if image.mode == "CMYK" else "PNG"
        data = encoded(image.resize((1600, 1400)), kind)
        with Image.open(io.BytesIO(data)) as opened:
            whole = opened.convert("RGBA").convert("RGB").convert("L")
        assert np.array_equal(np.asarray(upright_grey(open_image(data))), np.asarray(whole))


def test_the_size_is_looked_at_before_the_decoder_is_opened():
    for kind in KINDS:
        with pytest.raises(UnsafeImage, match="too_many_pixels: 64x48"):
            open_image(encoded(NOISE, kind), max_pixels=64 * 48 - 1)
        assert size_of(encoded(NOISE, kind)) == (64, 48)
