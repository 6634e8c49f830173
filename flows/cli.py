"""The command line `shardmill`. It answers a mistake of the user in one line, with exit code 2."""

import flows.interrupts  # noqa: F401  before what takes long to import

# isort: split
import sys
from importlib.metadata import version
from typing import Annotated, Any, cast

import typer

from flows.commands import align, build, cluster, inspect, maintain, phone, releases, schedules
from flows.commands.streams import lost_output
from flows.commands.terminal import say

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
PANELS = {  # of `--help`
    build: "Build",
    align: "Build",
    cluster: "Build",
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
    "work": cluster.work,
    "align": align.align,
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
UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])  # which Typer does not export

for name, command in COMMANDS.items():
    app.command(name, rich_help_panel=PANELS[sys.modules[command.__module__]])(command)
clusters = typer.Typer(no_args_is_help=True)
clusters.command("check")(cluster.check)
app.add_typer(clusters, name="cluster", help="Check the workers of a cluster.", rich_help_panel=PANELS[cluster])


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
    """Make for datasets: build training corpora of images and texts, and rebuild only what a change touches.

    Start with: shardmill init my.toml --source folder
    """


def _usage(error: Any) -> int:
    """Says in one line what is wrong with the words of a command."""
    line = " ".join(error.format_message().split()).rstrip(".")
    if not line:  # there were no words, and the help was printed
        return error.exit_code
    command = error.ctx.command_path if error.ctx else "shardmill"
    return say(None, error.exit_code, f"{line[0].lower()}{line[1:]}; see `{command} --help`")


def main() -> None:
    from flows.errors import line_of
    from pipelines.engine.secrets import hide

    try:
        code = app(prog_name="shardmill", standalone_mode=False)
        if not code and (lost := lost_output()):
            code = say(None, 1, lost)
        sys.exit(code)
    except UsageError as error:
        sys.exit(_usage(error))
    except Exception as error:
        hide(error)
        if (told := line_of(error)) is None:
            raise
        sys.exit(say(error, *told))
