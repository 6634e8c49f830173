"""The prompts for models, one file each; a configuration may name other files. Fingerprints include their content."""

import re
from collections.abc import Collection
from functools import cache
from importlib.resources import files

from pipelines.engine.remote import open_bytes
from pipelines.engine.root import open_url
from schemas.errors import UserError, cannot_read


@cache
def packaged(name: str) -> str:
    return files(__name__).joinpath(f"{name}.txt").read_text("utf-8").rstrip("\n")


def read_prompt(place: str, file: str | None, name: str, blanks: Collection[str]) -> str:
    """The prompt in a file, or the packaged one. Raises `UserError`, naming the place in the configuration, if the file
    cannot be read or lacks a blank."""
    if file is None:
        return packaged(name)
    try:
        with open_bytes(*open_url(file, place)) as opened:
            text = opened.read().decode("utf-8").rstrip("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{place}: {cannot_read(file, error)}") from None
    for blank in blanks:
        if f"{{{blank}}}" not in text:
            raise UserError(f"{place}: {file} lacks {{{blank}}}; add it")
    return text


def filled(prompt: str, **blanks: str) -> str:
    """A prompt with its blanks filled in; the values may hold braces."""
    names = "|".join(blanks)
    return re.sub(rf"\{{({names})\}}", lambda found: blanks[found[1]], prompt)
