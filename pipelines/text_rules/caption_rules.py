"""Which captions are weak, and which rewritten captions are taken: plain rules, of which the first that holds decides.

Many alt texts of the web are file names, lists of words for search engines, or phrases that pages use for any picture.
Each letter of a script without spaces counts as half a word.
"""

import re
from collections import Counter
from collections.abc import Sequence

from pipelines.text_rules.answer_text import cleaned, first_turn, loops, without_chatter, without_marks
from pipelines.text_rules.scripts import mixes_scripts, script_of
from schemas.arrow import Row
from schemas.captions import CaptionsConfig

FILE = re.compile(r"[^\s/]+\.(jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif|cr2|nef|raw)", re.I)
CAMERA = re.compile(
    r"(img|dsc[nf]?|dscf?|pict?|image|photo|picture|screen ?shot|scan|untitled|foto|bild|mvimg|pxl|wp|p)?"
    r"[\s_#(.-]*\d[\d\s_().-]*(copy|kopie|edit(ed)?|x\d+)?",
    re.I,
)
BOILERPLATE = re.compile(  # no host is longer than 253; unbounded, a long word would be scanned from each letter
    r"(https?://|www\.)\S+|\b\S{1,253}\.(com|net|org|info|co\.uk|de|fr|ru)\b"
    r"|\b(click|tap) (here|to (enlarge|view|see|zoom|download|buy))\b"
    r"|\b(view|see) (full[- ]size|larger|more)( image)?\b|\bimage may contain:?"
    r"|\b(royalty[- ]free )?stock (photo|image|vector|illustration|footage)s?\b"
    r"|\b(free|instant)? ?download(s)?\b|\ball rights reserved\b|\bcopyright\b|©|®|\bphoto (by|credit|courtesy of)\b"
    r"|\b(shutterstock|getty ?images|istock|alamy|dreamstime|depositphotos|123rf|pinterest|flickr)\b"
    r"|\bfree (uk |us |world ?wide )?(shipping|delivery)\b|\b(add to (cart|basket)|buy (now|online)|in stock|on sale)\b"
    r"|\b(thumbnail|placeholder|no image( available)?|default image|loading|image not found)\b"
    r"|\b(picture|image|photo|figure|slide|gallery|page) (\d+|#\d+)( of \d+)?\b",
    re.I,
)
MOJIBAKE = re.compile("\ufffd|Ã[\x80-\xbf©¨¤¶¼]|â€|Â[\xa0-\xbf]|&(amp|quot|nbsp|#\\d+);")
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
NO_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "EAST_ASIAN")

# Hardly any sentence of eight words lacks all of these small words. They are also not counted as repetitions.
SMALL = frozenset(
    re.findall(
        r"\w+",
        """
        a an the of in on at to by for with from and or is are was were be as its his her their this that it into over
        der die das den dem des ein eine einer einem und mit von im am auf für zu ist sind bei aus an nach vor
        le la les un une des du de et dans sur avec pour par est sont au aux en ce cette
        el los las unos unas y con del al por para es son su que se lo
        il gli uno e di da nel nella sul con per sono che o os as um uma do dos das na no em com é são
        all any can every had has have how my not our some we what when where who why will you your
        het een van op met voor bij uit zijn i na z w do się jest в на с и из по для у к о
        """,
    )
)
REFUSAL = re.compile(
    r"\b(i'?m|i am|we are) (sorry|unable|not able|only an?|just an?)\b"
    r"|\bi (cannot|can'?t|can not|do not|don'?t|won'?t) "
    r"(see|view|provide|assist|help|answer|determine|create|write|rewrite|fulfill|comply|have)\b"
    r"|\bas an? (ai|artificial|language|large|text)\b|\b(ai|language) (model|assistant)\b|\bunfortunately, (i|the)\b"
    r"|\bno (alt text|picture|image) (was|is|has been) (given|provided)\b|抱歉|无法|對不起|申し訳",
    re.I,
)
MARKED = r"(?:\*\*)?{}[:：]?(?:\*\*)?[:：]?\s*"  # a name, its colon, and Markdown's stars
FORM = re.compile(
    rf"\s*{MARKED.format('Question')}(?P<question>.+?)\s*{MARKED.format('Answer')}(?P<answer>.*)", re.S | re.I
)


def caption_of(row: Row) -> str | None:
    """The caption of a row of stages: the rewritten one where the stage `captions` is read, or else the source's."""
    return row["captions"]["text"] if "captions" in row else row["rows"]["text"]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; in scripts without spaces, each letter is one."""
    words = []
    for run in WORD.findall(text):
        parts = list(run) if script_of(run[0]) in NO_SPACES else [run]
        words += [part.lower() for part in parts]
    return words


def length_of(text: str) -> float:
    """The number of words, numbers included; a letter of a script without spaces is half a word."""
    words = words_of(text)
    half = sum(len(word) == 1 and script_of(word) in NO_SPACES for word in words)
    return len(words) - half / 2 + len(re.findall(r"\b\d[\d.,]*\b", text))


def main_script(text: str) -> str | None:
    """The script of most letters; None if there are no letters."""
    counts = Counter(script for character in text if (script := script_of(character)))
    return counts.most_common(1)[0][0] if counts else None


def weakness(text: str | None, config: CaptionsConfig) -> str:
    """The verdict on an original caption, one of `schemas.captions.CAPTION_VERDICTS`."""
    text = (text or "").strip()
    if FILE.fullmatch(text) or CAMERA.fullmatch(text):
        return "file_name"
    if not words_of(text):
        return "no_text"
    remaining = length_of(BOILERPLATE.sub(" ", text))
    if BOILERPLATE.search(text) and (remaining < config.min_words or remaining < length_of(text) / 2):
        return "boilerplate"
    if length_of(text) < config.min_words:
        return "too_short"
    chunks = text.split()
    if MOJIBAKE.search(text) or sum(map(mixes_scripts, chunks)) > len(chunks) / 10:
        return "mixed_script"
    if repeats(words_of(text), most=2, share=1 / 4):
        return "repeated"
    return "good" if is_fluent(text) else "not_fluent"


def repeats(words: Sequence[str], most: int, share: float) -> bool:
    """Whether one to three words in a row come more than `most` times and make up more than `share` of the text.

    Runs of nothing but small words do not count.
    """
    for size in (1, 2, 3):
        runs = [tuple(words[n : n + size]) for n in range(len(words) - size + 1)]
        counts = Counter(run for run in runs if not SMALL.issuperset(run))
        if counts:
            _, count = counts.most_common(1)[0]
            if count > most and count * size > share * len(words):
                return True
    return False


def is_fluent(text: str) -> bool:
    """Whether a text reads like a sentence or a title, as far as one can tell without knowing its language."""
    words, chunks = words_of(text), text.split()
    signs = sum(not (c.isalnum() or c.isspace() or c in ".,;:!?'’\"“”-–()…、。，！？「」：；") for c in text)
    breaks = len(re.findall(r"[|/\\_#+*=~•·»]|\s-\s|,(?=\S)", text))
    numbers = sum(any(c.isdigit() for c in chunk) for chunk in chunks)
    shouted = sum(len(chunk) > 3 and chunk.isupper() for chunk in chunks)
    if signs > len(text) / 12 or breaks > max(1, len(words) / 6) or numbers > len(chunks) / 3:
        return False
    if shouted > 3 and shouted > len(chunks) / 2:
        return False
    if text.count(",") > max(2, len(words) / 3):
        return False
    spaced = main_script(text) in ("LATIN", "CYRILLIC") and len(words) >= 8
    return not spaced or any(word in SMALL for word in words)


# Answers


def read_answer(
    text: str, prompt: str, original: str | None, cut: bool, config: CaptionsConfig
) -> dict[str, str | None]:
    """`question`, `rewritten` and `answer` of a model's answer; the last is a word of `schemas.captions.ANSWERS`.

    If the prompt does not ask for a question and an answer, the text is the caption alone.
    """
    said = without_marks(text)
    if said.fault:
        return {"question": None, "rewritten": text.strip(), "answer": said.fault}
    if not FORM.search(prompt):
        said = cleaned(text)
        answer = " ".join(said.text.split())
        verdict = fault(answer, prompt, original, cut, config) or "taken"
        return {"question": None, "rewritten": answer, "answer": verdict}
    text = without_chatter(said.text)
    form = FORM.fullmatch(text)
    if not form:
        return {"question": None, "rewritten": text.strip(), "answer": "refusal" if REFUSAL.search(text) else "no_form"}
    parts = form["question"], without_chatter(first_turn(answer_line(form["answer"])))
    question, answer = (" ".join(part.split()).strip("* ") for part in parts)
    verdict = fault(answer, prompt, original, cut, config) or "taken"
    return {"question": question, "rewritten": answer, "answer": verdict}


def answer_line(text: str) -> str:
    """The line of an answer: until a line that ends a sentence, or an empty one."""
    lines: list[str] = []
    for line in text.strip().splitlines():
        if not line.strip():
            break
        lines.append(line)
        if re.search(r"[.!?。！？…][\"'”’)*]*\s*$", line):
            break
    return "\n".join(lines)


def fault(answer: str, prompt: str, original: str | None, cut: bool, config: CaptionsConfig) -> str | None:
    """What is wrong with a rewritten caption; None if nothing is."""
    words = words_of(answer)
    if not words:
        return "empty_answer"
    if cut or length_of(answer) > config.max_words:
        return "loops" if repeats(words, most=3, share=1 / 3) else "too_long"
    if REFUSAL.search(answer) and not (original and REFUSAL.search(original)):
        return "refusal"
    if echoes(words, words_of(prompt)) or re.search(r"\balt text\b", answer, re.I):
        return "echo"
    if repeats(words, most=3, share=1 / 3) or loops(answer):
        return "loops"
    script = main_script(original or "")
    if script and main_script(answer) != script:
        return "wrong_script"
    return None


def echoes(words: Sequence[str], prompt: Sequence[str], size: int = 8) -> bool:
    """Whether `size` words in a row are also in the prompt."""
    runs = {tuple(prompt[n : n + size]) for n in range(len(prompt) - size + 1)}
    return any(tuple(words[n : n + size]) in runs for n in range(len(words) - size + 1))
