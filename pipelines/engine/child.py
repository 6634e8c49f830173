"""Starts processes that run modules of this project, never modules from the current folder.

`python -m` looks there first: a folder `pipelines` of the user's would be imported in place of this package.
"""

import os
import sys
from pathlib import Path
from typing import IO

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}  # workers are processes


def module_command(module: str, *words: str) -> list[str]:
    """The command that runs a module, with `import_path` as PYTHONPATH."""
    return [sys.executable, "-P", "-m", module, *words]


def import_path() -> str:
    """The import path of this process for its children, without the folder that it runs in."""
    ours = str(Path(__file__).parents[2])
    given = map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    by_name = getattr(sys.modules["__main__"], "__spec__", None) is not None  # by `python -m`, which adds its folder
    implied = {os.getcwd()} - {ours, *given} if by_name else set()
    found = [os.path.abspath(path) for path in sys.path if path and path not in implied]
    return os.pathsep.join(dict.fromkeys(found if ours in found else [ours, *found]))


def piped(stream: IO[bytes] | None) -> IO[bytes]:
    """A stream of a process that was started with a pipe for it."""
    if stream is None:
        raise ValueError("not a pipe")
    return stream


def take_stdin() -> int:
    """The socket that this process has as its standard input, which is empty from now on."""
    taken, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return taken
