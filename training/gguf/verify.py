"""Whether an export is the checkpoint, in real llama.cpp: every figure against its bar.

    found = verify(Path("phone"), Path("checkpoint"), root="corpus", name="held_out")
    found["passed"], found["checks"], found["speed"]

llama.cpp runs in processes of their own: one that it ends is a check that failed.
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
from pathlib import Path
from typing import Any, NamedTuple

from schemas.errors import UserError
from training.gguf.export import MODEL_CARD, WEIGHTS, WHOLE, sha256, write_model_card
from training.gguf.files import files

ENVIRONMENT = {"GGML_NO_BACKTRACE": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # the second: threads that wait let others work


class Bar(NamedTuple):
    """What a figure of a check must be, at most or at least."""

    check: str
    figure: str
    limit: float
    holds: Callable[[float, float], bool] = operator.le

    def __str__(self) -> str:
        return f"{'≤' if self.holds is operator.le else '≥'} {self.limit:g}"


def bars(language: str, vision: str, kl: float, same_top: float) -> Iterator[Bar]:
    """Those of files of these types; a quantised language model is held against f16, not against torch."""
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
    """All figures, for JSON; they are also put on the export's card, if it is of this checkpoint.

    Raises `UserError` for folders that are no export, no checkpoint, no corpus.
    """
    language, mmproj = files(folder)
    kinds = kinds_of(folder)
    more = ["--root", root, "--set", name] if root and name else []
    checks = _run(["training.gguf.checks", str(folder), str(checkpoint), "--samples", str(samples), *more], say)
    missed = judge(checks, bars(*kinds, kl, same_top))
    found = {
        "passed": not missed, "missed": missed, "quantisation": dict(zip(("language", "vision"), kinds)),
        "checkpoint": sha256(checkpoint / WEIGHTS), "llama_cpp_python": version("llama-cpp-python"),
        "bytes": {path.name: path.stat().st_size for path in (language, mmproj)}, "checks": checks,
        "speed": None if missed else {how: speed(folder, how == "apart", say) for how in ("together", "apart")},
    }  # fmt: skip
    _note(folder, found)
    return found


def kinds_of(folder: Path) -> tuple[str, str]:
    """What the language model and the mmproj file are stored as, by their names."""
    language, mmproj = files(folder)
    return language.stem.rpartition("-")[2], mmproj.stem.rpartition("-")[2]


def judge(checks: dict[str, dict[str, Any]], bars: Iterable[Bar]) -> list[str]:
    """Notes at each figure whether its bar holds, and returns those that do not; a check that is missing holds none."""
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
    """What `training.gguf.speed` measures, in a process of its own. Raises `UserError` if llama.cpp ends it."""
    say(f"speed, vision and language {'apart' if apart else 'together'}")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in how.items() if value not in (True, False)]
    options += [f"--{name}" for name, value in how.items() if value is True]
    options += ["--apart"] if apart else []
    command = [sys.executable, "-m", "training.gguf.speed", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "GGML_NO_BACKTRACE": "1"})
    if done.returncode:
        raise UserError(f"{folder}: {_ended(done.returncode, done.stderr)}")
    return json.loads(done.stdout)


def lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """The table: check, figures, bars, verdict."""
    for check, figures in found["checks"].items():
        told = {key: value for key, value in figures.items() if key not in ("bars", "seconds", "detail")}
        barred = figures.get("bars", {})
        failed = "failed" in figures or not all(one["holds"] for one in barred.values())
        wanted = ", ".join(f"{name} {one['bar']}" for name, one in barred.items())
        detail = f"  {figures['detail']}" if failed and figures.get("detail") else ""
        shown = ", ".join(f"{name} {_short(value)}" for name, value in told.items()) + detail
        yield check.replace("_", " "), shown, wanted, "MISSED" if failed else "ok" if barred else ""
    for how, one in (found["speed"] or {}).items():
        shown = (
            f"loads in {one['load']:.2f} s, a view in {one['view'] * 1000:.1f} ms, prompt {one['prompt']:,.0f} and "
            f"answer {one['decode']:,.0f} tokens/s, peak {(one['peak'] - one['before']) / 1e6:,.0f} MB of its own"
        )
        yield f"speed, {how}", shown, "", ""
    yield "bytes", ", ".join(f"{name} {size / 1e6:,.2f} MB" for name, size in found["bytes"].items()), "", ""


def _run(command: list[str], say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """The checks by name; the one in which the process ended says how."""
    environment = {**os.environ, **ENVIRONMENT}
    checks, begun = {}, "start"
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        for line in process.stdout:
            told = json.loads(line)
            if name := told.pop("check", None):
                checks[name] = told
            else:
                begun = told["begun"]
                say(begun.replace("_", " "))
        process.wait()
        errors.seek(0)
        said = errors.read()
    if process.returncode == 2:
        raise UserError(said.strip().splitlines()[-1])
    if process.returncode:
        checks[begun] = {"failed": _ended(process.returncode, said)}
    return checks


def _ended(code: int, said: str) -> str:
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    lines = [line for line in said.strip().splitlines() if line.strip()]
    return f"{how}: {lines[-1]}" if lines else how


def _note(folder: Path, found: Mapping[str, Any]) -> None:
    """Puts the figures on the card of the export."""
    try:
        card = json.loads((folder / MODEL_CARD).read_text())
    except FileNotFoundError:
        return
    if card["checkpoint"]["sha256"] == found["checkpoint"]:
        write_model_card(
            folder, {**card, "parity": {key: found[key] for key in ("passed", "missed", "checks", "speed")}}
        )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
