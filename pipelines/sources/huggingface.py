"""Data sets of the Hugging Face Hub: Parquet with images in it, or the Arrow files of `Dataset.save_to_disk`.

A file is one partition, and is read once, in its order. See `pipelines.sources.embedded` for what its columns are.
"""

from collections.abc import Iterator

from pipelines.sources.embedded import Layout
from pipelines.sources.source import FileStamp
from pipelines.sources.tables import Tables
from schemas.arrow import Row
from schemas.config.sources import HuggingfaceConfig
from schemas.errors import UserError


class Huggingface(Tables[HuggingfaceConfig]):
    def files(self) -> list[FileStamp]:
        found = self.find(("parquet", "arrow"))
        files = [file for file in found if not file.path.rpartition("/")[2].startswith(("cache-", "tmp"))]
        if not files:
            raise self.nothing(".parquet and no .arrow")
        self.check_images()
        return files

    def layout(self, file: str) -> Layout:
        layout = super().layout(file)
        if layout is None:
            columns = ", ".join(self._names(file))
            raise UserError(
                f"source.image_column: {file} has no column of images; it has {columns}. For URLs write "
                'kind = "laion", for paths of files kind = "folder"'
            )
        return layout

    def rows_of(self, record: Row, file: str, columns: list[str]) -> Iterator[Row]:
        raise NotImplementedError  # all of its tables hold images


SOURCE = Huggingface
