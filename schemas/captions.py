"""The verdict on each caption, and the caption that a model wrote."""

from typing import Any, Literal, NotRequired, TypedDict

from pydantic import Field

from schemas.answers import OF_ENDPOINTS, RETRYABLE
from schemas.config.table import Location, Table
from schemas.stage import stage_info


class CaptionRow(TypedDict):
    key: str
    text: str | None        # the caption from here on: rewritten, or as it came
    original: str | None    # as it came
    verdict: str | None     # of the original, one of CAPTION_VERDICTS
    question: str | None    # to which the rewritten one is the answer
    rewritten: str | None   # what the model wrote, taken or not
    raw: NotRequired[str | None]    # the model's answer, as it came
    cut: NotRequired[bool | None]   # whether that ends where the tokens ended
    answer: str | None      # whether that was taken: one of ANSWERS; None if nothing was asked
    reason: str | None      # why there is no answer yet; None when all is well
    detail: str | None      # what exactly went wrong, for a person
    made_from: str


CAPTION_VERDICTS = {                # the first that holds
    "no_text": "the caption is missing, or has no letters",
    "file_name": "a file's name, or a camera's number for it",
    "boilerplate": "most of it is text that pages use for any picture: `click to enlarge`, `stock photo`, addresses",
    "too_short": "fewer words than captions.min_words",
    "mixed_script": "words that mix scripts as no language does, or letters read in a wrong encoding",
    "repeated": "it repeats a word, or a few words, many times",
    "not_fluent": "a list of words, numbers or capitals instead of a sentence",
    "good": "good enough to learn from as it is",
}
GOOD = "good"

ANSWERS = {                 # the first that holds; all but the last leave the caption as it came
    "filtered": "the server's own filter withheld it",
    "http_4xx": "the server refuses the request",
    "too_long": "longer than captions.max_words or captions.max_tokens, or the request was for the model",
    "empty_answer": "only white space",
    "says_key": "it holds a key of an endpoint or of a store, or a part of one; it is not stored",
    "thinking": "only thoughts: the answer itself is missing",
    "no_form": "not the question and answer that the prompt asks for",
    "refusal": "the model refuses, or speaks about itself",
    "echo": "it repeats the prompt",
    "loops": "it repeats itself",
    "wrong_script": "most of its letters are in another script than those of the original",
    "taken": "accepted: it is now the caption",
}
ACCEPTED = "taken"

REASONS = {word: meaning for word, meaning in OF_ENDPOINTS.items() if word in RETRYABLE}


class CaptionsConfig(Table):
    """Rewrites weak captions. Without this table, captions stay as the source has them."""

    endpoint: str                                       # the model that writes captions; it may read text only
    rewrite: Literal["weak", "all"] = "weak"
    image: bool = False                                 # whether the model also gets the image, not only the alt text
    prompt: Location | None = None                      # a file with {text}; if it does not ask for `Question:` and
                                                        # `Answer:`, the whole answer is the caption
    temperature: float = Field(default=0.0, ge=0, le=2)  # 0: always the likeliest token
    max_tokens: int = Field(default=300, ge=1)          # maximum length of an answer
    min_words: int = Field(default=4, ge=1)             # a shorter caption is weak; East Asian signs count half
    max_words: int = Field(default=150, ge=1)           # a longer rewritten caption is not accepted

    def parameters(self) -> dict[str, Any]:
        """The parameters of a request to the endpoint."""
        return {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": 0}


STAGE = stage_info(
    "captions", CaptionRow, REASONS, reads={"rows": ("text",), "images": ()},
    samples={
        "text": "coalesce(captions.text, rows.text)", "alt_text": "rows.text",
        "caption_verdict": "captions.verdict", "caption_answer": "captions.answer",
    },
    paid=True,
)
