"""The command line `shardmill`. A mistake of the user's is answered in one line, with exit code 2."""

import sys

import typer

from flows.commands import gguf, keep, look, make
from flows.commands.terminal import say
from schemas.config import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Make for datasets.")

COMMANDS = {  # in the order in which `--help` lists them
    "init": make.init,
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
