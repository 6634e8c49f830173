"""A row is declared once, as a `TypedDict`; its Arrow schema is derived here, and rows are checked against it."""

import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
from typing_extensions import is_typeddict  # also of those that pydantic takes

Row = dict[str, Any]


class WithoutPandas:
    """Keeps pyarrow from importing pandas when it makes its first array: that takes a second and serves nothing."""

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, *error: object) -> None:
        sys.meta_path.remove(self)

    def find_spec(self, name: str, *where: object) -> None:
        if name == "pandas":
            raise ImportError(name)


with WithoutPandas():
    pa.array([])

SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary()}


def arrow_field(name: str, hint: Any) -> pa.Field:
    """The Arrow field of one annotated name; `X | None` is nullable, all else is not."""
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = (arg for arg in get_args(hint) if arg is not type(None))
        return arrow_field(name, inner).with_nullable(True)
    if get_origin(hint) is list:
        element = arrow_field("element", get_args(hint)[0])
        return pa.field(name, pa.list_(element), nullable=False)
    if is_typeddict(hint):
        return pa.field(name, pa.struct(list(arrow_schema(hint))), nullable=False)
    return pa.field(name, SCALARS[hint], nullable=False)


def arrow_schema(row_type: type) -> pa.Schema:
    """The Arrow schema of a `TypedDict`, its fields in the order of declaration."""
    return schema_of(get_type_hints(row_type))


def schema_of(fields: Mapping[str, Any]) -> pa.Schema:
    """The Arrow schema of names and their types."""
    return pa.schema([arrow_field(name, hint) for name, hint in fields.items()])


def to_table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Rows as a table of exactly `schema`.

    Arrow drops unknown names and silently fills missing ones with null, so both are refused here.
    Raises `TypeError` naming the first row and field that do not fit: such a row is a bug of its stage.
    """
    names = set(schema.names)
    for row in rows:
        if row.keys() != names:
            raise TypeError(f"row {row.get('key')!r} has the wrong fields: {sorted(row.keys() ^ names)}")
        for field in schema:
            if not field.nullable and row[field.name] is None:
                raise TypeError(f"row {row.get('key')!r} has no {field.name}")
    return pa.Table.from_pylist(list(rows), schema=schema)
