"""The table [source], or several [[source]]: a class for each kind."""

from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from schemas.config.table import Location, Table
from schemas.scenes.scene import Kinds


def _is_encoding(name: str) -> str:
    try:
        "".encode(name)
    except LookupError:
        raise PydanticCustomError("encoding", "unknown encoding; write one of Python's, such as latin-1") from None
    return name


Captions = Literal["first", "longest", "random", "all"]
Encoding = Annotated[str, AfterValidator(_is_encoding)]
Delimiter = Literal[",", ";", "\t", "|"]
Rows = Annotated[int, Field(ge=1)]
Objects = Annotated[int, Field(ge=1, le=9)]
Print = Annotated[float, Field(ge=0.05, le=0.3)]
GroundColour = Literal["white", "beige", "gray", "black"]  # of schemas.scenes.scene.GROUNDS
SourceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class SourceTable(Table):
    """The base of all kinds."""

    kind: str
    name: SourceName | None = None          # needed if there are several [[source]]; part of the rows' keys


class FilesTable(SourceTable):
    """The base of all kinds that read files."""

    path: Location


class FolderConfig(FilesTable):
    kind: Literal["folder"] = "folder"
    path: Location                          # folder, file, or glob of caption tables
    image_column: str | None = None         # of caption tables; default: a column with a usual name
    text_column: str | None = None          # of caption tables; default: a column with a usual name
    images: Location | None = None          # folder of the paths in tables; default: that of the table
    text_field: str | None = None           # field of an image's JSON with the caption; default: the .txt
    captions: Captions | None = None        # which of a list of captions; random: by hash(seed, key)
    seed: int = 0                           # of captions = "random"
    encoding: Encoding | None = None        # of CSV, TSV and JSON; default: UTF-8, or UTF-16 by its mark
    delimiter: Delimiter | None = None      # between the columns of CSV; default: a comma, in .tsv a tab
    rows_per_partition: Rows | None = None  # about; default: rows of the source / 1000, from 1000 to 10000


class WebDatasetConfig(FilesTable):
    kind: Literal["webdataset"] = "webdataset"
    path: Location                          # folder, file, or glob of tars
    text_field: str | None = None           # field of a sample's JSON with the caption; default: the .txt
    encoding: Encoding | None = None        # of texts; default: UTF-8, or UTF-16 by its mark


class LaionConfig(FilesTable):
    kind: Literal["laion"] = "laion"
    path: Location                          # folder, file, or glob of Parquet
    url_column: str | None = None           # default: a column with a usual name
    text_column: str | None = None          # default: a column with a usual name
    captions: Captions | None = None        # which of a list of captions; random: by hash(seed, key)
    seed: int = 0                           # of captions = "random"
    image_column: str | None = None         # column with paths of images that are already on this machine
    images: Location | None = None          # folder of these paths; default: that of the Parquet file
    rows_per_partition: Rows | None = None  # about; default: rows of the source / 1000, from 1000 to 10000


class ConversationsConfig(FilesTable):
    kind: Literal["conversations"] = "conversations"
    path: Location                          # folder, file, or glob of JSON, MiniCPM-V's fine-tune format
    images: Location | None = None          # folder of the image paths; default: that of the JSON file
    encoding: Encoding | None = None        # of JSON; UTF-8, or UTF-16 by its mark, if not given
    rows_per_partition: Rows | None = None  # about; default: rows of the source / 1000, from 1000 to 10000


class InstructionFilesConfig(FilesTable):
    kind: Literal["instructions"] = "instructions"
    path: Location                          # folder, file, or glob of JSON lines or Parquet: an image, a question
    images: Location | None = None          # folder of the image paths; default: that of the files
    image_column: str | None = None         # default: a column with a usual name
    question_column: str | None = None      # default: a column with a usual name
    encoding: Encoding | None = None        # of JSON; UTF-8, or UTF-16 by its mark, if not given
    rows_per_partition: Rows | None = None  # about; default: rows of the source / 1000, from 1000 to 10000


class HuggingfaceConfig(FilesTable):
    kind: Literal["huggingface"] = "huggingface"
    path: Location                          # folder, file, or glob of Parquet or Arrow files that hold images
    images: Location | None = None          # folder of images named by paths; default: that of the files
    image_column: str | None = None         # default of all columns: a column with a usual name
    text_column: str | None = None          # column of captions or classes
    captions: Captions | None = None        # which of a list of captions; random: by hash(seed, key)
    seed: int = 0                           # of captions = "random"
    conversations_column: str | None = None
    question_column: str | None = None
    answer_column: str | None = None
    choices_column: str | None = None       # lists of texts of which answers give the number; "" if they give none
    chosen_column: str | None = None
    rejected_column: str | None = None


class ScenesConfig(SourceTable):
    kind: Literal["scenes"] = "scenes"
    count: int = Field(default=200, ge=1)   # pictures
    seed: int = 0
    side: int = Field(default=224, ge=32, le=4096)  # pixels
    noise: float = Field(default=0.5, ge=0, le=1)  # share of noisy alt texts
    planted: float = Field(default=0.08, ge=0, le=1)  # share of pictures that are duplicates or broken
    questions: int = Field(default=0, ge=0)  # questions per conversation; 0: rows have no conversation
    quiz: bool = False                      # asks only questions with answers of one or two words
    claims: bool = False                    # asks most questions of a quiz as labelers are asked: for single facts
    fonts: tuple[Location, ...] = ()        # font files beside Pillow's own, for words in other scripts
    objects: tuple[Objects, Objects] = (1, 4)   # least and most in a picture: up to six with text, nine without
    grounds: tuple[GroundColour, ...] = Field(default=get_args(GroundColour), min_length=1)
    printed: float = Field(default=0.6, ge=0, le=1)  # share of pictures with text
    codes: float = Field(default=1 / 3, ge=0, le=1)  # share of the texts that are codes instead of words
    lines: int = Field(default=1, ge=1, le=2)  # texts in a picture with text; questions are about the first
    print_height: tuple[Print, Print] = (0.12, 0.2)     # least and largest height of letters, as shares of the side
    letters: bool = False                   # records in `extra` where each printed character is
    rows_per_partition: Rows = 1000         # about; settled when a file is first seen

    @field_validator("objects", "print_height")
    @classmethod
    def _in_order(cls, ends: tuple[float, float]) -> tuple[float, float]:
        if ends[0] > ends[1]:
            raise PydanticCustomError("order", "write the smaller number first")
        return ends

    @model_validator(mode="after")
    def _claims_of_a_quiz(self) -> Self:
        if self.claims and not (self.quiz and self.questions):
            raise PydanticCustomError("unused", "claims are questions of a quiz; add quiz = true and questions")
        return self

    def kinds(self) -> Kinds:
        return Kinds(self.objects, self.grounds, self.printed, self.codes, self.lines)


SourceConfig = (
    FolderConfig
    | WebDatasetConfig
    | LaionConfig
    | ConversationsConfig
    | InstructionFilesConfig
    | HuggingfaceConfig
    | ScenesConfig
)
SOURCES: dict[str, type[SourceTable]] = {kind.model_fields["kind"].default: kind for kind in get_args(SourceConfig)}
