"""The error that a user can fix, and how a program answers it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.printable import printable_line


class UserError(Exception):
    """Something that a user can fix. The message is one line that names the place and the fix."""


def one_line(error: Exception) -> str:
    """An error as a line; one of a file begins with its name."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def cannot_read(path: str | Path, error: Exception) -> str:
    """A line about a file that the user named and that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return f"{path}: does not exist"
    if isinstance(error, IsADirectoryError):
        return f"{path}: is a folder; name a file"
    why = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return f"{path}: cannot be read: {why}"


@contextmanager
def answered(*more: type[Exception]) -> Iterator[None]:
    """Ends the program with exit code 2 and one printable line for a `UserError`, or an error of `more` types."""
    try:
        yield
    except (UserError, *more) as error:
        print(printable_line(one_line(error)), file=sys.stderr)
        sys.exit(2)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Adds this file's name to errors of the system without one, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def not_toml(path: str | Path, error: ValueError) -> str:
    """The message for a file that is not valid TOML."""
    hint = "; a text needs quotes, and true and false lower case" if "Invalid value" in str(error) else ""
    return f"{path}: not valid TOML: {error}{hint}"
