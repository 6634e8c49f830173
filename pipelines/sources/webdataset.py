"""Tars in img2dataset's layout: jpg/png/webp, txt and json of one sample stand together. A tar is one partition."""

import posixpath
import re
import sys
from collections.abc import Iterable, Iterator

from pipelines.sources.opening import PLAIN_FIX, archives
from pipelines.sources.sidecars import described
from pipelines.sources.source import IMAGE_SUFFIXES, LONGEST_TEXT, FileSource, FileStamp
from pipelines.sources.tar_reader import CutTar, Member, Reader, members
from schemas.arrow import Row
from schemas.config.sources import WebDatasetConfig

IMAGE = re.compile(rf"(?:\d+\.)?(?:{'|'.join(IMAGE_SUFFIXES)})")  # of a sample; not `mask.png` and the like
PLACES = 100  # in which a stem may appear, each time with other suffixes
LINKS = 10  # that one may follow to a file
MEMBERS, PACKED = 100_000, 50  # most members of a compressed tar: that many, or one for each so many bytes of it

Sample = tuple[str, dict[str, Member]]  # stem; suffix -> member


class _Left(ValueError):
    """A sample is left out; its argument is what its row says, with a reason and a detail."""


def _left(reason: str, detail: str) -> _Left:
    return _Left({"reason": reason, "detail": detail})


class WebDataset(FileSource[WebDatasetConfig]):
    def files(self) -> list[FileStamp]:
        files = self.find(("tar",))
        if not files:
            raise self.nothing(".tar")
        return files

    def count(self, file: str) -> None:
        return None

    def rows(self, file: str) -> Iterator[Row]:
        archive = archives.open(self.fs, f"{self.base}/{file}", file)
        tar, samples, problem = Reader(archive.file), [], archive.damage
        try:
            samples.extend(_samples(_bounded(members(tar), archive.packed)))
        except CutTar as error:
            problem = problem or f"{file}: {error}"
        interleaved, targets = _interleaved(samples), _targets(samples)
        for stem, parts in samples:
            row = {"names": (file, stem), "file": file}
            try:
                row |= self._row(stem, parts, targets, tar)
            except _Left as left:
                row |= left.args[0] | {"detail": f"{file}: {left.args[0]['detail']}"}
            if (stem, frozenset(parts)) in interleaved:
                row |= {"reason": "interleaved", "detail": f"{stem} is in two places of {file}"}
            yield row
        if problem:
            yield {"names": (file, "/"), "file": file, "reason": "cut_tar", "detail": problem}

    def _row(self, stem: str, parts: dict[str, Member], targets: dict[str, Member], tar: Reader) -> Row:
        """What a sample says. Raises `_Left` if one of its members cannot be read."""
        texts = parts.get("txt") or parts.get("caption")
        text, said = (_read(tar, member, targets) for member in (texts, parts.get("json")))
        row = described(text, said, self.config, stem)
        if len(several := [ext for ext in parts if IMAGE.fullmatch(ext)]) > 1:
            row["member"] = parts[several[0]].name
            return row | {
                "reason": "several_images",
                "detail": f"{stem} has {', '.join(several)}; a sample has one image"[:1000],
            }
        image = next((parts[ext] for ext in IMAGE_SUFFIXES if ext in parts), None)
        if image is None:
            return row | {"reason": "no_image", "detail": f"{stem} has only {', '.join(sorted(parts))}"[:1000]}
        row["member"] = image.name
        try:
            image = _followed(image, targets)
            _check(image, tar)
        except _Left as left:
            raise _Left(row | left.args[0]) from None
        row |= {"byte_offset": image.offset, "size": image.size}
        if row["member"].startswith("/") or ".." in row["member"].split("/"):
            return row | {"reason": "unsafe_name", "detail": row["member"][:200]}
        return row


def _bounded(found: Iterable[Member], packed: int | None) -> Iterator[Member]:
    """The members of a tar. Raises `CutTar` for a compressed one that has far more of them than people pack."""
    most = sys.maxsize if packed is None else max(MEMBERS, packed // PACKED)
    for number, member in enumerate(found):
        if number >= most:
            raise CutTar(f"it has more than {most} members in {packed} compressed bytes; {PLAIN_FIX}")
        yield member


def _samples(found: Iterable[Member]) -> Iterator[Sample]:
    """Stem and members by suffix, of members with one stem in a row; a repeated suffix begins another sample.

    Also yields the last one when `found` ends with an error.
    """
    stem, parts = "", {}
    try:
        for member in found:
            if posixpath.basename(member.name).startswith("._"):  # macOS's copy of a file's attributes
                continue
            name, ext = _split(member.name)
            if parts and (name != stem or ext in parts):
                yield stem, parts
                parts = {}
            stem, parts[ext] = name, member
    except CutTar:
        if parts:
            yield stem, parts
        raise
    if parts:
        yield stem, parts


def _interleaved(samples: list[Sample]) -> set[tuple[str, frozenset[str]]]:
    """The samples that are only parts: their stem also occurs elsewhere in the tar, with other suffixes."""
    places: dict[str, set[frozenset[str]]] = {}  # of a stem, only if it appears in more than one place
    first: dict[str, frozenset[str]] = {}
    known: dict[frozenset[str], frozenset[str]] = {}
    for stem, parts in samples:
        suffixes = frozenset(parts)
        suffixes = known.setdefault(suffixes, suffixes)
        if first.setdefault(stem, suffixes) is not suffixes:
            places.setdefault(stem, {first[stem]}).add(suffixes)
    return {
        (stem, suffixes)
        for stem, sets in places.items()
        for suffixes in sets
        if len(sets) > PLACES or any(suffixes.isdisjoint(other) for other in sets)
    }


def _targets(samples: list[Sample]) -> dict[str, Member]:
    """The members of a tar by their paths, if it has links."""
    every = [member for _, parts in samples for member in parts.values()]
    if all(member.target is None for member in every):
        return {}
    return {posixpath.normpath(member.name): member for member in every}


def _followed(member: Member, targets: dict[str, Member]) -> Member:
    """A file, or the one that a link leads to. Raises `_Left` if that is not in the tar."""
    links = 0
    while member.target is not None:
        folder = posixpath.dirname(member.name) if member.kind == "link" else ""
        target = targets.get(posixpath.normpath(posixpath.join(folder, member.target)))
        if target is None or links == LINKS:
            named = f"{member.name[:200]} is a link to {member.target[:200]!r}"
            raise _left("broken_link", f"{named}, which is not in the tar")
        member, links = target, links + 1
    return member


def _check(member: Member, tar: Reader) -> None:
    """Raises `_Left` if the bytes of a member do not lie in the tar as they are."""
    if member.kind == "sparse":
        raise _left("sparse", f"the holes of {member.name[:200]} are left out of the tar; pack it without --sparse")
    if member.offset + member.size > tar.size:
        raise _left("cut_tar", f"expected {member.size} bytes, found {max(0, tar.size - member.offset)}")


def _read(tar: Reader, member: Member | None, targets: dict[str, Member]) -> bytes | None:
    """A member's bytes, at most as long as a text may be. Raises `_Left` if it cannot be read."""
    if member is None:
        return None
    member = _followed(member, targets)
    _check(member, tar)
    if member.size > LONGEST_TEXT:
        raise _left("text_too_long", f"{member.name[:200]} has {member.size} bytes")
    return tar.read(member.offset, member.size)


def _split(name: str) -> tuple[str, str]:
    """A member's stem and suffix. As in webdataset, the suffix is all after the first dot of the file's own name."""
    folder, _, base = name.rpartition("/")
    stem, _, ext = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), ext.lower()


SOURCE = WebDataset
