"""What was taken down, in `takedown.parquet` under the root. Nothing in it says what was shown or told."""

from typing import TypedDict

from schemas.arrow import arrow_schema


class TakenRow(TypedDict):
    kind: str               # key, url, host, image, release
    value: str              # of a URL its SHA-256, and that of its normal form, of an image the SHA-256 of its SHA-256 in hex, else as it is


TAKEN = arrow_schema(TakenRow)

REASON = "taken_down"
MEANING = "its owner, or somebody who is shown or named, had it taken down: nothing of it is kept"
