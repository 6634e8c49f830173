"""A web server of numbered pictures on loopback."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(pictures: Mapping[int, bytes]) -> Iterator[tuple[str, Counter[str]]]:
    """Serves each picture as /NUMBER.png, and all else with 404. Gives the URL, and the count of requests by path."""
    asked: Counter[str] = Counter()

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked[self.path] += 1
            body = pictures.get(int(self.path.strip("/").partition(".")[0]), b"")
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
