"""Servers whose answers do not end, become far more than came, or lead elsewhere: a bounded part is read, and the row
has a reason, or the run stops in one line."""

import gzip
import json
import socket
import threading
import time
import tracemalloc
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.clients import ask, client, reasons

from pipelines.models import chat

PIECE = b"x" * (1 << 18)


def packed(size: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(packer.compress(PIECE) for _ in range(size // len(PIECE))) + packer.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(self.server.models)

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(self.server.answers.get(self.path, self.server.answer))

    def answer(self, answer: tuple[int, dict, bytes | None]) -> None:
        status, head, body = answer
        self.send_response(status)
        if "Content-Type" not in head:
            self.send_header("Content-Type", "application/json")
        for name, value in head.items():
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for _ in range(400):  # 100 MB
                self.wfile.write(b"%x\r\n%s\r\n" % (len(PIECE), PIECE))
        except OSError:
            self.close_connection = True

    def log_message(self, *words) -> None:
        pass


GOOD = json.dumps({"choices": [{"message": {"content": "a cup"}, "finish_reason": "stop"}]}).encode()
ANSWERS = {
    "endless": (200, {}, None), "an endless error": (400, {}, None), "an endless page": (503, {}, None),
    "a bomb": (200, {"Content-Encoding": "gzip"}, packed(1 << 27)),
    "a bomb of an error": (400, {"Content-Encoding": "deflate"}, zlib.compress(bytes(1 << 27))),
    "a bomb that says x-gzip": (200, {"Content-Encoding": "x-gzip"}, packed(1 << 27)),
}  # fmt: skip
ODD = {
    "a bomb in a bomb": (200, {"Content-Encoding": "gzip, gzip"}, gzip.compress(packed(1 << 27))),
    "packed otherwise": (200, {"Content-Encoding": "zstd"}, b"(\xb5/\xfd"),
    "packed, it says": (200, {"Content-Encoding": "gzip"}, GOOD),
    "elsewhere": (307, {"Location": "http://127.0.0.2:{port}/v1/chat/completions"}, b""),
    "another port": (308, {"Location": "http://127.0.0.1:9/v1/chat/completions"}, b""),
    "another name": (302, {"Location": "//localhost:{port}/v1/chat/completions"}, b""),
}  # fmt: skip


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.answers, server.models, server.asked = True, {}, (200, {}, b'{"data": []}'), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def of(server: ThreadingHTTPServer, **config) -> chat.ChatClient:
    return client(f"http://127.0.0.1:{server.server_port}/v1", **{"tries": 1, "timeout": 20} | config)


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_without_end_is_read_to_a_bound(kind, server):
    server.answer, asking = ANSWERS[kind], of(server)
    tracemalloc.start()
    found, stopped = ask(asking, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80_000_000
    assert "the answer has more than" in str(found or stopped) and "not JSON" not in str(found or stopped)


@pytest.mark.parametrize("kind", ODD)
def test_an_answer_that_is_packed_oddly_or_is_elsewhere_is_not_read(kind, server):
    status, head, body = ODD[kind]
    server.answer = (status, {name: value.format(port=server.server_port) for name, value in head.items()}, body)
    found, stopped = ask(of(server), 2)
    assert len(server.asked) == 2 and (stopped is None) and reasons(found.values()) == {"bad_answer": 2}
    said = "redirects to" if status >= 300 else "cannot be unpacked" if kind == "packed, it says" else "not asked for"
    assert all(said in one.detail for one in found.values())


def test_a_packed_answer_and_a_redirect_at_the_same_place_are_read(server):
    server.answer = (307, {"Location": "/other"}, b"")
    server.answers["/other"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(GOOD))
    found, stopped = ask(of(server), 2)
    assert stopped is None and [one.text for one in found.values()] == ["a cup"] * 2
    assert server.asked.count("/other") == 2


@pytest.mark.parametrize("models", [b"hello", b"[1]", b"null", b'{"data": 5}', b"\xff", b""])
@pytest.mark.parametrize("kind", ["text/plain", "application/json"])
def test_a_server_lives_that_answers_anything(models, kind, server):
    """A request that breaks off leads to a look at the server's list of models, whatever that holds."""
    server.models, server.answer = (200, {"Content-Type": kind}, models), (200, {"Content-Length": "9999"}, b"")
    found, stopped = ask(of(server), 1)
    assert stopped is None and reasons(found.values()) == {"connection": 1}


FLOODS = {
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 0),
    "early hints": (b"", (b"HTTP/1.1 103 Early Hints\r\nLink: <" + b"x" * 1000 + b">\r\n\r\n") * 50, 0),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-Y: zzzzzzzzzzzzzzzzzzzzzz\r\n" * 2000, 0),
    "a line": (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 100_000, 0),
    "pieces": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000, 0),
    "drops of a header": (b"HTTP/1.1 200 OK\r\nX: ", b"y", 0.05),
    "drops of a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" ", 0.05),
    "drops of continue": (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
    "nothing": (b"", b"", 0.05),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_server_that_goes_on_and_on_stops_the_run_in_time(kind, monkeypatch):
    """Each request and each look at the server has a deadline, however much comes and however slowly."""
    monkeypatch.setattr(chat, "ALIVE", 0.4)
    monkeypatch.setattr(chat, "FIRST", 0.5)
    begin, piece, pause = FLOODS[kind]
    listener = socket.create_server(("127.0.0.1", 0))

    def flood(connection: socket.socket) -> None:
        try:
            connection.recv(1 << 16)
            connection.sendall(begin)
            while True:
                connection.sendall(piece)
                time.sleep(pause)
        except OSError:
            connection.close()

    def accept() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=flood, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    url, began = f"http://127.0.0.1:{listener.getsockname()[1]}/v1", time.monotonic()
    found, stopped = ask(client(url, tries=2, timeout=0.4), 2)
    listener.close()
    assert found == {} and "no answer from" in str(stopped)
    assert time.monotonic() - began < 20
