"""No control character reaches a terminal, Prefect or a log, whichever way a line takes."""

import io
import sys

import pytest
from support.catalogs import TOML
from support.corpora import build, say, write_tar
from support.leaks import KEYS, leaks

from flows.build_corpus import failed
from flows.commands import terminal as commands
from flows.progress import bars, tell
from pipelines.build.__main__ import _say as say_of_build
from pipelines.build.__main__ import main
from pipelines.engine import secrets
from pipelines.engine.worker import StageFailed, one_line
from pipelines.engine.workers import spelled
from schemas.errors import UserError, answered
from schemas.file_lock import process_of
from schemas.printable import printable, printable_line

STEER = {
    "escape": "\x1b[2J\x1b]0;title\x07", "bell": "\x07", "C1": "\x9b31m\x85", "direction": "\u202eabc\u2066",
    "null": "\0", "half": "\ud800", "back": "\r\x08\x7f", "lines": "one\n\x1b[1A\u2028two",
}  # fmt: skip


def is_plain(text: str, lines: int | None = None) -> bool:
    return all(sign.isprintable() or sign == "\n" for sign in text) and lines in (None, text.count("\n"))


def of_command(text: str, capsys) -> str:
    assert commands.say(UserError(text), 2) == 2
    return capsys.readouterr().err


def of_a_line(text: str, capsys) -> str:
    commands.say(None, 1, text)
    return capsys.readouterr().err


def of_build(text: str, capsys) -> str:
    say_of_build(UserError(text), 2)
    return capsys.readouterr().err


def of_training(text: str, capsys) -> str:
    with pytest.raises(SystemExit), answered(ValueError):
        raise ValueError(text)
    return capsys.readouterr().err


def of_a_worker(text: str, capsys) -> str:
    return one_line(RuntimeError(f"Traceback …\n{text}")) + "\n"


def of_prefect(text: str, capsys) -> str:
    return failed(StageFailed(text), text).message + "\n"


def of_a_log(text: str, capsys) -> str:
    """Its lines stay lines."""
    return " ".join(spelled(text.encode("utf-8", "surrogatepass")).decode().split("\n")) + "\n"


def of_progress(text: str, capsys) -> str:
    with bars():
        tell(text)
    return capsys.readouterr().out.strip("\n ") + "\n"


def of_a_holder(text: str, capsys) -> str:
    return str(process_of({"pid": 1, "host": text})) + "\n"


LINES = [of_command, of_a_line, of_build, of_training, of_a_worker, of_prefect, of_a_log, of_progress, of_a_holder]


@pytest.mark.parametrize("kind", STEER)
@pytest.mark.parametrize("line", LINES)
def test_a_line_is_one_line_without_control_characters(line, kind, capsys):
    shown = line(f"{STEER[kind]} of a stranger", capsys)
    assert is_plain(shown, 1), shown
    assert "of a stranger" in shown


@pytest.mark.parametrize("line", [of_command, of_a_line, of_build, of_a_worker, of_prefect])
def test_a_line_says_no_key(line, capsys, monkeypatch):
    monkeypatch.setattr(secrets, "remembered", {KEYS[0]})
    for text in (f"refused: {KEYS[0]} is wrong", f"{KEYS[0][:12]}\x1b[31m{KEYS[0][12:]} of a stranger"):
        shown = line(text, capsys)
        assert "***" in shown and not leaks(shown, KEYS[0]), shown


@pytest.mark.parametrize("kind", STEER)
def test_a_line_of_a_command_is_printable(kind, capsys):
    for told in (lambda text: commands.tell(text), lambda text: commands.console.print(commands.table(text)),
                 lambda text: commands.console.print(commands.cut_table([text], [[text]])[0])):  # fmt: skip
        told(f"{STEER[kind]} of a stranger")
        assert is_plain(capsys.readouterr().out)
    rows = commands.table("name")
    rows.add_row(STEER[kind])
    commands.console.print(rows)
    assert is_plain(capsys.readouterr().out)
    assert is_plain(printable(STEER[kind])) and printable_line(STEER[kind]).isprintable()


def test_a_cell_that_is_cut_is_one_line(capsys):
    for text in ("one", STEER["lines"], STEER["back"]):
        commands.console.print(commands.cut_table(["name"], [[text]])[0])
        shown = capsys.readouterr().out
        assert shown.count("\n") == 5 and is_plain(shown)


def test_the_name_of_a_configuration_is_printable(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["build", "no\x1b[31m\x07where.toml"])
    with pytest.raises(SystemExit):
        main()
    assert is_plain(capsys.readouterr().err, 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    write_tar(folder / "source/0.tar", range(1))
    (folder / "my.toml").write_text(TOML)
    return build(folder / "my.toml", "rows").url


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("catalogs")
@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_csv_and_json_on_a_terminal_are_printable_and_in_a_pipe_as_they_are(form, root, monkeypatch):
    steer = STEER["escape"] + STEER["C1"] + STEER["direction"]
    question = (
        f"select '{steer}' as text, ['{steer}'] as list, {{'a': '{steer}'}} as struct, "
        f"'{steer}'::ENUM('{steer}') as enum, encode('{steer}') as bytes, map {{'{steer}': 1}} as map, 1 as \"{steer}\""
    )
    said = say("sql", root, question, form)
    assert said.code == 0 and STEER["C1"] in said.out
    monkeypatch.setattr(io, "BytesIO", Terminal)
    said = say("sql", root, question, form)
    assert said.code == 0 and is_plain(said.out) and (r"\x1b" in said.out or r"\u001b" in said.out)
