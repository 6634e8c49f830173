"""A loopback server that speaks S3, counts what it is asked, and can fail or wait."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import s3fs
from fsspec.config import conf, set_conf_env
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Asked(NamedTuple):
    method: str  # LIST for a GET of a bucket
    path: str
    range: str | None


class Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Prints nothing."""


@dataclass
class ObjectStore:
    """The server; `env` is the environment in which every process finds it."""

    env: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    waits: Callable[[Asked], float] = lambda asked: 0.0  # seconds before a request is carried out
    failing: float = 0.0  # the share of requests that are answered with 503, or only after a second
    draws: random.Random = field(default_factory=lambda: random.Random(0))

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Any:
        path = environ["PATH_INFO"]
        listed = environ["REQUEST_METHOD"] == "GET" and path.strip("/").count("/") == 0
        asked = Asked("LIST" if listed else environ["REQUEST_METHOD"], path, environ.get("HTTP_RANGE"))
        self.asked.append(asked)
        time.sleep(self.waits(asked))
        if self.draws.random() < self.failing:
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"]
        return self.app(environ, start_response)

    def of(self, method: str, within: str = "") -> list[Asked]:
        return [asked for asked in self.asked if asked.method == method and within in asked.path]


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A server with a bucket named `bucket`."""
    store = ObjectStore()
    store.app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.env = {
        "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "FSSPEC_S3_KEY": "key",
        "FSSPEC_S3_SECRET": "secret",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.env.items():
            patch.setenv(name, value)
        set_conf_env(conf)
        s3fs.S3FileSystem.clear_instance_cache()
        with suppress(FileExistsError):  # servers of one process share their buckets
            s3fs.S3FileSystem().mkdir("bucket")
        yield store
    conf.pop("s3")
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    thread.join()
