# `gguf` is in the extra of that name only: checked as if all in it had any type.
from typing import Any

def __getattr__(name: str) -> Any: ...
