"""A configuration's file: read, its paths made absolute, and answered in one line when something in it is wrong."""

import difflib
import tomllib
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import ValidationError

from schemas.config.model import NAMED, SOURCES, TABLES, Config, ScenesConfig, SourceConfig
from schemas.errors import UserError

INSTEAD = {  # what to write, by the end of pydantic's name for what is wrong
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
}
NO_TABLE = ("dict_type", "model_type", "model_attributes_type")


def read_config(path: str | Path) -> Config:
    """The configuration in a TOML file; paths in it are relative to the file's folder.

    Raises `UserError`, one line that names the file, the field and the fix.
    """
    path = Path(path)
    try:
        config = Config.model_validate(tomllib.loads(path.read_text("utf-8-sig")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `shardmill init {quote(str(path))}` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {_one_line(error)}") from None
    if wrong := _lacks(config):
        raise UserError(f"{path}: {wrong}")
    here = path.resolve().parent
    source, root = _source_beside(here, config.source), _beside(here, config.root)
    below = getattr(source, "path", None)
    if below and f"{root}/".startswith(below.split("**")[0].rstrip("/") + "/"):
        raise UserError(f"{path}: root: lies in source.path and would be read as a source; choose another folder")
    ocr = config.ocr
    if ocr:
        models = _beside(here, ocr.easyocr.models)
        ocr = ocr.model_copy(update={"easyocr": ocr.easyocr.model_copy(update={"models": models})})
    duplicates = config.duplicates
    if duplicates:
        exclude = tuple(_beside(here, place) for place in duplicates.exclude)
        duplicates = duplicates.model_copy(update={"exclude": exclude})
    fetch = config.fetch
    if fetch:
        fetch = fetch.model_copy(update={"opt_out": tuple(_beside(here, file) for file in fetch.opt_out)})
    config = _models_beside(here, config)
    return config.model_copy(
        update={"root": root, "source": source, "fetch": fetch, "duplicates": duplicates, "ocr": ocr}
    )


def _lacks(config: Config) -> str | None:
    """The first setting that comes to nothing without another."""
    if config.verdicts and not config.responses:
        return "verdicts: there is nothing to judge without the table [responses]; add it, or leave [verdicts] out"
    if config.responses and not config.instructions.questions and isinstance(config.source, ScenesConfig):
        return "instructions.questions: missing; scenes ask none themselves, and [responses] would be to nothing"
    read = [name for name, one in config.sets.items() if one.task == "ocr" and not config.ocr]
    return f"sets.{read[0]}: no text is read without the table [ocr]; add it" if read else None


def _models_beside(here: Path, config: Config) -> Config:
    """A configuration, its relative paths of prompts and local checkpoints made absolute."""
    tables = {}
    for name in ("captions", "claims", "verdicts"):
        table = getattr(config, name)
        paths = [field for field in table.model_fields_set if field.endswith("prompt")] if table else []
        if paths:
            tables[name] = table.model_copy(update={field: _beside(here, getattr(table, field)) for field in paths})
    models = {
        name: one.model_copy(update={"model": _beside(here, one.model)})
        for name, one in config.endpoints.items()
        if ("/" in one.model or one.model.endswith(".gguf")) and (here / Path(one.model).expanduser()).exists()
    }
    return config.model_copy(update=tables | {"endpoints": config.endpoints | models})


def _source_beside(here: Path, source: SourceConfig) -> SourceConfig:
    """A source, its relative paths made absolute."""
    places = {name: _beside(here, getattr(source, name, None)) for name in ("path", "images")}
    if isinstance(source, ScenesConfig):
        places["fonts"] = tuple(_beside(here, font) for font in source.fonts)
    return source.model_copy(update={name: place for name, place in places.items() if place})


def _beside(here: Path, path: str | None) -> str | None:
    """A relative local path, made absolute; a URL as it is."""
    if path is None or "://" in path:
        return path
    return str(here / Path(path).expanduser())


def _one_line(error: ValidationError) -> str:
    """The first of pydantic's complaints, in one line."""
    first = error.errors()[0]
    loc, kind = first["loc"], None
    if loc[0] == "source" and len(loc) > 1:  # pydantic names the kind between the table and its field
        kind, loc = loc[1], (loc[0], *loc[2:])
    where = ".".join(map(str, loc))
    if first["type"] == "extra_forbidden":
        known = _fields(loc[:-1], kind)
        near = difflib.get_close_matches(str(loc[-1]), known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
        return f"{where}: unknown; {hint}"
    if first["type"] == "missing":
        if where == "root":
            return 'root: missing; add it above the first [table]: root = "my-corpus"'
        return f"{where}: missing; " + (f"name the {kind} to read" if kind else "add it")
    if first["type"] == "union_tag_not_found":
        return f"{where}.kind: missing; add one of {', '.join(SOURCES)}"
    if first["type"] == "union_tag_invalid":
        return f"{where}.kind: no source {first['ctx']['tag']!r}; there are {', '.join(SOURCES)}"
    if loc[-1] == "[key]":
        return f"{'.'.join(map(str, loc[:-1]))}: name it with small letters, digits and _"
    said = f"{where}: {INSTEAD.get(first['type'], first['msg'][0].lower() + first['msg'][1:])}"
    if first["type"] in NO_TABLE:
        said = f"{where}: write a table, [{f'{loc[0]}.NAME' if loc[0] in NAMED else where}]"
    if first["type"] in ("env", "url", "door"):  # what was typed there may be a key
        return said
    return f"{said}, not {str(first['input'])[:80]!r}"


def _fields(loc: tuple[Any, ...], kind: str | None) -> list[str]:
    """The fields that are known at a place in the file."""
    if kind:
        return sorted(SOURCES[kind].model_fields)
    return sorted((TABLES.get(".".join(map(str, loc))) or TABLES[loc[0]] if loc else Config).model_fields)
