"""Tars in img2dataset's layout: jpg/png/webp, txt and json of one sample side by side. A tar is one partition."""

import json
import tarfile
from collections.abc import Iterator
from itertools import groupby

from pipelines.sources.source import IMAGE_SUFFIXES, Source, SourceFile
from schemas.arrow import Row
from schemas.config import UserError


class WebDataset(Source):
    def files(self) -> list[SourceFile]:
        files = self.find(("tar",))
        if not files:
            raise UserError(f"source.path: no .tar under {self.config.path}")
        return files

    def buckets(self, file: str) -> int:
        return 1

    def rows(self, file: str) -> Iterator[Row]:
        seen = set()
        with self.fs.open(f"{self.base}/{file}", "rb") as raw:
            for stem, members in groupby(_members(raw), key=lambda member: _split(member.name)[0]):
                row = self._row(file, stem, list(members), raw)
                if stem in seen:
                    row |= {"reason": "interleaved", "detail": f"{stem} stands in two places of {file}"}
                seen.add(stem)
                yield row

    def _row(self, file: str, stem: str, members: list[tarfile.TarInfo], raw) -> Row:
        by_suffix = {_split(member.name)[1]: member for member in members}
        image = next((by_suffix[s] for s in IMAGE_SUFFIXES if s in by_suffix), None)
        text, extra = (_read(raw, by_suffix.get(s)) for s in ("txt", "json"))
        extra = _object(extra)
        row = {"names": (file, stem), "url": extra.get("url"), "text": text, "extra": extra, "file": file}
        if image is None:
            return row | {"reason": "no_image", "detail": f"{stem} has only {', '.join(sorted(by_suffix))}"}
        row |= {"member": image.name, "byte_offset": image.offset_data, "size": image.size}
        if image.name.startswith("/") or ".." in image.name.split("/"):
            return row | {"reason": "unsafe_name", "detail": image.name[:200]}
        return row


def _members(raw) -> Iterator[tarfile.TarInfo]:
    """The plain files of a tar, up to its end or to where it is cut."""
    try:
        with tarfile.open(fileobj=raw, mode="r:") as tar:
            yield from (member for member in tar if member.isfile())
    except tarfile.ReadError:
        return


def _split(name: str) -> tuple[str, str]:
    """A member's sample and its suffix: all after the first dot of the file's own name, as webdataset splits."""
    folder, _, base = name.rpartition("/")
    stem, _, ext = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), ext.lower()


def _read(raw, member: tarfile.TarInfo | None) -> str | None:
    if member is None:
        return None
    here = raw.tell()
    raw.seek(member.offset_data)
    data = raw.read(member.size)
    raw.seek(here)
    return data.decode("utf-8", "replace")


def _object(text: str | None) -> dict:
    """The JSON object in a text; what is no object is kept as it is under `json`."""
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"json": text}
