"""A checkpoint as GGUF files: written, held against what they were made from in real llama.cpp, run, and tuned."""
