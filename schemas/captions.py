"""What a caption is worth, and what a model made of it."""

from typing import TypedDict

from schemas.answers import OF_ENDPOINTS, RETRYABLE
from schemas.arrow import arrow_schema


class CaptionRow(TypedDict):
    key: str
    text: str | None        # the caption from here on: rewritten, or as it came
    original: str | None    # as it came
    verdict: str | None     # of the original, one of VERDICTS
    question: str | None    # to which the rewritten one is the answer
    rewritten: str | None   # what the model wrote, taken or not
    answer: str | None      # whether that was taken: one of ANSWERS; None if nothing was asked
    reason: str | None      # why there is no answer yet; None when all is well
    detail: str | None      # what exactly went wrong, for a person
    made_from: str


CAPTIONS = arrow_schema(CaptionRow)

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
    "no_form": "not the question and answer that the prompt asks for",
    "refusal": "the model says that it cannot, or what it is",
    "echo": "it says the prompt again",
    "loops": "it says the same again and again",
    "wrong_script": "most of its letters are of another script than most of the original's",
    "taken": "it is the caption now",
}
ACCEPTED = "taken"

REASONS = {word: meaning for word, meaning in OF_ENDPOINTS.items() if word in RETRYABLE}
