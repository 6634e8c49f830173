"""llama.cpp's own quantiser, called in this process: files equal those of `llama-quantize`, byte for byte."""

import ctypes
from collections.abc import Mapping
from pathlib import Path

import llama_cpp
import numpy as np

from schemas.errors import UserError
from training.gguf.log import listening

PREFIX = "LLAMA_FTYPE_MOSTLY_"
FTYPES = {  # name, such as Q4_K_M -> llama.cpp's number
    name.removeprefix(PREFIX): getattr(llama_cpp, name)
    for name in dir(llama_cpp)
    if name.startswith(PREFIX) and name.removeprefix(PREFIX)[:2] in ("Q2", "Q3", "Q4", "Q5", "Q6", "Q8", "IQ")
}
PIECE = 1 << 26  # bytes of rows that are held at once


def quantise(source: Path, out: Path, quant: str, imatrix: Mapping[str, np.ndarray] | None = None) -> None:
    """Writes a GGUF file in another type.

    `imatrix` has one float32 for each column of a weight. Raises `UserError` with llama.cpp's reason if it refuses: the
    small IQ types need an importance matrix.
    """
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.max_buf_size = FTYPES[quant], 0, PIECE
    rows = None
    if imatrix:
        held = {name.encode(): np.ascontiguousarray(values, np.float32) for name, values in imatrix.items()}
        rows = (llama_cpp.llama_model_imatrix_data * (len(held) + 1))()  # the last one stays empty, as an end mark
        for row, (name, values) in zip(rows, held.items(), strict=False):
            row.name, row.size = name, values.size
            row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = ctypes.cast(rows, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    with listening() as log:
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    if failed:
        out.unlink(missing_ok=True)
        reason = log.errors[-1].partition("failed to quantize: ")[2] if log.errors else f"it returned {failed}"
        raise UserError(f"--quant {quant}: llama.cpp says: {reason}")
