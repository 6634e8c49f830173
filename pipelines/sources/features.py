"""Features of columns, as `datasets` notes them in a table's schema: which are images, and the names of classes."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from schemas.checked import too_deep

CLASS = "ClassLabel"
LISTS = ("List", "LargeList", "Sequence")  # kinds of features that hold another one; older versions wrote [feature]


def features_of(schema: pa.Schema | None) -> Mapping[str, Any]:
    """Column -> its feature; none where the schema does not tell."""
    if schema is None:
        return {}
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (AttributeError, KeyError, ValueError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) and not too_deep(features) else {}


def classes_of(schema: pa.Schema | None) -> Mapping[str, Any]:
    """Column -> its feature, of columns that hold classes, be it in lists or objects."""
    return {name: feature for name, feature in features_of(schema).items() if _holds_classes(feature)}


def is_class(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == CLASS and isinstance(feature.get("names"), list)


def class_names(value: Any, feature: Any) -> Any:
    """A cell in which each class is its name. -1, and a number that no class has, become null."""
    if is_class(feature):
        if not isinstance(value, int):
            return value
        return feature["names"][value] if 0 <= value < len(feature["names"]) else None
    inner = _inner(feature)
    if isinstance(value, list) and inner is not None:
        return [class_names(one, inner) for one in value]
    if isinstance(value, dict) and isinstance(inner, dict) and not isinstance(inner.get("_type"), str):
        return {name: [class_names(one, inner.get(name)) for one in column] if isinstance(column, list) else column
                for name, column in value.items()}  # a sequence of objects is an object of lists  # fmt: skip
    if isinstance(value, dict) and isinstance(feature, dict):
        return {name: class_names(one, feature.get(name)) for name, one in value.items()}
    return value


def _inner(feature: Any) -> Any:
    """The feature of a list's elements."""
    if isinstance(feature, list):
        return feature[0] if feature else None
    return feature.get("feature") if isinstance(feature, dict) and feature.get("_type") in LISTS else None


def _holds_classes(feature: Any) -> bool:
    if is_class(feature):
        return True
    inside = feature.values() if isinstance(feature, dict) else feature if isinstance(feature, list) else ()
    return any(_holds_classes(one) for one in inside)
