# `llama_cpp` is in the extra gguf only, and is a table of C functions: checked as if all in it had any type.
from typing import Any

def __getattr__(name: str) -> Any: ...
