"""What both sides agree on: row types, configuration, SQL views. Imports neither Beam nor torch."""
