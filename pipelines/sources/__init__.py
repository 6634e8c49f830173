"""The kinds of sources of rows and bytes, a module each, which names its class SOURCE."""

from collections.abc import Iterable
from importlib import import_module

from pipelines.sources.several import Sources
from pipelines.sources.source import Source
from schemas.config.sources import SourceConfig


def open_source(config: SourceConfig) -> Source:
    """The source that a configuration names."""
    return import_module(f"pipelines.sources.{config.kind}").SOURCE(config)


def open_sources(configs: Iterable[SourceConfig]) -> Sources:
    """All sources that a configuration names."""
    return Sources({config.name: open_source(config) for config in configs})
