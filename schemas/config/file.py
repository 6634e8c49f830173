"""Reads the file of a configuration, makes its paths absolute, and reports the first mistake in one line."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas.checked import read_toml
from schemas.config.model import NAMED, TABLES, Config
from schemas.config.sources import SOURCES, ScenesConfig
from schemas.config.table import Beside, Table
from schemas.errors import UserError, not_toml
from schemas.selection import OF_OCR

INSTEAD = {  # what to write, by pydantic's type of error
    "tuple_type": 'write a list: ["…"]',
    "list_type": 'write a list: ["…"]',
    "string_type": "write a text, in quotes",
    "int_type": "write a whole number",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "float_type": "write a number",
    "float_parsing": "write a number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "string_too_short": "write at least one character",
    "string_pattern_mismatch": "write small letters, digits and _, a letter first",
}
AnyTable = TypeVar("AnyTable", bound=Table)
NO_TABLE = ("dict_type", "model_type", "model_attributes_type")


def read_config(path: str | Path) -> Config:
    """The configuration in a TOML file; paths in it are relative to the file's folder.

    Raises `UserError`, one line that names the file, the field and the fix.
    """
    path = Path(path)
    given: dict[str, Any] = {}
    try:
        given = read_toml(path)
        config = Config.model_validate(given)
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist; `shardmill init {quote(str(path))}` writes one") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name a configuration, a TOML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {_one_line(error, given)}") from None
    except ValueError as error:
        raise UserError(not_toml(path, error)) from None
    if wrong := _lacks(config):
        raise UserError(f"{path}: {wrong}")
    config = _models_beside(path.resolve().parent, _beside(path.resolve().parent, config))
    for source in config.source:
        below = getattr(source, "path", None)
        if below and f"{config.root}/".startswith(below.split("**")[0].rstrip("/") + "/"):
            place = f"{place_of(source.name)}.path"
            raise UserError(f"{path}: root: lies in {place} and would be read as a source; choose another folder")
    return config


def place_of(source: str | None) -> str:
    """Where in the file a source is: `source`, or `source.NAME` for one with a name."""
    return f"source.{source}" if source else "source"


def _lacks(config: Config) -> str | None:
    """A message about the first setting that needs another one which is missing."""
    if wrong := _ambiguous(config):
        return wrong
    if config.verdicts and not config.responses:
        return "verdicts: needs the table [responses]; add it, or remove [verdicts]"
    if wrong := _cannot_align(config):
        return wrong
    only_scenes = all(isinstance(source, ScenesConfig) for source in config.source)
    if config.responses and not config.instructions.questions and only_scenes:
        return "instructions.questions: missing; [responses] needs questions, and scenes bring none"
    reading = [(name, settings.task) for name, settings in config.sets.items() if settings.task in OF_OCR]
    if reading and not config.ocr:
        return "sets.{}: the task {!r} needs the table [ocr]; add it".format(*reading[0])
    return None


def _cannot_align(config: Config) -> str | None:
    """A message about the first setting without which no round could be made."""
    align = config.align
    if align is None:
        return None
    if config.responses is None or config.responses.endpoint is None:
        return "align: needs a policy; add the table [responses] with its endpoint"
    if align.share * align.rounds > 1 + 1e-9:
        most = f"{1 / align.rounds:.3g}"
        return f"align.share: {align.rounds} rounds need more than all images; write at most {most}"
    if "://" in align.checkpoints:
        return "align.checkpoints: write a folder of this machine: models are served and trained from it"
    policy = config.endpoints.get(config.responses.endpoint)
    if policy and policy.url and not align.policy_command:
        place = f"endpoints.{config.responses.endpoint}"
        return f"align.policy_command: missing; it makes the servers of {place} serve {{policy}}"
    return None


def _ambiguous(config: Config) -> str | None:
    """A message about the first wrong name of a source."""
    names = [source.name for source in config.source]
    for number, name in enumerate(names, 1):
        if name in names[: number - 1]:
            if name is None:
                return f"source.{number}.name: missing; only one of several sources, the oldest, may go without a name"
            return f"source.{number}.name: {name!r} is the name of another source; choose another name"
    return None


def _beside(here: Path, table: AnyTable) -> AnyTable:
    """A table with its relative local paths made absolute, also those of inner tables; URLs do not change."""
    changed = {}
    for name, field in type(table).model_fields.items():
        value, mark = getattr(table, name), _mark_of(field.annotation, field.metadata)
        if isinstance(value, Table):
            changed[name] = _beside(here, value)
        elif isinstance(value, dict) and any(isinstance(inner, Table) for inner in value.values()):
            changed[name] = {key: _beside(here, inner) for key, inner in value.items()}
        elif isinstance(value, tuple) and any(isinstance(inner, Table) for inner in value):
            changed[name] = tuple(_beside(here, inner) for inner in value)
        elif mark and isinstance(value, str):
            changed[name] = mark.resolved(value, here)
        elif mark and isinstance(value, tuple):
            changed[name] = tuple(mark.resolved(place, here) for place in value)
    return table.model_copy(update=changed)


def _mark_of(annotation: Any, metadata: Iterable[Any]) -> Beside | None:
    """The mark of a field that holds a path or paths."""
    marks = (mark for mark in metadata if isinstance(mark, Beside))
    within = (_mark_of(inner, getattr(inner, "__metadata__", ())) for inner in get_args(annotation))
    return next(marks, None) or next((mark for mark in within if mark), None)


def _models_beside(here: Path, config: Config) -> Config:
    """A configuration, its relative paths of local checkpoints made absolute."""
    models = {
        name: endpoint.model_copy(update={"model": Beside().resolved(endpoint.model, here)})
        for name, endpoint in config.endpoints.items()
        if ("/" in endpoint.model or endpoint.model.endswith(".gguf"))
        and (here / Path(endpoint.model).expanduser()).exists()
    }
    return config.model_copy(update={"endpoints": config.endpoints | models})


def first_of(error: ValidationError) -> ErrorDetails:
    """The error to tell of: the first, or a misspelt key beside a key that is missing."""
    errors = error.errors()
    first = errors[0]
    if first["type"] == "missing":
        *table, lacking = first["loc"]
        beside = [other for other in errors if other["type"] == "extra_forbidden" and [*other["loc"][:-1]] == table]
        near = (other for other in beside if difflib.get_close_matches(str(other["loc"][-1]), [str(lacking)]))
        return next(near, first)
    return first


def unknown(key: str, known: Iterable[str]) -> str:
    """What to say of a key that is not known, with the one that may be meant."""
    near = difflib.get_close_matches(key, known := sorted(known), n=1)
    return f"unknown; did you mean `{near[0]}`?" if near else f"unknown; known here: {', '.join(known)}"


def _one_line(error: ValidationError, given: dict[str, Any]) -> str:
    """The first of pydantic's errors, in one line. `given`: the content of the file."""
    first = first_of(error)
    loc, kind = [*first["loc"]], None
    where = ".".join(map(str, loc))
    if loc[0] == "source" and len(loc) > 1:  # pydantic names the number of the source, its kind, and then its field
        kind, fields = (str(loc[2]), loc[3:]) if len(loc) > 2 else (None, [])
        where = ".".join([_source_in(given["source"], int(loc[1])), *map(str, fields)])
        loc = ["source", *fields]
    if first["type"] == "extra_forbidden":
        return f"{where}: {unknown(str(loc[-1]), _fields(loc[:-1], kind))}"
    if first["type"] == "missing":
        if where == "root":
            return 'root: missing; add it above the first [table]: root = "my-corpus"'
        if where == "source":
            return 'source: missing; add the table [source] with its kind, such as kind = "folder", and its path'
        if kind and loc[-1] == "path":
            return f'{where}: missing; add path = "…", a file, a folder or a pattern with *'
        return f"{where}: missing; add it (`shardmill keys {loc[0]}` explains it)"
    if first["type"] == "union_tag_not_found":
        return f"{where}.kind: missing; add one of {', '.join(SOURCES)}"
    if first["type"] == "union_tag_invalid":
        return f"{where}.kind: unknown source {first.get('ctx', {})['tag']!r}; choose from {', '.join(SOURCES)}"
    if loc[-1] == "[key]":
        return f"{'.'.join(map(str, loc[:-1]))}: name it with small letters, digits and _"
    instead = INSTEAD.get(first["type"], first["msg"][0].lower() + first["msg"][1:])
    if first["type"] == "literal_error":
        instead = f"write {first.get('ctx', {})['expected']}"
    message = f"{where}: {instead}"
    if first["type"] in NO_TABLE or loc == ["source"]:
        table = f"{loc[0]}.NAME" if loc[0] in NAMED else "[source]" if where.startswith("source.") else where
        message = f"{where}: write a table, [{table}]"
    if first["type"] in ("env", "url", "door") or isinstance(first["input"], dict):  # what was typed there may be a key
        return message
    return f"{message}, not {str(first['input'])[:80]!r}"


def _source_in(given: Any, number: int) -> str:
    """The place of one of the sources in a file: by its name, or by its number from 1 on."""
    if not isinstance(given, list) or len(given) == 1:
        return "source"
    name = given[number].get("name") if isinstance(given[number], dict) else None
    return f"source.{name if isinstance(name, str) else number + 1}"


def _fields(loc: Sequence[Any], kind: str | None) -> list[str]:
    """The fields that are known at a place in the file."""
    if kind:
        return sorted(SOURCES[kind].model_fields)
    loc = [part for part in loc if isinstance(part, str)]  # without places in lists
    return sorted((TABLES.get(".".join(loc)) or TABLES[loc[0]] if loc else Config).model_fields)
