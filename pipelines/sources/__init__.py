"""Where rows and bytes come from: a module for each kind of source, which names its class SOURCE."""

from importlib import import_module

from pipelines.sources.source import Source
from schemas.config.sources import SourceConfig


def open_source(config: SourceConfig) -> Source:
    """The source that a configuration names."""
    return import_module(f"pipelines.sources.{config.kind}").SOURCE(config)
