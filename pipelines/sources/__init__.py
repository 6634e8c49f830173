"""Where rows and bytes come from, a kind a file."""

from pipelines.sources.folder import Folder
from pipelines.sources.rendered import Rendered
from pipelines.sources.source import Source
from pipelines.sources.webdataset import WebDataset
from schemas.config import SourceConfig

KINDS: dict[str, type[Source]] = {"folder": Folder, "webdataset": WebDataset, "rendered": Rendered}


def open_source(config: SourceConfig) -> Source:
    """The source that a configuration names."""
    return KINDS[config.kind](config)
