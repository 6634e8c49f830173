"""Some rows are translated, each answer is checked, and what does not pass stays as it came."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from support.corpora import build, data_files
from support.messages import sentences
from support.scripted_server import SENTENCES, Scripted

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.catalog.stats import translated
from pipelines.maintain.verify import verify_root
from pipelines.stages.translations import Translate, weight
from schemas.config.file import read_config
from schemas.config.templates import template
from schemas.errors import UserError
from schemas.measures import LANGUAGES
from schemas.translations import ANSWERS, NAMES, RECIPE, TranslationsConfig

TEXT = "A dog runs over the sand number {} of the beach."
QUESTION = "What can be seen in the middle of this picture?"
EVERY = 'languages = ["de", "fr", "ru", "ja"]\nshare = 1.0\n'


@pytest.fixture(scope="module")
def server():
    with Scripted() as server:
        yield server


def talk(*contents: str) -> list[dict]:
    return [{"role": "user" if n % 2 == 0 else "assistant", "content": text} for n, text in enumerate(contents)]


@pytest.fixture
def configured(configure, tmp_path, server):
    """Writes a configuration of some talks without images; by default forty."""

    def write(settings: str = EVERY, talks: list[list[dict]] | None = None, more: str = "") -> Path:
        talks = [talk(QUESTION, TEXT.format(n)) for n in range(40)] if talks is None else talks
        entries = [{"id": f"t{number}", "conversations": turns} for number, turns in enumerate(talks)]
        (tmp_path / "talks.json").write_text(json.dumps(entries))
        return configure(
            '[source]\nkind = "conversations"\npath = "talks.json"\nimages = "."\n[endpoints.translator]\n'
            f'model = "scripted"\nurl = "{server.url}"\ntries = 2\n[translations]\nendpoint = "translator"\n'
            f'{settings}\n{more}\n[sets.talk]\ntask = "conversation"\n'
        )

    return write


def translations(root) -> list[dict]:
    return query(root, "from translations order by key").to_pylist()


@pytest.mark.slow
def test_a_conversation_is_translated_turn_by_turn_and_is_what_is_learned(configured, server):
    before = server.count()
    root = build(config := configured(more="[measures]"))
    rows = translations(root)
    assert {row["answer"] for row in rows} == {"taken"} and {row["language"] for row in rows} == {
        "de",
        "fr",
        "ru",
        "ja",
    }
    for row in rows:
        question, answer = json.loads(row["conversation"])["turns"]
        assert answer == {"role": "assistant", "content": SENTENCES[NAMES[row["language"]]]}
        assert question["role"] == "user" and len(row["raw"]) == 2
    counted = query(root, "select translated_to, language, count(*) as n from samples group by all").to_pylist()
    assert all(row["translated_to"] == row["language"] for row in counted) and len(counted) == 4
    (tar,) = Path(root.path("shards")).glob("*.tar")
    assert "läuft am Strand" in tar.read_bytes().decode("utf-8", "replace")
    assert verify_root(root).problems == [] and plan(open_corpus(config)).work() == 0
    assert translated(root) == [("translated", 40)]
    calls = query(root, "select sum(tries)::int as n from calls where stage = 'translations'")["n"].to_pylist()
    assert calls == [server.count() - before] == [80]


@pytest.mark.slow
def test_a_share_is_translated_by_hash_and_the_rest_is_not_asked_for(configured, server):
    before = server.count()
    root = build(configured('languages = ["de"]\nshare = 0.25\n'))
    answers = Counter(row["answer"] for row in translations(root))
    assert 3 <= answers["taken"] <= 18 and answers[None] == 40 - answers["taken"]
    assert server.count() - before == 2 * answers["taken"]
    drawn = {row["key"] for row in translations(root) if row["language"]}
    root = build(configured('languages = ["de"]\nshare = 0.5\n'))
    assert drawn < {row["key"] for row in translations(root) if row["language"]}, "a larger share only adds rows"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("STAY", "wrong_language"), ("LONG", "wrong_length"), ("REFUSE", "refusal"),
        ("THINK", "thinking"), ("NOTHING", "empty_answer"),
    ],
)  # fmt: skip
def test_an_answer_that_does_not_pass_leaves_the_row_as_it_came(word, answer, configured, server):
    root = build(configured(talks=[talk(QUESTION, f"A {word} dog runs over the sand of the long beach. ")]))
    (row,) = translations(root)
    assert (row["answer"], row["conversation"], row["reason"]) == (answer, None, None)
    assert answer in ANSWERS and (row["detail"].startswith("turn 2: ") or word == "NOTHING")
    assert query(root, "select conversation from samples")["conversation"][0].as_py().count(word) == 1


BALL = "A dog runs on the beach with a red ball."


def stage_of(**settings) -> Translate:
    return Translate(
        (), config=TranslationsConfig(endpoint="e", **settings), prompt="Translate this into {language}: {text}"
    )


@pytest.mark.parametrize(
    ("original", "text", "target", "fault"),
    [
        ("<image>What is in the picture?", "<image>Was ist auf dem Bild zu sehen?", "de", None),
        ("<image>What is in the picture?", "Was ist auf dem Bild zu sehen?", "de", "marks_lost"),
        ("What is in the picture?", "<image>Was ist auf dem Bild zu sehen?", "de", "marks_lost"),
        ("Yes.", "Ja.", "de", None),
        ("A dog.", "一只狗。", "zh", None),
        (BALL, "一只狗带着红球在海滩上奔跑。", "zh", None),
        (BALL, "Hund.", "de", "wrong_length"),
        (BALL, BALL, "de", "wrong_language"),
        (BALL, "Un chien court sur la plage avec une balle.", "de", "wrong_language"),
    ],
)  # fmt: skip
def test_faults_of_a_translation(original, text, target, fault):
    assert stage_of().fault(text, original, target, False) == fault


@pytest.mark.slow
def test_real_translations_pass_and_those_of_other_languages_do_not():
    """Django's catalogues: people translated these."""
    stage, passed, others = stage_of(), Counter(), Counter()
    for code in ("de", "fr", "ru", "ja", "zh", "ar", "hi", "tr", "pl", "uk"):
        for text in sentences(code):
            passed[stage.fault(text, text, code, False)] += 1
            others[stage.fault(text, text, "en", False)] += 1
    assert passed[None] >= 0.97 * passed.total() and others["wrong_language"] >= 0.97 * others.total()


def test_a_sign_of_chinese_weighs_as_much_as_a_short_word():
    assert weight("一只狗") == 9 and weight("ab c") == 4 and weight("") == 1


@pytest.mark.slow
def test_an_earlier_answer_is_judged_again_instead_of_asked_for(configured, server):
    root = build(configured())
    before = server.count()
    root = build(configured(EVERY + "max_ratio = 1.01\n"))
    assert server.count() == before
    assert "wrong_length" in {row["answer"] for row in translations(root)}
    root = build(configured())
    assert {row["answer"] for row in translations(root)} == {"taken"}
    assert server.count() <= before + 80, "what was cut short is asked for again, nothing else"


@pytest.mark.slow
def test_a_server_that_fails_leaves_a_reason_that_is_retried(configured, server):
    server.does(fail=[{"how": "500", "match": "number 3 of"}])
    try:
        root = build(configured())
    finally:
        server.does()
    failed = [row for row in translations(root) if row["reason"]]
    assert [row["reason"] for row in failed] == ["http_5xx"]
    assert query(root, "select count(*) as n from shards")["n"].to_pylist() == [39]


@pytest.mark.slow
def test_the_same_answers_give_the_same_bytes(configured, server, tmp_path):
    config = configured()
    first = data_files(Path(build(config).path("")))
    (tmp_path / "corpus").rename(tmp_path / "before")
    assert data_files(Path(build(config).path(""))) == first


@pytest.mark.slow
def test_captions_are_translated_too(pictures, configure, server):
    for number in range(4):
        (pictures / f"{number}.txt").write_text(TEXT.format(number))
    root = build(configure(
        f'[source]\nkind = "folder"\npath = "pictures"\n[endpoints.t]\nmodel = "scripted"\nurl = "{server.url}"\n'
        '[translations]\nendpoint = "t"\nlanguages = ["de"]\nshare = 1.0\n[sets.train]\n'
    ))  # fmt: skip
    rows = query(root, "select text, alt_text, translated_to from samples").to_pylist()
    assert {row["text"] for row in rows} == {SENTENCES["German"]} and {row["translated_to"] for row in rows} == {"de"}


def test_the_recipe_has_36_languages_under_half_a_percent():
    config = TranslationsConfig(endpoint="e")
    assert len({*RECIPE}) == len(config.languages) == 36 and config.share <= 0.005
    assert {*RECIPE} <= NAMES.keys() <= LANGUAGES


def test_the_recipe_is_in_the_template_of_conversations(tmp_path):
    text = template(tmp_path / "my.toml", "conversations")
    wanted = ("endpoints.translator", "model", "url", "translations", "endpoint", "share", "measures")
    for name in wanted:
        text = re.sub(rf"^# (\[{name}\]|{name} = )", r"\1", text, flags=re.M)
    (tmp_path / "my.toml").write_text(text)
    config = read_config(tmp_path / "my.toml").translations
    assert (config.share, config.languages) == (0.005, RECIPE)


def test_an_unknown_language_is_refused_in_one_line(configured):
    with pytest.raises(UserError, match=r"translations\.languages: .*xx is not known; choose from ar, az"):
        read_config(configured('languages = ["de", "xx"]\n'))
