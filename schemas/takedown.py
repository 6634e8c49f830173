"""The list of what was taken down: `takedown.parquet` under the root. It has no image and no text of it.

A URL is in it twice if its normal form differs: as it was written, and as the downloader requests it.
"""

from typing import TypedDict


class TakedownRow(TypedDict):
    kind: str               # key, url, host, image, release
    value: str              # of a URL its SHA-256, of an image the SHA-256 of its SHA-256 in hex, else as it is


REASON = "taken_down"
MEANING = "removed by `shardmill takedown`: nothing of it is kept"
