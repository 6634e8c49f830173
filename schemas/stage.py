"""What other modules need to know about each stage; `schemas.stages` is the table of all stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    import pyarrow as pa

Columns = tuple[str, ...]


@dataclass(frozen=True)
class StageInfo:
    """A stage's entry in the table of stages."""

    name: str
    fields: Mapping[str, Any]  # of its rows, with their types, as a `TypedDict` has them
    reasons: Mapping[str, str]  # word -> what it means
    optional: frozenset[str] = frozenset()  # columns that files of an earlier version may lack
    reads: Mapping[str, Columns] = field(default_factory=dict)  # stage -> columns; nothing named: all stages before it
    per_image: bool = True  # whether it has a row for each row of `rows`; else it has other rows, see `named_by`
    named_by: Columns = ("key",)  # its columns with the keys of the rows that it answers
    names: frozenset[str] = frozenset()  # columns that only say what a row is about: a takedown leaves them
    samples: Mapping[str, str] = field(default_factory=dict)  # columns that it gives to the view `samples`: SQL
    computed: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # column of its own view -> (SQL, type)
    paid: bool = False  # whether it asks models: its answers are kept until their partition is made
    own: bool = False  # whether it is a user's, from [stages.NAME]

    @cached_property
    def schema(self) -> "pa.Schema":
        """The Arrow schema of its rows."""
        from schemas.arrow import schema_of  # a configuration is read without Arrow

        return schema_of(self.fields)

    @property
    def answers(self) -> str:
        """The stage whose rows it answers: each of them is named by at least one of its rows. Of `rows`: itself."""
        return next(iter(self.reads), "rows")


def stage_info(name: str, row: type, reasons: Mapping[str, str], **more) -> StageInfo:
    """The entry of a stage whose rows are a `TypedDict`; its `NotRequired` fields are optional columns."""
    return StageInfo(name, get_type_hints(row), reasons, frozenset(row.__optional_keys__), **more)
