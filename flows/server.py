"""The Prefect server of a run: the one that is named, or a temporary one that ends with this process.

Prefect can start a temporary server by itself. But that server outlives a run that is killed, and Ctrl-C in a terminal
ends it before it learns how the run ended.
"""

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.errors import NoServer
from pipelines.engine.child import import_path, module_command, piped
from schemas.errors import UserError

PATIENCE = 120.0  # seconds; the first start makes a database


@contextmanager
def server() -> Iterator[None]:
    """Provides a server to the flows that run inside.

    Raises `UserError` if the named one does not answer, and `NoServer` if the temporary one does not start.
    """
    if url := PREFECT_API_URL.value():
        check_server(url)
        yield
    else:
        reach_without_proxy("127.0.0.1")
        with temporary_settings({PREFECT_API_URL: _start()}):
            yield


def reach_without_proxy(host: str) -> None:
    """Has this process, and those that it starts, ask a host of this machine without the proxy of the environment."""
    if host in ("127.0.0.1", "localhost", "::1"):
        for name in ("NO_PROXY", "no_proxy"):
            hosts = [text for text in os.environ.get(name, "").split(",") if text]
            if "*" not in hosts and host not in hosts:
                os.environ[name] = ",".join([*hosts, host])


def check_server(url: str) -> None:
    """Raises `UserError` unless a Prefect server answers at a URL and lets this process ask it."""
    reach_without_proxy(urlsplit(url).hostname or "")
    with answering(url), get_client(sync_client=True) as client:
        answer = client.request("GET", "/health")
        if answer.text.strip() != "true":
            raise UserError(f"PREFECT_API_URL: no Prefect API at {url}; it usually ends in /api")
        client.read_flows(limit=1)  # the health of a server that wants a key is no secret


@contextmanager
def answering(url: str) -> Iterator[None]:
    """Raises `UserError` for a server that does not answer, or refuses, what is asked inside."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise UserError(refusal(url, error)) from None
    except PrefectException as error:  # such as of what somebody removes meanwhile
        raise UserError(f"PREFECT_API_URL: the server at {url} could not do it ({error}); try again") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"PREFECT_API_URL: no Prefect server answers at {url} ({error}); start it, or unset it"
        ) from None


def refusal(url: str, error: httpx.HTTPStatusError) -> str:
    """What a server that did not do what it was asked says, and what to do about it."""
    status = error.response.status_code
    if status in (401, 403):
        keys = "set PREFECT_API_KEY or PREFECT_API_AUTH_STRING"
        return f"PREFECT_API_URL: the server at {url} wants a key ({status}); {keys}"
    if status == 404 and error.request.url.path.endswith("/health"):
        return f"PREFECT_API_URL: no Prefect API at {url} (404); it usually ends in /api"
    asked = f"{error.request.method} {error.request.url.path}"
    return f"PREFECT_API_URL: the server at {url} answers {asked} with {status}; see its log"


def _start() -> str:
    """Starts a server; returns its URL once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home, said = _home(), tempfile.TemporaryFile()
    process = subprocess.Popen(
        module_command("flows.server_main", str(port)), stdin=subprocess.PIPE, stderr=said, start_new_session=True,
        env={**os.environ, "PYTHONPATH": import_path(), "PREFECT_SERVER_UI_ENABLED": "0", "PREFECT_HOME": home,
             "PREFECT_API_BLOCKS_REGISTER_ON_START": "0",  # nobody uses any here
             "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"},
    )  # fmt: skip
    atexit.register(_stop, process)
    url, started = f"http://127.0.0.1:{port}/api", time.monotonic()
    while process.poll() is None and time.monotonic() - started < PATIENCE:
        try:
            httpx.get(f"{url}/health", trust_env=False).raise_for_status()
            return url
        except httpx.HTTPError:
            time.sleep(0.1)
    said.seek(0)
    lines = [line.strip() for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    why = lines[-1] if lines else f"no answer within {PATIENCE:.0f} s"
    raise NoServer(f"Prefect's temporary server did not start ({why[:300]}); its database is in PREFECT_HOME, {home}")


def _home() -> str:
    """The folder of the server's database: Prefect's, or a temporary one if that cannot be written."""
    home = str(PREFECT_HOME.value())
    with suppress(OSError):
        os.makedirs(home, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
        return home
    temporary = tempfile.mkdtemp(prefix="shardmill-prefect-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)  # runs after the server has ended
    return temporary


def _stop(process: subprocess.Popen) -> None:
    piped(process.stdin).close()
    process.wait()
