"""Splits the rows of a source into partitions, once.

The partitions of a file are settled in `root.json` when it is first seen, and never computed again: a source that loses
ten rows keeps every other row in its partition. A file is split again only when it has changed.
"""

import errno
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from pipelines.engine.commit import Stage, bucket_of, canonical, digest, key_of, replace_rows
from pipelines.engine.ledger import Ledger
from pipelines.engine.manifest import NOTES, SourceFile
from pipelines.engine.root import Root
from pipelines.sources import Source
from pipelines.sources.files import TooLarge, Unreadable
from pipelines.stages.takedown_list import blanked, read_takedowns
from schemas.arrow import Row
from schemas.rows import STAGE

RANGE = 64  # partitions that one worker splits off a file at once, which bounds its memory
NO_FILE = {errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}  # errors caused by a bad name


@dataclass(frozen=True)
class Rows(Stage):
    source: Source

    info = STAGE
    places = frozenset({"file", "member", "byte_offset", "size"})

    def settings(self) -> dict[str, Any]:
        """How the source is read. Its path and how it is split do not change its rows."""
        return self.source.config.recorded(exclude={"path", "images", "rows_per_partition", "count", "fonts"})


@dataclass(frozen=True)
class Split:
    """A range of a source file's partitions that has to be split off."""

    file: SourceFile  # its `split` is what it will be
    first: int  # bucket
    end: int


# Settling


@dataclass(frozen=True)
class Settlement:
    """The source as it is now, compared with root.json."""

    files: tuple[SourceFile, ...]  # all files that were ever seen, in the order of their partitions
    new: tuple[SourceFile, ...]
    changed: tuple[SourceFile, ...]
    vanished: tuple[SourceFile, ...]

    def splits(self) -> list[Split]:
        """What has to be split, by ranges of partitions."""
        return [
            Split(file, first, min(first + RANGE, file.buckets))
            for file in (*self.new, *self.changed)
            for first in range(0, file.buckets, RANGE)
        ]

    def partitions(self) -> list[int]:
        """Every partition that exists once everything is split."""
        gone = {file.path for file in self.vanished}
        return [p for file in self.files if file.path not in gone for p in file.partitions]


def settle(stage: Rows, settled: Iterable[SourceFile], present: Collection[int]) -> Settlement:
    """Compares the source with what is settled, and with the partitions that are present. Writes nothing; measures only
    new files."""
    known = {file.path: file for file in settled}
    identity = stage.identity()
    new, changed, present = [], [], set(present)
    seen = stage.source.files()
    end = sum(file.buckets for file in known.values())
    for path, stamp in seen:
        split = digest([identity, stamp])
        if path not in known:
            known[path] = SourceFile(path, end, _measured(stage.source, path), split)
            end += known[path].buckets
            new.append(known[path])
        elif known[path].split != split or not present.issuperset(known[path].partitions):
            with suppress(Unreadable):
                stage.source.check(path)
            known[path] = replace(known[path], split=split)
            changed.append(known[path])
    paths = {path for path, _ in seen}
    vanished = [file for file in known.values() if file.path not in paths and file.split]
    return Settlement(tuple(known.values()), tuple(new), tuple(changed), tuple(vanished))


def _measured(source: Source, path: str) -> int:
    """The number of partitions of a new file."""
    try:
        source.check(path)
        return source.buckets(path)
    except Unreadable:
        return 1


# Splitting


@dataclass(frozen=True)
class SplitSource:
    """The work of this stage, for Beam: an item is a `Split`."""

    stage: Rows
    root: Root
    ledger: Ledger

    name = "rows"

    def make(self, split: Split) -> None:
        file = split.file
        buckets: dict[int, list[Row]] = {bucket: [] for bucket in range(split.first, split.end)}
        for row in read_rows_of(self.stage, file, buckets):
            buckets[bucket_of(row["key"], file.buckets)].append(row)
        taken, identity = read_takedowns(self.root), self.stage.identity()
        for bucket, rows in buckets.items():
            replace_rows(self.root, self.ledger, self.stage, file.first + bucket, blanked(rows, taken, identity))
        note = {"first": file.first, "split": file.split, "buckets": len(buckets)}
        self.root.write(f"{NOTES}/{file.first:05d}-{split.first:05d}.json", canonical(note))


def read_rows_of(stage: Rows, file: SourceFile, buckets: dict[int, Any]) -> Iterator[Row]:
    """The rows of a source file that fall into these buckets, with the digest of their bytes."""
    identity, names = stage.identity(), {}
    for source_row in _source_rows(stage.source, file.path):
        key, more = key_of(*source_row.pop("names")), source_row.pop("more", ())
        bucket = bucket_of(key, file.buckets)
        if bucket not in buckets:
            continue
        names[key] = nth = names.get(key, 0) + 1
        row = {name: None for name in stage.schema.names} | source_row
        row |= {"key": key, "host": host_of(row["url"]), "extra": json_of(source_row.get("extra") or {})}
        if nth > 1:
            row["key"] = _key_in(bucket, file.buckets, key, str(nth))
            if row["reason"] is None:
                row |= {"reason": "equal_keys", "detail": f"the same name as {key}"}
        yield _finished(stage, identity, row)
        for part, image in enumerate(more, 1):
            part_row = row | {"text": None, "conversation": None, "extra": "{}", "part_of": row["key"], "part": part}
            part_row |= {"key": _key_in(bucket, file.buckets, row["key"], f"image {part}"), "file": image}
            yield _finished(stage, identity, part_row)


def _source_rows(source: Source, path: str) -> Iterator[Row]:
    """The rows of a file; where it cannot be read any further, a last row says why."""
    try:
        yield from source.rows(path)
    except Unreadable as error:
        yield {"names": (path, "/unreadable"), "file": path, "reason": "unreadable_file", "detail": str(error)}


def _key_in(bucket: int, buckets: int, *names: str) -> str:
    """A key made of names that falls into a given partition."""
    keys = (key_of(*names, str(salt)) for salt in count())
    return next(key for key in keys if bucket_of(key, buckets) == bucket)


def _finished(stage: Rows, identity: str, row: Row) -> Row:
    """A row with the digest of its bytes, valid Unicode, and the hash of its content."""
    if row["reason"] is None and row["file"] is not None:
        row = row | _hashed(stage.source, row)
    row = row | {name: unicode(value) for name, value in row.items() if isinstance(value, str)}
    content = [row[n] for n in stage.schema.names if n not in {*stage.places, "made_from"}]
    return row | {"made_from": digest([identity, content])}


def host_of(url: str | None) -> str | None:
    """The host of a URL, in lower case; None if it has no host, or is not a URL."""
    try:
        return urlsplit(url or "").hostname
    except ValueError:
        return None


def unicode(text: str) -> str:
    """A text that UTF-8 can hold: half a surrogate pair, which JSON and file names may contain, becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def json_of(value: Any) -> str:
    """Any value as strict JSON: NaN and infinities, which it cannot hold, become null."""
    try:
        return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json_of(json.loads(json.dumps(value, default=str), parse_constant=lambda _: None))


def _hashed(source: Source, row: Row) -> Row:
    """Size and SHA-256 of a row's bytes, or the reason why it has none."""
    if unicode(row["file"]) != row["file"]:
        return {"reason": "unsafe_name", "detail": f"{row['file']!r} is not UTF-8"}
    try:
        data = source.load(row)
    except TooLarge as error:  # it has no SHA-256 then; the stage `images` decides what is too large
        return {"size": error.size}
    except FileNotFoundError:
        return {"reason": "no_image", "detail": f"{row['file']} is not there"}
    except EOFError as error:
        return {"reason": "cut_tar", "detail": str(error)}
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in NO_FILE:
            raise  # the disk or the network failed, not the row
        return {"reason": "no_image", "detail": f"{row['file']!r} is no file: {error}"[:1000]}
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
