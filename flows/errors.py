"""Errors that are reported in one line, and the exit code of each."""

import logging

from pipelines.catalog.gates import GateFailed
from pipelines.engine.lock import Busy
from pipelines.engine.root import Corrupt, fault
from pipelines.engine.worker import StageFailed
from schemas.errors import UserError
from schemas.shards import Damaged

STORES = {
    "aiobotocore",
    "aiohttp",
    "botocore",
    "gcsfs",
    "google",
    "httpx2",
    "huggingface_hub",
}  # packages whose errors mean that an object store fails

CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`"


class NoServer(Exception):
    """Prefect's temporary server did not start, or the named one is gone."""


def line_of(error: BaseException) -> tuple[int, str] | None:
    """(exit code, what to say); None for an unexpected error, whose traceback is needed."""
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, Busy | Corrupt | Damaged | GateFailed | NoServer | StageFailed):
        return 1, str(error)
    if line := fault(error):
        return 1, line
    if type(error).__module__.split(".")[0] in ("duckdb", "_duckdb"):
        from pipelines.catalog.catalog import unreadable

        return (1, line) if (line := unreadable(error)) else None
    if type(error).__module__.split(".")[0] in STORES:
        hint = f"; {CREDENTIALS}" if type(error).__name__ == "NoCredentialsError" else ""
        return 1, f"the object store cannot be reached: {' '.join(str(error).split())}{hint}"
    return None


class WithoutTraceback(logging.Filter):
    """Drops the tracebacks of errors that are reported in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] and line_of(record.exc_info[1]):
            record.exc_info = None
        return True
