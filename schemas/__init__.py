"""What `pipelines` and `training` share: row types, configuration, SQL views. Imports neither Beam nor torch."""
