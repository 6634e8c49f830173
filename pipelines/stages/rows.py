"""The rows of a source, and the partitions into which they are split, once.

The partitions of a file are settled in `root.json` when it is first seen, and never computed again: a source that loses
ten rows keeps every other row in its partition. A file is split again only when it has changed.
"""

import errno
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from math import ceil
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pipelines.engine.commit import Stage, bucket_of, digest, key_of
from pipelines.engine.manifest import FEWEST, SourceFile
from pipelines.engine.secrets import hidden
from pipelines.sources import Source
from pipelines.sources.files import TooLarge, Unreadable
from schemas.arrow import Row
from schemas.config.file import place_of
from schemas.errors import UserError
from schemas.rows import STAGE

PLACES = ("file", "member", "byte_offset", "size", "sha256")  # of a row's bytes
RANGE, RANGE_ROWS = 64, 64_000  # partitions, and about rows, that a worker splits off at once: that bounds its memory
MOST_ROWS, PARTITIONS = 10_000, 1_000  # of a partition, unless set; of a source, if that gives neither more nor fewer
NO_FILE = {errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}  # errors caused by a bad name


@dataclass(frozen=True)
class Rows(Stage):
    source: Source

    info = STAGE
    places = frozenset({"file", "member", "byte_offset", "size"})

    def settings(self) -> dict[str, Any]:
        """How the source is read. Its path and how it is split do not change its rows."""
        return self.source.config.recorded(exclude={"name", "path", "images", "rows_per_partition", "count", "fonts"})

    @property
    def source_name(self) -> str | None:
        """The name of its source."""
        return self.source.config.name

    def key(self, file: str, names: Iterable[str]) -> str:
        """The key of a row. Rows of a source with a name are told apart by that, and by their file, too: names such as
        ids are repeated from file to file."""
        return key_of(self.source_name, file, *names) if self.source_name else key_of(*names)

    @contextmanager
    def naming_source(self) -> Iterator[None]:
        """Has errors of the source say which of several it is: `source.web.path` instead of `source.path`."""
        try:
            yield
        except UserError as error:
            raise UserError(re.sub(r"^source\b", place_of(self.source_name), str(error))) from None


# Settling


@dataclass(frozen=True)
class Settlement:
    """The sources as they are now, compared with root.json."""

    files: tuple[SourceFile, ...]  # all files that were ever seen, in the order of their partitions
    new: tuple[SourceFile, ...]
    changed: tuple[SourceFile, ...]
    vanished: tuple[SourceFile, ...]
    sizes: Mapping[str | None, int]  # rows of a partition, about, by the name of the source
    chosen: Mapping[str | None, int]  # those of them that no setting says: root.json records them

    def width(self, file: SourceFile) -> int:
        """How many partitions of a file are split off at once."""
        return width_of(file, self.sizes)

    def renamed(self) -> list[tuple[str | None, str | None]]:
        """(old name, new name) of sources of which every file is now one of another, new source."""
        before, gone, new = (_paths_by_source(files) for files in (self._settled, self.vanished, self.new))
        return [
            (was, name)
            for was, paths in gone.items()
            for name, fresh in new.items()
            if paths == before[was] and paths <= fresh and name not in before
        ]

    @property
    def _settled(self) -> list[SourceFile]:
        """The files that are split already, or were when they vanished."""
        new = {*self.new}
        return [file for file in self.files if file.split and file not in new]

    def partitions(self) -> list[int]:
        """Every partition that exists once everything is split."""
        gone = {*self.vanished}
        return [p for file in self.files if file not in gone for p in file.partitions]


def width_of(file: SourceFile, sizes: Mapping[str | None, int]) -> int:
    """How many partitions of a file are in memory at once. `sizes`: see `sizes_of`."""
    return min(RANGE, max(1, RANGE_ROWS // sizes.get(file.source, FEWEST)))


def _paths_by_source(files: Iterable[SourceFile]) -> dict[str | None, set[str]]:
    paths: dict[str | None, set[str]] = {}
    for file in files:
        paths.setdefault(file.source, set()).add(file.path)
    return paths


class Look(NamedTuple):
    """A source file that has to be looked into. Pickles."""

    source: str | None
    path: str
    split: str  # see `SourceFile`
    is_new: bool  # whether it has to be counted
    size: int  # bytes, as far as they are known

    @property
    def name(self) -> str:
        """Of its result, see `pipelines.engine.results`."""
        return digest([*self])


Looking = Callable[[Mapping[str | None, Rows], Sequence[Look]], Iterable[int | None]]  # the rows of each file


def settle(
    stages: Iterable[Rows], settled: Iterable[SourceFile], present: Collection[int],
    sizes: Mapping[str | None, int] = MappingProxyType({}), looking: Looking | None = None,
) -> Settlement:  # fmt: skip
    """Compares the sources with what is settled, and with the partitions that are present. Writes nothing; looks only
    into files that are new or changed. `stages`: one for each source. `sizes`: see `sizes_of`. `looking`: looks into
    files; this process does if it is not given."""
    known, sizes, chosen = {file.name: file for file in settled}, {**sizes}, {**sizes}
    by_source = {stage.source_name: stage for stage in stages}
    looks, seen, present = list[Look](), set(), set(present)
    end, sources = sum(file.buckets for file in known.values()), {file.source for file in known.values()}
    for source, stage in by_source.items():
        with stage.naming_source():
            for path, stamp in stage.source.files():
                name, split = (source, path), digest([stage.identity(), stamp])
                seen.add(name)
                file = known.get(name)
                if not file or file.split != split or not present.issuperset(file.partitions):
                    looks.append(Look(source, path, split, not file, size_in(stamp)))
    counts = (looking or look_here)(by_source, looks)
    found: dict[str | None, dict[SourceFile, int | None]] = {source: {} for source in by_source}  # new: rows
    changed = []
    for look, rows in zip(looks, counts, strict=True):
        if look.is_new:
            found[look.source][SourceFile(look.path, 0, 1, look.split, look.source)] = rows
        else:
            known[look.source, look.path] = replace(known[look.source, look.path], split=look.split)
            changed.append(known[look.source, look.path])
    new = []
    for source, stage in by_source.items():
        size = getattr(stage.source.config, "rows_per_partition", None)
        if size is None:
            size = chosen.get(source, FEWEST) if source in sources else rows_per_partition(found[source].values())
            chosen[source] = size
        sizes[source] = size
        for file, rows in found[source].items():
            buckets = max(1, ceil((rows or 0) / size))
            known[file.name] = replace(file, first=end, buckets=buckets)
            end += buckets
            new.append(known[file.name])
    vanished = [file for name, file in known.items() if name not in seen and file.split]
    return Settlement(tuple(known.values()), tuple(new), tuple(changed), tuple(vanished), sizes, chosen)


def size_in(stamp: str) -> int:
    """The bytes of a file, if its stamp begins with them."""
    size, _, mark = stamp.partition("-")
    return int(size) if mark and size.isdigit() else 0


def look_here(stages: Mapping[str | None, Rows], looks: Sequence[Look]) -> Iterator[int | None]:
    """Looks into source files in this process."""
    return (rows_in(stages[look.source], look) for look in looks)


def rows_in(stage: Rows, look: Look) -> int | None:
    """The number of rows of a new file, about; None if it is one partition, or not new. Raises `UserError` if it cannot
    be read as configured."""
    with stage.naming_source(), suppress(Unreadable):
        stage.source.check(look.path)
        return stage.source.count(look.path) if look.is_new else None
    return None


def rows_per_partition(counts: Iterable[int | None]) -> int:
    """How many rows a partition of a new source has, about: it has a thousand partitions, unless these had fewer than
    FEWEST rows or more than MOST_ROWS. `counts`: the rows of its files."""
    return min(MOST_ROWS, max(FEWEST, sum(count or 0 for count in counts) // PARTITIONS))


# Reading


def keyed_rows(stage: Rows, file: SourceFile) -> Iterator[Row]:
    """The rows of a source file with the keys that their names give, which several may share."""
    for row in _source_rows(stage.source, file.path):
        row["key"] = stage.key(file.path, row.pop("names"))
        row["extra"] = json_of(row.get("extra") or {})
        yield row


def finished_rows(stage: Rows, file: SourceFile, keyed: Iterable[Row], buckets: dict[int, Any]) -> Iterator[Row]:
    """Of keyed rows those that fall into these buckets, each with a key of its own and the digest of its bytes."""
    identity, names = stage.identity(), {}
    for source_row in keyed:
        key, more = source_row["key"], source_row.pop("more", ())
        bucket = bucket_of(key, file.buckets)
        if bucket not in buckets:
            continue
        names[key] = nth = names.get(key, 0) + 1
        row: Row = dict.fromkeys(stage.schema.names) | source_row
        row |= {"host": host_of(row["url"])}
        if nth > 1:
            row["key"] = _key_in(bucket, file.buckets, key, str(nth))
            if row["reason"] is None:
                row |= {"reason": "equal_keys", "detail": f"the same name as {key}"}
        yield _finished(stage, identity, row)
        for part, image in enumerate(more, 1):
            part_row = row | {"text": None, "conversation": None, "extra": "{}", "part_of": row["key"], "part": part}
            part_row |= {"key": _key_in(bucket, file.buckets, row["key"], f"image {part}")}
            part_row |= dict.fromkeys(PLACES) | (image if isinstance(image, dict) else {"file": image})
            yield _finished(stage, identity, part_row)


def _source_rows(source: Source, path: str) -> Iterator[Row]:
    """The rows of a file; where it cannot be read any further, a last row says why."""
    try:
        yield from source.rows(path)
    except Unreadable as error:
        yield {"names": (path, "/unreadable"), "file": path, "reason": "unreadable_file", "detail": hidden(str(error))}


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
    if text.isascii():
        return text  # the same object: many rows may share a long text
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
    if row["sha256"] is not None:
        return {}  # the source had the bytes at hand
    try:
        data = source.load(row)
    except TooLarge as error:  # it has no SHA-256 then; the stage `images` decides what is too large
        return {"size": error.size}
    except FileNotFoundError:
        return {"reason": "no_image", "detail": f"{row['file']} does not exist"}
    except EOFError as error:
        return {"reason": "cut_tar", "detail": hidden(str(error))}
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in NO_FILE:
            raise  # the disk or the network failed, not the row
        return {"reason": "no_image", "detail": hidden(f"{row['file']!r} is not a file: {error}")[:1000]}
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
