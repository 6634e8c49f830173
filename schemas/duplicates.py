"""Whether an image is there already, or is one to keep out."""

from typing import TypedDict

from schemas.arrow import arrow_schema


class DuplicateRow(TypedDict):
    key: str
    of: str | None          # key of the kept row that it duplicates
    distance: int | None    # bits in which perceptual hashes differ, from that row's or an excluded one; 0: equal bytes
    reason: str | None
    detail: str | None      # of what is excluded: which file says so
    made_from: str          # the image's SHA-256, first half, and perceptual hash: while they stay, a kept row stays


DUPLICATES = arrow_schema(DuplicateRow)

REASONS = {
    "exact_duplicate": "a kept row has the same bytes",
    "near_duplicate": "a kept row has a perceptual hash at most duplicates.near bits apart",
    "benchmark_overlap": "duplicates.exclude holds these bytes, or a perceptual hash so near",
}
