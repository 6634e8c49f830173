"""A folder of images with .txt files beside them, or of tables (Parquet, CSV, JSONL) of captions that name images."""

from collections.abc import Iterator

from pipelines.engine.commit import digest
from pipelines.sources.cells import BadCell, named, text_of
from pipelines.sources.source import IMAGE_SUFFIXES, FileStamp, suffix
from pipelines.sources.tables import IMAGE_COLUMNS, TABLES, TEXT_COLUMNS, Tables, rest
from schemas.arrow import Row
from schemas.errors import UserError

ALL = "."  # the name of the one source file that a folder of images counts as


class Folder(Tables):
    usual = {"image_column": IMAGE_COLUMNS, "text_column": TEXT_COLUMNS}

    def files(self) -> list[FileStamp]:
        is_named = self.base != self._path  # a .json in a folder may be anything
        tables = self.find((*TABLES, "json") if is_named else TABLES)
        if tables:
            return tables
        images = self.find((*IMAGE_SUFFIXES, "txt"))
        if not any(suffix(file.path) in IMAGE_SUFFIXES for file in images):
            raise UserError(f"source.path: no images and no caption tables under {self.config.path}")
        return [FileStamp(ALL, digest(images))]

    def count(self, file: str) -> int:
        return len(self.find(IMAGE_SUFFIXES)) if file == ALL else super().count(file)

    def check(self, file: str) -> None:
        if file != ALL:
            super().check(file)

    def rows(self, file: str) -> Iterator[Row]:
        return self._images() if file == ALL else super().rows(file)

    def _images(self) -> Iterator[Row]:
        paths = [file.path for file in self.find((*IMAGE_SUFFIXES, "txt"))]
        texts = {path.rsplit(".", 1)[0]: path for path in paths if suffix(path) == "txt"}
        for path in paths:
            if suffix(path) == "txt":
                continue
            text_path = texts.get(path.rsplit(".", 1)[0])
            text = self.fs.cat_file(f"{self.base}/{text_path}").decode("utf-8", "replace") if text_path else None
            yield {"names": (path,), "file": path, "text": text}

    def rows_of(self, record: Row, file: str, columns: list[str]) -> Iterator[Row]:
        image, text = columns
        row = {"extra": rest(record, image, text)}
        names = (named(record.get(image)),)
        try:
            row["file"] = self.resolve(text_of(record.get(image)), file)
        except BadCell as error:
            row |= {"reason": "bad_text", "detail": f"{file}: {image} {error}"}
        except ValueError as error:
            row |= {"reason": "no_image", "detail": f"{image} {error}"}
        yield from self.captioned(row, names, record.get(text), file, text)


SOURCE = Folder
