"""Folders of pictures that resemble each other, and the corpora made of them."""

import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import imagehash
from PIL import Image
from support.corpora import ONE_PROCESS, build

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.maintain.verify import verify_root


def noise(seed: int, side: int = 96, kind: str = "PNG", **options: Any) -> bytes:
    """A picture of which each seed has another, far from all others; by another side or kind it is near the same."""
    buffer = io.BytesIO()
    grains(seed).resize((side, side)).save(buffer, kind, **options)
    return buffer.getvalue()


def grains(seed: int) -> Image.Image:
    return Image.frombytes("RGB", (9, 9), random.Random(seed).randbytes(3 * 81)).resize((96, 96), Image.BICUBIC)


def like(seed: int, n: int = 0, share: float = 0.0) -> bytes:
    """Nearly the picture that `noise` draws: smaller, encoded anew, and with a share of another one over it."""
    buffer = io.BytesIO()
    Image.blend(grains(seed), grains(1000 * seed + n), share).resize((88, 88)).save(buffer, "JPEG", quality=70 + n)
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def apart(a: bytes, b: bytes) -> int:
    return (int(phash_of(a), 16) ^ int(phash_of(b), 16)).bit_count()


def phash_of(data: bytes) -> str:
    return str(imagehash.phash(Image.open(io.BytesIO(data)).convert("RGB")))


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


TOML = """
[source]
kind = "folder"
path = "pictures"
rows_per_partition = {each}
{tables}
[sets.train]
"""


LAST = "run = (SELECT run FROM runs ORDER BY started DESC LIMIT 1)"


class Pictures:
    """A folder of pictures and the corpus made of it."""

    def __init__(self, folder: Path):
        self.folder, self.root = folder, None
        (folder / "pictures").mkdir(exist_ok=True)

    def put(self, pictures: dict[str, bytes]) -> None:
        for name, data in pictures.items():
            path = self.folder / "pictures" / name
            path.write_bytes(data)
            path.with_suffix(".txt").write_text(f"what {name} shows")

    def take(self, *names: str) -> None:
        for name in names:
            path = self.folder / "pictures" / name
            path.unlink()
            path.with_suffix(".txt").unlink(missing_ok=True)

    def write(self, tables: str = "[duplicates]", each: int = 3) -> Path:
        config = self.folder / "my.toml"
        config.write_text('root = "corpus"\n' + TOML.format(tables=tables, each=each) + ONE_PROCESS)
        return config

    def build(self, tables: str = "[duplicates]", each: int = 3) -> dict[str, tuple]:
        """name -> (reason, name of the picture that it duplicates, distance) after a run."""
        self.root = build(self.write(tables, each))
        assert verify_root(self.root).problems == []
        return self.said()

    def said(self) -> dict[str, tuple]:
        of = "SELECT min(o.file) FROM rows o WHERE o.key = d.of"
        sql = f"SELECT r.file, d.reason, ({of}), d.distance FROM rows r JOIN duplicates d USING (partition, key)"
        return {row[0]: row[1:] for row in map(tuple, (r.values() for r in query(self.root, sql).to_pylist()))}

    def made(self) -> dict[str, int]:
        """stage -> rows that the last run made."""
        last = f"SELECT stage, sum(made)::INT AS made FROM work WHERE {LAST} GROUP BY ALL"
        return {row["stage"]: row["made"] for row in query(self.root, last).to_pylist() if row["made"]}

    def in_order(self) -> list[str]:
        return query(self.root, "SELECT file FROM rows ORDER BY partition, key")["file"].to_pylist()


def planned(pictures: Pictures, tables: str = "[duplicates]") -> dict[str, tuple]:
    stages = plan(open_corpus(pictures.write(tables))).stages
    return {stage.stage: (len(stage.todo), [why for why, _ in stage.reasons()], stage.open) for stage in stages}


# What is to be kept out


def exclude(*places: str, near: int = 3) -> str:
    return f"[duplicates]\nnear = {near}\nexclude = {json.dumps(places)}"
