"""What a source says about a sample, split once into partitions."""

from typing import TypedDict

from schemas import takedown
from schemas.stage import stage_info


class SourceRow(TypedDict):
    key: str                # 16 hex digits of the SHA-256 of what names the sample in its source
    url: str | None         # where a source of URLs says the image is
    host: str | None        # of the URL, in lower case
    text: str | None        # the alt text or caption, as it came
    conversation: str | None     # JSON: {"turns": [{"role", "content"}], "images": [its marks for them, in order]}
    part_of: str | None     # key of the row whose conversation shows this image too
    part: int | None        # which of its images this is; the row of the conversation holds number 0
    file: str | None        # the file that holds the bytes, relative to the source; None for URLs
    member: str | None      # the name inside that file, if it is an archive
    byte_offset: int | None      # where in the file the bytes begin
    size: int | None        # how many bytes there are
    sha256: str | None      # of the bytes, where the source has them at hand
    checksum: str | None    # of the bytes, as the source says: `sha256:` or `md5:` and hex digits
    extra: str              # whatever else the source says, as one JSON object
    reason: str | None      # why the row goes no further; None when all is well
    detail: str | None      # what exactly went wrong, for a person
    made_from: str          # hash of what this row alone was made from


REASONS = {
    "equal_keys": "an earlier row of this file has the same key",
    "no_image": "the row names no image, or one that does not exist",
    "several_images": "a sample brings more than one image, but what is read of it is said of one",
    "bad_conversation": "the turns are not what the format asks for, or name other images than the row",
    "bad_text": "a cell is not text: bytes of another encoding, a list, an object, or too long; the detail names it",
    "wrong_fields": "a line of CSV has more or fewer fields than the first line, or a quote that is not closed",
    "damaged": "a row group of a table cannot be read from here on; the detail names the row and the column",
    "cut_tar": "the archive ends inside this member, or cannot be read from here on",
    "unreadable_file": "the file is damaged, a broken link, or not a regular file; rows before the damage are read",
    "not_read": "not an image, text or table of a supported kind",
    "sparse": "the member is sparse (`tar --sparse`): the archive does not store its holes",
    "broken_link": "the member is a link to a file that is not in the archive",
    "text_too_long": "the text or JSON of an image has more than 16 MiB",
    "interleaved": "the members of this sample are not next to each other in the archive",
    "unsafe_name": "the name leads out of the archive's folder, or is not UTF-8",
    takedown.REASON: takedown.MEANING,
}


STAGE = stage_info(
    "rows", SourceRow, REASONS, names=frozenset({"host", "part_of", "part"}),
    samples={
        "url": "rows.url", "host": "rows.host", "text": "rows.text", "conversation": "rows.conversation",
        "part_of": "rows.part_of", "part": "rows.part", "extra": "rows.extra::JSON", "source": "rows.source",
    },
)
