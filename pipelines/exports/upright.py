"""Pictures as they are seen: bytes with a tag that turns them are encoded again, all others stay as they are.

The public readers of LLaVA's and MiniCPM-V's files do not apply EXIF, while `datasets` does.
"""

import io

from PIL import ExifTags, ImageOps

from schemas.pictures import open_image

SIGNS = (b"Exif\0", b"EXIF", b"eXIf", b"Raw profile type", b"tiff:Orientation")  # one of them is in a turned picture
TIFF = (b"II*\0", b"MM\0*")  # a turned TIFF has none of the signs
SAVED = {  # format -> how it is encoded again; other formats are turned by their own decoders
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_deflate"},
    "AVIF": {"quality": 95},
}


def upright(data: bytes) -> tuple[bytes, int | None]:
    """The bytes of a picture, and the EXIF orientation, 2 to 8, that was applied; None if the bytes are unchanged."""
    if not data.startswith(TIFF) and not any(sign in data for sign in SIGNS):
        return data, None
    image = open_image(data)
    format = "JPEG" if image.format == "MPO" else image.format
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation not in range(2, 9) or format not in SAVED:
        return data, None
    turned, file = ImageOps.exif_transpose(image), io.BytesIO()
    turned.save(file, format, icc_profile=image.info.get("icc_profile"), **SAVED[format])
    return file.getvalue(), orientation
