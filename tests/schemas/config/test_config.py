"""Whatever a user can get wrong is answered in one line that says where and what to do, and nothing is written."""

import json
import re
import tomllib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import picture, say, shardmill, write_tar

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.engine.root import Root
from pipelines.engine.workers import Workers
from schemas.config.file import read_config
from schemas.config.model import TABLES, BeamConfig
from schemas.config.sources import SOURCES, GroundColour
from schemas.config.table import Table
from schemas.config.templates import TEMPLATE_SOURCES
from schemas.errors import UserError
from schemas.own_stages import TYPES, Kind
from schemas.scenes.scene import GROUNDS
from schemas.stages import STAGES

KINDS = "folder, webdataset, laion, conversations, instructions, huggingface, scenes"
GOOD = """
root = "corpus"
[source]
kind = "webdataset"
path = "source"
"""


def where(condition: str) -> str:
    return f"{GOOD}[sets.train]\nwhere = {condition!r}"


def gate(condition: str) -> str:
    return f"{GOOD}[gates]\nenough = {condition!r}"


def source(path: str, more: str = "", kind: str = "webdataset") -> str:
    return f'root = "corpus"\n[source]\nkind = "{kind}"\npath = "{path}"\n{more}'


def several(first: str, second: str) -> str:
    first = f'[[source]]\n{first}\nkind = "webdataset"\npath = "source"\n'
    return f'root = "corpus"\n{first}[[source]]\n{second}\nkind = "folder"\npath = "text"\n'


def at(path: str) -> str:
    return GOOD.replace('"corpus"', f'"{path}"')


def endpoint(more: str) -> str:
    return f'{GOOD}[endpoints.a]\nmodel = "m"\nurl = "http://127.0.0.1:9"\n{more}'


STEAL = "true); copy (select 1) to 'stolen.csv'; select (true"

# What is in the file, and what must stand in the answer: the place, and the fix.
MISTAKES = {
    "a field": (GOOD + "[ocr]\nmin_confidense = 1", "ocr.min_confidense: unknown; did you mean `min_confidence`?"),
    "a set's field": (GOOD + "[sets.train]\nwere = 'true'", "sets.train.were: unknown; did you mean `where`?"),
    "a table's name": (GOOD + "[image]\nmin_side = 3", "image: unknown; did you mean `images`?"),
    "a name like no other": (GOOD + "[images]\nzzz = 3", "images.zzz: unknown; known here: max_aspect_ratio, "),
    "a type": (GOOD + "[images]\nmin_side = 'ten'", "images.min_side: write a whole number, not 'ten'"),
    "a list": (GOOD + "[sets.train]\nwhere = ['a']", "sets.train.where: write a text, in quotes, not "),
    "out of range": (GOOD + "[sets.train]\nweight = 2", "sets.train.weight: input should be less than or equal"),
    "not a number": (GOOD + "[sets.train]\nweight = nan", "sets.train.weight: input should be "),
    "a kind": (
        GOOD.replace("webdataset", "webdatset"),
        f"source.kind: unknown source 'webdatset'; choose from {KINDS}",
    ),
    "a task": (GOOD + "[sets.train]\ntask = 'vqa'", "sets.train.task: input should be 'caption', 'ocr', 'conv"),
    "a set's name": (GOOD + "[sets.'../a']", "sets.../a: name it with small letters, digits and _"),
    "a set without a name": (GOOD + "[sets]\nwhere = 'true'", "sets.where: write a table, [sets.NAME], not 'true'"),
    "a table that is a word": ("ocr = true" + GOOD, "ocr: write a table, [ocr], not 'True'"),
    "a source that is a word": ("source = 'folder'\nroot = 'corpus'", "source: write a table, [source], not 'folder'"),
    "no source in a list": ("source = []\nroot = 'corpus'", "source: write a table, [source]"),
    "a source in a list that is a word": (
        "source = ['a', 'b']\nroot = 'corpus'",
        "source.1: write a table, [[source]], not 'a'",
    ),
    "two sources without names": (several("", ""), "source.2.name: missing; only one of several sources"),
    "two sources of one name": (
        several('name = "web"', 'name = "web"'),
        "source.2.name: 'web' is the name of another source; choose another name",
    ),
    "a source's name": (
        several("", 'name = "My web"'),
        "source.My web.name: write small letters, digits and _, a letter first, not 'My web'",
    ),
    "a field of the second source": (several("", 'name = "web"\nroof = 3'), "source.web.roof: unknown; known here: "),
    "the second source's kind": (
        several("", 'name = "web"').replace("folder", "fodler"),
        f"source.web.kind: unknown source 'fodler'; choose from {KINDS}",
    ),
    "a second source without a path": (
        several('name = "one"', 'name = "web"').replace('path = "text"', ""),
        "source.web.path: missing; name the folder to read",
    ),
    "a second source that is not there": (
        several("", 'name = "web"').replace('"text"', '"nowhere"'),
        "source.web.path: {here}/nowhere does not exist",
    ),
    "a second source without images": (several("", 'name = "web"'), "source.web.path: no images and no caption tables"),
    "a root in the second source": (
        several("", 'name = "web"').replace('"corpus"', '"text/corpus"'),
        "root: lies in source.web.path and would be read as a source",
    ),
    "a word for a list": (GOOD + "[duplicates]\nexclude = 'a'", "duplicates.exclude: write a list: [\"…\"], not 'a'"),
    "a size with its unit": (
        GOOD + "[images]\nmax_bytes = '10MB'",
        "images.max_bytes: write a whole number, not '10MB'",
    ),
    "a share in per cent": (GOOD + "[sets.train]\nweight = '10%'", "sets.train.weight: write a number, not '10%'"),
    "no root": (GOOD.replace("root", "#"), "root: missing; add it above the first [table]"),
    "a root in a table": (
        "[source]\nroot = 'corpus'\nkind = 'scenes'",
        "root: missing; add it above the first [table]",
    ),
    "an empty root": (at(""), "root: string should have at least 1 character"),
    "no source": ("root = 'corpus'", "source: missing; add it"),
    "no source path": (GOOD.replace("path", "#"), "source.path: missing; name the webdataset to read"),
    "an empty source path": (source(""), "source.path: string should have at least 1 character"),
    "syntax": (GOOD + "[ocr\n", "not valid TOML: Expected ']' at the end of a table declaration (at line 6, "),
    "a table twice": (GOOD + "[ocr]\n[ocr]", "not valid TOML: Cannot declare ('ocr',) twice"),
    "a column": (where("widht > 3"), 'sets.train.where: Binder Error: Referenced column "widht" not found'),
    "a value": (where("width"), "sets.train.where: 'width' is of type bigint; write a condition"),
    "null": (where("null"), "sets.train.where: 'null' is of type \"null\"; write a condition"),
    "two conditions": (where("true, true"), "sets.train.where: "),
    "many columns": (where("columns(*)"), "sets.train.where: "),
    "an empty condition": (where(" "), "sets.train.where: empty; write a condition"),
    "a second statement": (where("true; select 1"), "sets.train.where: Parser Error"),
    "a way out of the brackets": (where("true) or (false"), "sets.train.where: Parser Error"),
    "a condition that writes": (where(STEAL), "sets.train.where: Parser Error"),
    "a sum": (where("count(*) > 3"), "sets.train.where: Binder Error"),
    "a parameter": (where("width > ?"), "sets.train.where: "),
    "an open comment": (where("true /* all"), "sets.train.where: Parser Error: unterminated /* comment"),
    "pairs without responses": (
        f'{GOOD}[sets.dpo]\ntask = "preference"',
        "sets.dpo: pairs need the table [responses]; add it",
    ),
    "a column of pairs": (
        f'{GOOD}[sets.dpo]\ntask = "preference"\nwhere = "margins > 1"',
        'sets.dpo.where: Binder Error: Referenced column "margins" not found',
    ),
    "a figure": (gate("kept_shar > 1"), 'gates.enough: Binder Error: Referenced column "kept_shar" not found'),
    "a gate that is a value": (gate("kept"), "gates.enough: 'kept' is of type bigint; write a condition"),
    "a gate that is no text": (GOOD + "[gates]\na = 3", "gates.a: write a text, in quotes, not '3'"),
    "a gate that is no SQL": (gate("not a word"), "gates.enough: Parser Error"),
    "a gate that writes": (gate(STEAL), "gates.enough: Parser Error"),
    "a source that is not there": (source("sauce"), "source.path: {here}/sauce does not exist"),
    "a pattern in no folder": (source("sauce/*.tar"), "source.path: {here}/sauce/*.tar does not exist"),
    "a pattern of braces": (source("sauce/{0..9}.tar"), "{0..9}.tar does not exist; patterns are of * and ?"),
    "a pattern without a match": (source("source/*.tgz"), "source.path: no .tar under {here}/source/*.tgz"),
    "a folder without tars": (source("text"), "source.path: no .tar under {here}/text"),
    "a folder without images": (source("text", kind="folder"), "source.path: no images and no caption tables under"),
    "a protocol": (source("s4://a/b"), "source.path: s4://a/b: Protocol not known: s4"),
    "captions without the usual columns": (
        source("captions", kind="folder"),
        "source.image_column: a.csv has none of the columns image, image_path, file_name, filename, path; it has img",
    ),
    "a column of images": (
        source("captions", 'image_column = "imgs"', "folder"),
        "source.image_column: a.csv has no column 'imgs'; it has img, words",
    ),
    "a column of captions": (
        source("captions", 'image_column = "img"\ntext_column = "word"', "folder"),
        "source.text_column: a.csv has no column 'word'; it has img, words",
    ),
    "the root's protocol": (at("s4://a/b"), "s4://a/b: Protocol not known: s4"),
    "a root that is a file": (at("text/a.txt"), "{here}/text/a.txt: is not a folder; choose another"),
    "a root in a file": (at("text/a.txt/b"), "{here}/text/a.txt/b: is not a folder; choose another"),
    "a root with other things": (at("text"), "{here}/text: holds a.txt but no root.json: not a Shardmill root;"),
    "a root of something else": (at("other"), "{here}/other/root.json: is damaged, or not of this Shardmill: files: "),
    "a root that is the source": (at("source"), "root: lies in source.path"),
    "a root within the source": (at("source/corpus"), "root: lies in source.path"),
    "a root that a pattern reaches": (source("./**/*.tar"), "root: lies in source.path"),
    "verdicts without responses": (
        GOOD + '[verdicts]\nlabelers = ["a"]',
        "verdicts: needs the table [responses]; add it",
    ),
    "a labeler twice": (GOOD + '[verdicts]\nlabelers = ["a", "b", "a"]', "verdicts.labelers: name each labeler once"),
    "a blank question": (GOOD + '[instructions]\nquestions = ["What?", " "]', "instructions.questions.1: is blank; "),
    "responses to no questions": (
        'root = "corpus"\n[source]\nkind = "scenes"\n[responses]\nendpoint = "a"',
        "instructions.questions: missing; [responses] needs questions",
    ),
    "texts that are not read": (
        GOOD + '[sets.read]\ntask = "ocr"',
        "sets.read: the task 'ocr' needs the table [ocr]; add it",
    ),
    "a date for a server": (
        endpoint("extra = {d = 2020-01-01}"),
        "endpoints.a.extra: write only values of JSON: no dates",
    ),
    "no number for a server": (
        endpoint("extra = {d = {e = [inf]}}"),
        "endpoints.a.extra: write only values of JSON: no d",
    ),
    "a source path with NUL": (
        source("a\\u0000b"),
        "source.path: write a path without the character NUL, not 'a\\x00b'",
    ),
    "a list with NUL": (
        GOOD + '[duplicates]\nexclude = ["a\\u0000b"]',
        "duplicates.exclude.0: write a path without the character NUL",
    ),
    "the root of nobody": (
        at("~nobodyx/r"),
        "root: begins with ~ and an unknown user name; write the folder, not ",
    ),
    "the source of nobody": (source("~nobodyx/r"), "source.path: begins with ~ and an unknown user name"),
    "a model of nobody": (
        GOOD + '[endpoints.a]\nmodel = "~nobodyx/m"',
        "endpoints.a.model: begins with ~ and an unknown user name",
    ),
    "weights of nobody": (
        GOOD + '[ocr.easyocr]\nmodels = "~nobodyx/m"',
        "ocr.easyocr.models: begins with ~ and an unknown ",
    ),
    "a font of nobody": (
        'root = "corpus"\n[source]\nkind = "scenes"\nfonts = ["~nobodyx/a.ttf"]',
        "source.fonts.0: begins with ~ and an unknown user name",
    ),
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a good source and some that are not."""
    write_tar(tmp_path / "source/0.tar", range(2))
    for name in ("text", "captions", "broken", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "text/a.txt").write_text("no image is beside this")
    (tmp_path / "captions/a.csv").write_text("img,words\n0.png,zero\n")
    (tmp_path / "broken/a.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "other/root.json").write_text('{"kind": "of another program"}')
    return tmp_path


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def one_line(said) -> str:
    """What a mistake is answered with: one line, exit code 2, nothing on standard output."""
    assert (said.code, said.out) == (2, "")
    (line,) = said.err.splitlines()
    assert line.startswith("shardmill: ")
    return line.removeprefix("shardmill: ")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_line_and_nothing_is_written(mistake, here):
    toml, expected = MISTAKES[mistake]
    config = here / "my.toml"
    config.write_text(toml)
    before = tree(here)
    for command in ("plan", "run"):
        assert expected.replace("{here}", str(here)) in one_line(say(command, config))
        assert tree(here) == before


def test_a_missing_file_names_the_command_that_writes_one(tmp_path):
    said = one_line(say("plan", tmp_path / "my.toml"))
    assert said == f"{tmp_path}/my.toml: does not exist; `shardmill init {tmp_path}/my.toml` writes one"


def test_a_file_that_is_no_text_and_a_folder_cannot_be_read(tmp_path):
    (tmp_path / "my.toml").write_bytes(b'root = "\xff"')
    assert "my.toml: cannot be read" in one_line(say("run", tmp_path / "my.toml"))
    assert f"{tmp_path}: cannot be read" in one_line(say("run", tmp_path))


def test_an_editor_may_mark_the_file_as_utf_8(here):
    (here / "my.toml").write_text(GOOD, "utf-8-sig")
    assert read_config(here / "my.toml").root == f"{here}/corpus"


def test_a_stage_that_is_not_there_is_named_with_those_that_are(here):
    (here / "my.toml").write_text(GOOD)
    before = tree(here)
    said = "--until: unknown stage 'ocr'; choose from rows, images, selection, shards"
    assert one_line(say("plan", here / "my.toml", "--until", "ocr")) == said
    assert one_line(say("run", here / "my.toml", "--until", "ocr")) == said
    assert tree(here) == before


@pytest.mark.parametrize("command", [["stats"], ["sql", "select 1"], ["urls", "train"], ["verify"], ["clean"]])
def test_a_folder_that_is_no_root_is_refused_by_every_command(command, here):
    name, *words = command
    before = tree(here)
    for folder in ("text", "text/a.txt", "nowhere", "s4://a/b"):
        assert folder in one_line(say(name, folder if "://" in folder else here / folder, *words))
    assert tree(here) == before


def test_a_real_process_says_one_line_too(here):
    (here / "my.toml").write_text(GOOD.replace("kind", "knid"))
    done = shardmill("run", "my.toml", cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"shardmill: my.toml: source.kind: missing; add one of {KINDS}\n"


def test_conditions_are_sql_with_comments_subqueries_and_semicolons_in_texts(here):
    (here / "my.toml").write_text(f'''{GOOD}
[sets.one]
where = """
width > 3  -- wide enough
and /* no; statement */ text != 'a; b' -- the end"""
[sets.two]
where = "key in (select key from rows where text like 'p%')"
[sets.three]
where = "row_number() over (order by key) <= 10"
[sets.four]
where = "extra.n::int < 5 and ocr_text is null"
[gates]
some = "kept > 0 and (select count(*) from images) > 0 -- of all"
''')
    assert set(open_corpus(here / "my.toml").config.sets) == {"one", "two", "three", "four"}


@dataclass
class NoWork:
    """Work that is never done, as Beam does not start."""

    name = "nothing"

    def make(self, item) -> None: ...


@pytest.mark.parametrize(
    ("beam", "complaint"),
    [
        (BeamConfig(runner="SparkleRunner"), "beam: Unexpected pipeline runner: SparkleRunner. Valid values are"),
        (BeamConfig(options=["--direct_num_workers=lots"]), "direct_num_workers: invalid int value: 'lots'"),
    ],
)
def test_what_beam_does_not_take_is_a_mistake_of_the_users(beam, complaint, tmp_path):
    with pytest.raises(UserError) as error, Workers(beam, Root(str(tmp_path))) as workers:
        workers.make(NoWork(), [1], "log", lambda: None)
    assert complaint in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("beam: ")


def test_paths_are_relative_to_the_file_and_urls_stay(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/my.toml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    config = read_config("a/my.toml")
    assert (config.root, config.source[0].path) == (f"{tmp_path}/a/corpus", f"{tmp_path}/a/source")
    (tmp_path / "a/my.toml").write_text(GOOD.replace('"corpus"', '"s3://b/c"').replace('"source"', '"gs://d/*.tar"'))
    config = read_config("a/my.toml")
    assert (config.root, config.source[0].path) == ("s3://b/c", "gs://d/*.tar")


@pytest.mark.parametrize("kind", TEMPLATE_SOURCES)
def test_init_writes_a_file_that_plan_accepts(kind, tmp_path):
    write_tar(tmp_path / "data/0.tar", range(2))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/0.png").write_bytes(picture(0)[0])
    pq.write_table(pa.table({"image": ["0.png"], "text": ["zero"]}), tmp_path / "pictures/captions.parquet")
    (tmp_path / "hub").mkdir()
    pq.write_table(pa.table({"image": [{"bytes": b"", "path": None}], "text": ["zero"]}), tmp_path / "hub/0.parquet")
    (tmp_path / "laion").mkdir()
    pq.write_table(pa.table({"URL": ["http://a/0.png"], "TEXT": ["zero"]}), tmp_path / "laion/0.parquet")
    turns = [{"role": "user", "content": "What is this?"}, {"role": "assistant", "content": "A square."}]
    (tmp_path / "conversations.json").write_text(json.dumps([{"id": "0", "image": "0.png", "conversations": turns}]))
    (tmp_path / "instructions.jsonl").write_text('{"image": "0.png", "question": "What is this?"}')
    config = tmp_path / "my.toml"
    assert say("init", config, "--source", kind).code == 0
    before = tree(tmp_path)
    assert say("plan", config).code == 0
    planned = {stage.stage: len(stage.todo) for stage in plan(open_corpus(config)).stages}
    assert planned["rows"] == planned["ocr"] == (4 if kind == "scenes" else 1)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", TABLES)
def test_keys_are_the_defaults_as_toml(name):
    said = say("keys", name)
    text = said.out.split("\n\n")[0].replace(".NAME", "")
    found, one = tomllib.loads(text), TABLES[name]
    for part in name.split("."):
        found = found[part]
    needed = {key for key, field in one.model_fields.items() if field.is_required()}
    assert found.keys() >= needed and found.keys() <= one.model_fields.keys()
    defaults = {key: field.default for key, field in one.model_fields.items() if key in found.keys() - needed}
    assert json.loads(json.dumps(defaults)) == {key: found[key] for key in defaults}
    for key, field in one.model_fields.items():
        assert re.search(rf"^(# )?{key} =", text, re.M) or isinstance(field.default, Table), key


def test_every_kind_of_source_can_have_a_name():
    assert all(kind.model_fields["name"].default is None for kind in SOURCES.values())
    assert all(f'kind = "{kind}"\n# name =' in say("keys", f"source.{kind}").out for kind in SOURCES)


def test_keys_shows_every_table_and_names_those_there_are():
    text = say("keys").out
    for head in [*(f"[{name}" for name in (*TABLES, "gates")), *(f'kind = "{kind}"' for kind in SOURCES)]:
        assert f"\n{head}" in text
    assert text.startswith('root = "…"')
    assert (
        "prompt =" in text
        and "if it does not ask for `Question:` and `Answer:`, the whole answer is the caption\n" in text
    )
    assert len(re.findall(r"^\[source\]$", say("keys", "source").out, re.M)) == len(SOURCES)
    assert one_line(say("keys", "orc")).startswith("keys: unknown table 'orc'; choose from source, images, fetch, ")


def test_init_writes_toml_whatever_the_name_and_the_locale(tmp_path):
    config = tmp_path / 'my "new" corpus \\.toml'
    old = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": "C"}  # no UTF-8 there
    assert shardmill("init", config, "--source", "scenes", **old).returncode == 0
    assert read_config(config).root == str(tmp_path / 'my "new" corpus \\-corpus')


def test_init_refuses_to_overwrite(tmp_path):
    config = tmp_path / "my.toml"
    config.write_text("precious")
    said = one_line(say("init", config))
    assert said == f"{config}: already exists; choose another name or remove it"
    assert config.read_text() == "precious"


def test_init_names_the_kinds_there_are_and_the_folder_that_is_not(tmp_path):
    said = one_line(say("init", tmp_path / "my.toml", "--source", "lion"))
    assert said == "--source: unknown source 'lion'; choose from " + KINDS
    assert one_line(say("init", tmp_path / "a/my.toml")) == f"{tmp_path}/a: does not exist; create this folder first"
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_that_has_settings_has_a_table(stage):
    declared = {name.lower(): value for name, value in vars(import_module(f"schemas.{stage}")).items()}
    assert TABLES.get(stage) is declared.get(f"{stage}config")


def test_words_that_types_repeat_are_those_of_the_tables():
    assert get_args(GroundColour) == tuple(GROUNDS)
    assert get_args(Kind) == tuple(TYPES)
