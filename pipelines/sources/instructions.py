"""Questions about images, in JSON lines or Parquet: RLAIF-V's input, {"image_path", "question", "ds_question_id", …}.

There is one row per image, with all of its questions in the order of the file: `extra` has {"instructions": [records]}.
"""

from collections.abc import Iterator
from typing import Any

from pipelines.sources.cells import BadCell, named, text_of
from pipelines.sources.embedded import Layout
from pipelines.sources.lines import Lost
from pipelines.sources.source import FileStamp
from pipelines.sources.tables import Tables, rest
from schemas.arrow import Row
from schemas.config.sources import InstructionFilesConfig
from schemas.errors import UserError

NAMES = ("ds_question_id", "question_id", "id", "idx")  # columns that name a question


class Instructions(Tables[InstructionFilesConfig]):
    usual = {
        "image_column": ("image_path", "image", "img_path", "file_name", "path"),
        "question_column": ("question", "instruction", "prompt", "text"),
    }

    def files(self) -> list[FileStamp]:
        files = self.find(("jsonl", "parquet"))
        if not files:
            raise self.nothing(".jsonl and no .parquet")
        self.check_images()
        return files

    def layout(self, file: str) -> Layout | None:
        """The layout of a table that holds its images; it must ask something."""
        layout = super().layout(file)
        if layout:
            layout = layout._replace(columns={**layout.columns, "answer_column": None, "conversations_column": None})
            if layout.task() not in ("pair", "question"):
                columns = ", ".join(self._names(file))
                raise UserError(f"source.question_column: {file} has no column of questions; it has {columns}")
        return layout

    def rows(self, file: str) -> Iterator[Row]:
        if self.layout(file):
            yield from super().rows(file)
            return
        image, question = self.columns(file, self.usual)
        questions_by_path: dict[tuple[str | None, str], list[Row]] = {}
        for number, record in enumerate(self.records(file)):
            if isinstance(record, Lost):
                yield self.lost(record, file, number)
                continue
            row: Row = {"names": (named(record.get(image))[:1000], named(record.get(question)))}
            row["extra"] = {"instructions": [rest(record)]}
            try:
                path = text_of(record.get(column := image))
                asked = _read(record, image, column := question)
                place = self.resolve(path, file)
            except BadCell as error:
                yield row | {"reason": "bad_text", "detail": f"{file}: {column} {error}"}
            except ValueError as error:
                yield row | {"reason": "no_image", "detail": f"{image} {error}"}
            else:
                questions_by_path.setdefault((path, place), []).append(asked)
        for (path, place), questions in questions_by_path.items():
            yield {"names": (path,), "file": place, "extra": {"instructions": questions}}


def _read(record: Row, image: str, question: str) -> dict[str, Any]:
    """One instruction: its question, its name, and in `extra` the other fields of its record. Raises `BadCell`."""
    name = next((name for name in NAMES if record.get(name) is not None), None)
    extra = rest(record, image, question, *([name] if name else []))
    instruction = {"question": text_of(record.get(question)), "name": text_of(record.get(name)) if name else None}
    return instruction | ({"extra": extra} if extra else {})


SOURCE = Instructions
