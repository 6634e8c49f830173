"""Commands that bring a checkpoint to a phone: they write, verify and tune GGUF files."""

from contextlib import contextmanager
from json import dumps
from pathlib import Path
from shlex import join
from typing import Annotated

import typer

from flows.commands.terminal import cell, console, say, table, tell
from schemas.errors import UserError
from schemas.extras import not_installed


def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint folder of the trainer.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.", show_default=False)],
    quant: Annotated[
        str, typer.Option(help="Type of the language model: F32, F16, Q8_0, Q4_K_M, IQ4_XS, …")
    ] = "Q4_K_M",
    mmproj: Annotated[str, typer.Option(help="Type of the vision encoder (mmproj) file: f32, f16 or Q8_0.")] = "f16",
    calibrate: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Corpus and shard set whose samples show which weights matter.", metavar="ROOT SET"),
    ] = None,
    samples: Annotated[int, typer.Option(help="Number of these samples.", min=1)] = 128,
) -> None:
    """Write a checkpoint as GGUF files, which llama.cpp runs on a phone, and make the checks that take seconds.

    Exit code 1 if a check fails. `verify-gguf` makes more checks.
    """
    with _extra("gguf"):
        from training.gguf.export import WHOLE, names_in, warnings_of
        from training.gguf.export import export as write
        from training.gguf.imatrix import calibrate as look
        from training.gguf.verify import verify_short

        names_in(out, quant, mmproj)  # fails at once if it cannot be written
        if calibrate and quant in WHOLE:
            raise UserError(f"--calibrate: {quant} holds all weights alike and needs no samples; leave it out")
    matter, described = look(checkpoint, *calibrate, samples) if calibrate else (None, None)
    card = write(checkpoint, out, quant, mmproj, matter, described)
    for name, file in card["files"].items():
        tell(f"{name}  {file['bytes'] / 1e6:,.2f} MB")
    for warning in warnings_of(checkpoint):
        tell(f"warning: {cell(warning)}")
    verify = join(["shardmill", "verify-gguf", str(out), "--checkpoint", str(checkpoint)])
    if (result := verify_short(out, checkpoint)) is None:
        tell(f"not checked in llama.cpp: {cell(not_installed('llama_cpp'))}; then run: {cell(verify)}")
    elif result["passed"]:
        checked = ", ".join(name.replace("_", " ") for name in result["checks"])
        tell(f"llama.cpp agrees on {checked}; compare its answers too: {cell(verify)}")
    else:
        missed = ", ".join(result["missed"])
        raise typer.Exit(say(None, 1, f"{out}: llama.cpp does not read it as it was trained: {missed}; see: {verify}"))


def verify_gguf(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `export` wrote.", show_default=False)],
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint that it was made from.", show_default=False)],
    held_out: Annotated[
        tuple[str, str] | None, typer.Option(help="Corpus and shard set of the samples to compare.", metavar="ROOT SET")
    ] = None,
    samples: Annotated[int, typer.Option(help="Number of these samples.", min=1)] = 50,
    kl: Annotated[
        float, typer.Option(help="Largest divergence of a quantised model from f16, in nats a token.")
    ] = 0.05,
    same_top: Annotated[
        float, typer.Option(help="Smallest share of tokens whose most likely token is the same as with f16.")
    ] = 0.9,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Compare GGUF files with their checkpoint in real llama.cpp. Exit code 1 if a limit is exceeded."""
    with _extra("gguf"):
        from training.gguf.verify import lines, verify

    root, name = held_out or (None, None)
    result = verify(folder, checkpoint, root, name, samples, kl, same_top, _quietly if json else _step)
    if json:
        print(dumps(result))
    else:
        shown = table("check", "measured", "bar", "")
        for line in lines(result):
            shown.add_row(*map(cell, line))
        console.print(shown)
    if not result["passed"]:
        raise typer.Exit(say(None, 1, f"{folder}: missed: {', '.join(result['missed'])}"))


def tune_gguf(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `export` wrote.", show_default=False)],
    tokens: Annotated[int, typer.Option(help="Number of tokens of an answer.")] = 64,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of lines.")] = False,
) -> None:
    """Search for llama.cpp's fastest settings on this device, and show what each step gained."""
    with _extra("gguf"):
        from dataclasses import asdict

        from training.gguf.tune import tune

    steps = []
    for step in tune(folder, tokens):
        steps.append(step)
        if not json:
            tried = ", ".join(f"{value} {seconds:.3f} s" for value, seconds in step.tried.items())
            tell(f"{step.name:<12} {step.chosen:<6} {step.gain:.2f} times as fast   ({tried})")
    if json:
        print(dumps([asdict(step) for step in steps]))
    else:
        last = steps[-1]
        before = steps[0].tried[next(iter(steps[0].tried))]
        after = last.tried[last.chosen]
        tell(f"an answer in {after:.3f} s instead of {before:.3f} s: llama-server {last.settings}")


@contextmanager
def _extra(name: str):
    """Wraps imports that need an extra. Raises `UserError` if it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(not_installed(error.name or name, name)) from None


def _step(line: str) -> None:
    tell(line, style="dim")


def _quietly(line: str) -> None:
    pass
