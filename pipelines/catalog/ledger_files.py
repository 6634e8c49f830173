"""The files of the ledger's views, of all runs. A file that is cut off is left out: it was damaged after it was
written, and no run or question depends on it."""

import glob
import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatch

from pipelines.engine.ledger import SCHEMAS, check_note
from pipelines.engine.parquet import Corrupt, read_table
from pipelines.engine.root import Root
from schemas.checked import bytes_at, open_file
from schemas.views import LEDGER, Files

PATTERNS = ("run", "work-*", "changes-*", "fetches-*", "calls-*", "releases", "distributions", "comparisons")
MAGIC = b"PAR1"  # how a Parquet file begins and ends
LEAST = 12  # bytes of a Parquet file: the magic number twice, and the length of its footer


def ledger_files(root: Root) -> dict[str, Files | None]:
    """The files of each view of the ledger; None for a view without files."""
    whole, cut = _listed(root)
    by_view: dict[str, Files | None] = {}
    for view, pattern in zip(LEDGER, PATTERNS, strict=True):
        names = [name for name in whole if _is(name, pattern)]
        if any(_is(name, pattern) for name in cut):
            paths = [glob.escape(root.url_of(name)) for name in names]
        else:
            paths = f"{glob.escape(root.url_of('runs'))}/*/{pattern}.parquet"
        by_view[view] = Files(paths) if names else None
    return by_view


def left_out(root: Root) -> list[str]:
    """Notes on the files of a local root that the views leave out."""
    if not root.is_local:  # a file is stored whole or not at all; to list all runs takes many requests
        return []
    return [f"{name}: is cut off; the views of the ledger leave it out; remove it" for name in _listed(root)[1]]


def check_ledger(root: Root) -> Iterator[str]:
    """Reads every file of the ledger, and yields what is wrong."""
    for run in root.folders("runs"):
        for file in root.files(f"runs/{run}"):
            stem, _, kind = file.rpartition(".")
            if kind == "parquet" and (schema := SCHEMAS.get(stem.partition("-")[0])):
                yield from _problem(lambda: read_table(root, f"runs/{run}/{file}", schema), "remove it")
        for stage in root.folders(f"runs/{run}"):
            for file in root.files(f"runs/{run}/{stage}"):
                yield from _problem(lambda: check_note(root, f"runs/{run}/{stage}/{file}"), "the next run drops it")


def _problem(read: Callable[[], object], fix: str) -> Iterator[str]:
    try:
        read()
    except Corrupt as error:
        yield f"{error}; {fix}"
    except FileNotFoundError:
        pass  # a run that goes on has removed it


def _is(name: str, pattern: str) -> bool:
    return fnmatch(name.rpartition("/")[2], f"{pattern}.parquet")


def _listed(root: Root) -> tuple[list[str], list[str]]:
    """The Parquet files of the ledger that are whole, and those that are cut off."""
    whole, cut = list[str](), list[str]()
    for run in root.folders("runs"):
        folder = root.path(f"runs/{run}/")
        for file, entry in root.files(f"runs/{run}").items():
            if any(_is(file, pattern) for pattern in PATTERNS):
                is_cut = root.is_local and not _has_end(folder + file, entry.size)
                (cut if is_cut else whole).append(f"runs/{run}/{file}")
    return whole, cut


def _has_end(path: str, size: int) -> bool:
    """Whether a local file ends as a Parquet file does, with a footer that fits into it."""
    try:
        descriptor = open_file(path)
    except (FileNotFoundError, ValueError):
        return False
    try:
        end = bytes_at(descriptor, size - 8, 8)
    finally:
        os.close(descriptor)
    return end[4:] == MAGIC and int.from_bytes(end[:4], "little") + LEAST <= size
