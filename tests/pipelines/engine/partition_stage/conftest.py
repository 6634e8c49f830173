"""A root without a corpus."""

from collections.abc import Iterator

import pytest

from pipelines.engine.root import Root


@pytest.fixture(scope="module", autouse=True)
def no_fsync() -> Iterator[None]:
    """Nobody pulls the plug here, and many small files are written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.engine.root.FSYNC", False)
        yield


@pytest.fixture
def root(tmp_path) -> Root:
    return Root(str(tmp_path))
