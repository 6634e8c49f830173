"""What can be said of a sample without its pixels: languages, scripts, words and tokens of its texts, and the views and
visual tokens of its image."""

from typing import TypedDict

from pydantic import Field

from schemas.config.table import Location, Table
from schemas.stage import stage_info

UNKNOWN = "unknown"     # the language of a text of which it cannot be told


class MeasuresRow(TypedDict):
    key: str                                # of the row
    language: str | None                    # of LANGUAGES, or UNKNOWN: of the conversation's answers, else the caption
    language_confidence: float | None       # 0 to 1, to two decimals; of UNKNOWN too
    script: str | None                      # of most letters, such as `Latin`; None without letters
    words: int | None                       # of all turns, or the caption; a letter of a script without spaces is half
    text_tokens: int | None                 # of all turns, or the caption, by `measures.tokenizer`; None without it
    ocr_language: str | None                # the same of the text that OCR read in the image
    ocr_language_confidence: float | None
    ocr_script: str | None
    ocr_words: int | None
    ocr_tokens: int | None
    slices_llama_cpp: int | None            # beside the overview, as llama.cpp cuts the image; None where it cannot
    visual_tokens_llama_cpp: int | None     # `measures.queries` a view
    slices_openbmb: int | None              # the same by OpenBMB's plan
    visual_tokens_openbmb: int | None
    reason: str | None                      # always None but for rows that an earlier stage left out
    detail: str | None
    made_from: str


REASONS: dict[str, str] = {}

# ISO 639-1, of the languages that are detected; `no` also means Bokmål (nb)
_CODES = (
    "af am an ar as az ba be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu he hi hr ht hu hy "
    "id is it ja jv ka kk km kn ko ku ky la lb lo lt lv mg mk ml mn mr ms mt my ne nl nn no oc or pa pl ps pt ro ru "
    "sa si sk sl so sq sr sv sw ta te tg th tk tl tr tt ug uk ur uz vi wa yo zh"
)
LANGUAGES = frozenset(_CODES.split())


class MeasuresConfig(Table):
    """Measures texts and views: language, script, words, tokens. Without this table, nothing of that is measured."""

    min_confidence: float = Field(default=0.35, ge=0, le=1)     # below it, the language is `unknown`
    tokenizer: Location | None = None                   # a tokenizer.json, or its folder, that counts text tokens
    queries: int = Field(default=64, ge=1)              # visual tokens of a view
    side: int = Field(default=448, ge=14)               # pixels of a view's side, as the vision tower has it


COLUMNS = [name for name in MeasuresRow.__annotations__ if name not in ("key", "reason", "detail", "made_from")]

STAGE = stage_info(
    "measures", MeasuresRow, REASONS, reads={"rows": ("text", "conversation"), "images": ("width", "height")},
    samples={column: f"measures.{column}" for column in COLUMNS},
)
