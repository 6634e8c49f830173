"""Pictures as they are seen: bytes with a tag that turns them are encoded again, all others stay as they are.

The public readers of LLaVA's and MiniCPM-V's files do not apply EXIF, while `datasets` does.
"""

import io

from schemas.pictures import MAY_TURN_PNG, open_image, orientation_of, turned

MOST = 200_000_000  # pixels of a picture that is turned; larger ones pass `images` only if its limit is raised
XMP = b"tiff:Orientation"
SIGNS = {  # how files begin -> what a turned one of them holds
    b"\xff\xd8": (b"Exif\0", XMP),
    b"\x89PNG": MAY_TURN_PNG,
    b"RIFF": (b"EXIF", XMP),
}
SAVED = {  # format -> how it is encoded again; decoders of other formats turn pictures by themselves
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 95},
}


def upright(data: bytes) -> tuple[bytes, int | None]:
    """The bytes of a picture, and the EXIF orientation, 2 to 8, that was applied; None if the bytes are unchanged."""
    signs = next((signs for begin, signs in SIGNS.items() if data.startswith(begin)), ())
    if signs and not any(sign in data for sign in signs):
        return data, None
    try:
        image = open_image(data, MOST)
        image.load()  # the metadata of a PNG may follow its pixels
        orientation, format = orientation_of(image), "JPEG" if image.format == "MPO" else image.format
        if orientation == 1 or format not in SAVED:
            return data, None
        seen, file = turned(image), io.BytesIO()
        seen.info = {}  # encoders write what they find there
        seen.save(file, format, icc_profile=image.info.get("icc_profile"), **SAVED[format])
    except Exception:  # a shard may be older than a bound on decoders, or a stranger's; readers get what it holds
        return data, None
    return file.getvalue(), orientation
