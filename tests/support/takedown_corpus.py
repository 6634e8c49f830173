"""A corpus to take images out of, and what files tell of them."""

import io
import json
import random
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image
from support.corpora import ONE_PROCESS

from pipelines.catalog.catalog import query
from pipelines.engine.root import Root

TOML = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "tars/*.tar"
[duplicates]
[ocr]
[sets.captions]
task = "caption"
samples_per_shard = 8
[sets.texts]
task = "ocr"
[sets.texts.ocr]
{ONE_PROCESS}""".replace("[sets.texts.ocr]\n", "")

COUNT = 60
EMPTY = "[gates]\nempty_sets = false\n"  # a set may be empty


def noise() -> bytes:
    """A PNG that looks like none of the pictures."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (8, 8), random.Random(5).randbytes(192)).resize((224, 224)).save(buffer, "PNG")
    return buffer.getvalue()


NOISE = noise()


def write(path: Path, samples: dict[str, tuple[bytes, str]]) -> None:
    """A tar of name -> bytes and text; each says its URL."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, (data, text) in samples.items():
            said = json.dumps({"url": f"https://{name[0]}.example/{name}.png", "secret": f"secret of {name}"})
            for ext, payload in (("png", data), ("txt", text.encode()), ("json", said.encode())):
                info = tarfile.TarInfo(f"{name}.{ext}")
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))


def touched_up(data: bytes) -> bytes:
    """Other bytes that look the same."""
    image = Image.open(io.BytesIO(data))
    image.putpixel((0, 0), (1, 2, 3))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def cells(value: object):
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, str | bytes | int | float | None):
        yield str(value)
    else:
        for one in value:
            yield from cells(one)


def told_anywhere(root: Path, *texts: str, data: bytes = b"") -> list[str]:
    """The files under a root, hidden ones included, that have any of some texts in a cell or anywhere, or the bytes."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        raw = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            every = [*list(cells(table.to_pylist())), str(table.schema.metadata)]
        else:
            every = [raw.decode("latin-1")]
        if any(text in cell for text in texts for cell in every) or (data and data in raw):
            found.append(str(path.relative_to(root)))
    return found


def key(root: Root, name: str) -> str:
    sql = f"select key from rows where url = 'https://{name[0]}.example/{name}.png'"
    return query(root, sql)["key"][0].as_py()
