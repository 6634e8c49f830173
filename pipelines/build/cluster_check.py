"""Asks the workers of the configured Beam runner what they are like, and says what differs from this machine.

Workers answer by files under the root, so that it is seen to be shared. Only names of environment variables are looked
at, never their values.
"""

import hashlib
import os
import platform
import socket
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipelines.build.corpus import Corpus
from pipelines.engine.cluster import is_dask, workers_of
from pipelines.engine.commit import canonical
from pipelines.engine.root import Root
from pipelines.engine.secrets import hidden, hiding
from pipelines.engine.worker import StageFailed, is_local
from pipelines.engine.workers import Workers
from pipelines.sources.source import FileSource, Source
from pipelines.stages.own import CallFunction
from schemas.checked import checked
from schemas.errors import UserError

PACKAGES = (
    "shardmill", "apache-beam", "pyarrow", "duckdb", "numpy", "pillow", "pillow-heif", "pillow-jxl-plugin", "ImageHash",
    "pydantic", "orjson", "fsspec", "s3fs", "gcsfs", "aiohttp", "rapidocr", "easyocr", "py3langid", "distributed",
)  # fmt: skip
STORAGE = {  # variables with which the packages of a protocol find a store and its keys
    "s3": (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION",
    ),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING"),
    "hf": ("HF_TOKEN", "HF_ENDPOINT"),
}  # fmt: skip
ALIKE = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az"}
PREFIX = ".tmp-cluster-check-"  # of files under the root; `clean` removes them if this process is killed
EACH, SECONDS = 4, 0.5  # items for each worker, and how long each takes: so that every worker gets one


@dataclass(frozen=True)
class Facts:
    """What a process finds around itself."""

    worker: str  # host and process
    versions: dict[str, str | None]  # of Python and packages; None: not installed
    code: str  # digest of Shardmill's modules
    unset: list[str]  # variables that are not set
    faults: list[str]  # what it cannot reach, a line each


@dataclass(frozen=True)
class CheckWorkers:
    """The work of a worker: it looks around, and writes what it finds. An item is a number."""

    root: Root
    sources: Mapping[str, tuple[Source, str]]  # place in the configuration -> a source and one of its files
    variables: Sequence[str]
    modules: Sequence[str]  # that have functions of the user's own stages
    mark: str  # name of a file that the driver wrote

    name = "cluster check"

    def facts(self) -> Facts:
        faults = [fault for place, one in self.sources.items() if (fault := _unreached(place, *one))]
        faults += [f"the module {name} cannot be imported" for name in self.modules if not _is_there(name)]
        versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
        unset = [name for name in self.variables if not os.environ.get(name)]
        return Facts(f"{socket.gethostname()}/{os.getpid()}", versions, code_digest(), unset, faults)

    def make(self, item: int) -> None:
        time.sleep(SECONDS)
        host = socket.gethostname()
        try:
            self.root.read(self.mark)
        except FileNotFoundError:
            raise RuntimeError(f"{host} does not see what this machine wrote to {self.root.url}: share it") from None
        except Exception as error:
            raise RuntimeError(f"{host} cannot read {self.root.url}: {_line(error)}") from None
        facts = canonical(asdict(self.facts()))
        try:
            self.root.write(f"{self.mark}-{uuid.uuid4().hex}", facts)
        except Exception as error:
            raise RuntimeError(f"{host} cannot write to {self.root.url}: {_line(error)}") from None


def code_digest() -> str:
    """A digest of the modules that workers run."""
    sha256, folder = hashlib.sha256(), Path(__file__).parents[2]
    for path in sorted(path for package in ("pipelines", "schemas") for path in (folder / package).rglob("*.py")):
        sha256.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return sha256.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _unreached(place: str, source: Source, file: str) -> str | None:
    """Why a file of a source cannot be read, in a line."""
    if not isinstance(source, FileSource):
        return None
    try:
        if file == ".":  # a folder of images
            source.fs.ls(source.base or "/")
        else:
            source.fs.cat_file(f"{source.base}/{file}", start=0, end=1)
    except Exception as error:
        return f"{place}: {file} cannot be read: {_line(error)}"
    return None


def _line(error: Exception) -> str:
    return hidden(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])


# This machine


@hiding()
def check_cluster(corpus: Corpus, wait: float = 60.0) -> tuple[int, list[str]]:
    """(number of workers that answered, what differs from this machine, a line each).

    Raises `StageFailed` if no worker answers within `wait` seconds, or if one cannot use the root.
    """
    root, beam = corpus.root, corpus.config.beam
    try:
        expected = workers_of(beam.runner, beam.options)
    except ValueError as error:
        raise UserError(f"beam: {error}") from None
    work = CheckWorkers(root, _sources(corpus), _variables(corpus), _modules(corpus), f"{PREFIX}{uuid.uuid4().hex}")
    is_new = root.is_local and not root.exists("")
    root.create()
    answers, log = list[Facts](), f"{work.mark}.log"
    kept = set[str]()
    try:
        root.write(work.mark, b"")
        until = time.monotonic() + wait

        def look() -> None:
            if time.monotonic() > until and not _answered(work):
                raise StageFailed(
                    f"no worker of {beam.runner} answered within {wait:g} seconds; look at the workers' logs: is "
                    "Shardmill installed there?"
                )

        with Workers(beam, root) as workers:
            workers.make(work, range(EACH * expected), log, look)
        answers = [checked(Facts, root.read_json(name)) for name in _answered(work)]
    except StageFailed:
        kept.add(log)  # which the error names
        raise
    finally:
        written = [name for name in root.files("", hidden=True) if name.startswith(work.mark)]
        root.remove_all([name for name in written if name not in kept])
        if is_new:
            root.remove_folder("")
    found = {one.worker: one for one in answers}
    lines = differences(work.facts(), found.values())
    if len(found) < expected and (is_dask(beam.runner) or is_local(beam.runner)):
        lines.append(f"{len(found)} of {expected} workers answered")
    return len(found), lines


def _answered(work: CheckWorkers) -> list[str]:
    return [name for name in work.root.files("", hidden=True) if name.startswith(f"{work.mark}-")]


def differences(here: Facts, workers: Iterable[Facts]) -> list[str]:
    """How workers differ from this machine, a line for each difference, with the hosts that have it."""
    hosts: dict[str, dict[str, None]] = {}
    for facts in workers:
        versions = [(name, facts.versions.get(name), here.versions[name]) for name in here.versions]
        lines = [f"{name} is {theirs or 'not installed'}, {ours or 'not installed'} here"
                 for name, theirs, ours in versions if theirs != ours]  # fmt: skip
        if facts.code != here.code and facts.versions.get("shardmill") == here.versions["shardmill"]:
            lines.append("Shardmill's modules are not those of this machine: install the same build")
        lines += [f"{name} is not set" for name in facts.unset]
        for line in (*lines, *facts.faults):
            hosts.setdefault(line, {})[facts.worker.rpartition("/")[0]] = None
    return [f"{', '.join(names)}: {line}" for line, names in hosts.items()]


def _sources(corpus: Corpus) -> dict[str, tuple[Source, str]]:
    found = {}
    for name, rows in corpus.rows.items():
        with rows.naming_source():
            found[f"source.{name}" if name else "source"] = rows.source, rows.source.files()[0].path
    return found


def _variables(corpus: Corpus) -> list[str]:
    """The names of variables that endpoints need, and of those with which this machine reaches its stores."""
    config = corpus.config
    urls = [config.root, *(str(getattr(source, "path", "")) for source in config.source)]
    protocols = {ALIKE.get(name, name) for url in urls if (name := url.partition("://")[0]) != url}
    stores = [name for protocol in sorted(protocols) for name in STORAGE.get(protocol, ()) if os.environ.get(name)]
    keys: list[Any] = [endpoint.api_key_env for endpoint in config.endpoints.values()]
    return [*dict.fromkeys([*filter(None, keys), *stores])]


def _modules(corpus: Corpus) -> list[str]:
    stages = [stage for stage in corpus.made.values() if isinstance(stage, CallFunction) and stage.text is None]
    return [stage.config.callable.rpartition(":")[0] for stage in stages]
