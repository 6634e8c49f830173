"""The table [source], or several [[source]]: a class for each kind."""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

from schemas.config.table import Location, Table
from schemas.scenes.scene import Kinds


def _is_encoding(name: str) -> str:
    try:
        "".encode(name)
    except LookupError:
        raise PydanticCustomError("encoding", "is no encoding; write one that Python knows, as latin-1") from None
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
    name: SourceName | None = None          # of one of several, each in a table [[source]]; part of its rows' keys


class FilesTable(SourceTable):
    """The base of all kinds that read files."""

    path: Location


class FolderConfig(FilesTable):
    kind: Literal["folder"] = "folder"
    path: Location                          # folder, file, or glob of caption tables
    image_column: str | None = None         # of caption tables; found by its usual names if not given
    text_column: str | None = None          # likewise
    images: Location | None = None          # folder that paths in tables start from; that of the table if not given
    text_field: str | None = None           # of the JSON beside an image: its caption; that of the .txt if not given
    captions: Captions | None = None        # which of a list of captions; random: by hash(seed, key)
    seed: int = 0                           # of captions = "random"
    encoding: Encoding | None = None        # of CSV, TSV and JSON; UTF-8, or UTF-16 by its mark, if not given
    delimiter: Delimiter | None = None      # between the columns of CSV; comma, in .tsv a tab, if not given
    rows_per_partition: Rows = 1000         # about; settled when a file is first seen


class WebDatasetConfig(FilesTable):
    kind: Literal["webdataset"] = "webdataset"
    path: Location                          # folder, file, or glob of tars
    text_field: str | None = None           # of a sample's JSON: its caption; that of its .txt if not given
    encoding: Encoding | None = None        # of the texts; UTF-8, or UTF-16 by its mark, if not given


class LaionConfig(FilesTable):
    kind: Literal["laion"] = "laion"
    path: Location                          # folder, file, or glob of Parquet
    url_column: str | None = None           # found by its usual names if not given
    text_column: str | None = None          # likewise
    captions: Captions | None = None        # which of a list of captions; random: by hash(seed, key)
    seed: int = 0                           # of captions = "random"
    image_column: str | None = None         # names files under `images`: bytes that are here already
    images: Location | None = None          # folder that those start from; that of the Parquet if not given
    rows_per_partition: Rows = 1000         # about; settled when a file is first seen


class ConversationsConfig(FilesTable):
    kind: Literal["conversations"] = "conversations"
    path: Location                          # folder, file, or glob of JSON, MiniCPM-V's fine-tune format
    images: Location | None = None          # folder that image paths start from; that of the JSON if not given
    encoding: Encoding | None = None        # of JSON; UTF-8, or UTF-16 by its mark, if not given
    rows_per_partition: Rows = 1000         # about; settled when a file is first seen


class InstructionFilesConfig(FilesTable):
    kind: Literal["instructions"] = "instructions"
    path: Location                          # folder, file, or glob of JSON lines or Parquet: an image, a question
    images: Location | None = None          # folder that image paths start from; that of the files if not given
    image_column: str | None = None         # found by their usual names if not given
    question_column: str | None = None      # likewise
    encoding: Encoding | None = None        # of JSON; UTF-8, or UTF-16 by its mark, if not given
    rows_per_partition: Rows = 1000         # about; settled when a file is first seen


class HuggingfaceConfig(FilesTable):
    kind: Literal["huggingface"] = "huggingface"
    path: Location                          # folder, file, or glob of Parquet or Arrow files that hold images
    images: Location | None = None          # folder of images that are named by paths; that of the files if not given
    image_column: str | None = None         # all are found by their usual names if not given
    text_column: str | None = None          # captions, or classes
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
    noise: float = Field(default=0.5, ge=0, le=1)  # share of alt texts that are not simply true
    planted: float = Field(default=0.08, ge=0, le=1)  # share of pictures that are duplicates or broken
    questions: int = Field(default=0, ge=0)  # in a conversation about each picture; 0 for no conversations
    quiz: bool = False                      # whether the questions are those alone that a word or two answer
    fonts: tuple[Location, ...] = ()        # font files beside Pillow's own, for words in other scripts
    objects: tuple[Objects, Objects] = (1, 4)   # fewest and most in a picture; six with text, nine without
    grounds: tuple[GroundColour, ...] = Field(default=get_args(GroundColour), min_length=1)
    printed: float = Field(default=0.6, ge=0, le=1)  # share of pictures with text
    codes: float = Field(default=1 / 3, ge=0, le=1)  # share of the texts that are letters and digits, not words
    lines: int = Field(default=1, ge=1, le=2)  # texts in a picture with text; of the second nothing is said
    print_height: tuple[Print, Print] = (0.12, 0.2)     # least and most of a text's type, as shares of the side
    letters: bool = False                   # whether `extra` tells where each printed character stands
    rows_per_partition: Rows = 1000         # about; settled when a file is first seen

    @field_validator("objects", "print_height")
    @classmethod
    def _in_order(cls, ends: tuple[float, float]) -> tuple[float, float]:
        if ends[0] > ends[1]:
            raise PydanticCustomError("order", "write the smaller number first")
        return ends

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
