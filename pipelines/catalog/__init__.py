"""What is asked of a corpus: DuckDB's views, gates on a run, and figures."""
