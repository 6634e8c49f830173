"""The reference of the configuration, as TOML: every table and key, its default, and the comment that stands at it.

Read from the classes of `schemas.config.model` themselves, so that there is one place where a key is explained.
"""

import inspect
import json
import re
import textwrap
from typing import Literal, get_args, get_origin

from pydantic_core import PydanticUndefined

from schemas.config.model import NAMED, TABLES, Config
from schemas.config.sources import SOURCES
from schemas.config.table import Table
from schemas.errors import UserError


def reference(table: str | None = None) -> str:
    """The text of one table, or of all. Raises `UserError` for one that there is not."""
    texts = {f"source.{kind}": _text("[source]", one) for kind, one in SOURCES.items()}
    for name, one in TABLES.items():
        head = f"[{name}.NAME]" if name in NAMED else f"[{name}]"
        about = (one.__doc__ or "").split("\n")[0].rstrip(".")
        texts[name] = _text(f"{head:<40}# {about}" if about else head, one)
    texts["gates"] = f"{'[gates]':<40}# {_comments(Config)['gates']}\n# enough = \"kept_share >= 0.5\"\n"
    if table is None:
        return "\n".join([_text("", Config).lstrip("\n"), *texts.values()])
    wanted = [text for name, text in texts.items() if name == table or name.startswith(f"{table}.")]
    if not wanted:
        raise UserError(f"keys: no table {table!r}; there are source, {', '.join([*TABLES, 'gates'])}")
    return "\n".join(wanted)


def _text(head: str, one: type[Table]) -> str:
    """The keys of a table, a line each; those that have no default, and may be left out, as comments."""
    comments, lines = _comments(one), [head]
    for name, field in one.model_fields.items():
        if name in ("source", "gates") or (one is Config and name in TABLES) or isinstance(field.default, Table):
            continue  # a table of its own
        if field.default is PydanticUndefined:
            several = get_origin(field.annotation) is tuple
            line, said = f"{name} = " + ('["…"]' if several else '"…"'), ["needed"]
        elif field.default is None:
            line, said = f"# {name} =", []
        else:
            line, said = f"{name} = {json.dumps(field.default, ensure_ascii=False)}", []
        if get_origin(field.annotation) is Literal and name != "kind":
            said.append("one of " + ", ".join(get_args(field.annotation)))
        said += [comments[name]] if comments.get(name) else []
        lines.append(f"{line:<39} # {'; '.join(said)}" if said else line)
    return "\n".join(lines) + "\n"


def _comments(one: type[Table]) -> dict[str, str]:
    """The comment at each field of a class, with the lines that go on with it."""
    found: dict[str, str] = {}
    last = None
    for line in textwrap.dedent(inspect.getsource(one)).splitlines():
        code, _, comment = line.partition("  # ") if not line.strip().startswith("#") else ("", "", line.strip("# "))
        if match := re.match(r" {4}(\w+): ", code):
            last = match[1]
            found[last] = comment.strip()
        elif last and not code.strip() and comment:
            found[last] += f" {comment.strip()}"
        else:
            last = None
    return found
