"""A corpus as a whole: its configuration opened, what a run would do, and runs."""
