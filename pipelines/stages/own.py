"""Users' own stages: a function in a file or a package is called with some columns of each row.

A file's text travels with the stage, so that workers on other machines need no copy of it; it can import whatever is
installed there, and nothing that lies beside it.
"""

import hashlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL.Image import Image

from pipelines.engine.partition_stage import PartitionStage, Rejected
from pipelines.engine.payload import read_payload
from pipelines.engine.root import Root
from pipelines.stages.rows import unicode
from schemas.arrow import Row
from schemas.errors import UserError
from schemas.own_stages import FAILED, OwnStageConfig, kinds_of
from schemas.pictures import open_image, upright
from schemas.stage import StageInfo

PYTHON = {"bool": bool, "int": int, "float": float, "str": str}


@dataclass(frozen=True)
class CallFunction(PartitionStage):
    """Calls a function with each row. If it returns a dict, that becomes the row; if it returns a text, the row is left
    out with that reason; if it raises an error, the row is left out as `failed`."""

    info: StageInfo
    config: OwnStageConfig
    text: str | None  # of the function's file; None for a function of a package
    version_of_text: str  # what the configuration says, or the hash of the file

    retryable = frozenset({FAILED})

    @property
    def finds(self) -> dict[str, tuple[str, ...]]:
        return {"images": ("byte_offset", "size")} if self.config.image else {}

    def settings(self) -> dict[str, Any]:
        """The function's name and version, what it is given, what it may return. Where its file lies does not count."""
        file, _, function = self.config.callable.rpartition(":")
        name = function if self.text is not None else f"{file}:{function}"
        return self.config.recorded(exclude={"callable", "version"}) | {
            "function": name, "version": self.version_of_text,
        }  # fmt: skip

    def make(self, rows: Iterable[dict[str, Any]], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        function = self._function()
        for row in rows:
            yield row[self.answers]["key"], self._called(function, row, root)

    def _called(self, function: Callable[[Row], Any], row: dict[str, Any], root: Root) -> Row | Rejected:
        given = {column: row[stage][column] for stage, _, column in (name.partition(".") for name in self.config.reads)}
        data = _bytes(row["images"], root) if self.config.image else None  # a failure here is not the function's
        try:
            if self.config.image:
                given["image"] = _pixels(data) if data else None
            return self._row_of(function(given))
        except (Exception, SystemExit) as error:  # an error in a user's function fails only its row
            return Rejected(FAILED, unicode(f"{type(error).__name__}: {error}"[:1000]))

    def _row_of(self, answer: Any) -> Row | Rejected:
        """The row that an answer makes. Raises `TypeError` or `ValueError` for one that was not declared."""
        if isinstance(answer, str):
            if answer not in self.config.reasons:
                raise ValueError(f"returned {answer[:80]!r}, which is not one of its reasons")
            return Rejected(answer)
        if not isinstance(answer, dict):
            raise TypeError(f"returned {type(answer).__name__}; return a dict, or one of its reasons")
        kinds = kinds_of(self.info)
        if answer.keys() != kinds.keys():
            wrong = sorted(map(str, answer.keys() ^ kinds.keys()))
            raise ValueError(f"returned the columns {sorted(map(str, answer))}, which differ in {wrong} from its own")
        return {column: _value(column, answer[column], kind) for column, kind in kinds.items()}

    def _function(self) -> Callable[[Row], Any]:
        file, _, name = self.config.callable.rpartition(":")
        module = import_module(file) if self.text is None else _module(file, self.text)
        return getattr(module, name)


def _value(column: str, value: Any, kind: str) -> Any:
    """A value as its column holds it. Raises `TypeError` if it is of another type; numpy's numbers are numbers."""
    if value is None:
        return None
    if kind.startswith("list["):
        if type(value).__module__ == "numpy":
            value = value.tolist()
        if not isinstance(value, list | tuple):
            raise TypeError(f"{column} is {type(value).__name__}, not {kind}")
        if any(inner is None for inner in value):
            raise ValueError(f"{column} holds None, which a {kind} cannot")
        return [_value(column, inner, kind[5:-1]) for inner in value]
    if type(value).__module__ == "numpy":
        value = value.item()
    if kind == "float" and type(value) is int:
        value = float(value)
    if type(value) is not PYTHON[kind]:
        raise TypeError(f"{column} is {type(value).__name__}, not {kind}")
    if kind == "float" and not math.isfinite(value):
        raise ValueError(f"{column} is {value}; return None for a missing number")
    if kind == "int" and not -(2**63) <= value < 2**63:
        raise ValueError(f"{column} is {value}, which 64 bits do not hold")
    return unicode(value) if kind == "str" else value


def _bytes(row: Row, root: Root) -> bytes | None:
    """The bytes of a row's image; None for a conversation without one. Raises `Corrupt`."""
    return None if row["size"] is None else read_payload(root, "images", row)


def _pixels(data: bytes) -> Image:
    """An image's bytes as upright RGB."""
    with open_image(data) as image:
        return upright(image)


@lru_cache(maxsize=16)
def _module(file: str, text: str) -> ModuleType:
    """A file as a module, imported once per process."""
    name = f"shardmill_own_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    module = sys.modules[name] = ModuleType(name)  # where dataclasses and others look for it
    module.__file__ = file
    exec(compile(text, file, "exec"), module.__dict__)
    return module


def open_own(info: StageInfo, config: OwnStageConfig) -> CallFunction:
    """The stage of a table `[stages.NAME]`. Raises `UserError` for a function that does not exist."""
    place = f"stages.{info.name}.callable"
    file, _, name = config.callable.rpartition(":")
    try:
        text = Path(file).read_text("utf-8") if file.endswith(".py") else None
        module = import_module(file) if text is None else _module(file, text)
    except FileNotFoundError:
        raise UserError(f"{place}: {file} does not exist") from None
    except (Exception, SystemExit) as error:  # importing the file can raise anything
        raise UserError(f"{place}: {file} cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(getattr(module, name, None)):
        raise UserError(f"{place}: {file} has no function {name!r}")
    return CallFunction(info, config, text, config.version or _hash(file, text))


def _hash(module: str, text: str | None) -> str:
    """16 hex digits of the SHA-256 of a function's file, or of its module's file."""
    if text is None:
        origin = getattr(find_spec(module), "origin", None)
        text = Path(origin).read_text("utf-8") if origin and origin.endswith(".py") else module
    return hashlib.sha256(text.encode()).hexdigest()[:16]
