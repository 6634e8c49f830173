"""What a caption is worth, and what a model made of it."""

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
    "no_text": "there is none, or it has no letter",
    "file_name": "a file's name, or a camera's number for it",
    "boilerplate": "most of it is what pages say of any picture: `click to enlarge`, `stock photo`, addresses",
    "too_short": "fewer words than captions.min_words",
    "mixed_script": "words of letters that no language writes together, or letters read in a wrong encoding",
    "repeated": "a word, or a few words, again and again",
    "not_fluent": "a list of words, numbers or capitals, and no sentence",
    "good": "fit to learn from as it is",
}
GOOD = "good"

ANSWERS = {                 # the first that holds; all but the last leave the caption as it came
    "filtered": "the server's own filter held it back",
    "http_4xx": "the server refuses the request",
    "too_long": "longer than captions.max_words or captions.max_tokens, or the request was for the model",
    "empty_answer": "nothing but white space",
    "says_key": "it holds a key of an endpoint or of a store, or a part of one; it is not stored",
    "thinking": "thoughts alone: the answer itself did not come",
    "no_form": "not the question and answer that the prompt asks for",
    "refusal": "the model says that it cannot, or what it is",
    "echo": "it says the prompt again",
    "loops": "it says the same again and again",
    "wrong_script": "most of its letters are of another script than most of the original's",
    "taken": "it is the caption now",
}
ACCEPTED = "taken"

REASONS = {word: meaning for word, meaning in OF_ENDPOINTS.items() if word in RETRYABLE}


class CaptionsConfig(Table):
    """Without it, captions stay as they came."""

    endpoint: str                                       # writes captions; may be a model of text alone
    rewrite: Literal["weak", "all"] = "weak"
    image: bool = False                                 # whether it is shown the image, or the alt text alone
    prompt: Location | None = None                      # a file with {text}; if it asks for no `Question:` and
                                                        # `Answer:`, the whole answer is the caption
    temperature: float = Field(default=0.0, ge=0, le=2)  # 0: greedy
    max_tokens: int = Field(default=300, ge=1)          # of an answer
    min_words: int = Field(default=4, ge=1)             # a caption of fewer is weak; East Asian signs count half
    max_words: int = Field(default=150, ge=1)           # a rewritten caption of more is not taken

    def parameters(self) -> dict[str, Any]:
        """With which the endpoint is asked."""
        return {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": 0}


STAGE = stage_info(
    "captions", CaptionRow, REASONS, reads={"rows": ("text",), "images": ()},
    samples={
        "text": "coalesce(captions.text, rows.text)", "alt_text": "rows.text",
        "caption_verdict": "captions.verdict", "caption_answer": "captions.answer",
    },
    paid=True,
)
