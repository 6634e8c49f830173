"""A folder of images with .txt beside them, or of captions in Parquet, CSV or JSONL that name images under it."""

from collections.abc import Iterator
from math import ceil

import duckdb

from pipelines.commit import digest
from pipelines.sources.source import IMAGE_SUFFIXES, Source, SourceFile, suffix
from schemas.arrow import Row
from schemas.config import UserError

READERS = {
    "parquet": "read_parquet(?)",
    "csv": "read_csv(?, header = true, all_varchar = true)",
    "jsonl": "read_json(?, format = 'newline_delimited')",
}
IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "path")
TEXT_COLUMNS = ("text", "caption", "TEXT")
ALL = "."  # the name of a folder of images as a source file


class Folder(Source):
    def files(self) -> list[SourceFile]:
        tables = self.find(tuple(READERS))
        if tables:
            return tables
        images = self.find((*IMAGE_SUFFIXES, "txt"))
        if not any(suffix(file.path) in IMAGE_SUFFIXES for file in images):
            raise UserError(f"source.path: no images and no caption tables under {self.config.path}")
        return [SourceFile(ALL, digest(images))]

    def buckets(self, file: str) -> int:
        if file == ALL:
            count = len(self.find(IMAGE_SUFFIXES))
        else:
            (count,) = self._query(file, "select count(*) from {table}").fetchone()
        return max(1, ceil(count / self.config.rows_per_partition))

    def rows(self, file: str) -> Iterator[Row]:
        return self._images() if file == ALL else self._captions(file)

    def _images(self) -> Iterator[Row]:
        paths = [file.path for file in self.find((*IMAGE_SUFFIXES, "txt"))]
        texts = {path.rsplit(".", 1)[0]: path for path in paths if suffix(path) == "txt"}
        for path in paths:
            if suffix(path) == "txt":
                continue
            beside = texts.get(path.rsplit(".", 1)[0])
            text = self.fs.cat_file(f"{self.base}/{beside}").decode("utf-8", "replace") if beside else None
            yield {"names": (path,), "file": path, "text": text}

    def _captions(self, file: str) -> Iterator[Row]:
        reader = self._query(file, "select * from {table}").to_arrow_reader(10_000)
        image = self._column(file, reader.schema.names, "image_column", IMAGE_COLUMNS)
        text = self._column(file, reader.schema.names, "text_column", TEXT_COLUMNS)
        for batch in reader:
            for record in batch.to_pylist():
                path, caption = record.pop(image), record.pop(text)
                row = {"names": (str(path), str(caption)), "file": path, "text": caption, "extra": record}
                if not path or str(path).startswith("/") or ".." in str(path).split("/"):
                    row |= {"file": None, "reason": "no_image", "detail": f"{image} is {path!r}"}
                yield row | {"text": None if caption is None else str(caption)}

    def _column(self, file: str, there: list[str], field: str, usual: tuple[str, ...]) -> str:
        """The column that the configuration names, or else the first of its usual names that is there."""
        named = getattr(self.config, field)
        for name in (named,) if named else usual:
            if name in there:
                return name
        wanted = f"no column {named!r}" if named else f"none of the columns {', '.join(usual)}"
        raise UserError(f"source.{field}: {file} has {wanted}; it has {', '.join(there)}")

    def _query(self, file: str, sql: str) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(config={"threads": 1})
        path = f"{self.base}/{file}"
        if self.fs.protocol not in ("file", ("file", "local")):
            connection.register_filesystem(self.fs)
            path = self.fs.unstrip_protocol(path)
        try:
            return connection.execute(sql.format(table=READERS[suffix(file)]), [path])
        except duckdb.Error as error:
            raise UserError(f"source.path: {file} cannot be read: {str(error).splitlines()[0]}") from None
