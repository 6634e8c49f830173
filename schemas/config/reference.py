"""The reference of the configuration, as TOML: every table and key, its default, and its comment.

It is read from the classes of `schemas.config.model`, so that each key is explained in one place.
"""

import inspect
import json
import re
import textwrap
from typing import Literal, get_args, get_origin

from pydantic_core import PydanticUndefined

from schemas.config.model import GATES, NAMED, TABLES, Config, several
from schemas.config.sources import SOURCES
from schemas.config.table import Table
from schemas.errors import UserError


def reference(table: str | None = None) -> str:
    """The text of one table, or of all. Raises `UserError` for an unknown table."""
    texts = {f"source.{kind}": _text("[source]", table_type) for kind, table_type in SOURCES.items()}
    for name, table_type in TABLES.items():
        table_name, _, inner = name.partition(".")
        is_list = inner and several(TABLES[table_name].model_fields[inner])
        head = f"[{name}.NAME]" if name in NAMED else f"[[{name}]]" if is_list else f"[{name}]"
        about = (table_type.__doc__ or "").split("\n")[0].rstrip(".")
        texts[name] = _text(f"{head:<40}# {about}" if about else head, table_type)
    texts["gates"] = f"{'[gates]':<40}# {ABOUT_GATES}\n{_gates()}# enough = \"kept_share >= 0.5\"\n"
    if table is None:
        return "\n".join([_text("", Config).lstrip("\n"), *texts.values()])
    wanted = [text for name, text in texts.items() if name == table or name.startswith(f"{table}.")]
    if not wanted:
        raise UserError(f"keys: unknown table {table!r}; choose from source, {', '.join([*TABLES, 'gates'])}")
    return "\n".join(wanted)


ABOUT_GATES = (
    "SQL conditions on a run: rows, kept, kept_share, samples, samples_before, added, removed, changed, "
    "changed_share, added_share, chosen_shorter_share, empty_sets, lost_share, or any view"
)


def _gates() -> str:
    """The gates that every configuration has."""
    lines = [f"{name} = {json.dumps(condition)}" for name, condition in GATES.items()]
    return "".join(f"{line:<39} # false switches it off\n" for line in lines)


def _text(head: str, table: type[Table]) -> str:
    """The keys of a table, a line each; optional keys without a default are comments."""
    comments, lines = _comments(table), [head]
    for name, field in sorted(table.model_fields.items(), key=lambda field: field[0] not in ("kind", "engine")):
        if name in ("source", "gates") or (table is Config and name in TABLES):
            continue
        if isinstance(field.default, Table) or several(field):
            continue  # a table of its own
        if field.default is PydanticUndefined:
            listed = get_origin(field.annotation) is tuple
            line, remarks = f"{name} = " + ('["…"]' if listed else '"…"'), ["needed"]
        elif field.default is None:
            line, remarks = f"# {name} =", []
        else:
            line, remarks = f"{name} = {json.dumps(field.default, ensure_ascii=False)}", []
        if get_origin(field.annotation) is Literal and name != "kind":
            remarks.append("one of " + ", ".join(get_args(field.annotation)))
        remarks += [comments[name]] if comments.get(name) else []
        lines.append(f"{line:<39} # {'; '.join(remarks)}" if remarks else line)
    return "\n".join(lines) + "\n"


def _comments(table: type[Table]) -> dict[str, str]:
    """The comment of each field of a class and of its bases, with their continuation lines."""
    comments: dict[str, str] = {}
    last = None
    bases = [kind for kind in reversed(table.__mro__) if issubclass(kind, Table) and kind is not Table]
    texts = [inspect.getsource(kind) for kind in bases]
    for line in "".join(map(textwrap.dedent, texts)).splitlines():
        code, _, comment = line.partition("  # ") if not line.strip().startswith("#") else ("", "", line.strip("# "))
        if match := re.match(r" {4}(\w+): ", code):
            last = match[1]
            comments[last] = comment.strip()
        elif last and not code.strip() and comment:
            comments[last] += f" {comment.strip()}"
        else:
            last = None
    return comments
