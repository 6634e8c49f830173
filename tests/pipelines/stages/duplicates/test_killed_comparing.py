"""A run that was killed while pictures were compared ends in the bytes of one that was not, and leaves nothing."""

import random
import shutil
from pathlib import Path

import pytest
from benchmarks.fine_hash import certificate, cropped, jpeg
from support.corpora import ONE_PROCESS, data_files
from support.duplicates import Pictures, png
from support.kills import ENDED, Run, wait_for

from pipelines.engine.root import Root
from pipelines.maintain.clean import garbage
from pipelines.maintain.verify import verify_root

SMALL_ITEMS = "from pipelines.dedup import compared; compared.FEW, compared.PAIRS = 0, 3"
TWO_WORKERS = '[beam]\noptions = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]\n'


def finish(config: Path) -> dict[str, str]:
    """The files of a run that nobody disturbs."""
    with Run(config, code=SMALL_ITEMS) as run:
        assert run.wait() == 0, run.said.read_text()
    return data_files(config.parent / "corpus")


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """The configuration of a corpus of pages that nothing was made of."""
    pictures = Pictures(tmp_path_factory.mktemp("before"))
    pages = [certificate(random.Random(number)) for number in range(16)]
    pictures.put({f"{number}.png": png(page) for number, page in enumerate(pages)})
    pictures.put({"again.png": png(jpeg(pages[0], 60)), "cut.png": png(cropped(pages[1]))})
    config = pictures.write('[duplicates]\ncompare = "pixels"', each=1000)
    config.write_text(config.read_text().replace(ONE_PROCESS, TWO_WORKERS))
    return config


@pytest.fixture(scope="module")
def clean(before, tmp_path_factory) -> dict[str, str]:
    folder = shutil.copytree(before.parent, tmp_path_factory.mktemp("clean") / "copy")
    files = finish(folder / before.name)
    assert not (folder / "corpus/duplicates/comparing").exists()
    return files


@pytest.mark.slow
@pytest.mark.parametrize("victims", [["worker"], ["job"], ["run"], ["all"], ["run", "worker", "all"]])
def test_a_run_killed_while_pictures_are_compared_ends_in_the_same_bytes(victims, before, clean, tmp_path):
    config = shutil.copytree(before.parent, tmp_path / "copy") / before.name
    duplicates, results = config.parent / "corpus/duplicates", 0
    for victim in victims:
        with Run(config, code=SMALL_ITEMS) as run:
            assert wait_for(lambda: len([*duplicates.glob("comparing/*.json")]) > results, ENDED), run.said.read_text()
            assert run.kill(victim) == victim
            assert run.wait() != 0 and run.leaves_nothing()
        results = len([*duplicates.glob("comparing/*.json")])
        assert results and not (duplicates / "step.json").exists()
    assert finish(config) == clean
    root = Root(str(config.parent / "corpus"))
    assert [*garbage(root)] == [] and verify_root(root).problems == []
    assert not (duplicates / "comparing").exists()
