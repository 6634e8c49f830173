"""Tars in img2dataset's layout: jpg/png/webp, txt and json of one sample stand together. A tar is one partition."""

import tarfile
from collections.abc import Iterable, Iterator

from pipelines.sources.source import IMAGE_SUFFIXES, FileStamp, Source, object_of
from schemas.arrow import Row
from schemas.errors import UserError


class WebDataset(Source):
    def files(self) -> list[FileStamp]:
        files = self.find(("tar",))
        if not files:
            raise UserError(f"source.path: no .tar under {self.config.path}")
        return files

    def buckets(self, file: str) -> int:
        return 1

    def rows(self, file: str) -> Iterator[Row]:
        cut = {"names": (file, "/"), "file": file, "reason": "cut_tar"}
        with self.fs.open(f"{self.base}/{file}", "rb") as raw:
            try:
                tar = tarfile.open(fileobj=raw, mode="r:")
            except tarfile.ReadError as error:
                yield cut | {"detail": f"{file}: {error}"}
                return
            samples = list(_samples(_members(tar)))
            suffixes_of: dict[str, set[frozenset[str]]] = {}  # stem -> its suffixes at each place where it stands
            for stem, members in samples:
                suffixes_of.setdefault(stem, set()).add(frozenset(members))
            for stem, members in samples:
                row = self._row(file, stem, members, raw)
                if any(members.keys().isdisjoint(suffixes) for suffixes in suffixes_of[stem]):
                    row |= {"reason": "interleaved", "detail": f"{stem} stands in two places of {file}"}
                yield row
            raw.seek(tar.offset)
            if raw.read(tarfile.BLOCKSIZE).strip(b"\0"):  # a header that tarfile takes for the end
                yield cut | {"detail": f"{file}: no member can be read from byte {tar.offset} on"}

    def _row(self, file: str, stem: str, members: dict[str, tarfile.TarInfo], raw) -> Row:
        image = next((members[s] for s in IMAGE_SUFFIXES if s in members), None)
        row = {"names": (file, stem), "file": file}
        try:
            text, extra = (_read(raw, members.get(s)) for s in ("txt", "json"))
        except EOFError as error:
            return row | {"reason": "cut_tar", "detail": f"{file}: {error}"}
        extra = object_of(extra) if extra is not None else {}
        url = extra.get("url")
        row |= {"url": url if isinstance(url, str) else None, "text": text, "extra": extra}
        if image is None:
            return row | {"reason": "no_image", "detail": f"{stem} has only {', '.join(sorted(members))}"}
        row |= {"member": image.name, "byte_offset": image.offset_data, "size": image.size}
        if image.name.startswith("/") or ".." in image.name.split("/"):
            return row | {"reason": "unsafe_name", "detail": image.name[:200]}
        return row


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The plain files of a tar, up to its end or up to where it is cut."""
    try:
        yield from (member for member in tar if member.isfile())
    except tarfile.ReadError:  # the last member is cut; reading it fails later
        return


def _samples(members: Iterable[tarfile.TarInfo]) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Stem and members by suffix, of members with one stem in a row; a repeated suffix begins another sample."""
    stem, members_by_suffix = None, {}
    for member in members:
        name, ext = _split(member.name)
        if members_by_suffix and (name != stem or ext in members_by_suffix):
            yield stem, members_by_suffix
            members_by_suffix = {}
        stem, members_by_suffix[ext] = name, member
    if members_by_suffix:
        yield stem, members_by_suffix


def _split(name: str) -> tuple[str, str]:
    """A member's stem and suffix. As in webdataset, the suffix is all after the first dot of the file's own name."""
    folder, _, base = name.rpartition("/")
    stem, _, ext = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), ext.lower()


def _read(raw, member: tarfile.TarInfo | None) -> str | None:
    """A member's text. Raises `EOFError` if it is cut."""
    if member is None:
        return None
    position = raw.tell()
    raw.seek(member.offset_data)
    data = raw.read(member.size)
    raw.seek(position)
    if len(data) != member.size:
        raise EOFError(f"{member.size} bytes wanted, {len(data)} there")
    return data.decode("utf-8", "replace")


SOURCE = WebDataset
