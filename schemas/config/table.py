"""What all tables of the configuration share: their base class, paths, and which settings a fingerprint holds."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints
from pydantic_core import PydanticCustomError

# The fields of version 0.1, which a fingerprint holds even at their defaults. A field that came later is held only
# where it is set to something else, so that a new one makes nothing anew: add none here.
FIRST_FIELDS = {
    "FolderConfig": "kind path image_column text_column rows_per_partition",
    "WebDatasetConfig": "kind path",
    "LaionConfig": "kind path url_column text_column image_column images rows_per_partition",
    "ConversationsConfig": "kind path images rows_per_partition",
    "InstructionFilesConfig": "kind path images image_column question_column rows_per_partition",
    "ScenesConfig": (
        "kind count seed side noise planted questions quiz fonts objects grounds printed codes lines "
        "print_height letters rows_per_partition"
    ),
    "ImagesConfig": "min_side max_bytes max_pixels max_aspect_ratio",
    "FetchConfig": (
        "contact in_flight per_host connect_seconds read_seconds deadline tries honour_robots_tag robots_txt "
        "opt_out check_hash allow_hosts"
    ),
    "DuplicatesConfig": "near exclude",
    "OcrConfig": "engine easyocr min_confidence good_confidence good_length good_share",
    "SetConfig": "where task weight seed samples_per_shard",
    "InstructionsConfig": "questions per_image where weight seed",
    "PairsConfig": "per_instruction seed min_margin length_balance",
    "CaptionsConfig": "endpoint rewrite image prompt temperature max_tokens min_words max_words",
    "ResponsesConfig": "endpoint draws temperature top_p max_tokens seed",
    "ClaimsConfig": "endpoint facts_prompt questions_prompt temperature top_p max_tokens seed",
    "VerdictsConfig": "labelers prompt",
}


FIRST_DEFAULTS = {"rows_per_partition": 1000}  # of fields of version 0.1 that have no default any more


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # built when first asked to check

    def recorded(self, exclude: Collection[str] = (), include: Collection[str] | None = None) -> dict[str, Any]:
        """The settings of this table that a fingerprint holds: all fields of version 0.1, and later fields that are not
        at their defaults."""
        first, values = FIRST_FIELDS.get(type(self).__name__, "").split(), self.model_dump()
        kept = {}
        for name, field in type(self).model_fields.items():
            if name in exclude or (include is not None and name not in include):
                continue
            value = getattr(self, name)
            if name in first or value != field.get_default(call_default_factory=True):
                plain = value.recorded() if isinstance(value, Table) else _in_json(values[name])
                kept[name] = FIRST_DEFAULTS.get(name) if plain is None else plain
        return kept


def _in_json(value: Any) -> Any:
    """A setting as JSON can hold it: `inf` as a text."""
    if isinstance(value, dict):
        return {name: _in_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_in_json, value))
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Beside:
    """Marks a text that is a path: a relative one starts at the folder of the configuration's file."""

    def resolved(self, text: str, here: Path) -> str:
        return text if "://" in text else str(here / Path(text).expanduser())


def _is_place(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("place", "write a path without the character NUL")
    try:
        Path(text).expanduser()
    except RuntimeError:
        raise PydanticCustomError("place", "begins with ~ and an unknown user name; write the folder") from None
    return text


Place = Annotated[str, StringConstraints(min_length=1), AfterValidator(_is_place)]
Location = Annotated[Place, Beside()]  # a path, or any fsspec URL
