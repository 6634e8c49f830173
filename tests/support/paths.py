"""Where the project, its tests and the real data are."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
PROJECT = TESTS.parent
SHARED = PROJECT.parent / "shared" / "data"
