"""`report.html`: the fate of every row, distributions over the corpus, and samples, on one page."""
