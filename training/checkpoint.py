"""A model, and a training run, as files: safetensors and JSON, so that reading one never runs code.

    <folder>/model.safetensors  shape.json  tokenizer.json  tokenizer_config.json       a model
    <run>/latest.json  <run>/000400/  with that, optimizer.safetensors and state.json    a run, after 400 steps

A folder is first written under another name, flushed to the disk, and then renamed; `latest.json` is replaced last. So
a run that was killed at any moment, or lost its power, resumes from a complete checkpoint. The next checkpoint removes
folders that were left incomplete.

`python -m training.checkpoint RUN OUT` writes the model of a run's last checkpoint in float16, and the run's log.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from schemas.errors import UserError, answered, cannot_read, naming
from training.chart import BEFORE, CHART
from training.model import VisionLanguageModel
from training.options import program
from training.places import MODEL as A_MODEL
from training.places import check_place
from training.run_log import LINES, LOG
from training.shapes import SHAPE, Shape, read_checkpoint_shape, uncut
from training.state_file import STATE, State, check_beside, end_of, read_state, unfinished
from training.tokenizer import Tokenizer
from training.whole_files import clear, filled, is_of, replace

MODEL, OPTIMIZER, LATEST = "model.safetensors", "optimizer.safetensors", "latest.json"
FILES = {MODEL, OPTIMIZER, STATE, SHAPE, "tokenizer.json", "tokenizer_config.json"}  # of a checkpoint
LOGS = (LOG, LINES, CHART, BEFORE)


def save_model(
    folder: Path, model: VisionLanguageModel, tokenizer: Tokenizer, dtype: torch.dtype | None = None
) -> None:
    """Writes a model's folder; the weights are converted to `dtype` if it is given."""
    folder.mkdir(parents=True, exist_ok=True)
    tied = {"language.lm_head.weight"} if model.shape.language.tied else set()
    weights = {
        name: _converted(name, weight, dtype).contiguous()
        for name, weight in model.state_dict().items()
        if name not in tied
    }
    with naming(folder):
        (folder / SHAPE).write_text(json.dumps(model.shape.as_dict(), indent=1))
        save_tensors(folder / MODEL, weights)
        (folder / "tokenizer.json").write_text(tokenizer.json, "utf-8")
        config = tokenizer.path.with_name("tokenizer_config.json")
        if config.exists() and config.resolve() != (folder / config.name).resolve():
            shutil.copyfile(config, folder / config.name)


def _converted(name: str, weight: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A weight in `dtype`. Raises `UserError` if that cannot hold it."""
    if dtype is None:
        return weight
    converted = weight.to(dtype)
    if not converted.isfinite().all():
        largest = weight.abs().max().item()
        kind, most = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
        raise UserError(f"{name}: has {largest:g}, and {kind} holds at most {most:g}; export the run's own checkpoint, "
                        f"with {uncut(name)}")  # fmt: skip
    return converted


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a safetensors file with the permissions of the shape.json beside it: the library's own are too narrow."""
    try:
        save_file(tensors, path, {"format": "pt"})
    except SafetensorError as error:  # such as of a full disk
        raise UserError(f"{path}: cannot be written: {error}") from None
    shutil.copymode(path.with_name(SHAPE), path)


def load_model(folder: str | Path, device: str = "cpu") -> tuple[VisionLanguageModel, Tokenizer]:
    """A model in float32 and its tokenizer. Raises `UserError` if the folder holds no model."""
    folder = Path(folder)
    shape = read_checkpoint_shape(folder)
    check_size(shape, folder)
    model = VisionLanguageModel(shape)
    tokenizer = Tokenizer(folder)
    tokenizer.check_room(shape.language.vocab)
    check_beside(folder, tokenizer, shape)
    load_weights(model, read_tensors(folder / MODEL), str(folder / MODEL))
    return model.to(device).eval(), tokenizer


def check_size(shape: Shape, folder: Path) -> None:
    """Raises `UserError` for a shape that needs more weights than there are bytes, before it takes memory for them."""
    size = (folder / MODEL).stat().st_size if (folder / MODEL).is_file() else None
    if size is not None and (least := shape.least_weights()) > size:
        raise UserError(f"{folder / SHAPE}: asks for {least:,} weights or more; {MODEL} has {size:,} bytes")


def load_weights(model: VisionLanguageModel, weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Raises `UserError` if a weight is missing, unknown, of another shape, or not finite."""
    wanted = dict(model.named_parameters())  # a tied weight appears once
    if wrong := sorted(wanted.keys() ^ weights.keys()):
        raise UserError(f"{where}: {'lacks' if wrong[0] in wanted else 'has an unknown'} weight {wrong[0]}")
    for name, parameter in wanted.items():
        if parameter.shape != weights[name].shape:
            raise UserError(f"{where}: {name} is {list(weights[name].shape)}, the shape says {list(parameter.shape)}")
        if not bool(torch.isfinite(weights[name]).all()):
            raise UserError(f"{where}: {name} holds numbers that are not finite; choose another checkpoint")
        with torch.no_grad():
            parameter.copy_(weights[name])


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(cannot_read(path, error)) from None


# Runs


def save_run(
    run: Path,
    name: str,
    model: VisionLanguageModel,
    tokenizer: Tokenizer,
    more: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    state: Mapping[str, Any],
) -> None:
    """Writes a run's checkpoint and makes it the latest; older ones are removed, and no folder with other files."""
    new, folder = run / f"{name}.new", run / name
    clear(new, FILES)
    save_model(new, model, tokenizer)
    names = _names(model, more)
    tensors = {
        f"{number}/{key}/{names[parameter]}": value.contiguous()
        for number, optimizer in enumerate(optimizers)
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }
    tensors |= {f"{name}/{key}": value for name, module in more.items() for key, value in module.state_dict().items()}
    save_tensors(new / OPTIMIZER, tensors)
    with naming(new / STATE):
        (new / STATE).write_text(json.dumps({**state, "tensors": len(tensors)}, indent=1))
    for path in (*new.iterdir(), new):
        _to_disk(path)
    clear(folder, FILES)
    new.rename(folder)
    _to_disk(run)
    replace(run / LATEST, json.dumps({"checkpoint": name}))
    _to_disk(run)
    steps = "[0-9]" * len(name)
    for old in (*run.glob(steps), *run.glob(f"{steps}.new")):
        if old != folder and is_of(old, FILES):
            shutil.rmtree(old)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def latest(run: Path) -> Path | None:
    """The folder of the last checkpoint that is whole; None if there is none yet. Raises `UserError` if it is gone.

    A run that was killed between the two halves of its first checkpoint has one, and no `latest.json` yet.
    """
    whole = sorted(path.parent.name for path in run.glob(f"*/{STATE}") if path.parent.name.isdigit())
    fix = f"write {json.dumps({'checkpoint': whole[-1]})} into it" if whole else "begin another run"
    try:
        folder = run / json.loads((run / LATEST).read_text())["checkpoint"]
    except FileNotFoundError:
        if len(whole) > 1:
            raise UserError(f"{run / LATEST}: is missing, and there is {' and '.join(whole)}; {fix}") from None
        return run / whole[0] if whole else None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{run / LATEST}: is damaged; {fix}") from None
    if not folder.is_dir():
        raise UserError(f"{run / LATEST}: names {folder.name}, which is gone; restore it, or begin another run")
    return folder


def load_run(
    folder: Path,
    model: VisionLanguageModel,
    more: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Restores the weights of the modules in `more` and the states of the optimizers.

    Give no optimizers for a stage that is done. Raises `UserError` if the states are those of other optimizers, if some
    are missing, or if they are not finite.
    """
    path, restore = folder / OPTIMIZER, "restore the file, or begin another run"
    tensors = read_tensors(path)
    wanted = read_state(folder).get("tensors")
    if len(tensors) != wanted if wanted is not None else not any(name[0].isdigit() for name in tensors):
        of = "" if wanted is None else f" of {wanted}"
        raise UserError(f"{path}: lacks states of the optimizer: it has {len(tensors)}{of} tensors; {restore}")
    if broken := next((name for name, value in tensors.items() if not value.isfinite().all()), None):
        raise UserError(f"{path}: {broken} holds numbers that are not finite; {restore}")
    for name, module in more.items():
        module.load_state_dict({key: tensors.pop(f"{name}/{key}") for key in module.state_dict()})
    if not optimizers:
        return
    named = {name: parameter for parameter, name in _names(model, more).items()}
    held = [
        {parameter for group in optimizer.param_groups for parameter in group["params"]} for optimizer in optimizers
    ]
    for place, value in tensors.items():
        number, key, name = place.split("/", 2)
        if int(number) >= len(held) or (parameter := named[name]) not in held[int(number)]:
            raise UserError(
                f"{folder}: {name} was trained by another optimizer; end the stage with the recipe it began with"
            )
        optimizers[int(number)].state[parameter][key] = value if key == "step" else value.to(parameter.device)


def _names(model: nn.Module, more: Mapping[str, nn.Module]) -> dict[torch.Tensor, str]:
    named: list[tuple[str, torch.Tensor]] = [*model.named_parameters()]
    named += [
        (f"{prefix}/{name}", parameter)
        for prefix, module in more.items()
        for name, parameter in module.named_parameters()
    ]
    return {parameter: name for name, parameter in named}


# Models of runs


def check_out(run: Path, out: Path) -> None:
    """Raises `UserError` if a run's model cannot be written to `out`, or would be written over something else."""
    if out.resolve().is_relative_to(run.resolve()):
        raise UserError(f"{out}: is the run's own folder, or in it; name another")
    check_place(out, A_MODEL)


def write_model(run: Path, out: Path) -> State:
    """Writes the model of a run's last checkpoint in float16, whole or not at all; with its state, the run's log and
    its chart. Returns the state. Raises `UserError` if there is no checkpoint yet, and where `check_out` does.
    """
    check_out(run, out)
    state, text, model, tokenizer = _last(run)
    with filled(out, MODEL, {*FILES, *LOGS}) as new:
        save_model(new, model, tokenizer, torch.float16)
        for name in LOGS:
            if (run / name).exists():
                shutil.copyfile(run / name, new / name)
        with naming(new / STATE):
            (new / STATE).write_bytes(text)  # which releases it was trained on
    return state


def _last(run: Path) -> tuple[State, bytes, VisionLanguageModel, Tokenizer]:
    """The state of a run's last checkpoint, also as a file, and its model. If a trainer has replaced the checkpoint
    meanwhile, the next one."""
    while True:
        named = (run / LATEST).read_bytes() if (run / LATEST).exists() else b""
        try:
            if (folder := latest(run)) is None:
                raise UserError(f"{run}: has no checkpoint; `python -m training.train` writes one")
            return read_state(folder), (folder / STATE).read_bytes(), *load_model(folder)
        except (UserError, OSError):
            if not (run / LATEST).exists() or (run / LATEST).read_bytes() == named:
                raise


def main() -> None:
    parser = program("training.checkpoint", "A run's model, in float16.")
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("out", type=Path, help="the folder to write")
    options = parser.parse_args()
    with answered(OSError):
        state = write_model(options.run, options.out)
        shape = read_checkpoint_shape(options.out)
    size, ends = (options.out / MODEL).stat().st_size, end_of(state)
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in VisionLanguageModel(shape).parameters())
    step = f"{state['step']:,} of {ends:,}" if ends else f"{state['step']:,}"
    print(f"{options.out}: {weights:,} weights, {size / 1e6:.1f} MB; after step {step} of stage {state['stage']}")
    if line := unfinished(state):
        print(f"warning: {line}; train it on with `python -m training.train RECIPE {options.run}`")


if __name__ == "__main__":
    main()
