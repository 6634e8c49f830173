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
from support.mistakes import GOOD, KINDS, MISTAKES, one_line, tree

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.engine.root import Root
from pipelines.engine.workers import Workers
from schemas.config.file import read_config
from schemas.config.model import TABLES, BeamConfig, several
from schemas.config.sources import SOURCES, GroundColour
from schemas.config.table import Table
from schemas.config.templates import TEMPLATE_SOURCES
from schemas.errors import UserError
from schemas.own_stages import TYPES, Kind
from schemas.scenes.scene import GROUNDS
from schemas.stages import STAGES


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


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_line_and_nothing_is_written(mistake, here):
    toml, expected = MISTAKES[mistake]
    config = here / "my.toml"
    config.write_text(toml)
    before = tree(here)
    for command in ("plan", "run"):
        assert expected.replace("{here}", str(here)) in one_line(say(command, config))
        assert tree(here) == before


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/dev/zero", "not valid TOML: has more than 16,777,216 bytes"),
        ("a\0b.toml", "cannot be read: no file has the character NUL in its name"),
        ("x" * 5000, "cannot be read: File name too long"),
        ("source", "is a folder; name a configuration, a TOML file"),
        ("source/0.tar", "cannot be read: 'utf-8' codec can't decode"),
    ],
)
def test_what_is_no_configuration_is_answered_in_one_line(path, said, here):
    with pytest.raises(UserError, match=r"^[^\n]*$") as refused:
        read_config(here / path)
    assert str(refused.value).startswith(f"{here / path}: {said}")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("begin", ["", "\ufeff"])
def test_a_configuration_has_the_ends_of_lines_of_any_system(begin, end, here):
    path = here / "my.toml"
    path.write_bytes((begin + GOOD.replace("\n", end)).encode())
    assert read_config(path).source[0].kind == "webdataset"


def test_a_missing_file_names_the_command_that_writes_one(tmp_path):
    said = one_line(say("plan", tmp_path / "my.toml"))
    assert said == f"{tmp_path}/my.toml: does not exist; `shardmill init {tmp_path}/my.toml` writes one"


def test_a_file_that_is_no_text_and_a_folder_cannot_be_read(tmp_path):
    (tmp_path / "my.toml").write_bytes(b'root = "\xff"')
    assert "my.toml: cannot be read" in one_line(say("run", tmp_path / "my.toml"))
    assert f"{tmp_path}: is a folder; name a configuration" in one_line(say("run", tmp_path))


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


@pytest.mark.slow
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


@pytest.mark.slow
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
        found = found[0] if isinstance(found, list) else found
    needed = {key for key, field in one.model_fields.items() if field.is_required()}
    assert found.keys() >= needed and found.keys() <= one.model_fields.keys()
    defaults = {key: field.default for key, field in one.model_fields.items() if key in found.keys() - needed}
    assert json.loads(json.dumps(defaults)) == {key: found[key] for key in defaults}
    for key, field in one.model_fields.items():
        assert re.search(rf"^(# )?{key} =", text, re.M) or isinstance(field.default, Table) or several(field), key


def test_every_kind_of_source_can_have_a_name():
    assert all(kind.model_fields["name"].default is None for kind in SOURCES.values())
    assert all(f'kind = "{kind}"\n# name =' in say("keys", f"source.{kind}").out for kind in SOURCES)


def test_keys_shows_every_table_and_names_those_there_are():
    text = say("keys").out
    for head in [*(f"[{name}" for name in (*TABLES, "gates")), *(f'kind = "{kind}"' for kind in SOURCES)]:
        assert f"\n{head}" in text or f"\n[{head}" in text
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
