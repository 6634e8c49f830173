"""Small corpora for tests, and runs of them in processes of their own."""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont
from support.paths import PROJECT

from pipelines.build.run import run
from pipelines.catalog.catalog import build_catalog, refresh_catalog
from pipelines.engine.manifest import SourceFile
from pipelines.engine.root import Root
from pipelines.reports.report import REPORT, write_report
from pipelines.sources import open_source
from pipelines.stages.rows import Rows, finished_rows, keyed_rows
from schemas.config.file import read_config
from schemas.config.sources import SOURCES
from schemas.rows import REASONS

ONE_PROCESS = '[beam]\noptions = ["--direct_running_mode=in_memory", "--direct_num_workers=1"]\n'


COLOURS = ("firebrick", "royalblue", "seagreen", "gold", "black", "purple")
WORDS = ("OPEN", "SALE", "EXIT", "BREAD", "TAXI", "HOTEL", "MARKET", "24 HOURS", "NO PARKING", "LIBRARY", "COFFEE")


def picture(number: int) -> tuple[bytes, str]:
    """A PNG of a square above some words, and the words; one in four has none. Any OCR engine reads them."""
    draws = random.Random(number)
    words = draws.choice(WORDS) if draws.random() < 0.75 else ""
    image = Image.new("RGB", (224, 224), (245, 243, 238))
    pen, left = ImageDraw.Draw(image), draws.randint(20, 100)
    pen.rectangle((left, 20, left + 100, 120), draws.choice(COLOURS))
    pen.text((112, 170), words, (20, 20, 20), font=ImageFont.load_default(28), anchor="mm")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue(), words


def write_tar(path: Path, numbers: Iterable[int], text: Callable[[int], str] = "picture {}".format) -> Path:
    """A tar of pictures in img2dataset's layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            data, _ = picture(number)
            for ext, payload in (("png", data), ("txt", text(number).encode()), ("json", b'{"n": %d}' % number)):
                info = tarfile.TarInfo(f"{number:06d}.{ext}")
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))
    return path


def shardmill(*words: str | Path, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
    """Runs the command line in a process of its own."""
    command = [sys.executable, "-c", "from flows.cli import main; main()", *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **env},
    )  # fmt: skip


class Said(NamedTuple):
    code: int
    out: str
    err: str


@cache
def _command() -> Callable[..., Any]:
    """The command line as Typer makes it, which takes 40 ms each time."""
    from typer.main import get_command

    from flows.cli import app

    return get_command(app)


def say(*words: str | Path) -> Said:
    """The command line in this process: its exit code and what it prints."""
    from flows.cli import main

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    with (
        patch.object(sys, "argv", ["shardmill", *map(str, words)]),
        patch("flows.cli.app", _command()),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return Said(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def data_files(root: Path) -> dict[str, str]:
    """The SHA-256 of every data file under a root: all but caches, the ledger and the lock."""
    from hashlib import sha256

    return {
        str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and "runs" not in path.relative_to(root).parts
        and path.name not in ("_commits.parquet", "lock.json", "catalog.duckdb", "report.html")
    }


def kill_group(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


reports = False  # whether runs in this process write report.html, which takes a third of the time of a small run
catalogs = False  # whether they write catalog.duckdb, which takes a quarter; queries do not need the file


@contextmanager
def in_this_process() -> Iterator[None]:
    """The real stages, their work done in a loop instead of by Beam, without fsync; an empty report and no
    catalog unless a test asks for them by `reports` and `catalogs`."""

    def make(workers, work, items, *_):
        for item in items:
            work.make(item)

    def report(root: Root) -> None:
        write_report(root) if reports else root.write(REPORT, b"")

    def refresh(root: Root) -> None:
        if catalogs:
            refresh_catalog(root)

    def catalog(root: Root) -> None:
        if catalogs:
            build_catalog(root)

    with (
        patch("pipelines.engine.workers.Workers.make", make),
        patch("pipelines.engine.root.FSYNC", False),
        patch("pipelines.build.run.write_report", report),
        patch("pipelines.build.run.build_catalog", catalog),
        patch("pipelines.build.run.refresh_catalog", refresh),
    ):
        yield


def build(config: Path, until: str | None = None, **more: Any) -> Root:
    """A whole run, in this process."""
    with in_this_process():
        run(config, until, **more)
    return Root(read_config(config).root)


def all_rows(stage: Rows, name: str) -> Iterator[dict]:
    """The rows of a source file that is one partition."""
    file = SourceFile(name, 0, 1, None)
    return finished_rows(stage, file, keyed_rows(stage, file), {0: None})


def rows_of(kind: str, path: Path, **fields) -> list[dict]:
    """The rows of a source, in its order. Each has a declared reason or none, and a key of its own."""
    stage = Rows(open_source(SOURCES[kind](path=str(path), **fields)))
    rows = []
    for name, _ in stage.source.files():
        rows += all_rows(stage, name)
    assert len({row["key"] for row in rows}) == len(rows)
    assert {row["reason"] for row in rows} <= {None, *REASONS}
    return rows


def facts(rows: Iterable[dict], *names: str) -> list[tuple]:
    return [tuple(row[name] for name in names) for row in rows]


def write_captions(path: Path, captions: list[tuple], image: str = "image", text: str = "text") -> None:
    """A caption table in the format that its name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({image: [i for i, _ in captions], text: [t for _, t in captions]}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({image: i, text: t}) + "\n" for i, t in captions))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([(image, text), *captions])
