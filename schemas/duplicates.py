"""Whether an image duplicates an earlier one, or is to be kept out of the corpus."""

from typing import Literal, Self, TypedDict

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.config.table import Location, Table
from schemas.stage import stage_info


class DuplicateRow(TypedDict):
    key: str
    of: str | None          # key of the kept row that it duplicates
    distance: int | None    # bits in which 64-bit hashes differ, from that row's or an excluded one; 0: equal bytes
    reason: str | None
    detail: str | None      # of what is excluded: which file says so
    made_from: str          # the image's SHA-256, first half, and perceptual hash: while they stay, a kept row stays


REASONS = {
    "exact_duplicate": "a kept row has the same bytes",
    "near_duplicate": "a kept row has a perceptual hash at most duplicates.near bits apart, and a near phash256; "
                      "with duplicates.compare = \"pixels\": the same picture, but for compression, size or edges",
    "benchmark_overlap": "duplicates.exclude has these bytes, or a perceptual hash at most duplicates.near bits apart",
}


class DuplicatesConfig(Table):
    """Leaves out duplicates. Without this table, duplicates stay."""

    near: int = Field(default=3, ge=-1, le=8)           # bits in which 64-bit hashes may differ; -1: equal bytes
    compare: Literal["hashes", "pixels"] = "hashes"     # what tells copies; see docs/how-it-works.md
    exclude: tuple[Location, ...] = ()                  # images to keep out: folders of images, or lists of hashes

    @model_validator(mode="after")
    def _has_proposals(self) -> Self:
        if self.compare == "pixels" and self.near < 0:
            message = 'compare = "pixels" needs near = 0 or more, which finds what to compare'
            raise PydanticCustomError("near", message)
        return self


STAGE = stage_info(
    "duplicates", DuplicateRow, REASONS,
    reads={"images": ("key", "sha256", "phash", "phash256"), "rows": ("conversation", "part_of")},
    samples={"duplicate_of": "duplicates.of"},
)
