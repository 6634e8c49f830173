"""A corpus that is made in any way, killed or stopped there, and made again has the bytes of one that nobody disturbed.

`tests/benchmarks/kills_by_way.py` does the same at random, many times. Dask and Prism are real, and need what
docs/engines.md says.
"""

import random
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.corpora import build
from support.ways import PRISM, SERVED, TOML, Attempt, Expected, ways, write_source

from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from schemas.config.file import read_config

KILLS = [(name, victim) for name in ("local", "parts", "s3", "dask", "prism") for victim in ("all", "ctrl-c")]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in Linux's /proc"),
]


@pytest.mark.parametrize(("name", "victim"), [*KILLS, ("dask", "worker")])
def test_what_is_killed_or_stopped_ends_in_the_same_bytes(name, victim, tmp_path, monkeypatch):
    if name == "dask" and not find_spec("distributed"):
        pytest.skip("Dask is not installed: the extra [dask]")
    if name == "prism" and not PRISM:
        pytest.skip("no prism: go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0, and put it on PATH")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = write_source(tmp_path)
    with ways([name]) as (way,):
        (tmp_path / "sides.py").write_text('def sides(row):\n    return {"side": row["width"]}\n')
        (tmp_path / "plain.toml").write_text(TOML.format(root="plain", source=source))
        build(tmp_path / "plain.toml")
        config, root = way.configure(tmp_path / name, source)
        assert Attempt(way, config, root).run(7.0, victim, random.Random(0)) in (victim, None)
        Attempt(way, config, root).run()
        found = Expected.of(Root(str(tmp_path / "plain"))).faults(root)
        assert not any(found.values()), found
        if name in SERVED:
            assert verify_root(root, beam=read_config(config).beam) == verify_root(root)
