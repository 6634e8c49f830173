"""Finds the files of a source, also through links.

A link is the file or the folder that it leads to. A link to a folder that contains the link itself is not followed. A
broken link, and what is neither a file nor a folder (a pipe, a device), are listed too, so that they get a reason.
"""

import os
import re
import stat
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from schemas.errors import UserError

Info = dict[str, Any]  # as fsspec lists a file: "type", "size", and what changes with it

COMPRESSED = ("gz", "zst")
OTHER_NAMES = {"tgz": "tar", "ndjson": "jsonl"}  # of suffixes
NO_DATA = {"md", "toml", "crc", "db", "ini", "lock"}  # suffixes of files without samples
NO_DATA_NAMES = re.compile(
    r"(readme|licen[cs]e|_success|_metadata|_common_metadata)\b.*|.*_stats\.json|dataset_infos?\.json|state\.json",
    re.IGNORECASE,
)
Chain = tuple[tuple[int, int], "Chain | None"]  # a folder, by device and inode, and those above it
LISTED = 100  # how often links may lead to one folder


class Unreadable(ValueError):
    """A file of a source, or the rest of it, cannot be read: a row says why. The message names the file."""


class TooLarge(ValueError):
    """A file has more bytes than may be read."""

    def __init__(self, size: int | None, limit: int) -> None:
        super().__init__(f"more than {limit} bytes" if size is None else f"{size} bytes")
        self.size = size  # None if it is not known


def suffix(name: str) -> str:
    """The suffix of a file's name in lower case, without that of a compression: `jsonl` for `a.JSONL.gz`."""
    stem, _, last = name.rpartition(".")
    if last.lower() in COMPRESSED and "." in stem.rpartition("/")[2]:
        last = stem.rpartition(".")[2]
    return OTHER_NAMES.get(last.lower(), last.lower())


def is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def is_no_data(path: str) -> bool:
    """Whether a file says something about a data set, or belongs to a tool: it is passed over."""
    return is_hidden(path) or suffix(path) in NO_DATA or bool(NO_DATA_NAMES.fullmatch(path.rpartition("/")[2]))


def stem_of(path: str) -> str:
    """A file's path without its suffix."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}"


def find(fs: fsspec.AbstractFileSystem, path: str, pattern: bool = False) -> dict[str, Info]:
    """Path -> info of the files under a folder, of one file, or of the matches of a pattern and all that is under them.

    In order of their paths. Raises `FileNotFoundError`.
    """
    if not isinstance(fs, LocalFileSystem):
        if pattern:
            infos = _listed(fs.glob(path, detail=True))
            for folder in [name for name, info in infos.items() if info["type"] == "directory"]:
                infos |= _listed(fs.find(folder, detail=True))
        else:
            infos = {path: fs.info(path)} if fs.isfile(path) else _listed(fs.find(path, detail=True))
        return {name: info for name, info in sorted(infos.items()) if info["type"] != "directory"}
    if pattern:
        return dict(sorted(_matches(path)))
    if os.path.isdir(path):
        return dict(sorted((file, info) for file, info in _walk(path) if info["type"] != "directory"))
    return {path: info_of(path)}


def _listed(infos: Any) -> dict[str, Info]:
    """What fsspec lists with details, whose types leave open whether it does."""
    return infos


def _matches(pattern: str) -> Iterator[tuple[str, Info]]:
    """The local files that match a pattern, and those under the folders that do."""
    fixed = re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]
    depth = None if "**" in pattern else pattern[len(fixed) + 1 :].count("/") + 1
    matches = re.compile(glob_translate(pattern)).match
    for path, info in _walk(fixed or "/", depth):
        if matches(path):
            yield from _walk(path) if info["type"] == "directory" else [(path, info)]


def _walk(top: str, depth: int | None = None) -> Iterator[tuple[str, Info]]:
    """All that is under a local folder, to a depth. Raises `UserError` where links lead to one folder too often."""
    top_stat = os.stat(top)
    start: Chain = (top_stat.st_dev, top_stat.st_ino), None
    folders: list[tuple[str, Chain, int]] = [(top, start, 1)]  # path, chain of the folders above it, depth
    listed: dict[tuple[int, int], int] = {}
    while folders:
        folder, above, level = folders.pop()
        listed[above[0]] = listed.get(above[0], 0) + 1
        if listed[above[0]] > LISTED:
            raise UserError(f"source.path: {folder}: links lead to this folder more than {LISTED} times; remove some")
        for name in os.listdir(folder):
            path = f"{folder.rstrip('/')}/{name}"
            info = info_of(path)
            if info["type"] == "directory":
                place = (info["device"], info["ino"])
                if info["islink"] and place in _chain(above):
                    continue
                if depth is None or level < depth:
                    folders.append((path, (place, above), level + 1))
            yield path, info


def _chain(node: Chain | None) -> Iterator[tuple[int, int]]:
    while node:
        yield node[0]
        node = node[1]


def info_of(path: str) -> Info:
    """fsspec's info on a local path; for a link, on its target. Raises `FileNotFoundError`."""
    before = os.lstat(path)
    link = stat.S_ISLNK(before.st_mode)
    try:
        there = os.stat(path) if link else before
    except OSError:  # leads nowhere, or to itself
        return {"type": "broken", "size": 0, "mtime": before.st_mtime, "islink": True}
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file"}
    kind = kinds.get(stat.S_IFMT(there.st_mode), "special")
    size = there.st_size if kind == "file" else 0
    mark = {"ino": there.st_ino, "device": there.st_dev, "mtime": there.st_mtime if kind == "file" else 0}
    return {"type": kind, "size": size, "islink": link, **mark}
