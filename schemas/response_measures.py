"""Language, script, words and tokens of each response of the policy. One row per response."""

from typing import TypedDict

from schemas.stage import stage_info


class ResponseMeasuresRow(TypedDict):
    key: str                                # of the response
    language: str | None                    # of LANGUAGES in `schemas.measures`, or `unknown`
    language_confidence: float | None       # 0 to 1, to two decimals; of `unknown` too
    script: str | None                      # of most letters, such as `Latin`; None without letters
    words: int | None                       # a letter of a script without spaces is half
    text_tokens: int | None                 # by `measures.tokenizer`; None without it
    reason: str | None                      # always None but for responses that were left out
    detail: str | None
    made_from: str


STAGE = stage_info("response_measures", ResponseMeasuresRow, {}, reads={"responses": ("text",)}, per_image=False)
