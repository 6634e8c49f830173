"""A checkpoint as GGUF files: export, verification against the checkpoint in real llama.cpp, inference, and tuning."""

from schemas.extras import needs

needs("gguf")
