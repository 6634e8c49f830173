"""Has a model translate the captions and conversations of some rows (MiniCPM-V, section 4: under 0.5 % of the data
taught 36 languages).

Which rows, and into which language, is decided by hash(seed, key). Each answer is checked: its language, its length,
its marks of images. If it does not pass, the row stays as it was.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from pipelines.engine.commit import digest
from pipelines.engine.partition_stage import Before, Rejected
from pipelines.models.chat import ChatClient
from pipelines.models.endpoints import CallFailed, endpoint_of, message
from pipelines.models.model_stage import MessageImages, ModelStage, measured
from pipelines.models.prompts import filled, read_prompt
from pipelines.sources.turns import compact
from pipelines.text_rules.answer_text import loops, without_chatter, without_marks
from pipelines.text_rules.caption_rules import REFUSAL, caption_of, echoes, length_of, words_of
from pipelines.text_rules.languages import identity, language_of
from pipelines.text_rules.scripts import script_of
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.marks import MARK, blanked
from schemas.measures import UNKNOWN, MeasuresConfig
from schemas.stage import Columns
from schemas.translations import ACCEPTED, NAMES, REASONS, STAGE, TranslationsConfig

JUDGING = {"max_ratio"}  # settings that no request depends on
SURE = MeasuresConfig().min_confidence
SHORT = 5  # words of a text whose language need not be told


@dataclass(frozen=True)
class Translate(ModelStage):
    config: TranslationsConfig = field(kw_only=True)
    prompt: str = field(kw_only=True)

    info = STAGE
    version = 1
    retryable = frozenset(REASONS)

    @property
    def reads(self) -> Mapping[str, Columns]:
        rewritten = any(info.name == "captions" for info in self.earlier)
        return {**self.info.reads, **({"captions": ("text",)} if rewritten else {})}

    def settings(self) -> dict[str, Any]:
        (endpoint,) = self.endpoints
        settings = self.config.recorded(exclude={"endpoint", "prompt"}) | {"languages": list(self.config.languages)}
        return settings | {"model": endpoint.identity(), "prompt": digest(self.prompt), "identified": identity()}

    def target(self, row: Row, texts: list[str]) -> str | None:
        """The language into which a row is translated; None if it is not drawn, or has nothing to translate."""
        lot = sha256(f"translate/{self.config.seed}/{row['rows']['key']}".encode()).hexdigest()
        if int(lot[:13], 16) / 16**13 >= self.config.share or not any(words_of(blanked(text)) for text in texts):
            return None
        own = language_of(blanked("\n".join(texts)), SURE).code
        others = [code for code in self.config.languages if code != own]
        return others[int(lot[13:26], 16) % len(others)] if others else None

    def reread(self, row: Row, before: Before) -> Row | None:
        texts = texts_of(row)
        if self.target(row, texts) is None:
            return {}
        if before.row["raw"] is None or not before.differs_only_in(self, JUDGING):
            return None
        return self._judged(row, texts, before.row["raw"], before.row["cut"])

    async def answer(self, row: Row, images: MessageImages, clients: dict[str, ChatClient]) -> Row | Rejected:
        texts = texts_of(row)
        if (target := self.target(row, texts)) is None:
            return {}
        (client,) = clients.values()
        raw: list[str] = []
        cut: list[bool] = []
        seen: list[Row] = []
        made = None
        while made is None:
            text = texts[len(raw)]
            if not words_of(blanked(text)):  # marks and signs alone
                raw, cut = [*raw, text], [*cut, False]
            else:
                try:
                    asked = filled(self.prompt, text=text, language=NAMES[target])
                    answer = await client.ask(message(asked), "", **self.config.parameters())
                except CallFailed as failed:
                    if failed.can_pass:
                        failed.before = [*seen]
                        raise
                    failure = {"language": target, "answer": failed.reason, "detail": failed.detail}
                    return failure | {"measured": [*seen, measured(failed)]}
                seen.append(measured(answer))
                raw, cut = [*raw, answer.text], [*cut, answer.cut]
            made = self._judged(row, texts, raw, cut)
        return made | {"measured": seen}

    def _judged(self, row: Row, texts: list[str], raw: list[str], cut: list[bool]) -> Row | None:
        """The columns of a row by the answers to its first texts; None if all pass, and more have to be asked for."""
        target = self.target(row, texts)
        made: Row = {"language": target, "raw": raw, "cut": cut}
        translated = []
        for number, (original, answer) in enumerate(zip(texts, raw, strict=False), 1):
            said = without_marks(answer)
            text = without_chatter(said.text)
            verdict = said.fault or self.fault(text, original, target or "", cut[number - 1])
            if verdict:
                return made | {"answer": verdict, "detail": f"turn {number}: {text[:200]}"}
            translated.append(text)
        if len(translated) < len(texts):
            return None
        if row["rows"]["conversation"] is None:
            return made | {"answer": ACCEPTED, "text": translated[0]}
        talk = json.loads(row["rows"]["conversation"])
        talk["turns"] = [turn | {"content": text} for turn, text in zip(talk["turns"], translated, strict=True)]
        return made | {"answer": ACCEPTED, "conversation": compact(talk)}

    def fault(self, text: str, original: str, target: str, cut: bool) -> str | None:
        """What is wrong with a translation, a word of ANSWERS; None if nothing is."""
        if text == original and not words_of(blanked(original)):
            return None
        words = words_of(blanked(text))
        if not words:
            return "empty_answer"
        if cut:
            return "too_long"
        if REFUSAL.search(text) and not REFUSAL.search(original):
            return "refusal"
        if echoes(words, words_of(self.prompt)):
            return "echo"
        if loops(text) and not loops(original):
            return "loops"
        if Counter(MARK.findall(text)) != Counter(MARK.findall(original)):
            return "marks_lost"
        ratio = weight(blanked(text)) / weight(blanked(original))
        if not 1 / self.config.max_ratio <= ratio <= self.config.max_ratio:
            return "wrong_length"
        language = language_of(blanked(text), SURE).code
        short = language == UNKNOWN and length_of(blanked(text)) < SHORT
        return None if language == target or short else "wrong_language"


def texts_of(row: Row) -> list[str]:
    """The texts of a row that are translated: each turn of its conversation, or else its caption."""
    conversation = row["rows"]["conversation"]
    if conversation is not None:
        return [turn["content"].encode("utf-8", "replace").decode() for turn in json.loads(conversation)["turns"]]
    return [caption_of(row) or ""]


def weight(text: str) -> float:
    """The length of a text, in letters of an alphabet: a sign of Chinese, Japanese or Korean counts as three."""
    return sum(3 if script_of(character) == "EAST_ASIAN" else 1 for character in text.strip()) or 1


def open_stage(config: Config) -> Translate | None:
    """Raises `UserError` for a model or a prompt that does not exist."""
    if config.translations is None:
        return None
    translations = config.translations
    endpoint = endpoint_of(config, "translations.endpoint", translations.endpoint)
    prompt = read_prompt("translations.prompt", translations.prompt, "translate", ["text", "language"])
    return Translate((endpoint,), config=translations, prompt=prompt)
