"""The configuration: each table of its TOML file is a class. The table of a stage is beside the stage's row."""

from typing import Annotated, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints
from pydantic.fields import FieldInfo

from schemas.align import AlignConfig
from schemas.captions import CaptionsConfig
from schemas.claims import ClaimsConfig
from schemas.config.endpoints import EndpointConfig
from schemas.config.sources import SourceConfig
from schemas.config.table import Location, Table
from schemas.duplicates import DuplicatesConfig
from schemas.errors import UserError
from schemas.images import FetchConfig, ImagesConfig
from schemas.instructions import InstructionsConfig
from schemas.measures import MeasuresConfig
from schemas.ocr import OcrConfig
from schemas.own_stages import OwnStageConfig
from schemas.pairs import PairsConfig
from schemas.responses import ResponsesConfig
from schemas.selection import SetConfig
from schemas.trained import TrainingConfig
from schemas.translations import TranslationsConfig
from schemas.verdicts import VerdictsConfig

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$")]
StageName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]+$")]


Gate = Annotated[str, BeforeValidator(lambda given: "true" if given is False else given)]  # false switches it off

# The default conditions on a run, by name: SQL over its figures (see `pipelines.catalog.gates`) and any view
GATES = {
    "empty_sets": "empty_sets = 0",                     # an empty set is not published,
    "lost_share": "lost_share <= 0.5",                  # nor a set that lost over half of its samples
}


class BeamConfig(Table):
    """The Beam runner. The default uses one process per core of this machine."""

    runner: str = "FnApiRunner"                         # any runner of Beam
    options: list[str] = ["--direct_running_mode=multi_processing", "--direct_num_workers=0"]


class Config(Table):
    """All of a file. A stage whose table is None here is made only if the file has that table."""

    images: ImagesConfig = ImagesConfig()
    fetch: FetchConfig | None = None
    duplicates: DuplicatesConfig | None = None
    ocr: OcrConfig | None = None
    captions: CaptionsConfig | None = None
    translations: TranslationsConfig | None = None
    measures: MeasuresConfig | None = None
    instructions: InstructionsConfig = InstructionsConfig()
    responses: ResponsesConfig | None = None
    claims: ClaimsConfig = ClaimsConfig()
    verdicts: VerdictsConfig | None = None
    pairs: PairsConfig = PairsConfig()
    align: AlignConfig | None = None
    training: TrainingConfig = TrainingConfig()
    root: Location                                      # folder of the corpus, or s3://…, gs://…
    source: Annotated[                                  # one source, or several as [[source]]
        tuple[Annotated[SourceConfig, Field(discriminator="kind")], ...],
        BeforeValidator(lambda given: [given] if isinstance(given, dict) else given),
    ] = Field(min_length=1)
    endpoints: dict[Name, EndpointConfig] = {}
    sets: dict[Name, SetConfig] = {}
    stages: dict[StageName, OwnStageConfig] = {}
    gates: Annotated[dict[str, Gate], AfterValidator(lambda given: GATES | given)] = GATES
    beam: BeamConfig = BeamConfig()

    @property
    def are_pairs_brought(self) -> bool:
        """Whether the source's own pairs are taken as they are: no labeler judges them."""
        return bool(self.responses and self.responses.from_source and not self.verdicts)


def several(field: FieldInfo) -> type[Table] | None:
    """The class of a field that is a list of tables, as [[ocr.engines]]."""
    kinds = get_args(field.annotation) if get_origin(field.annotation) is tuple else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Table)), None)


def _tables() -> dict[str, type[Table]]:
    """The tables by their names in the file; a configuration can have several of those in NAMED."""
    tables: dict[str, type[Table]] = {}
    for name, field in Config.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        table = next((kind for kind in kinds if issubclass(kind, Table)), None)
        if table is None or name == "source":
            continue
        tables[name] = table
        tables |= {
            f"{name}.{inner}": type(field.default)
            for inner, field in table.model_fields.items()
            if isinstance(field.default, Table)
        }
        tables |= {f"{name}.{inner}": kind for inner, field in table.model_fields.items() if (kind := several(field))}
    return tables


NAMED = ("sets", "endpoints", "stages")   # tables of tables: [sets.NAME]
TABLES = _tables()


def with_engine(config: Config, engine: str) -> Config:
    """The configuration with another OCR engine. Raises `UserError` for an unknown engine, or without OCR."""
    engines = get_args(OcrConfig.model_fields["engine"].annotation)
    if engine not in engines:
        raise UserError(f"--engine: unknown engine {engine!r}; choose from {', '.join(engines)}")
    if config.ocr is None:
        raise UserError("--engine: needs the table [ocr]; add it")
    return config.model_copy(update={"ocr": config.ocr.model_copy(update={"engine": engine, "engines": ()})})
