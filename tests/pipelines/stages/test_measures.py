"""What is measured of texts and images without opening one, and quotas of languages."""

import json
from collections import Counter
from math import frexp
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import build, data_files, picture, say
from support.paths import PROJECT

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.maintain.verify import verify_root
from pipelines.stages.measures import Measure, open_stage
from pipelines.stages.quotas import step_above, weights_by_quota
from pipelines.stages.selection import _drawn_by_quota, _languages
from schemas.config.file import read_config
from schemas.errors import UserError
from schemas.measures import MeasuresConfig
from schemas.selection import SetConfig
from schemas.slices import plan_llama_cpp, plan_openbmb

SOURCE = '[source]\nkind = "folder"\npath = "pictures"\n'
CAPTIONS = ["a dog runs on the beach", "ein Hund läuft am Strand", "一只狗在海滩上奔跑", "IMG_0001"]


@pytest.fixture
def captioned(pictures):
    """0.png to 3.png with captions in three languages, and one without words."""
    for number, caption in enumerate(CAPTIONS):
        (pictures / f"{number}.txt").write_text(caption)
    return pictures


def row(text=None, turns=None, read=None, size=(None, None), rewritten=None) -> dict:
    """A row as the stage gets it."""
    talk = turns and json.dumps(
        {"turns": [{"role": role, "content": content} for role, content in turns], "images": []}
    )
    made = {
        "rows": {"key": "k", "text": text, "conversation": talk},
        "images": dict(zip(("width", "height"), size, strict=True)),
    }
    if read is not None:
        made["ocr"] = {"lines": [{"text": line} for line in read]}
    return made | ({"captions": {"text": rewritten}} if rewritten else {})


def measured(row: dict, **config) -> dict:
    return Measure(MeasuresConfig(**config)).measured(row)


# The stage


@pytest.mark.slow
def test_captions_have_a_language_a_script_and_words(captioned, configure):
    config = configure(SOURCE + "[measures]\n[sets.train]\nwhere = \"language = 'de'\"\n")
    root = build(config)
    sql = "select text, language, script, words, text_tokens, slices_llama_cpp as slices from samples order by text"
    assert [tuple(row.values()) for row in query(root, sql).to_pylist()] == [
        ("IMG_0001", "unknown", "Latin", 1, None, 0), ("a dog runs on the beach", "en", "Latin", 6, None, 0),
        ("ein Hund läuft am Strand", "de", "Latin", 5, None, 0), ("一只狗在海滩上奔跑", "zh", "Han", 5, None, 0),
    ]  # fmt: skip
    assert query(root, "select count(*) as n from shards")["n"].to_pylist() == [1]
    assert verify_root(root).problems == [] and plan(open_corpus(config)).work() == 0


@pytest.mark.slow
def test_a_corpus_without_the_table_has_no_such_stage_and_null_columns(captioned, configure):
    root = build(config := configure(SOURCE + "[sets.train]\n"))
    assert "measures" not in open_corpus(config).stages()
    assert query(root, "select distinct language, ocr_words from samples").to_pylist() == [
        {"language": None, "ocr_words": None}
    ]


def test_adding_it_makes_nothing_anew_but_itself(captioned, configure):
    build(configure(SOURCE + "[sets.train]\n"))
    planned = plan(open_corpus(configure(SOURCE + "[measures]\n[sets.train]\n")))
    assert {stage.stage for stage in planned.stages if stage.todo} <= {"measures", "selection", "shards"}


def test_the_language_of_a_conversation_is_that_of_its_answers():
    talk = [
        ("system", "Réponds en allemand."),
        ("user", "<image>What is it?"),
        ("assistant", "Ein Hund läuft am Strand."),
    ]
    columns = measured(row(turns=talk))
    assert (columns["language"], columns["words"]) == ("de", 11)
    assert columns["ocr_language"] is columns["ocr_words"] is columns["slices_openbmb"] is None


def test_a_rewritten_caption_is_the_one_that_is_measured():
    assert measured(row("x_1.jpg", rewritten="ein Hund läuft am Strand"))["language"] == "de"


@pytest.mark.parametrize(
    ("read", "language", "script", "words"),
    [([], None, None, None), (["EXIT", "12"], "unknown", "Latin", 2), (["禁止停车", "出口在右边"], "zh", "Han", 5)],
)
def test_the_text_that_was_read_is_measured_apart(read, language, script, words):
    columns = measured(row("a dog runs on the beach", read=read), min_confidence=0.5)
    assert columns["language"] == "en"
    assert (columns["ocr_language"], columns["ocr_script"], columns["ocr_words"]) == (language, script, words)


@pytest.mark.parametrize("size", [(448, 448), (449, 300), (1344, 896), (100, 3000), (5000, 400)])
def test_slices_and_visual_tokens_are_those_of_each_plan(size):
    columns = measured(row("a", size=size), queries=96)
    for name, of in (("llama_cpp", plan_llama_cpp), ("openbmb", plan_openbmb)):
        views = of(*size).views
        assert (columns[f"slices_{name}"], columns[f"visual_tokens_{name}"]) == (len(views) - 1, 96 * len(views))


def test_an_image_that_llama_cpp_refuses_has_null_there():
    columns = measured(row("a", size=(100_000, 3)))
    assert columns["slices_llama_cpp"] is columns["visual_tokens_llama_cpp"] is None and columns["slices_openbmb"]


@pytest.mark.slow
def test_tokens_are_counted_by_the_tokenizer_that_is_named(captioned, configure, tmp_path):
    from tokenizers import Tokenizer

    config = configure(f'{SOURCE}[measures]\ntokenizer = "{PROJECT}/training/pico"\n[sets.train]\n')
    root = build(config)
    tokenizer = Tokenizer.from_file(str(PROJECT / "training/pico/tokenizer.json"))
    expected = {text: len(tokenizer.encode(text, add_special_tokens=False)) for text in CAPTIONS}
    counted = query(root, "select text, text_tokens from samples").to_pylist()
    assert {row["text"]: row["text_tokens"] for row in counted} == expected
    copy = tmp_path / "elsewhere.json"
    copy.write_bytes((PROJECT / "training/pico/tokenizer.json").read_bytes())
    moved = configure(f'{SOURCE}[measures]\ntokenizer = "{copy}"\n[sets.train]\n')
    assert plan(open_corpus(moved)).work() == 0, "its content counts, not its place"


@pytest.mark.parametrize(
    ("text", "complaint"), [(None, "cannot be read: No such file"), ("{}", "is not a valid tokenizer.json: ")]
)
def test_a_tokenizer_that_cannot_be_read_is_named_in_one_line(text, complaint, captioned, configure, tmp_path):
    if text is not None:
        (tmp_path / "t.json").write_text(text)
    said = say("plan", configure(f'{SOURCE}[measures]\ntokenizer = "t.json"\n[sets.train]\n'))
    assert said.code == 2 and f"measures.tokenizer: {tmp_path}/t.json: {complaint}" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.slow
def test_a_stage_of_a_users_own_may_have_such_a_column_where_nothing_is_measured(captioned, configure, tmp_path):
    (tmp_path / "mine.py").write_text("def own(row):\n    return {'language': 'xx'}\n")
    own = (
        '[stages.own]\ncallable = "mine.py:own"\nreads = ["rows.text"]\ncolumns = { language = "str" }\n[sets.train]\n'
    )
    root = build(configure(SOURCE + own))
    assert query(root, "select distinct language from samples")["language"].to_pylist() == ["xx"]
    with pytest.raises(UserError, match=r"stages\.own\.columns: `samples` already has a column language"):
        open_corpus(configure(SOURCE + own + "[measures]\n"))


# Quotas


def evenly(**counts: int) -> dict[tuple[str, float], int]:
    """Of each language so many samples, whose hashes are spread evenly."""
    return {(language, (n + 1) / count): 1 for language, count in counts.items() for n in range(count)}


def test_the_scarcest_language_is_kept_whole():
    weights = weights_by_quota(evenly(en=8000, zh=500, de=100), {"zh": 0.25, "en": 0.75})
    assert weights == {"zh": 1.0, "en": 1500 / 8000}
    assert weights_by_quota(evenly(en=60, fr=20, de=20), {"de": 0.5, "*": 0.5}) == {"de": 1.0, "*": 0.25}
    alone = {("de", 0.75): 3, ("de", 0.9): 3}
    assert weights_by_quota(alone, {"de": 1.0}) == {"de": 1.0}, "whatever their hashes are"


@pytest.mark.parametrize(
    ("counts", "shares", "weights"),
    [
        ({}, {"de": 0.5, "*": 0.5}, {"de": 0.0, "*": 0.0}),
        ({"en": 10}, {"de": 0.5, "*": 0.5}, {"de": 0.0, "*": 1.0}),
        ({"en": 10, "de": 10}, {"de": 0.0, "*": 1.0}, {"de": 0.0, "*": 1.0}),
        ({"en": 10, "unknown": 30}, {"unknown": 0.5, "en": 0.5}, {"unknown": 1 / 3, "en": 1.0}),
    ],
)
def test_a_language_without_samples_or_without_a_share_stops_no_other(counts, shares, weights):
    assert weights_by_quota(evenly(**counts), shares) == weights


def test_steps_are_a_64th_of_a_power_of_two():
    lots = [0.0, 2.0**-52, 1e-6, 0.013, 0.25, 0.333, 0.5 - 2.0**-52, 0.5, 0.77, 0.999, 1 - 2.0**-52]
    rows = duckdb.sql(f"SELECT lot, {step_above('lot')} FROM (SELECT unnest({lots}) AS lot)").fetchall()
    assert [lot for lot, _ in rows] == lots
    for lot, step in rows:
        mantissa, _ = frexp(step)
        assert lot < step <= 1 and (mantissa * 64).is_integer()
        assert step - lot <= max(lot / 32, 2.0**-57) * (1 + 2.0**-40)


CORPUS = {"en": 0.70, "zh": 0.15, "fr": 0.06, "unknown": 0.05, "de": 0.04}
SHARES = {"zh": 0.2, "de": 0.01, "*": 0.79}


def selected(counts: dict[str, int], shares: dict[str, float] = SHARES, **more) -> tuple[dict, set[tuple[str, str]]]:
    """The weights for a corpus of so many samples, and (key, language) of those that are drawn."""
    config = SetConfig(languages=shares, **more)
    keys = " UNION ALL ".join(
        f"SELECT left(sha256('{language}' || range), 16) AS key, '{language}' AS language FROM range({count})"
        for language, count in counts.items()
    )
    blank = "NULL AS left_out_by, NULL AS part_of, 'a' AS text, 'JPEG' AS format"
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE candidates AS SELECT *, {blank} FROM ({keys})")
        by_step = {(language, step): n for language, step, n in connection.sql(_languages(config)).fetchall()}
        weights = weights_by_quota(by_step, shares)
        kept = f"SELECT key, language FROM candidates WHERE {_drawn_by_quota(config, weights)}"
        return weights, {*connection.sql(kept).fetchall()}


def drawn(counts: dict[str, int], shares: dict[str, float] = SHARES, **more) -> set[tuple[str, str]]:
    return selected(counts, shares, **more)[1]


@pytest.mark.parametrize("size", [2_000, pytest.param(60_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("more", [{}, {"weight": 0.3}, {"seed": 7}])
@pytest.mark.parametrize(
    "shares",
    [SHARES, {"zh": 0.5, "de": 0.5}, {"en": 0.25, "fr": 0.25, "zh": 0.25, "de": 0.25}, {"fr": 0.3, "*": 0.7}, {"*": 1}],
)
def test_quotas_are_met_within_one_percent(shares, more, size):
    """Of small sets too, where a weight of a third would keep a third of the samples only on average."""
    counts = {name: int(size * share) for name, share in CORPUS.items()}
    kept = Counter(language for _, language in drawn(counts, shares, **more))
    for language, share in shares.items():
        got = kept[language] if language != "*" else sum(n for name, n in kept.items() if name not in shares)
        assert abs(got / kept.total() - share) <= 0.01, (language, kept)


@pytest.mark.parametrize("grown", [{"en": 10_010}, {"en": 10_040, "zh": 2004}, {"fr": 3}])
def test_growth_that_changes_no_step_moves_no_sample(grown):
    counts = {"en": 10_000, "zh": 2000, "de": 300}
    (weights, before), (same, after) = selected(counts), selected(counts | grown)
    assert weights == same and before <= after and len(after - before) < 60


def test_growth_that_changes_a_step_only_adds_or_only_removes():
    before = drawn({"en": 10_000, "zh": 2000, "de": 300})
    after = drawn({"en": 20_000, "zh": 2000, "de": 300})
    english = [{key for key, language in kept if language == "en"} for kept in (before, after)]
    old = {key for key, _ in drawn({"en": 10_000}, {"*": 1.0})}
    assert english[0] >= english[1] & old and len(english[0]) > len(english[1] & old) > 0


@pytest.mark.parametrize("weight", [0.00012345678901234567, 0.0001, 1e-5, 0.3333333333333333])
def test_a_weight_of_many_digits_can_be_multiplied_by_a_quota(weight):
    drawn_by = _drawn_by_quota(SetConfig(languages=SHARES, weight=weight), dict.fromkeys(SHARES, 53 * 2.0**-19))
    with duckdb.connect() as connection:
        assert connection.sql(f"SELECT {drawn_by} FROM (SELECT 'a' AS key, 'zh' AS language)").fetchall() == [(False,)]


@pytest.mark.slow
def test_a_set_with_quotas_says_why_a_sample_is_not_in_it(tmp_path, configure):
    texts = {"en": "a dog number {} runs on the beach", "de": "ein Hund Nummer {} läuft am Strand"}
    talks = [
        {"id": f"{language}{n}", "conversations": [
            {"role": "user", "content": "?"}, {"role": "assistant", "content": text.format(n)}]}
        for language, text in texts.items() for n in range(300 if language == "en" else 60)
    ]  # fmt: skip
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    source = '[source]\nkind = "conversations"\npath = "talks.json"\n[measures]\n'
    table = '[sets.talk]\ntask = "conversation"\nlanguages = { de = 0.5, "*" = 0.5 }\n'
    root = build(configure(source + table))
    sql = "select language, reason, count(*) as n from samples group by all"
    counts = {(row["language"], row["reason"]): row["n"] for row in query(root, sql).to_pylist()}
    assert counts[("de", None)] == 60 and counts.keys() == {("de", None), ("en", None), ("en", "over_quota")}
    assert 40 <= counts[("en", None)] <= 80
    assert query(root, "select count(*) as n from shards")["n"].to_pylist() == [60 + counts[("en", None)]]
    assert verify_root(root).problems == []


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("languages = { jp = 1.0 }", "jp is not a known language"),
        ("languages = { de = 0.5 }", "the shares of languages must add up to 1"),
        ('languages = { de = 1.5, "*" = -0.5 }', "the shares of languages must add up to 1"),
        ('languages = { de = nan, "*" = 1.0 }', "the shares of languages must add up to 1"),
        ("languages = { de = inf }", "the shares of languages must add up to 1"),
        ("languages = {}", "the shares of languages must add up to 1"),
        ('task = "best"\nlanguages = { de = 1.0 }', "only captions, OCR and conversations"),
    ],
)
def test_quotas_that_cannot_be_are_refused(table, complaint, captioned, configure):
    with pytest.raises(UserError, match=complaint):
        read_config(configure(f"{SOURCE}[measures]\n[sets.train]\n{table}\n"))


def test_quotas_need_the_stage(captioned, configure):
    config = configure(SOURCE + '[sets.train]\nlanguages = { "*" = 1.0 }\n')
    with pytest.raises(UserError, match=r"sets\.train\.languages: needs the table \[measures\]; add it"):
        open_corpus(config)
    assert open_stage(read_config(config)) is None


def test_half_a_surrogate_pair_stops_nothing():
    talk = [("user", "?"), ("assistant", "ein Hund \ud800 läuft am Strand")]
    assert measured(row(turns=talk))["language"] == "de"


# Responses


@pytest.mark.slow
def test_responses_have_a_language_a_script_words_and_tokens(tmp_path, configure):
    (tmp_path / "hub").mkdir()
    pairs = [
        ("What is it?", "A dog runs along the beach.", "Ein Hund läuft am Strand entlang."),
        ("Who?", "一只狗在海滩上奔跑", "IMG_0001"),
        ("Where?", "Собака бежит по берегу моря.", ""),
    ]
    columns = {name: [pair[n] for pair in pairs] for n, name in enumerate(("question", "chosen", "rejected"))}
    columns["image"] = [{"bytes": picture(number)[0], "path": None} for number in range(3)]
    pq.write_table(pa.table(columns), tmp_path / "hub/a.parquet")
    told = '[source]\nkind = "huggingface"\npath = "hub"\n[responses]\nfrom_source = true\n'
    sets = '[sets.pairs]\ntask = "preference"\n'
    measures = f'[measures]\ntokenizer = "{PROJECT}/training/pico"\n'
    root = build(config := configure(told + sets))
    assert "response_measures" not in open_corpus(config).stages()
    assert query(root, "from response_measures").num_rows == 0
    files = data_files(Path(root.url))
    before = {name: digest for name, digest in files.items() if name.endswith((".parquet", ".tar"))}

    root = build(config := configure(told + measures + sets))
    assert before.items() <= data_files(Path(root.url)).items()  # nothing else is made anew
    rows = query(root, """
        select r.text, m.language, m.script, m.words, m.text_tokens, m.reason
        from response_measures m join responses r using (partition, key) order by text""").to_pylist()  # fmt: skip
    tokens = [row.pop("text_tokens") for row in rows]
    assert [tuple(row.values()) for row in rows] == [
        ("A dog runs along the beach.", "en", "Latin", 6, None),
        ("Ein Hund läuft am Strand entlang.", "de", "Latin", 6, None),
        ("IMG_0001", "unknown", "Latin", 1, None),
        ("Собака бежит по берегу моря.", "ru", "Cyrillic", 5, None),
        ("一只狗在海滩上奔跑", "zh", "Han", 5, None),
        (None, None, None, None, "upstream"),
    ]
    assert all(count > 3 for count in tokens[:-1]) and tokens[-1] is None
    assert verify_root(root).problems == [] and not plan(open_corpus(config)).work()
    settings = [
        open_corpus(configure(told + measures + more + sets)).made["response_measures"].settings()
        for more in ("", "queries = 32\n", "min_confidence = 0.5\n")
    ]
    assert settings[0] == settings[1] != settings[2]  # nothing of a view counts

    where = "language = 'en' AND rejected_language = 'de' AND chosen_script = 'Latin' AND chosen_text_tokens > 3"
    english = f'[sets.english]\ntask = "preference"\nwhere = "{where}"\n'
    root = build(config := configure(told + measures + sets + english))
    chosen = query(root, f"select chosen, rejected from preferences where {where}").to_pylist()
    assert chosen == [{"chosen": pairs[0][1], "rejected": pairs[0][2]}]
    assert query(root, "select count(*) as n from shards where \"set\" = 'english'").to_pylist() == [{"n": 1}]
    shards = {shards.set: [stage.name for stage in shards.stages] for shards in open_corpus(config).shards}
    assert "response_measures" in shards["english"] and "response_measures" not in shards["pairs"]
    assert verify_root(root).problems == []
    assert query(root, "select language, script, text_tokens from best").num_rows == 0
