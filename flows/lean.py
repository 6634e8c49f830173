"""Imports Prefect without pandas, which it takes for cache keys that no flow of ours has: half a second of each run."""

from schemas.arrow import WithoutPandas

with WithoutPandas():
    import prefect.cache_policies  # noqa: F401
