"""A folder for tables of the Hub."""

from pathlib import Path

import pytest


@pytest.fixture
def hub(tmp_path) -> Path:
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"
