"""Users' own stages: a table `[stages.NAME]` names a function that is given some columns of each row."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from schemas.config.table import Beside, Table
from schemas.stage import Columns, StageInfo

Kind = Literal["bool", "int", "float", "str", "list[int]", "list[float]", "list[str]"]
TYPES: dict[str, type] = {
    "bool": bool, "int": int, "float": float, "str": str,
    "list[int]": list[int], "list[float]": list[float], "list[str]": list[str],
}
FAILED = "failed"
FRAME = ("key", "reason", "detail", "made_from")     # columns that every stage has
# Names that the SQL of the catalog and of samples uses beside the columns of stages
RESERVED = {
    *FRAME, "partition", "filename", "document", "bytes", "target", "pictures", "picture", "place", "task", "set",
}
WORD = r"[a-z][a-z0-9_]*"
Word = Annotated[str, StringConstraints(pattern=f"^{WORD}$")]


class BesideFile(Beside):
    """Marks `file.py:function`, whose file is a path, or `package.module:function`."""

    def resolved(self, text: str, here: Path) -> str:
        file, _, function = text.rpartition(":")
        return f"{super().resolved(file, here)}:{function}" if file.endswith(".py") else text


def _is_callable(text: str) -> str:
    if not re.fullmatch(r"(.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*", text):
        raise PydanticCustomError("callable", 'write "file.py:function" or "package.module:function"')
    return text


def _is_column(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*", text):
        raise PydanticCustomError("column", 'write "stage.column", such as "images.width"')
    return text


class OwnStageConfig(Table):
    """Your own stages, each a function, by name."""

    callable: Annotated[str, AfterValidator(_is_callable), BesideFile()]    # "mine.py:function", a file beside this
                                                        # one, or "package.module:function"; called with a dict
    reads: tuple[Annotated[str, AfterValidator(_is_column)], ...] = ()      # "stage.column", of stages before it
    image: bool = False                                 # whether the dict also holds `image`: upright, RGB, by Pillow
    columns: dict[Word, Kind] = {}                      # columns of a returned dict, with their types
    reasons: tuple[Word, ...] = ()                      # texts that may be returned: the row is left out
    version: str | None = Field(default=None, min_length=1)     # raise it when the function changes; else a hash of it

    @model_validator(mode="after")
    def _is_whole(self) -> "OwnStageConfig":
        if not self.reads and not self.image:
            raise PydanticCustomError("reads", "reads nothing; name columns in reads, or set image = true")
        columns = [column.partition(".")[2] for column in self.reads]
        if twice := [column for column in columns if columns.count(column) > 1 or (self.image and column == "image")]:
            raise PydanticCustomError("twice", "reads two columns called {name}; leave one out", {"name": twice[0]})
        if reserved := sorted({*self.columns} & RESERVED):
            message = "a column cannot be called {name}; choose another name"
            raise PydanticCustomError("reserved", message, {"name": reserved[0]})
        if FAILED in self.reasons:
            raise PydanticCustomError("failed", FAILED + " is the reason of a row that raises an error; choose another")
        return self

    def wanted(self) -> dict[str, Columns]:
        """stage -> the columns that the function is given."""
        wanted: dict[str, Columns] = {}
        for name in (*self.reads, *(["images.sha256"] if self.image else [])):
            stage, _, column = name.partition(".")
            wanted[stage] = (*wanted.get(stage, ()), *([] if column in wanted.get(stage, ()) else [column]))
        return wanted


def own_info(
    name: str, columns: Mapping[str, str], reasons: Columns, reads: dict[str, Columns] | None = None
) -> StageInfo:
    """The entry of a user's stage in the table of stages.

    Its names become SQL, and a stranger's root.json has such names too: raises `ValueError` for one that a
    configuration could not have.
    """
    wrong = [word for word in (name, *columns, *reasons) if not re.fullmatch(WORD, word)]
    if wrong := [*wrong, *(RESERVED & {*columns})]:
        raise ValueError(f"{wrong[0]!r} is not a name for a stage, a column or a reason")
    own = {column: TYPES[kind] | None for column, kind in sorted(columns.items())}
    return StageInfo(
        name,
        {"key": str, **own, "reason": str | None, "detail": str | None, "made_from": str},
        {**{reason: "a reason of your own" for reason in reasons}, FAILED: "the function raised an error"},
        optional=frozenset(own), reads=reads or {}, own=True,
        samples={column: f'"{name}"."{column}"' for column in columns},
    )


def kinds_of(info: StageInfo) -> dict[str, str]:
    """column -> type of a user's stage, as in its table of the configuration."""
    words = {kind | None: word for word, kind in TYPES.items()}
    return {column: words[kind] for column, kind in info.fields.items() if column not in FRAME}
