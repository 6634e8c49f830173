"""A checkpoint as the two files that llama.cpp runs on a phone: the language model, and the mmproj for images.

    export("checkpoint", Path("phone"), "Q4_K_M")

    phone/model-Q4_K_M.gguf  mmproj-model-f16.gguf  card.json

Weights are read, converted and written one at a time, so that memory is that of the largest one, for any model. The
figures that `shardmill verify-gguf` measures later are added to the card.
"""

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFWriter, LlamaFileType, quants
from gguf import GGMLQuantizationType as Type
from safetensors import SafetensorError, safe_open

from schemas.errors import UserError
from training.gguf.names import Keys, Tensor, language_keys, language_tensors, vision_keys, vision_tensors
from training.places import EXPORT, check_place
from training.shapes import read_checkpoint_shape, uncut
from training.state_file import check_beside, state_beside, unfinished
from training.tokenizer import Tokenizer

WEIGHTS, MODEL_CARD = "model.safetensors", "card.json"
AT_ONCE = 1 << 16  # stored numbers that are looked at together
WHOLE = {"F32": Type.F32, "F16": Type.F16}  # types that are written directly, without llama.cpp's quantiser
VISION = {"f32": Type.F32, "f16": Type.F16, "Q8_0": Type.Q8_0}


def export(
    checkpoint: str | Path,
    out: Path,
    quant: str = "Q4_K_M",
    vision: str = "f16",
    imatrix: Mapping[str, np.ndarray] | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the files and returns the card.

    `imatrix` is the importance of each column of a weight, see `training.gguf.imatrix`; `calibration` describes it on
    the card. Either all files are written or none: those of an earlier export stay until the new ones are complete.
    Raises `UserError` if the folder is not a checkpoint, if llama.cpp cannot read its tokenizer, and where `names_in`,
    `write` and `quantise` do.
    """
    checkpoint, begun = Path(checkpoint), time.perf_counter()
    language, mmproj = names_in(out, quant, vision)
    shape, tokenizer = read_checkpoint_shape(checkpoint), Tokenizer(checkpoint)
    tokenizer.check_room(shape.language.vocab)
    state = check_beside(checkpoint, tokenizer, shape)
    keys, weights = language_keys(shape, tokenizer), Weights(checkpoint / WEIGHTS)
    sees, speaks = list(vision_tensors(shape)), list(language_tensors(shape))
    weights.check({tensor.source for tensor in sees + speaks})
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be created: {error.strerror}; choose another") from None

    general = {"general.name": checkpoint.resolve().name, "general.type": "mmproj"}
    new, whole = {path: _beside(path) for path in (mmproj, language)}, out / "model.unquantised"
    with _all_or_none(out, [*new.values(), whole]):
        write(new[mmproj], "clip", vision_keys(shape), sees, weights, VISION[vision], general)
        if quant in WHOLE:
            whole = new[language]
        write(whole, "llama", keys, speaks, weights, WHOLE.get(quant, Type.F16), general | {"general.type": "model"})
        size = whole.stat().st_size
        if quant not in WHOLE:
            from training.gguf.quantise import quantise

            quantise(whole, new[language], quant, imatrix)
        card = {
            "checkpoint": {"name": checkpoint.resolve().name, "sha256": sha256(checkpoint / WEIGHTS)},
            "trained_on": state.get("releases"),
            "quantisation": {"language": quant, "vision": vision, "importance": calibration},
            "files": {
                path.name: {"bytes": new[path].stat().st_size, "sha256": sha256(new[path])}
                for path in (language, mmproj)
            },
            "parameters": sum(int(np.prod(tensor.shape)) for tensor in speaks + sees),
            "of_unquantised": new[language].stat().st_size / size,
            "seconds": round(time.perf_counter() - begun, 1),
            "parity": None,
        }  # fmt: skip
        write_model_card(out, card)
        for path, written in new.items():
            written.replace(path)
    return card


def names_in(out: Path, quant: str, vision: str) -> tuple[Path, Path]:
    """The files that an export writes: the language model, and the mmproj.

    Raises `UserError` for an unknown quantisation, and if `out` is not a folder or holds another export, a model or
    anything else that is not an export: llama.cpp is given one file of each kind.
    """
    if quant not in WHOLE:
        from training.gguf.quantise import FTYPES

        if quant not in FTYPES:
            raise UserError(f"--quant: unknown type {quant!r}; choose from {', '.join([*WHOLE, *FTYPES])}")
    if vision not in VISION:
        raise UserError(f"--mmproj: unknown type {vision!r}; choose from {', '.join(VISION)}")
    check_place(out, EXPORT)
    names = out / f"model-{quant}.gguf", out / f"mmproj-model-{vision}.gguf"
    if others := sorted({*out.glob("*.gguf")} - {*names}):
        raise UserError(f"{out}: holds {others[0].name} of another export; choose another folder, or remove it")
    return names


class Weights:
    """Weights of a safetensors file by name, in float32. Opens the file for each one, so that none stays in memory.

    Raises `UserError` for a weight that is missing or not finite.
    """

    def __init__(self, path: Path):
        self.path = path

    def check(self, wanted: Collection[str]) -> None:
        """Raises `UserError` if the file has other weights than those that are wanted."""
        with self._opened() as file:
            wrong = sorted({*file.keys()} ^ {*wanted})
        if wrong:
            raise UserError(f"{self.path}: {'lacks' if wrong[0] in wanted else 'has an unknown'} weight {wrong[0]}, by "
                            f"the shape.json beside it; put back the one that it was trained with")  # fmt: skip

    def __getitem__(self, name: str) -> np.ndarray:
        with self._opened() as file:
            weight = file.get_tensor(name).float().numpy()
        if not np.isfinite(weight.sum(dtype=np.float64)):  # which sums of float32 never exceed
            raise UserError(f"{self.path}: {name} holds numbers that are not finite; choose another checkpoint")
        return weight

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with safe_open(self.path, "pt") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.path}: cannot be read: {error}") from None


def write(
    path: Path, arch: str, keys: Keys, tensors: Iterable[Tensor], weights: Weights, kind: Type, general: Keys
) -> None:
    """Writes a GGUF file; matrices as `kind`, the rest in float32.

    Raises `UserError` for a weight that is missing, not finite, of another shape, or too large for its type.
    """
    writer = GGUFWriter(path, arch)
    for key, value in {**general, "general.file_type": _file_type(kind), **keys}.items():
        _add(writer, key, value)
    writer.add_quantization_version(2)
    kinds = [(tensor, _kind(tensor, kind)) for tensor in tensors]
    for tensor, stored in kinds:
        size = int(np.prod(tensor.shape))
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), stored_bytes(size, stored), stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, stored in kinds:
        values = tensor.made(weights[tensor.source])
        if values.shape != tensor.shape:
            where = f"{weights.path}: {tensor.source}"
            raise UserError(f"{where} makes {list(values.shape)}, the shape says {list(tensor.shape)}")
        with np.errstate(over="ignore", invalid="ignore"):
            data = quants.quantize(np.ascontiguousarray(values), stored)
            finite = _is_finite(data, stored)
        if not finite:
            raise UserError(f"{weights.path}: {tensor.source} has weights that {stored.name} cannot hold; choose "
                            f"{uncut(tensor.source)}")  # fmt: skip
        writer.write_tensor_data(data)
    writer.close()


def _is_finite(data: np.ndarray, kind: Type) -> bool:
    """Whether all stored weights are finite. Reads some rows at a time, which are float32 for a moment."""
    rows = data.reshape(-1, data.shape[-1])
    step = max(1, AT_ONCE // rows.shape[1])
    return all(
        np.isfinite(quants.dequantize(rows[start : start + step], kind)).all() for start in range(0, len(rows), step)
    )


def stored_bytes(size: int, kind: Type) -> int:
    """The bytes that `size` weights take."""
    block, stored = GGML_QUANT_SIZES[kind]
    return size // block * stored


def write_model_card(folder: Path, card: Mapping[str, Any]) -> None:
    new = folder / f"{MODEL_CARD}.new"
    new.write_text(json.dumps(card, indent=1) + "\n")
    new.replace(folder / MODEL_CARD)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _kind(tensor: Tensor, kind: Type) -> Type:
    """The type of a tensor; without whole blocks, like a convolution, it stays float16 where matrices are quantised."""
    if tensor.exact:
        return Type.F32
    return kind if kind in (Type.F32, Type.F16) or tensor.blocks else Type.F16


def _file_type(kind: Type) -> int:
    return int(
        {Type.F32: LlamaFileType.ALL_F32, Type.Q8_0: LlamaFileType.MOSTLY_Q8_0}.get(kind, LlamaFileType.MOSTLY_F16)
    )


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    """Writes a key by its Python type: integers become unsigned, floats float32."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, np.signedinteger):
        writer.add_int32(key, int(value))
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, value)


@contextmanager
def _all_or_none(out: Path, unfinished: Iterable[Path]) -> Iterator[None]:
    """Removes files that are left unfinished. Raises `UserError` for a full disk."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        for path in unfinished:
            path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def warnings_of(checkpoint: Path) -> Iterator[str]:
    """Lines about the last stage of a checkpoint's training: if it cut images otherwise than llama.cpp will, and if it
    was not finished."""
    state, side = state_beside(checkpoint), read_checkpoint_shape(checkpoint).vision.side
    if line := unfinished(state):
        yield f"{line}; train it on before it is exported"
    if not state.get("stages"):
        return
    last = state["stages"][-1]
    trained = last.get("plan", "llama.cpp"), last.get("side") or side
    if trained != ("llama.cpp", side):
        yield (f'stage {last["name"]} was trained with plan = "{trained[0]}" and side = {trained[1]}; llama.cpp cuts '
               f"images by its own plan and side {side}, so the phone sees other slices than were trained")  # fmt: skip
