"""report.html: what became of every row, how the corpus is spread, and samples to look at, on one page."""
