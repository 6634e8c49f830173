"""llama.cpp's own quantiser, called in this process: its files are those of `llama-quantize`, byte for byte."""

import ctypes
from collections.abc import Mapping
from pathlib import Path

import llama_cpp
import numpy as np

from schemas.errors import UserError
from training.gguf.log import listening

PREFIX = "LLAMA_FTYPE_MOSTLY_"
FTYPES = {  # Q4_K_M and its like, by llama.cpp's numbers
    name.removeprefix(PREFIX): getattr(llama_cpp, name)
    for name in dir(llama_cpp)
    if name.startswith(PREFIX) and name.removeprefix(PREFIX)[:2] in ("Q2", "Q3", "Q4", "Q5", "Q6", "Q8", "IQ")
}
PIECE = 1 << 26  # bytes of rows that are held at once


def quantise(source: Path, out: Path, quant: str, imatrix: Mapping[str, np.ndarray] | None = None) -> None:
    """Writes a GGUF file of another type.

    `imatrix` has a float32 a column of each weight. Raises `UserError` with llama.cpp's reason if it refuses: the small
    IQ types need an importance matrix.
    """
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.max_buf_size = FTYPES[quant], 0, PIECE
    rows = None
    if imatrix:
        held = {name.encode(): np.ascontiguousarray(values, np.float32) for name, values in imatrix.items()}
        rows = (llama_cpp.llama_model_imatrix_data * (len(held) + 1))()  # ends with an empty one
        for row, (name, values) in zip(rows, held.items()):
            row.name, row.size = name, values.size
            row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = ctypes.cast(rows, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    with listening() as said:
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    if failed:
        out.unlink(missing_ok=True)
        reason = said.errors[-1].partition("failed to quantize: ")[2] if said.errors else f"it returned {failed}"
        raise UserError(f"--quant {quant}: llama.cpp says: {reason}")
