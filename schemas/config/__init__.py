"""The configuration: its tables, its file, its reference and its templates."""
