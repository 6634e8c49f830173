"""The command line `shardmill`. A mistake of the user's is answered in one line, with exit code 2."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from flows.commands import gguf, keep, look, make
from flows.commands.terminal import say
from schemas.config import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
STORES = {"aiobotocore", "aiohttp", "botocore", "gcsfs", "google"}  # packages whose errors are an object store's

COMMANDS = {  # in the order in which `--help` lists them
    "init": make.init,
    "keys": make.keys,
    "plan": make.plan,
    "run": make.run,
    "retry": make.retry,
    "try": make.try_stage,
    "check-endpoint": make.check_endpoint,
    "stats": look.stats,
    "sql": look.sql,
    "urls": look.urls,
    "export-set": look.export_set,
    "report": look.report,
    "verify": keep.verify,
    "clean": keep.clean,
    "takedown": keep.takedown,
    "export": gguf.export,
    "verify-gguf": gguf.verify_gguf,
    "tune-gguf": gguf.tune_gguf,
    "schedule": make.schedule,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"shardmill {version('shardmill')}")
        raise typer.Exit


@app.callback()
def shardmill(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Make for datasets."""


def main() -> None:
    from pipelines.gates import GateFailed
    from pipelines.job import StageFailed
    from pipelines.lock import Busy
    from pipelines.parquet import Corrupt
    from schemas.shards import Damaged

    try:
        app()
    except UserError as error:
        sys.exit(say(error, 2))
    except (Busy, Corrupt, Damaged, GateFailed, StageFailed) as error:
        sys.exit(say(error, 1))
    except Exception as error:
        if type(error).__module__.split(".")[0] not in STORES:
            raise
        sys.exit(say(error, 1, f"the object store cannot be reached: {' '.join(str(error).split())}"))
