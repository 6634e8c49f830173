"""Queries on a corpus: DuckDB's views, gates on a run, and statistics."""
