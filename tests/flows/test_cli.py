"""The command line, each command end to end on a small corpus, and no command without help."""

import csv
import io
import json
import os
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import webdataset
from rich.cells import cell_len
from support.corpora import ONE_PROCESS, build, data_files, say, shardmill, write_tar

from flows.cli import PANELS, app
from flows.commands.terminal import console

TOML = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "source"
[sets.train]
samples_per_shard = 5
[sets.wide]
where = "width > 10000"
[gates]
empty_sets = false
{ONE_PROCESS}"""

COMMANDS = typer.main.get_command(app).commands


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A source of two tars and the corpus made of it."""
    folder = tmp_path_factory.mktemp("cli")
    write_tar(folder / "source/0.tar", range(6))
    write_tar(folder / "source/1.tar", range(6, 12))
    (folder / "my.toml").write_text(TOML)
    build(folder / "my.toml")
    return folder


@pytest.fixture
def folder(built, tmp_path) -> Path:
    """That folder, to do things to: a copy, as roots may move."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return tmp_path


def cells(table: str) -> list[list[str]]:
    """The lines of a printed table."""
    return [[cell.strip() for cell in line.strip("│┃").split("│")] for line in table.splitlines() if "│" in line]


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_says_what_it_does(name):
    command = COMMANDS[name]
    assert command.help and command.help.strip().endswith((".", "…"))
    for parameter in command.params:
        assert parameter.help, f"shardmill {name}: {parameter.name} has no help"
    shown = say(name, "--help")
    assert shown.code == 0
    for parameter in command.params:
        if isinstance(parameter, click.Option) or parameter.param_type_name == "option":
            assert parameter.opts[0] in shown.out


def test_no_command_and_a_wrong_one_show_the_way():
    shown = say().out
    panels = sorted({*PANELS.values()}, key=shown.index)
    assert panels == ["Build", "Schedule", "Inspect", "Releases", "Maintain", "Phone"]
    said = say("rnu")
    assert said.code == 2 and "rnu" in said.err and "Traceback" not in said.err


# Each command


@pytest.mark.slow
def test_a_corpus_is_named_by_its_configuration_too(folder):
    for words in (["stats"], ["urls", "train"], ["sql", "select count(*) from rows"], ["verify"]):
        name, *more = words
        assert say(name, folder / "my.toml", *more) == say(name, folder / "corpus", *more)


def test_version_is_that_of_the_package():
    assert say("--version") == (0, f"shardmill {version('shardmill')}\n", "")


@pytest.mark.slow
def test_an_object_store_that_cannot_be_reached_is_said_in_one_line(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "my.toml").write_text(TOML.replace('"corpus"', '"s3://nobodys-bucket/corpus"'))
    write_tar(tmp_path / "source/0.tar", range(1))
    done = shardmill("plan", tmp_path / "my.toml", HOME=str(tmp_path), AWS_EC2_METADATA_DISABLED="true")
    said = (
        "shardmill: the object store cannot be reached: Unable to locate credentials; "
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_plan_and_run_say_that_no_url_is_asked_for(tmp_path):
    (tmp_path / "laion").mkdir()
    pq.write_table(pa.table({"URL": ["http://a/0.png"], "TEXT": ["zero"]}), tmp_path / "laion/0.parquet")
    config = tmp_path / "my.toml"
    config.write_text('root = "corpus"\n[source]\nkind = "laion"\npath = "laion"\n')
    said = "URLs are not fetched: rows without bytes are left out; to fetch them, add [fetch] with contact = "
    assert said in say("plan", config).out
    build(config)
    assert said in say("run", config).out
    config.write_text(config.read_text() + '[fetch]\ncontact = "a@example.org"\n')
    planned = say("plan", config).out
    assert said not in planned and "fetch is new" in planned


@pytest.mark.slow
def test_plan_says_what_is_to_be_made_and_why(folder):
    planned = say("plan", folder / "my.toml")
    assert planned.code == 0
    assert [row[0] for row in cells(planned.out)] == ["rows", "images", "selection", "shards"]
    assert {(row[1], row[4]) for row in cells(planned.out)} == {("0", "current")}
    write_tar(folder / "source/2.tar", range(12, 15))
    (folder / "source/0.tar").unlink()
    planned = say("plan", folder / "my.toml")
    assert "vanished 0.tar: 1 partition and all made from it will be removed" in planned.out
    rows, images, selection, shards = cells(planned.out)
    assert rows == ["rows", "1", "2", "?", "new file"]
    assert images == ["images", "1", "2", "?", "new"]
    assert selection[1:3] == ["2", "2"] and shards[1] == "?"
    assert say("plan", folder / "my.toml", "--until", "rows").out.count("│ images") == 0


def test_run_has_nothing_to_do_when_all_is_current(folder):
    before = data_files(folder)
    said = say("run", folder / "my.toml")
    assert said.code == 0 and said.out.startswith("everything is current: nothing to make\n")
    assert cells(said.out)[-1] == ["shards", "12", "12", "-"]
    assert f"shardmill sql {folder}/corpus 'from accounting'" in said.out
    assert data_files(folder) == before


def test_a_command_in_a_hint_can_be_copied_though_a_path_has_spaces(folder, tmp_path):
    spaced = tmp_path / "two words"
    shutil.copytree(folder, spaced, ignore=shutil.ignore_patterns("two words"))
    said = say("run", spaced / "my.toml")
    assert f"shardmill sql '{spaced}/corpus' 'from accounting'" in said.out, said
    assert f"`shardmill init '{spaced}/no.toml'` writes one" in say("plan", spaced / "no.toml").err
    assert say("init", spaced / "no.toml").out.endswith(f"shardmill plan '{spaced}/no.toml'\n")


def test_stats_shows_stages_sets_and_runs(folder):
    said = say("stats", folder / "corpus")
    assert said.code == 0
    assert ["images", "2", "12", "kept", "12", "100.0%"] in cells(said.out)
    (train,) = (row for row in cells(said.out) if row[0] == "train")
    assert train[1] == "caption" and train[3:5] == ["12", "3"]
    assert "completed" in said.out


def test_sql_prints_a_table_or_csv(folder):
    question = "select stage, sum(rows)::int as n from accounting group by stage order by stage"
    said = say("sql", folder / "corpus", question)
    assert (said.code, cells(said.out)) == (0, [["images", "12"], ["rows", "12"], ["selection", "12"]])
    said = say("sql", folder / "corpus", question, "--csv")
    assert said.out == '"stage","n"\n"images",12\n"rows",12\n"selection",12\n'


@pytest.mark.slow
def test_sql_csv_holds_every_column_of_every_view(folder):
    views = say("sql", folder / "corpus", "select view_name from duckdb_views() where not internal", "--csv").out
    for (view,) in list(csv.reader(io.StringIO(views)))[1:]:
        said = say("sql", folder / "corpus", f"from {view}", "--csv")
        count = say("sql", folder / "corpus", f"select count(*) from {view}", "--csv").out.split("\n")[1]
        assert (said.code, said.err) == (0, "")
        assert len(list(csv.DictReader(io.StringIO(said.out)))) == int(count), view
    (row, *_) = csv.DictReader(io.StringIO(say("sql", folder / "corpus", "from samples", "--csv").out))
    assert json.loads(row["samples"]) == [{"set": "train", "task": "caption"}]


def test_sql_json_is_a_line_a_row(folder):
    said = say("sql", folder / "corpus", "from samples order by key", "--json")
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert said.code == 0 and len(rows) == 12 and rows[0]["samples"] == [{"set": "train", "task": "caption"}]
    assert say("sql", folder / "corpus", "from samples where false", "--json").out == ""


def test_sql_cuts_a_long_table_and_says_so(folder):
    said = say("sql", folder / "corpus", "select range as n from range(250)")
    assert len(cells(said.out)) == 100
    assert said.out.endswith("the first 100 of 250 rows; --full, --csv and --json print all\n")
    assert len(cells(say("sql", folder / "corpus", "select range as n from range(250)", "--full").out)) == 250


@pytest.mark.parametrize("width", [20, 40, 80, 81, 120, 300])
def test_sql_prints_a_table_at_any_width(width, folder, monkeypatch):
    monkeypatch.setattr(console, "_width", width)
    (row,) = csv.DictReader(io.StringIO(say("sql", folder / "corpus", "from samples limit 1", "--csv").out))
    said = say("sql", folder / "corpus", "from samples limit 1")
    *lines, left_out = said.out.splitlines()
    assert {len(line) for line in lines} <= {*range(1, width + 1)} and len(cells(said.out)) == 1
    count, names = re.fullmatch(r"(\d+) more columns; --full prints all: (.*)", left_out).groups()
    shown = [cell.strip() for cell in lines[1].strip("┃").split("┃")]
    assert [name.rstrip("…") for name in shown] == [
        name[: len(cell.rstrip("…"))] for name, cell in zip(row, shown, strict=False)
    ]  # fmt: skip
    assert names.split(", ") == [*row][len(shown) :] and int(count) == len(row) - len(shown)
    assert "text" in shown or width < 80


@pytest.mark.parametrize("text", ["a" * 500, "a\nb" * 90, "漢字" * 300, "[red]" * 90, "\x1b[31m" * 90, ""])
def test_sql_cuts_long_cells_and_keeps_short_ones_whole(text, folder, monkeypatch):
    monkeypatch.setattr(console, "_width", 60)
    literal = "'" + text.replace("'", "''") + "'"
    said = say("sql", folder / "corpus", f"select 12345 as n, {literal} as long, 'a short text' as short")
    ((number, long, short),) = cells(said.out)
    assert (number, short) == ("12345", "a short text") and (long.endswith("…") or long == text)
    assert all(cell_len(line) <= 60 for line in said.out.splitlines())
    assert "\x1b" not in said.out


@pytest.mark.slow
def test_sql_full_shows_a_row_after_the_other_where_a_table_is_too_wide(folder, monkeypatch):
    first = "from samples order by key limit 1"
    (row,) = csv.DictReader(io.StringIO(say("sql", folder / "corpus", first, "--csv").out))
    narrow = shardmill("sql", folder / "corpus", first, "--full", COLUMNS="80").stdout
    assert max(map(len, narrow.splitlines())) <= 80
    names, values = zip(*cells(narrow.replace("┌", "").replace("└", "")), strict=True)
    assert [name for name in names if name] == list(row)
    assert row["key"] in values and "".join(values).count(row["sha256"]) == 1
    none = shardmill("sql", folder / "corpus", "from samples limit 0", "--full", COLUMNS="80").stdout
    assert none == f"no rows; the columns: {', '.join(row)}\n"
    monkeypatch.delenv("COLUMNS")
    piped = shardmill("sql", folder / "corpus", "from samples").stdout
    assert len(cells(piped)) == 12 and row["sha256"] in piped and "…" not in piped


def test_sql_prints_in_one_form(folder):
    said = say("sql", folder / "corpus", "select 1", "--csv", "--json")
    assert (said.code, said.err) == (2, "shardmill: sql: choose one of --csv and --json\n")


def test_sql_columns_may_have_one_name(folder):
    assert cells(say("sql", folder / "corpus", "select 1 as a, 2 as a").out) == [["1", "2"]]


def test_urls_are_what_webdataset_reads(folder):
    said = say("urls", folder / "corpus", "train")
    assert said.code == 0
    urls = said.out.split()
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert len(urls) == 3 and len(samples) == 12
    assert {sample["txt"] for sample in samples} == {f"picture {n}" for n in range(12)}
    release = json.loads((folder / "corpus/shards/train.json").read_bytes())["release"]
    assert say("urls", folder / "corpus", f"train@{release}").out == said.out
    assert say("urls", folder / "corpus", "wide") == (0, "", "")
    wrong = say("urls", folder / "corpus", "trian")
    assert (wrong.code, wrong.err) == (2, "shardmill: urls: unknown shard set 'trian'; choose from train, wide\n")


def test_verify_is_content_or_names_what_is_wrong(folder):
    said = say("verify", folder / "corpus")
    assert said.code == 0 and said.out.endswith("12 samples: all is well\n")
    (tar, *_) = sorted((folder / "corpus/images").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    said = say("verify", folder / "corpus")
    assert said.code == 1 and said.err == ""
    assert f"wrong images/{tar.name}: its SHA-256 is not the one committed; remove images/" in said.out


def test_clean_keeps_the_young_and_removes_the_old(folder):
    (folder / "corpus/images/.tmp-leaving").write_bytes(b"x" * 10)
    said = say("verify", folder / "corpus")
    assert "1 file belongs to no commit; `shardmill clean` removes those that are older than 24 hours" in said.out
    assert say("clean", folder / "corpus").out == (
        "nothing to remove\n"
        "kept 1 file that belongs to no commit: younger than 24 hours; `--grace 0` removes them, too\n"
    )
    assert say("clean", folder / "corpus", "--grace", "0").out == "removed 1 file, 10 bytes\n"
    assert say("verify", folder / "corpus").code == 0


# In processes of their own


@pytest.mark.slow
def test_a_corpus_from_nothing(tmp_path):
    """The way of the README: init, plan, run, and ask. Each in a process of its own, from another folder."""

    def done(*words: str) -> str:
        process = shardmill(*words, cwd=tmp_path)
        assert (process.returncode, process.stderr) == (0, "")
        return process.stdout

    done("init", "my.toml", "--source", "scenes")
    config = tmp_path / "my.toml"
    small = config.read_text().replace("count = 200", "count = 8").replace("planted = 0.08", "planted = 0")
    config.write_text(small + ONE_PROCESS)
    assert "new file" in done("plan", "my.toml")
    assert "│ ocr        │ 8       │ 8" in done("run", "my.toml")
    assert done("run", "my.toml").startswith("everything is current")
    printed = "select bool_and(extra.scene.printed is not null) as printed from samples where ocr_text != ''"
    assert done("sql", "my-corpus", printed, "--csv") == '"printed"\ntrue\n'
    assert done("verify", "my-corpus").endswith("8 rows, 70 kB of images, 8 samples: all is well\n")
    (url,) = done("urls", "my-corpus", "train").split()
    assert len(list(webdataset.WebDataset(url, shardshuffle=False))) == 8


@pytest.mark.slow
def test_a_gate_fails_a_run_in_one_line(tmp_path):
    write_tar(tmp_path / "source/0.tar", range(3))
    (tmp_path / "my.toml").write_text(TOML.replace("[gates]", "[gates]\nenough = 'kept > 3'"))
    process = shardmill("run", "my.toml", cwd=tmp_path)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("shardmill: gate enough: kept > 3 does not hold (kept = 3); no")
    assert line.endswith(
        "no shards are published, and what was made is kept: change the settings or the gate, and run again"
    )
    assert ["selection", "3", "3", "-"] in cells(process.stdout)
    assert "no shards are published" in shardmill("stats", "corpus", cwd=tmp_path, COLUMNS="500").stdout
    assert shardmill("urls", "corpus", "train", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("words, line, command", [
    (["run"], "missing argument 'CONFIG'", " run"),
    (["run", "my.toml", "--untl", "ocr"], "no such option: --untl (Possible options: --until)", " run"),
    (["runn"], "no such command 'runn'. Did you mean 'run', 'unpin'?", ""),
    (["sql", "a", "b", "c"], "got unexpected extra argument(s) (c)", " sql"),
    (["init", "my.toml", "--source"], "option '--source' requires an argument", ""),
    (["cluster", "check"], "missing argument 'CONFIG'", " cluster check"),
    (["\x1b[31m"], "no such command '\\x1b[31m'", ""),
])  # fmt: skip
def test_a_mistake_in_the_words_of_a_command_is_one_line(words, line, command):
    assert say(*words) == (2, "", f"shardmill: {line}; see `shardmill{command} --help`\n")


@pytest.mark.parametrize("words", [[], ["cluster"]])
def test_no_words_are_answered_by_the_help(words):
    said = say(*words)
    assert said.code == 2 and "Usage: shardmill" in said.out + said.err and "COMMAND" in said.out + said.err
