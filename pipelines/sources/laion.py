"""LAION-style Parquet: each row has a URL, its alt text, and other columns (similarity, punsafe, WIDTH, …).

The other columns become `extra`, for conditions such as `extra.similarity::double > 0.3`. Where a column names local
files, the bytes come from them. Columns `sha256`, `md5` or `hash`, as img2dataset and DataComp have them, are checksums
of the bytes; LAION-2B's `hash` is not: it is 64 bits of a hash of URL and text.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.sources.cells import BadCell, named, text_of
from pipelines.sources.source import FileStamp
from pipelines.sources.tables import IMAGE_COLUMNS, TEXT_COLUMNS, URL_COLUMNS, Tables, Usual, rest
from schemas.arrow import Row
from schemas.config.sources import LaionConfig
from schemas.errors import UserError

USUAL = {"url_column": URL_COLUMNS, "text_column": TEXT_COLUMNS}
LOCAL = {"image_column": IMAGE_COLUMNS}
CHECKSUMS = {64: "sha256", 32: "md5"}  # by their number of hex digits


class Laion(Tables[LaionConfig]):
    def files(self) -> list[FileStamp]:
        files = self.find(("parquet",))
        if not files:
            raise self.nothing(".parquet")
        if self.config.images and not self.config.image_column:
            raise UserError("source.image_column: missing; name the column whose files are under source.images")
        self.check_images()
        return files

    @property
    def usual(self) -> Usual:
        return USUAL | (LOCAL if self.config.image_column else {})

    def rows_of(self, record: Row, file: str, columns: list[str]) -> Iterator[Row]:
        url_column, text_column, *image_columns = columns
        row: Row = {"extra": rest(record, url_column, text_column)}
        row["checksum"] = checksum(row["extra"])
        try:
            row["url"] = text_of(record.get(column := url_column))
            path = text_of(record.get(column := image_columns[0])) if image_columns else None
            if path:
                row["file"] = self.resolve(path, file)
            elif not row["url"]:
                row |= {"reason": "no_image", "detail": f"{(image_columns or [url_column])[0]} is {row['url']!r}"}
        except BadCell as error:
            row |= {"reason": "bad_text", "detail": f"{file}: {column} {error}"}
        except ValueError as error:
            row |= {"reason": "no_image", "detail": f"{column} {error}"}
        names = (named(record.get(url_column)),)
        yield from self.captioned(row, names, record.get(text_column), file, text_column)


def checksum(record: Mapping[str, Any]) -> str | None:
    """The SHA-256 or MD5 of the bytes according to a record, as kind:digits; None if no value has such a length."""
    values = {str(name).lower(): str(value).lower() for name, value in record.items()}
    for name in ("sha256", "md5", "hash"):
        value = values.get(name, "")
        kind = CHECKSUMS.get(len(value))
        if kind and name in (kind, "hash") and re.fullmatch("[0-9a-f]+", value):
            return f"{kind}:{value}"
    return None


SOURCE = Laion
