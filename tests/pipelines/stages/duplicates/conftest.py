"""A corpus of pictures for each test."""

import pytest
from support.duplicates import Pictures


@pytest.fixture
def pictures(tmp_path) -> Pictures:
    return Pictures(tmp_path)
