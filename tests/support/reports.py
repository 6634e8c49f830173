"""Reports of small corpora, and the pictures in them."""

import base64
import io
import re

import numpy as np
from PIL import Image
from support.corpora import ONE_PROCESS

from pipelines.engine.root import Root
from pipelines.reports.report import REPORT, write_report

TOML = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "source"
[sets.train]
[sets.wide]
where = "width > 300"
[gates]
empty_sets = false
{ONE_PROCESS}"""


def measured_left_out(text: str) -> str:
    """A report without what is measured: the head, and what the last run changed."""
    measured = r"<title>[^<]*</title>|<header>.*?</header>|<section id=\"changes\">.*?</section>"
    return re.sub(measured, "", text, flags=re.DOTALL)


def pixels(attrs: dict[str, str]) -> np.ndarray:
    kind, data = attrs["src"].split(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def write_and_read(root: Root) -> str:
    root.create()
    write_report(root)
    return root.read(REPORT).decode()


# Pictures


def turned(image: Image.Image, orientation: int) -> bytes:
    """A JPEG that is stored turned, with an EXIF mark that says so."""
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # of Image.Transpose
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    (image if undo is None else image.transpose(undo)).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()
