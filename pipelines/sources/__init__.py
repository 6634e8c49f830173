"""Where rows and bytes come from: one module for each kind of source."""

from pipelines.sources.conversations import Conversations
from pipelines.sources.folder import Folder
from pipelines.sources.instructions import Instructions
from pipelines.sources.laion import Laion
from pipelines.sources.scenes import Scenes
from pipelines.sources.source import Source
from pipelines.sources.webdataset import WebDataset
from schemas.config.sources import SourceConfig

KINDS: dict[str, type[Source]] = {
    "folder": Folder, "webdataset": WebDataset, "laion": Laion, "conversations": Conversations,
    "instructions": Instructions, "scenes": Scenes,
}  # fmt: skip


def open_source(config: SourceConfig) -> Source:
    """The source that a configuration names."""
    return KINDS[config.kind](config)
