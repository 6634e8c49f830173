"""The two files of an export, run by llama.cpp in this process.

    language = LanguageModel("phone/model-Q4_K_M.gguf")
    vision = VisionEncoder("phone/mmproj-model-f16.gguf", language)
    with vision.chunks([Text("<|im_start|>", marks=True), Text("user\\n"), image, Text("What is this?")]) as chunks:
        for chunk in chunks:
            language.decode(chunk if isinstance(chunk, np.ndarray) else vision.encode(chunk, language.width))

llama.cpp ends the process when a file is not as it expects: open unknown files in a process of their own. Its
structures change from release to release, so `llama-cpp-python` is pinned.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp
from llama_cpp._ggml import libggml
from PIL import Image

from schemas.errors import UserError
from training.gguf.log import listening
from training.tokenizer import Names

KV = {"f32": llama_cpp.GGML_TYPE_F32, "f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}


@dataclass(frozen=True)
class Settings:
    """Options of llama.cpp's computation: `shardmill tune-gguf` searches for the fastest."""

    threads: int = os.cpu_count() or 1
    batch: int = 2048  # tokens that are passed at once
    micro_batch: int = 512  # tokens that are computed at once
    flash: bool = False  # flash attention, in the language model and in the encoder
    kv: str = "f16"  # type of the cached keys and values: f32, f16, or q8_0, which needs flash attention

    def __str__(self) -> str:
        flash = "on" if self.flash else "off"
        return f"-t {self.threads} -b {self.batch} -ub {self.micro_batch} -fa {flash} -ctk {self.kv} -ctv {self.kv}"


DEFAULT, EXACT = Settings(), Settings(kv="f32")


MARKS = {name.encode() for name in (*Names().image, *Names().slice)}  # plain tokens in the file: see `vocabulary`


class Text(NamedTuple):
    text: str
    marks: bool = False  # whether `<|im_start|>` in it is a mark, or only characters that a user wrote


Part = Text | Image.Image
ImageChunk = int  # llama.cpp's address of one view, ready to be encoded


class LanguageModel:
    """The language model, with one sequence. `place` is the number of tokens in it."""

    def __init__(self, file: str | Path, settings: Settings = DEFAULT, context: int = 0):
        """`context` is in tokens; 0 means the trained length. Raises `UserError` if llama.cpp refuses the file."""
        self.settings, self.place = settings, 0
        with listening() as log:
            self.model = llama_cpp.llama_model_load_from_file(
                str(file).encode(), llama_cpp.llama_model_default_params()
            )
            if self.model:
                self.vocab = llama_cpp.llama_model_get_vocab(self.model)
                self.width, self.tokens = llama_cpp.llama_model_n_embd(self.model), len(self)
                self.context = llama_cpp.llama_init_from_model(self.model, self._params(context))
        self.warnings = log.warnings
        if not self.model or not self.context:
            raise UserError(f"{file}: llama.cpp does not load it: {'; '.join(log.errors) or 'it gives no reason'}")
        self.room = llama_cpp.llama_n_ctx(self.context)

    def __len__(self) -> int:
        """The number of tokens of its vocabulary."""
        return llama_cpp.llama_vocab_n_tokens(self.vocab)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def tokenize(self, text: str, marks: bool = False) -> list[int]:
        """The tokens of a text; nothing is added around it."""
        data = text.encode()
        room = len(data) + 8
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, room, False, marks)
        return ids[:count]

    def ends(self, token: int) -> bool:
        """Whether this token ends an answer."""
        return llama_cpp.llama_vocab_is_eog(self.vocab, token)

    def piece(self, token: int) -> bytes:
        """The bytes of a token; empty if it is a mark."""
        buffer = ctypes.create_string_buffer(256)
        size = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, 256, 0, False)
        read = buffer.raw[: max(size, 0)]
        return b"" if read in MARKS else read

    def decode(self, inputs: np.ndarray, every: bool = False) -> np.ndarray:
        """Appends tokens, int [length], or embeddings, float32 [length, width], to the sequence.

        Returns the logits after the last of them, float32 [vocabulary]; with `every`, after each, [length, vocabulary].
        Raises `ValueError` if there is no room for them.
        """
        if self.place + len(inputs) > self.room:
            raise ValueError(f"{self.place + len(inputs)} tokens do not fit; the context has {self.room}")
        logits = []
        for start in range(0, len(inputs), self.settings.batch):
            piece = inputs[start : start + self.settings.batch]
            logits.append(self._decode(piece, every or start + len(piece) == len(inputs), every))
        return np.concatenate(logits) if every else logits[-1][0]

    def rewind(self, place: int = 0) -> None:
        """Removes everything from this place on from the sequence."""
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.context), 0, place, -1)
        self.place = place

    def _params(self, context: int) -> llama_cpp.llama_context_params:
        params, settings = llama_cpp.llama_context_default_params(), self.settings
        params.n_ctx, params.n_batch, params.n_ubatch = context, settings.batch, settings.micro_batch
        params.n_threads = params.n_threads_batch = settings.threads
        params.flash_attn_type = _flash(settings.flash)
        params.type_k = params.type_v = KV[settings.kv]
        return params

    def _decode(self, inputs: np.ndarray, wanted: bool, every: bool) -> np.ndarray:
        count, embeddings = len(inputs), inputs.ndim == 2
        batch = llama_cpp.llama_batch_init(count, self.width if embeddings else 0, 1)
        try:
            batch.n_tokens = count
            filled = np.ctypeslib.as_array(batch.embd if embeddings else batch.token, inputs.shape)
            filled[:] = inputs
            np.ctypeslib.as_array(batch.pos, (count,))[:] = np.arange(self.place, self.place + count)
            np.ctypeslib.as_array(batch.n_seq_id, (count,))[:] = 1
            logits = np.ctypeslib.as_array(batch.logits, (count,))
            logits[:] = every
            logits[-1] = wanted
            for number in range(count):
                batch.seq_id[number][0] = 0
            if failed := llama_cpp.llama_decode(self.context, batch):
                raise RuntimeError(f"llama_decode returned {failed} for {count} tokens at {self.place}")
        finally:
            llama_cpp.llama_batch_free(batch)
        self.place += count
        outputs = count if every else int(wanted)
        if not outputs:
            return np.empty((0, self.tokens), np.float32)
        pointer = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(pointer, (outputs, self.tokens)).copy()


class VisionEncoder:
    """The mmproj file: encoder and resampler. Without a language model it encodes images, but tokenizes no text."""

    def __init__(
        self, file: str | Path, language: LanguageModel | None = None, settings: Settings = DEFAULT, watch: bool = False
    ):
        """With `watch` it only records patches, see `look`. Raises `UserError` if llama.cpp refuses the file."""
        self.settings, self.watched = settings, np.empty(0)
        params = mtmd_cpp.mtmd_context_params_default()
        params.n_threads, params.print_timings, params.warmup = settings.threads, False, False
        params.flash_attn_type = _flash(settings.flash)
        self._eye = llama_cpp.ggml_backend_sched_eval_callback(self._watch)  # lives as long as the context
        if watch:
            params.cb_eval = self._eye
        with listening() as log:
            model = language.model if language else None
            self.context = mtmd_cpp.mtmd_init_from_file(str(file).encode(), model, params)
        self.warnings = log.warnings
        if not self.context:
            raise UserError(f"{file}: llama.cpp does not load it: {'; '.join(log.errors) or 'it gives no reason'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        mtmd_cpp.mtmd_free(self.context)

    @contextmanager
    def chunks(self, parts: Sequence[Part]) -> Iterator[list[np.ndarray | ImageChunk]]:
        """Texts as int32 [tokens], and the views of images, with llama.cpp's marks around them.

        Raises `ValueError` if llama.cpp does not accept an image.
        """
        kept, bitmaps = [], []
        pointers = (ctypes.POINTER(mtmd_cpp.mtmd_input_part) * len(parts))()
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        try:
            for number, part in enumerate(parts):
                input_part = mtmd_cpp.mtmd_input_part()
                if isinstance(part, Text):
                    data = part.text.encode()
                    text = mtmd_cpp.mtmd_input_text(data, len(data), False, part.marks)
                    input_part.text = ctypes.pointer(text)
                else:
                    input_part.bitmap = _bitmap(part)
                    bitmaps.append(input_part.bitmap)
                kept.append(input_part)
                pointers[number] = ctypes.pointer(input_part)
            with listening() as log:
                failed = mtmd_cpp.mtmd_tokenize_from_parts(self.context, chunks, pointers, len(parts), True)
            if failed:
                raise ValueError(
                    f"llama.cpp does not accept this image: {'; '.join(log.errors) or f'it returned {failed}'}"
                )
            yield [_chunk(chunks, number) for number in range(mtmd_cpp.mtmd_input_chunks_size(chunks))]
        finally:
            mtmd_cpp.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd_cpp.mtmd_bitmap_free(bitmap)

    @staticmethod
    def length(chunk: np.ndarray | ImageChunk) -> int:
        """The number of tokens of a chunk."""
        return len(chunk) if isinstance(chunk, np.ndarray) else mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk)

    def views(self, image: Image.Image, width: int) -> list[np.ndarray]:
        """The embeddings of each view of an image: the overview first, then the cells row by row."""
        with self.chunks([image]) as chunks:
            return [self.encode(chunk, width) for chunk in chunks if not isinstance(chunk, np.ndarray)]

    def encode(self, chunk: ImageChunk, width: int) -> np.ndarray:
        """The embeddings of a view: float32 [queries, width]."""
        if failed := mtmd_cpp.mtmd_encode_chunk(self.context, chunk):
            raise RuntimeError(f"mtmd_encode_chunk returned {failed}")
        pointer = mtmd_cpp.mtmd_get_output_embd(self.context)
        return np.ctypeslib.as_array(pointer, (self.length(chunk), width)).copy()

    def look(self, chunk: ImageChunk) -> np.ndarray:
        """The patches that the encoder would get: float32 [rows, columns, 3 * patch * patch]."""
        mtmd_cpp.mtmd_encode_chunk(self.context, chunk)
        return self.watched

    def _watch(self, tensor: int, before: bool, _: object) -> bool:
        """llama.cpp calls this before and after it computes each tensor; patches are the convolution's columns.

        Called before, it returns whether to call it after; called after, whether to continue: it stops at the patches.
        """
        if libggml_base.ggml_op_desc(tensor) != b"IM2COL":
            return not before
        if before:
            return True
        head = _Tensor.from_address(tensor)
        columns = tuple(head.ne[:3])[::-1]
        data = np.empty(columns, np.float32 if head.type == llama_cpp.GGML_TYPE_F32 else np.float16)
        libggml_base.ggml_backend_tensor_get(tensor, data.ctypes.data, 0, data.nbytes)
        self.watched = data.astype(np.float32)
        return False


class _Tensor(ctypes.Structure):
    """The first fields of a `ggml_tensor`."""

    _fields_ = [("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4)]


_ggml = Path(libggml._name)
libggml_base = ctypes.CDLL(str(_ggml.with_name(_ggml.name.replace("ggml", "ggml-base"))))  # .so, .dylib or .dll
libggml_base.ggml_op_desc.restype, libggml_base.ggml_op_desc.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
libggml_base.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]


def _bitmap(image: Image.Image) -> int:
    data = image.tobytes()
    pixels = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
    return mtmd_cpp.mtmd_bitmap_init(image.width, image.height, pixels)


def _chunk(chunks: int, number: int) -> np.ndarray | ImageChunk:
    chunk = mtmd_cpp.mtmd_input_chunks_get(chunks, number)
    if mtmd_cpp.mtmd_input_chunk_get_type(chunk) != mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_TEXT:
        return chunk
    count = ctypes.c_size_t()
    pointer = mtmd_cpp.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
    return np.array(pointer[: count.value], np.int32)


def _flash(on: bool) -> int:
    return llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if on else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED


llama_cpp.llama_backend_init()
