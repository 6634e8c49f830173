"""The command line `shardmill`. It answers a mistake of the user in one line, with exit code 2."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from flows.commands import build, inspect, maintain, phone, releases, schedules
from flows.commands.terminal import say
from schemas.errors import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
STORES = {
    "aiobotocore",
    "aiohttp",
    "botocore",
    "gcsfs",
    "google",
}  # packages whose errors mean that an object store fails

PANELS = {  # of `--help`
    build: "Build",
    schedules: "Schedule",
    inspect: "Inspect",
    releases: "Releases",
    maintain: "Maintain",
    phone: "Phone",
}
COMMANDS = {  # in the order in which `--help` lists them, each in the panel of its module
    "init": build.init,
    "keys": build.keys,
    "plan": build.plan,
    "run": build.run,
    "retry": build.retry,
    "try": build.try_stage,
    "check-endpoint": build.check_endpoint,
    "schedule": schedules.schedule,
    "schedules": schedules.schedules,
    "unschedule": schedules.unschedule,
    "stats": inspect.stats,
    "sql": inspect.sql,
    "urls": inspect.urls,
    "export-set": inspect.export_set,
    "report": inspect.report,
    "releases": releases.releases,
    "diff": releases.diff,
    "pin": releases.pin,
    "unpin": releases.unpin,
    "publish": releases.publish,
    "verify": maintain.verify,
    "clean": maintain.clean,
    "takedown": maintain.takedown,
    "export": phone.export,
    "verify-gguf": phone.verify_gguf,
    "tune-gguf": phone.tune_gguf,
}
for name, command in COMMANDS.items():
    app.command(name, rich_help_panel=PANELS[sys.modules[command.__module__]])(command)


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
    from pipelines.catalog.gates import GateFailed
    from pipelines.engine.lock import Busy
    from pipelines.engine.root import Corrupt, fault
    from pipelines.engine.secrets import hide
    from pipelines.engine.worker import StageFailed
    from schemas.shards import Damaged

    try:
        app()
    except UserError as error:
        sys.exit(say(error, 2))
    except (Busy, Corrupt, Damaged, GateFailed, StageFailed) as error:
        sys.exit(say(error, 1))
    except Exception as error:
        hide(error)
        if line := fault(error):
            sys.exit(say(error, 1, line))
        if type(error).__module__.split(".")[0] not in STORES:
            raise
        sys.exit(say(error, 1, f"the object store cannot be reached: {' '.join(str(error).split())}"))
