"""What is done to a corpus in a process of its own, that can be killed at any change of the file system.

It does the work of Beam's workers itself. It is forked, and so begins at once.
"""

import importlib
import json
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from support.corpora import in_this_process, picture

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.build.run import run, to_retry
from pipelines.catalog.catalog import open_catalog, query
from pipelines.engine.parquet import parquet_bytes
from pipelines.maintain.clean import clean_root
from pipelines.maintain.takedown import Line, take_down
from pipelines.maintain.verify import verify_root
from pipelines.ocr.engines import load_engine
from pipelines.stages.captions import Rewrite
from pipelines.stages.images import inspect
from pipelines.stages.ocr import ReadText
from schemas import rows
from schemas.images import ImagesConfig
from schemas.ocr import OcrLine

KILLED = "killed"

# What these import is here before any process is forked.
parquet_bytes([], rows.STAGE.schema)
inspect(picture(0)[0], ImagesConfig())
importlib.import_module("openai.resources.chat")


class Remembered:
    """RapidOCR, which reads equal pixels once, whichever process asks."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, pixels: np.ndarray) -> list[OcrLine]:
        path = self.folder / f"{sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()}.json"
        if not path.exists():
            temporary = path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(load_engine("rapidocr").read(pixels)))
            os.rename(temporary, path)
        return json.loads(path.read_text())


@contextmanager
def killed_at(moment: int) -> Iterator[None]:
    """Kills this process before or after it puts a file in place or removes one; a moment of 0 never comes."""
    left = [moment]

    def counted(change: Callable) -> Callable:
        def changed(*args, **kwargs):
            for todo in (None, change, None):
                if todo:
                    done = todo(*args, **kwargs)
                    continue
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return done

        return changed

    with patch("os.replace", counted(os.replace)), patch("os.remove", counted(os.remove)):
        yield


@dataclass(frozen=True)
class Place:
    """Where a history takes place, and how its processes work."""

    folder: Path
    answers: Path  # of the OCR engine
    group: int  # partitions of a group of shards

    @property
    def config(self) -> Path:
        return self.folder / "my.toml"

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    def child(self, work: Callable, *args: Any, moment: int = 0) -> Any:
        """What a function gives in a process of its own; KILLED if that was killed. Raises what it raises."""
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=self._work, args=(there, work, args, moment))
        process.start()
        there.close()
        try:
            done, said = here.recv()
        except EOFError:
            done, said = None, None
        process.join()
        if process.exitcode == -signal.SIGKILL:
            return KILLED
        if not done:
            raise said
        return said

    def _work(self, pipe: Any, work: Callable, args: tuple, moment: int) -> None:
        with ExitStack() as stack:
            stack.enter_context(in_this_process())
            stack.enter_context(patch("pipelines.stages.ocr.open_engine", lambda config: Remembered(self.answers)))
            stack.enter_context(patch("pipelines.stages.ocr.prepare_engine", lambda config: None))
            stack.enter_context(patch("pipelines.stages.ocr.ReadText", partial(ReadText, chunk_rows=2)))
            stack.enter_context(patch.object(Rewrite, "chunk_rows", 2))
            stack.enter_context(patch("pipelines.stages.shard_layout.GROUP", self.group))
            for name in () if work is made_in_full else SPEAKS_OF_IT:  # takes more time than all else
                stack.enter_context(patch(name, lambda *args: None))
            stack.enter_context(killed_at(moment))
            try:
                said = True, work(self.config, *args)
            except Exception as error:
                error.add_note(traceback.format_exc())
                said = False, error
            pipe.send(said)
        os._exit(0)  # without the ends of threads that libraries began


SPEAKS_OF_IT = (
    "pipelines.build.run.build_catalog", "pipelines.build.run.refresh_catalog", "pipelines.build.run.write_report",
    "pipelines.build.corpus._check",
)  # fmt: skip


# What it does


def made(config: Path, until: str | None = None) -> dict[str, int]:
    """Runs; stage -> what it made."""
    return {stage.stage: stage.made for stage in run(config, until)}


def made_in_full(config: Path) -> dict[str, int]:
    """A run with all that belongs to it."""
    return made(config)


def made_and_seen(config: Path) -> tuple[dict[str, int], list[dict]]:
    """Runs; what it made, and what `duplicates` says of each image."""
    done, corpus = made(config), open_corpus(config)
    return done, query(corpus.root, LOOKS).to_pylist() if corpus.config.duplicates else []


def made_and_cleaned(config: Path) -> list[list[dict]]:
    """Runs, removes what no commit names, and gives what rows say whatever their partitions are."""
    run(config)
    return left(config)


def left(config: Path) -> list[list[dict]]:
    """Removes what no commit names, and gives what rows say whatever their partitions are."""
    cleaned(config, 1)
    root = open_corpus(config).root
    with open_catalog(root) as connection:
        return [connection.sql(sql).to_arrow_table().to_pylist() for sql in BY_KEY]


def retried(config: Path, stage: str | None) -> None:
    run(config, retry=to_retry(open_corpus(config), stage, "true"))


def cleaned(config: Path, keep: int) -> None:
    clean_root(open_corpus(config).root, grace=0, keep=keep)


def verified(config: Path) -> list[str]:
    return verify_root(open_corpus(config).root).problems


def planned_and_verified(config: Path) -> list[str]:
    """What is not as it should be after a run."""
    todo = plan(open_corpus(config)).work()
    return [*verified(config), *([f"plan: {todo} are to be made"] if todo else [])]


def taken_down(config: Path, lines: list[Line]) -> None:
    take_down(open_corpus(config), lines)


def asked(config: Path, sql: str) -> list[dict]:
    return query(open_corpus(config).root, sql).to_pylist()


LOOKS = """
SELECT d.partition, d.key, d.of, d.distance, d.reason, i.sha256, i.phash, i.phash256,
       coalesce(r.conversation, r.part_of) IS NULL AND i.sha256 IS NOT NULL AS alone
FROM duplicates d JOIN images i USING (partition, key) JOIN rows r USING (partition, key) ORDER BY ALL"""
BY_KEY = (
    "SELECT * EXCLUDE (partition, made_from, byte_offset) FROM rows ORDER BY key",
    "SELECT * EXCLUDE (partition, made_from, byte_offset) FROM images ORDER BY key",
    "SELECT * EXCLUDE (partition, made_from) FROM ocr ORDER BY key",
    "SELECT * EXCLUDE (partition, made_from) FROM captions ORDER BY key",
    "SELECT * EXCLUDE (partition, made_from) FROM selection ORDER BY key",
    "SELECT set, sample AS key, [(m.ext, m.sha256) FOR m IN members] AS members FROM shards ORDER BY ALL",
)
