from typing import Any

libggml: Any
