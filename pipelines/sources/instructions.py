"""Questions about images, in JSON lines or Parquet: RLAIF-V's input, {"image_path", "question", "ds_question_id", …}.

There is one row per image, with all of its questions in the order of the file: `extra` has {"instructions": [records]}.
"""

from collections.abc import Iterator
from typing import Any

from pipelines.sources.source import FileStamp
from pipelines.sources.tables import Tables, is_inside, text_of
from schemas.arrow import Row
from schemas.errors import UserError

USUAL = {
    "image_column": ("image_path", "image", "img_path", "file_name", "path"),
    "question_column": ("question", "instruction", "prompt", "text"),
}
NAMES = ("ds_question_id", "question_id", "id", "idx")  # columns that name a question


class Instructions(Tables):
    def files(self) -> list[FileStamp]:
        files = self.find(("jsonl", "parquet"))
        if not files:
            raise UserError(f"source.path: no .jsonl and no .parquet under {self.config.path}")
        self.check_images()
        return files

    def check(self, file: str) -> None:
        self.columns(file, USUAL)

    def rows(self, file: str) -> Iterator[Row]:
        image, question = self.columns(file, USUAL)
        questions_by_path: dict[str, list[Row]] = {}
        for record in self.records(file):
            path = record.get(image)
            if isinstance(path, str) and is_inside(path):
                questions_by_path.setdefault(path, []).append(_read(record, image, question))
            else:
                row = {"names": (str(path)[:1000], str(record.get(question))), "reason": "no_image"}
                yield row | {"detail": f"{image} is {str(path)[:200]!r}", "extra": {"instructions": [record]}}
        for path, questions in questions_by_path.items():
            yield {"names": (path,), "file": path, "extra": {"instructions": questions}}


def _read(record: Row, image: str, question: str) -> dict[str, Any]:
    """One instruction: its question, its name, and in `extra` the other fields of its record."""
    name = next((name for name in NAMES if record.get(name) is not None), None)
    extra = {key: value for key, value in record.items() if key not in (image, question, name)}
    instruction = {"question": text_of(record.get(question)), "name": text_of(record.get(name)) if name else None}
    return instruction | ({"extra": extra} if extra else {})


SOURCE = Instructions
