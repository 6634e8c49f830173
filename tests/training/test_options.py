"""Arguments that a program of `training` cannot use are refused by their option, or in one line."""

import socket
import sys

import pytest
import torch
from support.recipes import SFT, recipe

from schemas.errors import UserError
from training import align, evaluate, generate, pack_plan, serve, train
from training.recipe import checked


def said(program, words, monkeypatch, capsys) -> str:
    """What a program prints that ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["program", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        program.main()
    told = capsys.readouterr()
    assert end.value.code == 2 and told.out == "", told
    return told.err.splitlines()[-1]


@pytest.mark.parametrize(("program", "words", "named"), [
    (serve, ["nowhere", "--threads", "-1"], "argument --threads: -1 is below 0"),
    (serve, ["nowhere", "--port", "99999"], "argument --port: 99999 is above 65535"),
    (serve, ["nowhere", "--port", "-1"], "argument --port: -1 is below 0"),
    (serve, ["nowhere", "--port", "http"], "argument --port: invalid number value: 'http'"),
    (serve, ["nowhere", "--at-once", "0"], "argument --at-once: 0 is below 1"),
    (serve, ["nowhere", "--max-body", "-5"], "argument --max-body: -5 is below 1"),
    (serve, ["nowhere", "--max-pixels", "0"], "argument --max-pixels: 0 is below 1"),
    (serve, ["nowhere", "--device", "gpu"], "argument --device: torch cannot use 'gpu' here: "),
    (evaluate, ["nowhere", "nowhere", "set", "--threads", "-1"], "argument --threads: -1 is below 0"),
    (align, ["nowhere", "nowhere", "set", "run", "out", "--threads", "-1"], "argument --threads: -1 is below 0"),
    (evaluate, ["nowhere", "nowhere", "set", "--scenes", "0"], "argument --scenes: 0 is below 1"),
    (evaluate, ["nowhere", "nowhere", "set", "--scenes", "-1"], "argument --scenes: -1 is below 1"),
    (evaluate, ["nowhere", "nowhere", "set", "--temperature", "nan"], "argument --temperature: nan is not from 0 to"),
    (generate, ["nowhere", "What?", "--temperature", "-1"], "argument --temperature: -1 is not from 0 to"),
    (generate, ["nowhere", "What?", "--temperature", "nan"], "argument --temperature: nan is not from 0 to"),
    (generate, ["nowhere", "What?", "--temperature", "hot"], "argument --temperature: invalid number value: 'hot'"),
    (generate, ["nowhere", "What?", "--limit", "0"], "argument --limit: 0 is below 1"),
    (generate, ["nowhere", "What?", "--limit", "-5"], "argument --limit: -5 is below 1"),
    (generate, ["nowhere", "What?", "--best-of", "-2"], "argument --best-of: -2 is below 1"),
    (generate, ["nowhere", "What?", "--best-of", "2"], "--best-of: needs --reference"),
    (generate, ["nowhere", "What?", "--reference", "nowhere"], "--reference: is for --best-of"),
    (generate, ["nowhere", "What?", "--beta", "nan"], "argument --beta: nan is not from 0 to"),
    (generate, ["nowhere", "What?", "--seed", str(1 << 64)], "argument --seed: 18446744073709551616 is above"),
    (generate, ["nowhere", "half \udcff"], "argument question: is not UTF-8 at character 5"),
    (train, ["nowhere", "run", "--every", "nan"], "argument --every: nan is not from 0 to inf"),
    (train, ["nowhere", "run", "--every", "-1"], "argument --every: -1 is not from 0 to inf"),
    (pack_plan, ["nowhere", "set", "--tokenizer", "nowhere", "--side", "0"], "argument --side: 0 is below 1"),
    (pack_plan, ["nowhere", "set", "--tokenizer", "nowhere", "--workers", "-1"], "argument --workers: -1 is below 0"),
    (pack_plan, ["nowhere", "set", "--tokenizer", "nowhere", "--length", "0"], "argument --length: 0 is below 1"),
    (pack_plan, ["nowhere", "set", "--tokenizer", "nowhere", "--queries", "0"], "argument --queries: 0 is below 1"),
])  # fmt: skip
def test_an_argument_that_cannot_be_used_is_named(program, words, named, monkeypatch, capsys):
    assert named in said(program, words, monkeypatch, capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(monkeypatch, capsys):
    assert "argument --device: torch cannot use 'cuda' here: " in said(
        serve, ["nowhere", "--device", "cuda"], monkeypatch, capsys
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_that_is_taken_is_said_instead_of_an_address(host, checkpoint, monkeypatch, capsys):
    with socket.create_server((host, 0)) as taken:
        port = taken.getsockname()[1]
        line = said(serve, [checkpoint, "--host", host, "--port", port, "--device", "cpu"], monkeypatch, capsys)
    assert line == f"--host {host} --port {port}: Address already in use; choose another"


def test_a_host_that_is_unknown_is_named(checkpoint, monkeypatch, capsys):
    line = said(serve, [checkpoint, "--host", "no host", "--device", "cpu"], monkeypatch, capsys)
    assert line.startswith("--host no host --port 8000: ") and line.endswith("; choose another")


def test_the_address_is_printed_when_it_answers(checkpoint, monkeypatch, capsys):
    reached = []

    def run(self, sockets):
        line = capsys.readouterr().out
        port = int(line.rpartition(":")[2].partition("/")[0])
        with socket.create_connection(("127.0.0.1", port)):
            reached.append(port == sockets[0].getsockname()[1])
        sockets[0].close()

    monkeypatch.setattr("uvicorn.Server.run", run)
    monkeypatch.setattr(sys, "argv", ["serve", str(checkpoint), "--port", "0", "--device", "cpu"])
    serve.main()
    assert reached == [True]


# Values of a recipe


@pytest.mark.parametrize(("key", "value"), [
    ("batch", True), ("steps", "3"), ("steps", 3.0), ("rate", "fast"), ("rate", True), ("micro", "1"), ("side", True),
    ("weight_decay", "0"), ("betas", [True, 0.9]), ("sets", {"captions": "1"}),
    ("held_out", {"set": "a", "every": "2"}),
])  # fmt: skip
def test_a_value_of_another_type_is_named(key, value, tmp_path):
    given = recipe(tmp_path).model_dump(exclude_none=True)
    given["stages"] = [{**SFT, key: value}]
    with pytest.raises(UserError, match=rf"^r\.toml: stages\.0\.{key}"):
        checked(given, "r.toml")


@pytest.mark.parametrize("trains", [["language"], ["language", "language"], ["vision", "language", "vision"]])
def test_a_part_that_is_named_twice_is_trained_once(trains, tmp_path):
    (stage,) = recipe(tmp_path, {**SFT, "trains": trains, "rate": 1}).stages
    assert stage.trains == tuple(dict.fromkeys(trains)) and stage.rate == 1
