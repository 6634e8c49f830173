"""A folder of images with .txt files beside them, or of tables (Parquet, CSV, JSONL) of captions that name images."""

from collections.abc import Iterator

from pipelines.engine.commit import digest
from pipelines.sources.source import IMAGE_SUFFIXES, FileStamp, suffix
from pipelines.sources.tables import IMAGE_COLUMNS, TABLES, TEXT_COLUMNS, Tables, is_inside, text_of
from schemas.arrow import Row
from schemas.errors import UserError

ALL = "."  # the name of the one source file that a folder of images counts as
USUAL = {"image_column": IMAGE_COLUMNS, "text_column": TEXT_COLUMNS}


class Folder(Tables):
    def files(self) -> list[FileStamp]:
        tables = self.find(TABLES)
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
            self.columns(file, USUAL)

    def rows(self, file: str) -> Iterator[Row]:
        return self._images() if file == ALL else self._captions(file)

    def _images(self) -> Iterator[Row]:
        paths = [file.path for file in self.find((*IMAGE_SUFFIXES, "txt"))]
        texts = {path.rsplit(".", 1)[0]: path for path in paths if suffix(path) == "txt"}
        for path in paths:
            if suffix(path) == "txt":
                continue
            text_path = texts.get(path.rsplit(".", 1)[0])
            text = self.fs.cat_file(f"{self.base}/{text_path}").decode("utf-8", "replace") if text_path else None
            yield {"names": (path,), "file": path, "text": text}

    def _captions(self, file: str) -> Iterator[Row]:
        image, text = self.columns(file, USUAL)
        for record in self.records(file):
            path, caption = text_of(record.get(image)), text_of(record.get(text))
            extra = {name: value for name, value in record.items() if name not in (image, text)}
            row = {"names": (str(path), str(caption)), "file": path, "text": caption, "extra": extra}
            if not is_inside(path):
                row |= {"file": None, "reason": "no_image", "detail": f"{image} is {path!r}"}
            yield row


SOURCE = Folder
