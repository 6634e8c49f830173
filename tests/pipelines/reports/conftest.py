"""All runs of these tests write the report."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def with_reports(reports) -> None: ...
