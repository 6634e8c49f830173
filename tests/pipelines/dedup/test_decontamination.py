"""Which files `duplicates.exclude` names: through links, and none in silence."""

import os

import pytest
from support.corpora import picture

from pipelines.dedup.decontamination import find_excluded
from schemas.errors import UserError


def names(*places) -> list[str]:
    return [file.name for file in find_excluded(map(str, places))]


@pytest.fixture
def benchmark(tmp_path):
    """A folder of which one image is a link to a file, and one lies in a folder that is a link."""
    for folder in ("bench", "away/more"):
        (tmp_path / folder).mkdir(parents=True)
    for number, name in enumerate(("bench/0.png", "away/1", "away/more/2.jfif")):
        (tmp_path / name).write_bytes(picture(number)[0])
    (tmp_path / "bench/1.png").symlink_to("../away/1")
    (tmp_path / "bench/more").symlink_to("../away/more")
    (tmp_path / "bench/loop").symlink_to(".")
    (tmp_path / "bench/README.md").write_text("about")
    return tmp_path / "bench"


def test_links_to_files_and_folders_are_followed(benchmark):
    every = ["bench/0.png", "bench/1.png", "bench/more/2.jfif"]
    assert names(benchmark) == every
    (benchmark / "README.md").unlink()
    assert names(f"{benchmark}/*") == every and names(f"{benchmark}/**/*.png") == every[:2]
    assert names(benchmark / "1.png") == ["1.png"]
    assert {entry[0] for file in find_excluded([str(benchmark)]) for entry in [file.read()[:4]]} == {picture(0)[0][0]}


@pytest.mark.parametrize("kind", ["a broken link", "a pipe", "a device"])
def test_what_cannot_be_read_is_an_error_that_names_it(kind, benchmark):
    odd = benchmark / "odd.png"
    os.mkfifo(odd) if kind == "a pipe" else odd.symlink_to("gone" if "link" in kind else "/dev/zero")
    for place in (benchmark, f"{benchmark}/*.png", odd):
        with pytest.raises(UserError, match=r"odd.png: is a broken link or no plain file"):
            names(place)


def test_a_place_without_files_is_an_error(benchmark, tmp_path):
    (tmp_path / "empty").mkdir()
    for place, said in ((tmp_path / "gone", "no such file"), (f"{tmp_path}/gone*", "no such file"),
                        (tmp_path / "empty", "has no images")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            names(place)
