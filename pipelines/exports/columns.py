"""Columns of exported tables, each with one type, for Arrow, `datasets` and the dataset card."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from schemas.arrow import Row

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
IMAGES = pa.list_(IMAGE)
TURNS = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
PARTS = pa.list_(pa.struct([pa.field("type", pa.string()), pa.field("text", pa.string())]))
TURNS_OF_PARTS = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", PARTS)]))
LINES = pa.list_(
    pa.struct(
        [pa.field("text", pa.string()), pa.field("confidence", pa.float64()), pa.field("box", pa.list_(pa.float64()))]
    )
)


class Column(NamedTuple):
    name: str
    kind: pa.DataType
    meaning: str


def schema(columns: Sequence[Column]) -> pa.Schema:
    """An Arrow schema whose metadata tells `datasets` the features of columns, so that it decodes images."""
    features = {column.name: feature(column.kind) for column in columns}
    fields = [pa.field(column.name, column.kind) for column in columns]
    return pa.schema(fields).with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def feature(kind: pa.DataType) -> Any:
    """A type as a feature of `datasets`, in the notation that all of its versions know."""
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: feature(field.type) for field in kind}
    return {"dtype": _name(kind), "_type": "Value"}


def card_feature(name: str, kind: pa.DataType) -> Row:
    """A column as an entry of `dataset_info.features` in the YAML of a dataset card."""
    if pa.types.is_list(kind):
        return {"name": name, "list": _inside(kind.value_type)}
    inside = _inside(kind)
    return {"name": name, "struct" if isinstance(inside, list) else "dtype": inside}


def _inside(kind: pa.DataType) -> Any:
    if kind == IMAGE:
        return "image"
    if pa.types.is_list(kind):
        return {"list": _inside(kind.value_type)}
    if pa.types.is_struct(kind):
        return [card_feature(field.name, field.type) for field in kind]
    return _name(kind)


def _name(kind: pa.DataType) -> str:
    return "float64" if kind == pa.float64() else str(kind)
