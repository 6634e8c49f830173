"""What was taken down, in `takedown.parquet` under the root. It does not reveal what was shown or told.

A URL is in it twice if its normal form differs: as it was written, and as the downloader requests it.
"""

from typing import TypedDict


class TakedownRow(TypedDict):
    kind: str               # key, url, host, image, release
    value: str              # of a URL its SHA-256, of an image the SHA-256 of its SHA-256 in hex, else as it is


REASON = "taken_down"
MEANING = "its owner, or somebody who is shown or named, had it taken down: nothing of it is kept"
