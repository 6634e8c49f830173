"""The stages, a module each, in the order of `schemas.stages`."""
