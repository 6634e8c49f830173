"""A compact trainer that learns from shards, its evaluation, and its models as GGUF. Never imports `pipelines`."""

from schemas.extras import needs

needs("torch")
