"""How often the language of a text is told right: by both models together, and by each alone.

    python tests/benchmarks/languages.py [PARQUET WITH A COLUMN TEXT]

A JSON line for sentences and one for messages of three to six words, both of Django's catalogues: of each way the share
of answered texts that are right. Each way leaves as many texts unknown as both together do at the threshold. `ratio` is
the errors of lid.176 by those of both, `a_second` is on one core. py3langid has learned from messages of free software,
so these flatter it: a third line, for alt texts that somebody else took for English, says how each way answers those.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import pyarrow.parquet as pq
from support.messages import LANGUAGES, phrases, sentences

from pipelines.text_rules import languages
from schemas.measures import MeasuresConfig

SURE = MeasuresConfig().min_confidence
Answer = tuple[str, float]  # code and confidence


def alone(model: Callable[[str], dict[str, float]]) -> Callable[[str], Answer]:
    return lambda text: max(model(text).items(), key=lambda found: found[1], default=("", 0.0))


WAYS: dict[str, Callable[[str], Answer]] = {
    "both": languages.language_of,
    "py3langid": alone(languages._by_py3langid),
    "lid.176": alone(languages._by_fasttext),
}


def right(texts: list[tuple[str, str]], answers: Iterable[Answer], unknown: float) -> float:
    """The share of right answers among the surest, of which so many are left that this share is unknown."""
    told = [(confidence, code == language) for (language, _), (code, confidence) in zip(texts, answers, strict=True)]
    surest = sorted(told, reverse=True)[: round(len(told) * (1 - unknown))]
    return round(sum(is_right for _, is_right in surest) / len(surest), 4)


def catalogues() -> None:
    for name, take in (("sentences", sentences), ("three to six words", phrases)):
        texts = [(language, text) for language in LANGUAGES for text in take(language)]
        start = time.perf_counter()
        answers = {"both": [languages.language_of(text) for _, text in texts]}
        seconds = time.perf_counter() - start
        answers |= {way: [tell(text) for _, text in texts] for way, tell in WAYS.items() if way != "both"}
        unknown = sum(confidence < SURE for _, confidence in answers["both"]) / len(texts)
        shares = {way: right(texts, given, unknown) for way, given in answers.items()}
        figures = {"of": name, "languages": len(LANGUAGES), "texts": len(texts), "unknown": round(unknown, 4), **shares,
                   "ratio": round((1 - shares["lid.176"]) / (1 - shares["both"]), 2),
                   "a_second": round(len(texts) / seconds)}  # fmt: skip
        print(json.dumps(figures))


def alt_texts(path: str) -> None:
    texts = [text for text in pq.read_table(path, columns=["TEXT"])["TEXT"].to_pylist() if text]
    shares = {}
    for way, tell in WAYS.items():
        codes = [code if confidence >= SURE else "unknown" for code, confidence in map(tell, texts)]
        shares[way] = {code: round(codes.count(code) / len(codes), 4) for code in ("en", "unknown")}
    print(json.dumps({"of": "alt texts", "texts": len(texts), "threshold": SURE, **shares}))


if __name__ == "__main__":
    languages.language_of("reads the models")
    catalogues()
    for table in sys.argv[1:]:
        alt_texts(table)
