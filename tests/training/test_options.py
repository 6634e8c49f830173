"""Arguments that a program of `training` cannot use are refused by their option, or in one line."""

import socket
import sys

import pytest
import torch

from training import align, evaluate, serve


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
