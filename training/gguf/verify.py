"""Verifies an export against its checkpoint in real llama.cpp: every figure is compared with its bar.

    report = verify(Path("phone"), Path("checkpoint"), root="corpus", name="held_out")
    report["passed"], report["checks"], report["speed"]

llama.cpp runs in processes of its own: if it ends one, the check in it has failed.
"""

import json
import operator
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from schemas.errors import UserError
from training.gguf.export import MODEL_CARD, WEIGHTS, WHOLE, sha256, write_model_card
from training.gguf.files import files

SHORT = ("keys_and_shapes", "loads", "tokenizer", "layout")  # checks that need no answer of the model
ENVIRONMENT = {"GGML_NO_BACKTRACE": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # the second: threads that wait let others work


class Bar(NamedTuple):
    """The limit of a figure of a check, at most or at least."""

    check: str
    figure: str
    limit: float
    holds: Callable[[float, float], bool] = operator.le

    def __str__(self) -> str:
        return f"{'≤' if self.holds is operator.le else '≥'} {self.limit:g}"


def bars(language: str, vision: str, kl: float, same_top: float) -> Iterator[Bar]:
    """The bars for files of these types; a quantised language model is compared with f16, not with torch."""
    for check, figure in (
        ("keys_and_shapes", "wrong"), ("loads", "warnings"), ("tokenizer", "unequal"), ("tokenizer", "marks_read"),
        ("preprocessing", "other_views"), ("preprocessing", "unequal"), ("layout", "unequal"),
    ):  # fmt: skip
        yield Bar(check, figure, 0)
    if vision == "Q8_0":
        yield Bar("image_embeddings", "relative", 0.03)
    else:
        yield Bar("image_embeddings", "largest", 1e-3 if vision == "f32" else 1e-2)
    if language in WHOLE:
        yield Bar("text_logits", "largest", 1e-4 if language == "F32" else 1e-2)
        yield Bar("greedy", "unequal", 0)
    else:
        yield Bar("against_f16", "kl", kl)
        yield Bar("against_f16", "same_top", same_top, operator.ge)


def verify(
    folder: Path,
    checkpoint: Path,
    root: str | None = None,
    name: str | None = None,
    samples: int = 50,
    kl: float = 0.05,
    same_top: float = 0.9,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All figures, for JSON; they are also written to the export's card, if it is of this checkpoint.

    Raises `UserError` if a folder is not an export, a checkpoint or a corpus.
    """
    language, mmproj = files(folder)
    kinds = kinds_of(folder)
    more = ["--root", root, "--set", name] if root and name else []
    checks = _run(["training.gguf.checks", str(folder), str(checkpoint), "--samples", str(samples), *more], say)
    missed = judge(checks, bars(*kinds, kl, same_top))
    report = {
        "passed": not missed, "missed": missed, "quantisation": dict(zip(("language", "vision"), kinds, strict=True)),
        "checkpoint": sha256(checkpoint / WEIGHTS), "llama_cpp_python": version("llama-cpp-python"),
        "bytes": {path.name: path.stat().st_size for path in (language, mmproj)}, "checks": checks,
        "speed": None if missed else {how: speed(folder, how == "apart", say) for how in ("together", "apart")},
    }  # fmt: skip
    _note(folder, report)
    return report


def verify_short(folder: Path, checkpoint: Path) -> dict[str, Any] | None:
    """The checks that need no answer of the model: keys and shapes, loading, tokens of texts and of conversations.

    They read no weights into torch, so they take seconds for a model of any size. None if llama.cpp is not installed;
    the card is left as it is.
    """
    if find_spec("llama_cpp") is None:
        return None
    checks = _run(["training.gguf.checks", str(folder), str(checkpoint), "--short"], lambda line: None)
    wanted = [bar for bar in bars(*kinds_of(folder), 0, 0) if bar.check in SHORT]
    missed = judge(checks, wanted)
    return {"passed": not missed, "missed": missed, "checks": checks}


def kinds_of(folder: Path) -> tuple[str, str]:
    """The types of the language model and of the mmproj file, from their names."""
    language, mmproj = files(folder)
    return language.stem.rpartition("-")[2], mmproj.stem.rpartition("-")[2]


def judge(checks: dict[str, dict[str, Any]], bars: Iterable[Bar]) -> list[str]:
    """Adds to each figure whether its bar holds, and returns the figures that miss; a missing check misses all bars."""
    missed = {check for check, figures in checks.items() if "failed" in figures}
    for bar in bars:
        figures = checks.setdefault(bar.check, {"failed": "not reached"})
        value = figures.get(bar.figure)
        holds = value is not None and bar.holds(value, bar.limit)
        figures.setdefault("bars", {})[bar.figure] = {"bar": str(bar), "holds": holds}
        if not holds:
            missed.add(f"{bar.check}.{bar.figure}")
    return sorted(missed)


def speed(folder: Path, apart: bool = False, say: Callable[[str], None] = lambda line: None, **how: Any) -> Any:
    """The figures of `training.gguf.speed`, run in a process of its own. Raises `UserError` if llama.cpp ends it."""
    say(f"speed, vision and language {'apart' if apart else 'together'}")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in how.items() if value not in (True, False)]
    options += [f"--{name}" for name, value in how.items() if value is True]
    options += ["--apart"] if apart else []
    command = [sys.executable, "-m", "training.gguf.speed", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "GGML_NO_BACKTRACE": "1"})
    if done.returncode:
        raise UserError(f"{folder}: {_ended(done.returncode, done.stderr)}")
    return json.loads(done.stdout)


def lines(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """The table: check, figures, bars, verdict."""
    for check, figures in report["checks"].items():
        values = {key: value for key, value in figures.items() if key not in ("bars", "seconds", "detail")}
        barred = figures.get("bars", {})
        failed = "failed" in figures or not all(bar["holds"] for bar in barred.values())
        wanted = ", ".join(f"{name} {bar['bar']}" for name, bar in barred.items())
        detail = f"  {figures['detail']}" if failed and figures.get("detail") else ""
        shown = ", ".join(f"{name} {_short(value)}" for name, value in values.items()) + detail
        yield check.replace("_", " "), shown, wanted, "MISSED" if failed else "ok" if barred else ""
    for how, run in (report["speed"] or {}).items():
        shown = (
            f"loads in {run['load']:.2f} s, a view in {run['view'] * 1000:.1f} ms, prompt {run['prompt']:,.0f} and "
            f"answer {run['decode']:,.0f} tokens/s, peak {(run['peak'] - run['before']) / 1e6:,.0f} MB of its own"
        )
        yield f"speed, {how}", shown, "", ""
    yield "bytes", ", ".join(f"{name} {size / 1e6:,.2f} MB" for name, size in report["bytes"].items()), "", ""


def _run(command: list[str], say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Runs the checks; returns their figures by name. If the process ended in a check, that check says how."""
    environment = {**os.environ, **ENVIRONMENT}
    checks, begun = {}, "start"
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        for line in process.stdout or ():  # a pipe
            message = json.loads(line)
            if name := message.pop("check", None):
                checks[name] = message
            else:
                begun = message["begun"]
                say(begun.replace("_", " "))
        process.wait()
        errors.seek(0)
        stderr = errors.read()
    if process.returncode == 2:
        raise UserError(stderr.strip().splitlines()[-1])
    if process.returncode:
        checks[begun] = {"failed": _ended(process.returncode, stderr)}
    return checks


def _ended(code: int, stderr: str) -> str:
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    return f"{how}: {lines[-1]}" if lines else how


def _note(folder: Path, report: Mapping[str, Any]) -> None:
    """Writes the figures to the card of the export."""
    try:
        card = json.loads((folder / MODEL_CARD).read_text())
    except FileNotFoundError:
        return
    if card["checkpoint"]["sha256"] == report["checkpoint"]:
        write_model_card(
            folder, {**card, "parity": {key: report[key] for key in ("passed", "missed", "checks", "speed")}}
        )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
