"""One TOML file for everything: read, checked, and answered in one line when something in it is wrong."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from schemas.scenes import GROUNDS, Kinds


class UserError(Exception):
    """Something a user can mend. The message is one line that names the place and the fix."""


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Location = Annotated[str, StringConstraints(min_length=1)]      # of this machine, or any fsspec URL
Rows = Annotated[int, Field(ge=1)]
Objects = Annotated[int, Field(ge=1, le=9)]
Print = Annotated[float, Field(ge=0.05, le=0.3)]
GroundColour = Literal[tuple(GROUNDS)]


class FolderConfig(Table):
    kind: Literal["folder"] = "folder"
    path: Location                          # folder, file, or glob of caption tables
    image_column: str | None = None         # of caption tables; found by its usual names if not given
    text_column: str | None = None
    rows_per_partition: Rows = 1000


class WebDatasetConfig(Table):
    kind: Literal["webdataset"] = "webdataset"
    path: Location                          # folder, file, or glob of tars


class LaionConfig(Table):
    kind: Literal["laion"] = "laion"
    path: Location                          # folder, file, or glob of Parquet
    url_column: str | None = None           # found by its usual names if not given
    text_column: str | None = None
    image_column: str | None = None         # names files under `images`: bytes that are here already
    images: Location | None = None
    rows_per_partition: Rows = 1000


class ConversationsConfig(Table):
    kind: Literal["conversations"] = "conversations"
    path: Location                          # folder, file, or glob of JSON, MiniCPM-V's fine-tune format
    images: Location | None = None          # folder that image paths start from; that of the JSON if not given
    rows_per_partition: Rows = 1000


class InstructionFilesConfig(Table):
    kind: Literal["instructions"] = "instructions"
    path: Location                          # folder, file, or glob of JSON lines or Parquet: an image, a question
    images: Location | None = None          # folder that image paths start from; that of the files if not given
    image_column: str | None = None         # found by their usual names if not given
    question_column: str | None = None
    rows_per_partition: Rows = 1000


class ScenesConfig(Table):
    kind: Literal["scenes"] = "scenes"
    count: int = Field(200, ge=1)           # pictures
    seed: int = 0
    side: int = Field(224, ge=32, le=4096)  # pixels
    noise: float = Field(0.5, ge=0, le=1)   # share of alt texts that are not simply true
    planted: float = Field(0.08, ge=0, le=1)    # share of pictures that are duplicates or broken
    questions: int = Field(0, ge=0)         # in a conversation about each picture; 0 for no conversations
    quiz: bool = False                      # whether the questions are those alone that a word or two answer
    fonts: tuple[str, ...] = ()             # font files beside Pillow's own, for words in other scripts
    objects: tuple[Objects, Objects] = (1, 4)   # fewest and most in a picture; six with text, nine without
    grounds: tuple[GroundColour, ...] = Field(tuple(GROUNDS), min_length=1)
    printed: float = Field(0.6, ge=0, le=1)     # share of pictures with text
    codes: float = Field(1 / 3, ge=0, le=1)     # share of the texts that are letters and digits, not words
    lines: int = Field(1, ge=1, le=2)       # texts in a picture with text; of the second nothing is said
    print_height: tuple[Print, Print] = (0.12, 0.2)     # least and most of a text's type, as shares of the side
    letters: bool = False                   # whether `extra` tells where each printed character stands
    rows_per_partition: Rows = 1000

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
    min_side: int = Field(10, ge=1)                     # pixels
    max_bytes: int = Field(50_000_000, ge=1)
    max_pixels: int = Field(100_000_000, ge=1)
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
    tries: int = Field(2, ge=1)
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
    models: str = Field("easyocr-models", min_length=1)         # folder of its weights
    download: bool = False                                      # fetch weights that are missing when a run begins
    gpu: bool = False


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

    model: str = Field(min_length=1)                    # as the server calls it, or a local checkpoint
    revision: str | None = None                         # of the model; of a local checkpoint, the hash of its weights
    url: tuple[Annotated[str, AfterValidator(_is_url)], ...] = ()   # one, or several that serve the same
    command: str | None = None                          # with {model} and {port}: is started, waited for and stopped
    api_key_env: Annotated[str, AfterValidator(_is_env)] | None = None
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
    seed: int = 0
    samples_per_shard: int = Field(1000, ge=1)


class InstructionsConfig(Table):
    questions: tuple[str, ...] = ()                     # asked of images of which the source asks nothing
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
    prompt: Location | None = None                      # a file with {text}; the packaged one if not given
    temperature: float = Field(0.0, ge=0, le=2)
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


class BeamConfig(Table):
    runner: str = "FnApiRunner"
    options: list[str] = ["--direct_running_mode=multi_processing", "--direct_num_workers=0"]


SetName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class Config(Table):
    root: str = Field(min_length=1)
    source: SourceConfig = Field(discriminator="kind")
    images: ImagesConfig = ImagesConfig()
    fetch: FetchConfig | None = None                    # without it, no URL is asked for
    duplicates: DuplicatesConfig | None = None          # without it, duplicates stay
    ocr: OcrConfig | None = None                        # without it, no text is read
    captions: CaptionsConfig | None = None              # without it, captions stay as they came
    endpoints: dict[SetName, EndpointConfig] = {}       # models, by name
    sets: dict[SetName, SetConfig] = {}
    instructions: InstructionsConfig = InstructionsConfig()
    responses: ResponsesConfig | None = None            # without it, no policy is asked
    claims: ClaimsConfig = ClaimsConfig()
    verdicts: VerdictsConfig | None = None
    pairs: PairsConfig = PairsConfig()
    gates: dict[str, str] = {}                          # name -> SQL condition on the run
    beam: BeamConfig = BeamConfig()


def read_config(path: str | Path) -> Config:
    """The configuration in a TOML file; paths in it are relative to the file's folder.

    Raises `UserError`, one line that names the file, the field and the fix.
    """
    path = Path(path)
    try:
        config = Config.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `shardmill init {path}` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {_one_line(error)}") from None
    here = path.resolve().parent
    source, root = _source_beside(here, config.source), _beside(here, config.root)
    below = getattr(source, "path", None)
    if below and f"{root}/".startswith(below.split("**")[0].rstrip("/") + "/"):
        raise UserError(f"{path}: root: lies in source.path and would be read as a source; choose another folder")
    ocr = config.ocr
    if ocr:
        models = _beside(here, ocr.easyocr.models)
        ocr = ocr.model_copy(update={"easyocr": ocr.easyocr.model_copy(update={"models": models})})
    duplicates = config.duplicates
    if duplicates:
        exclude = tuple(_beside(here, place) for place in duplicates.exclude)
        duplicates = duplicates.model_copy(update={"exclude": exclude})
    fetch = config.fetch
    if fetch:
        fetch = fetch.model_copy(update={"opt_out": tuple(_beside(here, file) for file in fetch.opt_out)})
    config = _models_beside(here, config)
    return config.model_copy(
        update={"root": root, "source": source, "fetch": fetch, "duplicates": duplicates, "ocr": ocr}
    )


def _models_beside(here: Path, config: Config) -> Config:
    """A configuration, its relative paths of prompts and local checkpoints made absolute."""
    tables = {}
    for name in ("captions", "claims", "verdicts"):
        table = getattr(config, name)
        paths = [field for field in table.model_fields_set if field.endswith("prompt")] if table else []
        if paths:
            tables[name] = table.model_copy(update={field: _beside(here, getattr(table, field)) for field in paths})
    models = {
        name: one.model_copy(update={"model": _beside(here, one.model)})
        for name, one in config.endpoints.items()
        if ("/" in one.model or one.model.endswith(".gguf")) and (here / Path(one.model).expanduser()).exists()
    }
    return config.model_copy(update=tables | {"endpoints": config.endpoints | models})


def with_engine(config: Config, engine: str) -> Config:
    """The configuration with another OCR engine. Raises `UserError` if there is none of that name, or no OCR."""
    engines = get_args(OcrConfig.model_fields["engine"].annotation)
    if engine not in engines:
        raise UserError(f"--engine: no engine {engine!r}; there are {', '.join(engines)}")
    if config.ocr is None:
        raise UserError("--engine: no text is read without the table [ocr]; add it")
    return config.model_copy(update={"ocr": config.ocr.model_copy(update={"engine": engine})})


def _source_beside(here: Path, source: SourceConfig) -> SourceConfig:
    """A source, its relative paths made absolute."""
    places = {name: _beside(here, getattr(source, name, None)) for name in ("path", "images")}
    if isinstance(source, ScenesConfig):
        places["fonts"] = tuple(_beside(here, font) for font in source.fonts)
    return source.model_copy(update={name: place for name, place in places.items() if place})


def _beside(here: Path, path: str | None) -> str | None:
    """A relative local path, made absolute; a URL as it is."""
    if path is None or "://" in path:
        return path
    return str(here / Path(path).expanduser())


def _one_line(error: ValidationError) -> str:
    """The first of pydantic's complaints, in one line."""
    first = error.errors()[0]
    loc, kind = first["loc"], None
    if loc[0] == "source" and len(loc) > 1:  # pydantic names the kind between the table and its field
        kind, loc = loc[1], (loc[0], *loc[2:])
    where = ".".join(map(str, loc))
    if first["type"] == "extra_forbidden":
        known = _fields(loc[:-1], kind)
        near = difflib.get_close_matches(str(loc[-1]), known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
        return f"{where}: unknown; {hint}"
    if first["type"] == "missing":
        return f"{where}: missing; " + (f"name the {kind} to read" if kind else "add it")
    if first["type"] == "union_tag_not_found":
        return f"{where}.kind: missing; add one of {', '.join(SOURCES)}"
    if first["type"] == "union_tag_invalid":
        return f"{where}.kind: no source {first['ctx']['tag']!r}; there are {', '.join(SOURCES)}"
    said = f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"
    if first["type"] in ("env", "url", "door"):  # what was typed there may be a key
        return said
    return f"{said}, not {str(first['input'])[:80]!r}"


def _fields(loc: tuple[Any, ...], kind: str | None) -> list[str]:
    """The fields that are known at a place in the file."""
    tables = {"": Config, "images": ImagesConfig, "fetch": FetchConfig, "duplicates": DuplicatesConfig,
              "ocr": OcrConfig, "ocr.easyocr": EasyOcrConfig, "sets": SetConfig, "beam": BeamConfig,
              "instructions": InstructionsConfig, "pairs": PairsConfig, "captions": CaptionsConfig,
              "endpoints": EndpointConfig, "responses": ResponsesConfig, "claims": ClaimsConfig,
              "verdicts": VerdictsConfig}
    return sorted((SOURCES[kind] if kind else tables.get(".".join(map(str, loc))) or tables[loc[0]]).model_fields)


TEMPLATE = """\
# Shardmill: one file for everything. `shardmill plan {name}` says what a run would do.

root = "{stem}-corpus"                  # where all goes: a folder, or s3://…, gs://…

[source]
kind = "{kind}"
{source}
[images]
min_side = 10                           # pixels; smaller images are left out, with a reason
# max_bytes = 50000000
# max_pixels = 100000000                # looked at before decoding
# max_aspect_ratio = 20                 # of the longer side to the shorter one

[duplicates]                            # leave this table out and duplicates stay
near = 3                                # bits in which 64-bit perceptual hashes may differ; -1: only equal bytes
# exclude = ["mmbench", "takedown.txt"] # images to keep out: folders of them; lists of hashes, text or Parquet

[ocr]                                   # leave this table out and no text is read
engine = "rapidocr"                     # or "easyocr"
min_confidence = 0.5                    # lines below are left out
# good_confidence = 0.9                 # texts below, or too short, or of signs that make no sense, teach nothing

# [ocr.easyocr]                         # needs the extra [easyocr], and its weights
# languages = ["en"]                    # RapidOCR's one model is for Latin letters, Chinese and Japanese
# models = "easyocr-models"             # the folder of its weights; download = true fetches those that are missing
# gpu = false

{asking}[sets.train]                            # one shard set; add as many as you like
{task}# weight = 0.1                          # keep a tenth, always the same one
samples_per_shard = 1000

[gates]                                 # conditions on a run; if one fails, the shards published before stay
kept = "kept_share >= 0.5"              # of the rows of the source
# change = "changed_share <= 0.2"       # of the samples published before

# [beam]                                # any Beam runner; this is the default: a process a core
# runner = "FnApiRunner"
# options = ["--direct_running_mode=multi_processing", "--direct_num_workers=0"]
"""

TEMPLATE_SOURCES = {
    "folder": 'path = "pictures"                       # images with .txt beside, or captions in Parquet, CSV, JSONL\n'
              '# image_column = "image"                 # if the captions are in tables\n'
              '# text_column = "text"\n'
              "rows_per_partition = 1000\n",
    "webdataset": 'path = "data/*.tar"                     # img2dataset\'s layout: jpg/png/webp + txt + json\n',
    "laion": 'path = "laion/*.parquet"                # URL and TEXT; every other column goes along, as `extra`\n'
             '# images = "pictures"                   # a folder of bytes that are here already …\n'
             '# image_column = "image_path"           # … and the column that names a row\'s file in it\n'
             "rows_per_partition = 1000\n\n"
             "# [fetch]                               # leave this table out and no URL is asked for\n"
             '# contact = "you@example.org"           # a mail address or page; goes out with every request\n'
             "# in_flight = 256                       # URLs asked at once, and of one host, a worker process\n"
             "# per_host = 4\n"
             "# deadline = 30                         # seconds that one of its tries may take\n"
             "# tries = 2\n"
             "# honour_robots_tag = true              # X-Robots-Tag: noai, noimageai, noindex, noimageindex\n"
             "# robots_txt = false\n"
             '# opt_out = ["opt-out.txt"]             # a host, or a pattern of URLs, a line\n',
    "conversations": 'path = "conversations.json"             # MiniCPM-V\'s: id, image(s), conversations\n'
                     '# images = "pictures"                   # where its image paths start from\n'
                     "rows_per_partition = 1000\n",
    "instructions": 'path = "instructions.jsonl"             # or Parquet: image_path, question; all else goes along\n'
                    '# images = "pictures"                   # where its image paths start from\n'
                    "rows_per_partition = 1000\n",
    "scenes": "count = 200                             # drawn pictures with a known truth and noisy alt texts\n"
              "seed = 0\n"
              "side = 224                              # pixels\n"
              "noise = 0.5                             # share of alt texts that are not simply true\n"
              "planted = 0.08                          # share of duplicates and broken files\n"
              "rows_per_partition = 50\n",
}


TEMPLATE_TASKS = {
    "": 'where = "width >= 64 and height >= 64"  # SQL over the view `samples`\n'
        'task = "caption"                        # or "ocr": the target is the text in the image; or "conversation"\n',
    "conversations": 'where = "true"                          # SQL over the view `samples`\n'
                     'task = "conversation"\n',
    "instructions": 'where = "true"                          # SQL over `preferences`: "margin > 1", …\n'
                    'task = "preference"                     # pairs of a chosen and a rejected response\n',
}

ASKING = """\
[endpoints.policy]                      # models are OpenAI-compatible servers: one that runs …
model = "openbmb/MiniCPM-V-2_6"
url = "http://localhost:8000/v1"
# command = "vllm serve {model} --port {port} --trust-remote-code"    # … or one that is started and stopped
# api_key_env = "POLICY_KEY"            # the environment variable that holds the key

[responses]                             # of the policy, to each instruction
endpoint = "policy"
draws = 10

# [claims]                              # a model that divides responses; without it, rules for plain sentences do
# endpoint = "divider"

[verdicts]                              # on each claim
labelers = ["policy"]                   # better another model; several are each kept

[pairs]
per_instruction = 2                     # drawn at most

"""

REWRITING = """\
# [endpoints.writer]                    # a model: any OpenAI-compatible server; is it well? shardmill check-endpoint
# model = "openbmb/MiniCPM-V-2_6"
# url = "http://localhost:8000/v1"      # one or a list; or a command, with {model} and {port}, that starts one
# api_key_env = "WRITER_KEY"            # the environment variable that holds the key
# max_calls = 100000                    # of one run, which ends there; the next goes on

# [captions]                            # leave this table out and captions stay as they came
# endpoint = "writer"                   # rewrites those that are weak; look first: shardmill try captions
# image = true                          # shows it the image too, not the alt text alone

"""


def template(path: Path, kind: str) -> str:
    """A short, commented configuration for a kind of source."""
    task = TEMPLATE_TASKS.get(kind, TEMPLATE_TASKS[""])
    asking = {"instructions": ASKING, "conversations": ""}.get(kind, REWRITING)
    source = TEMPLATE_SOURCES[kind]
    return TEMPLATE.format(name=path.name, stem=path.stem, kind=kind, source=source, task=task, asking=asking)
