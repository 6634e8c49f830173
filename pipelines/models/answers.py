"""Reads the answers of models: lists, as JSON or bullets, and the probability of a word."""

import json
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, get_args

from pipelines.engine.secrets import told
from pipelines.models.endpoints import CallFailed
from schemas.config.endpoints import Parameter

BULLET = re.compile(r"\s*(?:[-*•–]|\(?\d{1,3}[.)])\s+(.+)")
FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n\s*```", re.S)  # with something around it
FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.S)
AROUND = " \t\r\n▁ĠĊ*_#\"'“”‘’«»`.,:;!?-–—()[]{}<>"  # what tokenizers put in front of a word, and marks around it

CHECK = "`shardmill check-endpoint` shows what works"
FIXES = {  # reason -> what a user can do where every request fails for it
    "http_429": "run again later, or lower `concurrency`",
    "http_5xx": "look at the server's log; run again later, or lower `concurrency`",
    "timeout": "raise `timeout`, or lower `concurrency`",
    "connection": "is the server overloaded? look at its log, or lower `concurrency`",
    "too_long": "serve the model with a longer context, or lower `max_tokens` of the stage",
}
NEVER, ROUNDED = -1e9, 0.05  # a log-probability of 0; how far probabilities may be above 1 together
MAX_TOKENS = ("max_tokens", "max_completion_tokens")
NAMES = (*get_args(Parameter), *MAX_TOKENS[1:])  # of parameters that a request may have


def refused_in(failed: CallFailed) -> list[str]:
    """The parameters that a refused request names as the reason."""
    return [name for name in NAMES if failed.reason == "http_4xx" and re.search(rf"\b{name}\b", failed.detail)]


def fix_of(failed: CallFailed) -> str:
    """What a user can do where every request fails like this one."""
    if failed.reason != "http_4xx":
        return FIXES.get(failed.reason, CHECK)
    if not (named := refused_in(failed)):
        return f"{CHECK}; `omit` and `max_tokens_name` change what is sent"
    if {*named} & {*MAX_TOKENS}:
        return 'set max_tokens_name to its name on the server, or omit = ["max_tokens"] to leave it out'
    return f"set omit = {json.dumps(named)} to leave it out"


def not_a_completion(body: Any) -> CallFailed:
    """The failure of a request that was answered by something else, such as a page of HTML."""
    if not isinstance(body, str):
        try:
            body = json.dumps(body, default=lambda model: model.to_dict(warnings=False))
        except (AttributeError, TypeError, ValueError, RecursionError):
            body = type(body).__name__
    return CallFailed("bad_answer", f"not a completion: {told(body, 80)!r}; is the url right? It often ends in /v1")


def schema_of(name: str, count: int | None = None) -> dict[str, Any]:
    """The `response_format` for answers of the form {name: [texts]}, with `count` texts if that is given."""
    texts = {"type": "array", "items": {"type": "string"}} | ({"minItems": count, "maxItems": count} if count else {})
    shape = {"type": "object", "properties": {name: texts}, "required": [name], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": shape}}


def read_list(text: str, name: str) -> list[str] | None:
    """The entries of an answer that is a JSON list or has bullets; None if it is neither."""
    fenced = FENCE.fullmatch(text) or FENCED.search(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
        entries = value[name] if isinstance(value, dict) else value
        if isinstance(entries, list) and all(isinstance(entry, str) for entry in entries):
            return [" ".join(entry.split()) for entry in entries if entry.strip()]
    except (ValueError, KeyError, RecursionError):
        pass
    lines = [match[1].strip() for line in text.splitlines() if (match := BULLET.fullmatch(line))]
    return lines or None


def probability(top: Iterable[tuple[str, float]], word: str) -> float | None:
    """The probability that the first token is `word`, in any case and width, with blanks, quotes or marks around it;
    None if it is not a candidate."""
    spelled = ((unicodedata.normalize("NFKC", token).strip(AROUND).casefold(), logprob) for token, logprob in top)
    masses = [math.exp(logprob) for token, logprob in spelled if token == word]
    return math.fsum(masses) if masses else None


def likeliest(top: Iterable[tuple[str, float]]) -> str:
    """The first candidates with their probabilities, for a person."""
    first = sorted(top, key=lambda candidate: -candidate[1])[:5]
    return ", ".join(f"{token!r} {math.exp(logprob):.2g}" for token, logprob in first)


def count_of(tokens: Any) -> int:
    """A number of tokens as a server gives it; 0 if it is not a number."""
    return int(tokens) if isinstance(tokens, int | float) and 0 <= tokens < 1 << 40 else 0


def first_token(logprobs: Any) -> list[tuple[str, float]]:
    """The candidates of the first token with their log-probabilities. Raises `CallFailed` without valid ones."""
    if not (logprobs and logprobs.content):
        raise CallFailed("bad_answer", "no log-probabilities")
    top = [(candidate.token, candidate.logprob) for candidate in logprobs.content[0].top_logprobs or ()]
    if not top:
        raise CallFailed("bad_answer", "no candidates for the first token")
    for token, logprob in top:
        if not isinstance(token, str) or not isinstance(logprob, int | float) or not -math.inf <= logprob <= 1e-3:
            raise CallFailed("bad_answer", told(f"{logprob!r} is not a log-probability; the token is {token!r}"))
    top = [(token, max(logprob, NEVER)) for token, logprob in top]
    if (mass := math.fsum(math.exp(logprob) for _, logprob in top)) > 1 + ROUNDED:
        raise CallFailed(
            "bad_answer", f"the probabilities of the candidates for the first token are {mass:.3g} together"
        )
    return top
