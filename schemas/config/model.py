"""The configuration: a table of its TOML file is a class here, with what each field means and may be."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from schemas.errors import UserError
from schemas.scenes.scene import GROUNDS, Kinds


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # built when first asked to check


def _is_place(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("place", "write a path without the character NUL")
    try:
        Path(text).expanduser()
    except RuntimeError:
        raise PydanticCustomError("place", "begins with ~ and the name of no user here; write the folder") from None
    return text


Location = Annotated[str, StringConstraints(min_length=1), AfterValidator(_is_place)]  # a path, or any fsspec URL
Rows = Annotated[int, Field(ge=1)]
Objects = Annotated[int, Field(ge=1, le=9)]
Print = Annotated[float, Field(ge=0.05, le=0.3)]
GroundColour = Literal[tuple(GROUNDS)]


class FolderConfig(Table):
    kind: Literal["folder"] = "folder"
    path: Location                          # folder, file, or glob of caption tables
    image_column: str | None = None         # of caption tables; found by its usual names if not given
    text_column: str | None = None          # likewise
    rows_per_partition: Rows = 1000         # about; settled when a file is first seen


class WebDatasetConfig(Table):
    kind: Literal["webdataset"] = "webdataset"
    path: Location                          # folder, file, or glob of tars


class LaionConfig(Table):
    kind: Literal["laion"] = "laion"
    path: Location                          # folder, file, or glob of Parquet
    url_column: str | None = None           # found by its usual names if not given
    text_column: str | None = None          # likewise
    image_column: str | None = None         # names files under `images`: bytes that are here already
    images: Location | None = None          # folder that those start from; that of the Parquet if not given
    rows_per_partition: Rows = 1000         # about; settled when a file is first seen


class ConversationsConfig(Table):
    kind: Literal["conversations"] = "conversations"
    path: Location                          # folder, file, or glob of JSON, MiniCPM-V's fine-tune format
    images: Location | None = None          # folder that image paths start from; that of the JSON if not given
    rows_per_partition: Rows = 1000         # about; settled when a file is first seen


class InstructionFilesConfig(Table):
    kind: Literal["instructions"] = "instructions"
    path: Location                          # folder, file, or glob of JSON lines or Parquet: an image, a question
    images: Location | None = None          # folder that image paths start from; that of the files if not given
    image_column: str | None = None         # found by their usual names if not given
    question_column: str | None = None      # likewise
    rows_per_partition: Rows = 1000         # about; settled when a file is first seen


class ScenesConfig(Table):
    kind: Literal["scenes"] = "scenes"
    count: int = Field(200, ge=1)           # pictures
    seed: int = 0
    side: int = Field(224, ge=32, le=4096)  # pixels
    noise: float = Field(0.5, ge=0, le=1)   # share of alt texts that are not simply true
    planted: float = Field(0.08, ge=0, le=1)    # share of pictures that are duplicates or broken
    questions: int = Field(0, ge=0)         # in a conversation about each picture; 0 for no conversations
    quiz: bool = False                      # whether the questions are those alone that a word or two answer
    fonts: tuple[Location, ...] = ()        # font files beside Pillow's own, for words in other scripts
    objects: tuple[Objects, Objects] = (1, 4)   # fewest and most in a picture; six with text, nine without
    grounds: tuple[GroundColour, ...] = Field(tuple(GROUNDS), min_length=1)
    printed: float = Field(0.6, ge=0, le=1)     # share of pictures with text
    codes: float = Field(1 / 3, ge=0, le=1)     # share of the texts that are letters and digits, not words
    lines: int = Field(1, ge=1, le=2)       # texts in a picture with text; of the second nothing is said
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
    FolderConfig | WebDatasetConfig | LaionConfig | ConversationsConfig | InstructionFilesConfig | ScenesConfig
)
SOURCES = {one.model_fields["kind"].default: one for one in get_args(SourceConfig)}


class ImagesConfig(Table):
    min_side: int = Field(10, ge=1)                     # pixels; smaller images are left out
    max_bytes: int = Field(50_000_000, ge=1)            # of a file
    max_pixels: int = Field(100_000_000, ge=1)          # looked at before decoding
    max_aspect_ratio: float = Field(20, ge=1)           # of the longer side to the shorter one


def _is_contact(text: str) -> str:
    if not re.fullmatch(r"[!-~]*(@|://)[!-~]+", text):
        raise PydanticCustomError("contact", "write a mail address or page where the owners of servers can reach you")
    return text


class FetchConfig(Table):
    contact: Annotated[str, AfterValidator(_is_contact)]        # goes out with every request
    in_flight: int = Field(256, ge=1)                   # URLs asked at once, a worker process
    per_host: int = Field(4, ge=1)                      # of those, of one host
    connect_seconds: float = Field(5, gt=0)             # to find and reach a server
    read_seconds: float = Field(10, gt=0)               # in which not one byte comes
    deadline: float = Field(30, gt=0)                   # seconds that one try may take, redirects included
    tries: int = Field(2, ge=1)                         # of one URL
    honour_robots_tag: bool = True                      # X-Robots-Tag: noai, noimageai, noindex, noimageindex
    robots_txt: bool = False                            # ask for it, and do as it says
    opt_out: tuple[Location, ...] = ()                  # files with a host or pattern of URLs a line, left alone
    check_hash: bool = True                             # against the source's columns sha256, md5 or hash
    allow_hosts: tuple[str, ...] = ()                   # that may be at private addresses, with all below them


class DuplicatesConfig(Table):
    near: int = Field(3, ge=-1, le=8)                   # bits in which perceptual hashes may differ; -1: equal bytes
    exclude: tuple[Location, ...] = ()                  # images to keep out: folders of them, or lists of hashes


class EasyOcrConfig(Table):
    languages: tuple[str, ...] = Field(("en",), min_length=1)   # EasyOCR's own codes
    models: Location = "easyocr-models"                         # folder of its weights
    download: bool = False                                      # fetch weights that are missing when a run begins
    gpu: bool = False                                   # compute on the first CUDA device


class OcrConfig(Table):
    engine: Literal["rapidocr", "easyocr"] = "rapidocr"
    easyocr: EasyOcrConfig = EasyOcrConfig()            # read only if that is the engine
    min_confidence: float = Field(0.5, ge=0, le=1)      # lines below are left out
    good_confidence: float = Field(0.9, ge=0, le=1)     # a good text: mean of its lines, weighted by characters
    good_length: int = Field(3, ge=1)                   # letters and digits; East Asian ones count twice
    good_share: float = Field(0.9, ge=0, le=1)          # of its characters are in lines that make sense


def _is_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s@]+", text):
        raise PydanticCustomError("url", "write http://… or https://…, without a name and a password")
    return text.rstrip("/")


def _is_env(name: str) -> str:
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
        raise PydanticCustomError("env", "write the name of the environment variable that holds the key, never the key")
    return name


class EndpointConfig(Table):
    """An OpenAI-compatible server: one that runs, or a command that starts one."""

    model: Location                                     # as the server calls it, or a local checkpoint
    revision: str | None = None                         # of the model; of a local checkpoint, the hash of its weights
    url: tuple[Annotated[str, AfterValidator(_is_url)], ...] = ()   # one, or several that serve the same
    command: str | None = None                          # with {model} and {port}: is started, waited for and stopped
    api_key_env: Annotated[str, AfterValidator(_is_env)] | None = None  # the environment variable with the key
    concurrency: int = Field(32, ge=1)                  # requests in flight, to each url
    timeout: float = Field(120, gt=0)                   # seconds that one try may take
    tries: int = Field(5, ge=1)                         # of one request
    patience: float = Field(60, gt=0)                   # seconds without any server that answers; then the run stops
    start_seconds: float = Field(900, gt=0)             # that a `command` may take until its server answers
    max_calls: int | None = Field(None, ge=1)           # of one run, tries included
    max_tokens: int | None = Field(None, ge=1)          # of one run, prompts and answers
    extra: dict[str, Any] = {}                          # goes into the body of every request, as it is

    @field_validator("url", mode="before")
    @classmethod
    def _several(cls, url: Any) -> Any:
        return (url,) if isinstance(url, str) else url

    @field_validator("extra")
    @classmethod
    def _is_json(cls, extra: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(extra, allow_nan=False)
        except (TypeError, ValueError):
            raise PydanticCustomError("json", "write what JSON can hold: no dates, no inf, no nan") from None
        return extra

    @field_validator("command")
    @classmethod
    def _takes_port(cls, command: str | None) -> str | None:
        if command is not None and "{port}" not in command:
            raise PydanticCustomError("port", "write {port} where the command takes its port")
        return command

    @model_validator(mode="after")
    def _url_or_command(self) -> "EndpointConfig":
        if bool(self.url) == bool(self.command):
            raise PydanticCustomError("door", "write either url or command")
        return self


class SetConfig(Table):
    where: str = "true"                                 # SQL over the view `samples`; for pairs over `preferences`
    task: Literal["caption", "ocr", "conversation", "preference"] = "caption"
    weight: float = Field(1.0, gt=0, le=1)              # share that is kept, by hash(seed, key)
    seed: int = 0                                       # of weight
    samples_per_shard: int = Field(1000, ge=1)


def _asks(question: str) -> str:
    if not question.strip():
        raise PydanticCustomError("question", "is blank; write a question, or leave it out")
    return question


class InstructionsConfig(Table):
    questions: tuple[Annotated[str, AfterValidator(_asks)], ...] = ()   # of images of which the source asks nothing
    per_image: int = Field(1, ge=1)                     # so many of them, by hash(seed, image)
    where: str = "true"                                 # of which images: SQL over the columns of the view `samples`
    weight: float = Field(1.0, gt=0, le=1)              # share of those that are asked of, by hash(seed, image)
    seed: int = 0


class PairsConfig(Table):
    per_instruction: int = Field(2, ge=0)               # pairs that are drawn at most, by hash(seed, pair); 0: all
    seed: int = 0
    min_margin: int = Field(1, ge=1)                    # rejected claims by which two responses differ
    length_balance: bool = True                         # drop pairs whose length alone could tell


class CaptionsConfig(Table):
    endpoint: str                                       # writes captions; may be a model of text alone
    rewrite: Literal["weak", "all"] = "weak"
    image: bool = False                                 # whether it is shown the image, or the alt text alone
    prompt: Location | None = None                      # a file with {text}; if it asks for no `Question:` and
                                                        # `Answer:`, the whole answer is the caption
    temperature: float = Field(0.0, ge=0, le=2)         # 0: greedy
    max_tokens: int = Field(300, ge=1)                  # of an answer
    min_words: int = Field(4, ge=1)                     # a caption of fewer is weak; East Asian signs count half
    max_words: int = Field(150, ge=1)                   # a rewritten caption of more is not taken


class ResponsesConfig(Table):
    endpoint: str                                       # the policy
    draws: int = Field(10, ge=2, le=100)                # responses to an instruction, a request each
    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(512, ge=1)
    seed: int = 0


class ClaimsConfig(Table):
    endpoint: str | None = None                         # divides responses; without it, rules for plain sentences do
    facts_prompt: Location | None = None                # files with {question}, {response} and {facts}; the packaged
    questions_prompt: Location | None = None            # ones if not given
    temperature: float = Field(0.2, ge=0, le=2)
    top_p: float = Field(0.9, gt=0, le=1)
    max_tokens: int = Field(1024, ge=1)                 # of each of the two answers
    seed: int = 0


class VerdictsConfig(Table):
    labelers: tuple[str, ...] = Field(min_length=1)     # endpoints; each judges every claim
    prompt: Location | None = None                      # a file with {question}; the packaged one if not given

    @field_validator("labelers")
    @classmethod
    def _each_once(cls, labelers: tuple[str, ...]) -> tuple[str, ...]:
        if len({*labelers}) < len(labelers):
            raise PydanticCustomError("labelers", "name each labeler once; asked twice, it says the same")
        return labelers


class BeamConfig(Table):
    runner: str = "FnApiRunner"                         # any of Beam's
    options: list[str] = ["--direct_running_mode=multi_processing", "--direct_num_workers=0"]


SetName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class Config(Table):
    root: Location                                      # where all goes: a folder, or s3://…, gs://…
    source: SourceConfig = Field(discriminator="kind")
    images: ImagesConfig = ImagesConfig()               # limits
    fetch: FetchConfig | None = None                    # without it, no URL is asked for
    duplicates: DuplicatesConfig | None = None          # without it, duplicates stay
    ocr: OcrConfig | None = None                        # without it, no text is read
    captions: CaptionsConfig | None = None              # without it, captions stay as they came
    endpoints: dict[SetName, EndpointConfig] = {}       # models, by name
    sets: dict[SetName, SetConfig] = {}                 # shard sets, by name
    instructions: InstructionsConfig = InstructionsConfig()     # what is asked of an image
    responses: ResponsesConfig | None = None            # without it, no policy is asked
    claims: ClaimsConfig = ClaimsConfig()               # how responses are divided
    verdicts: VerdictsConfig | None = None              # who judges the claims; needed where there are responses
    pairs: PairsConfig = PairsConfig()                  # which pairs are drawn
    gates: dict[str, str] = {}                          # SQL conditions on a run: rows, kept, kept_share, samples,
                                                        # added, removed, changed, changed_share, or any view
    beam: BeamConfig = BeamConfig()                     # the default: a process a core of this machine


TABLES: dict[str, type[Table]] = {  # by their names in the file; of `sets` and `endpoints` there are several
    "images": ImagesConfig, "fetch": FetchConfig, "duplicates": DuplicatesConfig, "ocr": OcrConfig,
    "ocr.easyocr": EasyOcrConfig, "captions": CaptionsConfig, "endpoints": EndpointConfig, "sets": SetConfig,
    "instructions": InstructionsConfig, "responses": ResponsesConfig, "claims": ClaimsConfig,
    "verdicts": VerdictsConfig, "pairs": PairsConfig, "beam": BeamConfig,
}  # fmt: skip
NAMED = ("sets", "endpoints")   # tables of tables: [sets.NAME]


def with_engine(config: Config, engine: str) -> Config:
    """The configuration with another OCR engine. Raises `UserError` if there is none of that name, or no OCR."""
    engines = get_args(OcrConfig.model_fields["engine"].annotation)
    if engine not in engines:
        raise UserError(f"--engine: no engine {engine!r}; there are {', '.join(engines)}")
    if config.ocr is None:
        raise UserError("--engine: no text is read without the table [ocr]; add it")
    return config.model_copy(update={"ocr": config.ocr.model_copy(update={"engine": engine})})
