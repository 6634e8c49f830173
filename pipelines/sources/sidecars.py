"""Reads the text and the JSON beside an image, in a folder or a tar."""

from typing import Any

from pipelines.sources.cells import BadCell, text_of
from pipelines.sources.lines import BOMS
from pipelines.sources.source import Overfull, object_of
from schemas.arrow import Row
from schemas.config.sources import FolderConfig, WebDatasetConfig
from schemas.texts import is_wide, wide


def described(text: bytes | None, said: bytes | None, config: FolderConfig | WebDatasetConfig, name: str) -> Row:
    """The columns `url`, `text` and `extra`, and a reason if the caption cannot be read.

    `text`, `said`: the bytes of the text and of the JSON; `name`: what details call them.
    """
    extra = _said(said.decode("utf-8-sig", "replace")) if said is not None else {}
    url = extra.get("url")
    row: Row = {"url": url if isinstance(url, str) else None, "text": None, "extra": extra}
    try:
        row["text"] = _caption(text, extra, config)
    except BadCell as error:
        row |= {"reason": "bad_text", "detail": f"{name}: {error}"}
    return row


def _said(text: str) -> dict[str, Any]:
    try:
        return object_of(text)
    except Overfull:
        return {"json": text}


def _caption(text: bytes | None, extra: dict[str, Any], config: FolderConfig | WebDatasetConfig) -> str | None:
    """The field of the JSON that `source.text_field` names, if the JSON has it, else the text. Raises `BadCell`."""
    if config.text_field and extra.get(config.text_field) is not None:
        try:
            return text_of(extra[config.text_field])
        except BadCell as error:
            raise BadCell(f"its {config.text_field} {error}") from None
    return None if text is None else decoded(text, config.encoding)


def decoded(data: bytes, encoding: str | None) -> str:
    """A text in UTF-8, in what its byte order mark says, or in a given encoding. Raises `BadCell`."""
    marked = next((name for bom, name in BOMS if data.startswith(bom)), None)
    hint = "" if marked or encoding else "; write source.encoding if it is in another"
    try:
        text = data.decode(marked or encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise BadCell(f"is not {marked or encoding or 'UTF-8'} at byte {error.start}{hint}") from None
    if is_wide(text):
        raise BadCell(f"{wide(text)}{hint}")
    return text
