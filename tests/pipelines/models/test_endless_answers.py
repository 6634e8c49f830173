"""Servers whose answers do not end, or become far more than came: a bounded part is read, and the row has a reason."""

import threading
import tracemalloc
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.clients import ask, client

PIECE = b"x" * (1 << 18)


def packed(size: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(packer.compress(PIECE) for _ in range(size // len(PIECE))) + packer.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, head, body = self.server.answer
        self.send_response(status)
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


ANSWERS = {
    "endless": (200, {}, None), "an endless error": (400, {}, None), "an endless page": (503, {}, None),
    "a bomb": (200, {"Content-Encoding": "gzip"}, packed(1 << 27)),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_without_end_is_read_to_a_bound(kind):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.answer = True, ANSWERS[kind]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tracemalloc.start()
    found, stopped = ask(client(f"http://127.0.0.1:{server.server_port}/v1", tries=1, timeout=20), 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    server.shutdown()
    assert peak < 80_000_000
    assert "the answer has more than" in str(found or stopped) and "not JSON" not in str(found or stopped)
