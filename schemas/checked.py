"""What a stranger may have written: JSON is checked against its declared types, and only regular files are opened.

A type says what is read: `Count` and `FileName` below, `TypedDict`s and dataclasses of them. Whoever reads JSON of a
corpus reads it by `plain_json` and `checked`, so that everything behind that can rely on the types.
"""

import errno
import json
import os
import re
import stat
import time
import tomllib
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

NAME = re.compile(r"[^/\\\x00-\x1f]{1,255}")  # of a file or folder
TOML = 16 << 20  # bytes of a file
LEVELS = 50  # of JSON
TOO_LARGE = "a whole number has at most 64 bits"
PIPE = 10.0  # seconds in which a pipe has to be written
PIECE = 8 << 20  # bytes of a remote file that are asked for at once

T = TypeVar("T")


def is_name(name: object) -> bool:
    """Whether this is a plain name of one file or folder, which leads nowhere else."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None and name not in (".", "..")


def _file_name(name: str) -> str:
    if not is_name(name):
        raise ValueError("is not the name of a file beside this one")
    return name


Whole = Annotated[int, Field(strict=True, gt=-1 << 53, lt=1 << 53)]
Count = Annotated[Whole, Field(ge=0)]  # of rows, bytes, …
FileName = Annotated[str, AfterValidator(_file_name)]


def plain_json(data: bytes | str) -> Any:
    """What JSON says. Raises `ValueError` for what not every reader reads alike: a name twice in one object, NaN,
    numbers without bound, halves of surrogate pairs, more than `LEVELS` levels."""
    try:
        value = json.loads(data, object_pairs_hook=_once, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError(f"has more than {LEVELS} levels") from None
    if too_deep(value):
        raise ValueError(f"has more than {LEVELS} levels")
    return value


def read_given(path: str | os.PathLike, most: int) -> bytes:
    """All bytes of a file that the user named, or of a pipe, such as `<(command)` of a shell.

    Raises `OSError`, also for a name that no file has and for a pipe that is not written to its end in time, and
    `ValueError` for more than `most` bytes.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "no file has the character NUL in its name", str(path))
    if stat.S_ISFIFO(os.stat(path).st_mode):
        data = _piped(path, most + 1)
    else:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"has more than {most:,} bytes")
    return data


def _piped(path: str | os.PathLike, most: int) -> bytes:
    """What comes through a pipe until its writers close it, or its first `most` bytes."""
    descriptor, data, until = os.open(path, os.O_RDONLY | os.O_NONBLOCK), bytearray(), time.monotonic() + PIPE
    try:
        while time.monotonic() < until:
            try:
                piece = os.read(descriptor, most - len(data))
            except BlockingIOError:  # there is a writer, which has not written more yet
                piece = None
            data += piece or b""
            if len(data) >= most or (data and piece == b""):
                return bytes(data)
            if not piece:
                time.sleep(0.02)
    finally:
        os.close(descriptor)
    raise OSError(errno.ETIMEDOUT, f"is a pipe, and was not written to its end within {PIPE:g} seconds", str(path))


def read_toml(path: str | os.PathLike) -> dict[str, Any]:
    """What a TOML file, or a pipe, says. Raises `OSError`, also for a name that no file has, and `ValueError` for more
    than `TOML` bytes or `LEVELS` levels, and for what is not TOML of version 1.0, such as whole numbers of more than 64
    bits."""
    text = read_given(path, TOML).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"has more than {LEVELS} levels") from None
    except ValueError as error:
        if isinstance(error, tomllib.TOMLDecodeError):
            raise
        raise ValueError(TOO_LARGE) from None  # of more digits than Python reads
    if too_deep(value):
        raise ValueError(f"has more than {LEVELS} levels")
    if name := _too_large(value):
        raise ValueError(f"{name}: {TOO_LARGE}")
    return value


def _too_large(value: Any) -> str | None:
    """The key of a whole number that has more than 64 bits; None if there is none."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value, 1):
            if (place := _too_large(inner)) is not None:
                return f"{name}.{place}" if place else str(name)
        return None
    return "" if isinstance(value, int) and not -1 << 63 <= value < 1 << 64 else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"has {next(name for name in names if names.count(name) > 1)!r:.100} twice")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def too_deep(value: Any) -> bool:
    """Whether a value of JSON has more than `LEVELS` levels."""
    level = [value]
    for _ in range(LEVELS):
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
        if not level:
            return False
    return True


@cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def checked(kind: type[T], value: Any) -> T:
    """A value of JSON as a `TypedDict` or dataclass. Raises `ValueError` that names the field that does not fit."""
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:200]
        wrong = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {wrong}" if where else wrong) from None


def open_file(path: str | os.PathLike) -> int:
    """A descriptor of a file, for reading. Raises `ValueError` unless it is a regular file: a pipe never
    ends, and `OSError` if it cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.ELOOP):  # a socket, a link to itself
            raise
    else:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise ValueError(f"{path}: is not a file; remove it")


def bytes_at(descriptor: int, start: int, size: int) -> bytes:
    """`size` bytes of a file from `start`, or fewer if it has no more; no memory is taken for what it has not."""
    there = max(0, min(size, os.fstat(descriptor).st_size - start)) if start >= 0 else 0
    return os.pread(descriptor, there, start) if there else b""


def read_file(path: str | os.PathLike, most: int) -> bytes:
    """A whole file. Raises `ValueError` for anything but a regular file, and for one of more than `most` bytes."""
    with open(open_file(path), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path}: has more than {most:,} bytes")
    return data


def read_remote(fs: Any, path: str, most: int) -> bytes:
    """A whole file of an fsspec filesystem, or its first `most` bytes, however many its server sends. Raises
    `OSError`."""
    if "http" not in fs.protocol:
        end = most if (fs.info(path)["size"] or 0) > most else None  # S3 refuses a range of an empty file
        return fs.cat_file(path, end=end)
    data = bytearray()
    with fs.open(path, "rb", block_size=0) as file:  # as it comes: what the server says of its size may be a lie
        while piece := file.read(min(most - len(data), PIECE)):
            data += piece
    return bytes(data)
