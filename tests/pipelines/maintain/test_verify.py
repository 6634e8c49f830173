"""Whatever is wrong under a root is named, and mended by another run."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from support.corpora import build, data_files, say, write_tar
from support.verification import DIGESTED, KINDS, PARTITIONS, TOML, do_what_verify_says, find, flip, releases

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.gates import GateFailed
from pipelines.engine.commit import commit_in
from pipelines.engine.parquet import Corrupt, opened, read_rows
from pipelines.maintain.clean import clean_root
from pipelines.maintain.verify import verify_root


@pytest.mark.slow
def test_a_sound_root_is_counted(root, built):
    found = verify_root(root)
    assert (found.problems, found.garbage, found.rows, found.samples) == ([], [], 8, 8)
    assert found.bytes == sum(
        row["size"] for number in range(2) for row in read_rows(root, f"images/0000{number}.parquet")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_deleted_file_is_named(kind, root):
    name = find(root, kind)
    Path(root.path(name)).unlink()
    said = say("verify", root.url)
    assert (said.code, said.err) == (1, "")
    assert f"wrong {KINDS[kind].format(name=name)}\n" in said.out


@pytest.mark.slow
@pytest.mark.parametrize("kind", DIGESTED)
def test_a_flipped_bit_of_what_has_a_digest_is_named_wherever_it_is(kind, root):
    name = find(root, kind)
    size = Path(root.path(name)).stat().st_size
    for at in {0, 1, size - 1, size - 600, *random.Random(7).sample(range(size), 8)}:
        flip(root, name, at)
        problems = verify_root(root).problems
        assert any(name in problem for problem in problems), (at, problems)
        flip(root, name, at)
    assert verify_root(root).problems == []


PAGE, FOOTER = 90, -300  # places in an index: in a page, and in what the file says of itself


@pytest.mark.slow
def test_a_shard_whose_index_cannot_be_read_is_made_anew(root, tmp_path):
    before = data_files(Path(root.url))
    corpus = open_corpus(tmp_path / "my.toml")
    name = find(root, "shards/train-000000-*.parquet")
    size = Path(root.path(name)).stat().st_size
    for at in (1, 4, 8):  # from the end: the magic number, the length of the footer, the commit in it
        flip(root, name, size - at if at < 8 else Path(root.path(name)).read_bytes().index(b'"fingerprint"') + 20)
        (stage,) = (stage for stage in plan(corpus).stages if stage.todo)
        assert (stage.stage, stage.todo) == ("shards", {0: "train: gone or damaged"})
        build(tmp_path / "my.toml")
        assert data_files(Path(root.url)) == before
    Path(root.path(name)).unlink()
    build(tmp_path / "my.toml")
    assert data_files(Path(root.url)) == before


@pytest.mark.parametrize("at", [PAGE, FOOTER])
@pytest.mark.parametrize("gate", ["", '[gates]\nsome = "samples > 0"\n'])
def test_a_damaged_index_of_a_shard_that_changes_stands_in_no_way(at, gate, root, tmp_path):
    name = find(root, "shards/train-000001-*.parquet")
    number = read_rows(root, name)[0]["key"]
    flip(root, name, Path(root.path(name)).stat().st_size + at if at < 0 else at)
    config = TOML.replace("[sets.train]", f"[sets.train]\nwhere = \"key != '{number}'\"") + gate
    (tmp_path / "my.toml").write_text(config)
    build(tmp_path / "my.toml")
    clean_root(root, 0, keep=1)
    found = verify_root(root)
    assert found.problems == [] and found.samples == 7 and not root.exists(name)


@pytest.mark.slow
def test_a_shard_that_was_held_back_and_is_damaged_is_not_published(root, tmp_path):
    other = TOML.replace("[sets.train]", "[sets.train]\nwhere = \"text != 'picture 3'\"")
    (tmp_path / "my.toml").write_text(other + '[gates]\nnone = "samples = 0"\n')
    before = {*root.files("shards")}
    with pytest.raises(GateFailed):
        build(tmp_path / "my.toml")
    (name,) = (f"shards/{name}" for name in {*root.files("shards")} - before if name.endswith(".parquet"))
    sound = Path(root.path(name)).read_bytes()
    flip(root, name, PAGE)
    with pytest.raises(Corrupt, match=f"^{name}: cannot be read: "):
        read_rows(root, name)
    (tmp_path / "my.toml").write_text(other)
    build(tmp_path / "my.toml")
    assert Path(root.path(name)).read_bytes() == sound and verify_root(root).problems == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows/00000.parquet", "images/00000.parquet", "selection/00000.parquet"])
def test_a_flipped_bit_of_a_partition_is_named_or_changes_nothing(name, root):
    """Not every byte of a Parquet file means something; those that do are covered by page checksums and digests."""

    def says() -> tuple:
        with opened(root, name) as file:
            return asdict(commit_in(file.metadata)), file.read().to_pylist()

    before, size = says(), Path(root.path(name)).stat().st_size
    named = 0
    for at in {0, 4, size - 1, size - 5, size - 9, *random.Random(7).sample(range(size), 30)}:
        flip(root, name, at)
        if any(
            name in problem or find(root, "images/00000-*.tar") in problem for problem in verify_root(root).problems
        ):
            named += 1
        else:
            assert says() == before, at
        flip(root, name, at)
    assert named > 15


@pytest.mark.slow
def test_a_damaged_file_does_not_stop_a_command(root):
    """A line and an exit code, whatever is broken."""
    for kind in KINDS:
        name = find(root, kind)
        path = Path(root.path(name))
        whole = path.read_bytes()
        for broken in (b"", whole[: len(whole) // 2], whole[::-1]):
            path.write_bytes(broken)
            for command in (["verify"], ["stats"], ["clean"], ["sql", "from accounting"], ["urls", "train"]):
                said = say(command[0], root.url, *command[1:])
                assert len(said.err.splitlines()) <= 1 and said.code in (0, 1, 2), (name, said)
                assert command[0] != "verify" or (said.code == 1 and name in said.out)
        path.write_bytes(whole)
    assert verify_root(root).problems == []


HARM: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("kind", PARTITIONS)
def test_another_run_mends_a_partition_as_it_was(kind, harm, root):
    before = data_files(Path(root.url))
    HARM[harm](Path(root.path(find(root, kind))))
    build(Path(root.url).parent / "my.toml")
    assert data_files(Path(root.url)) == before
    assert verify_root(root).problems == []


@pytest.mark.parametrize("kind", ["shards/train-000000-*.tar", "shards/train-000001-*.parquet", "shards/train.json"])
def test_another_run_mends_shards_as_they_were(kind, root):
    before = data_files(Path(root.url))
    Path(root.path(find(root, kind))).unlink()
    build(Path(root.url).parent / "my.toml")
    assert data_files(Path(root.url)) == before


@pytest.mark.parametrize("kind", KINDS)
def test_doing_what_verify_says_mends_it(kind, root):
    before, name = data_files(Path(root.url)), find(root, kind)
    path = Path(root.path(name))
    path.write_bytes(path.read_bytes()[:200])
    do_what_verify_says(root)
    assert data_files(Path(root.url)) == before
    assert verify_root(root).problems == []


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("ext", ["tar", "parquet"])
def test_a_damaged_shard_of_an_older_release_takes_that_release_along(ext, harm, root, tmp_path):
    before = json.loads(root.read("shards/train.json"))
    (tmp_path / "my.toml").write_text(TOML.replace("[sets.train]", "[sets.train]\nwhere = \"text != 'picture 1'\""))
    build(tmp_path / "my.toml")
    now, what = json.loads(root.read("shards/train.json")), {"tar": "tar", "parquet": "index"}[ext]
    old = {entry[what] for entry in before["shards"]} - {entry[what] for entry in now["shards"]}
    HARM[harm](Path(root.path(f"shards/{min(old)}")))
    do_what_verify_says(root)
    assert verify_root(root).problems == []
    assert releases(root) == {now["release"]}


@pytest.mark.parametrize("name", ["rows/0.parquet", "rows/00000 (copy).parquet", "rows/000.parquet"])
def test_files_that_views_would_read_as_partitions_are_wrong(name, root):
    shutil.copy(root.path("rows/00000.parquet"), root.path(name))
    assert f"{name}: is not a partition, but the catalog reads it; remove it" in verify_root(root).problems
    clean_root(root, 0, keep=3)
    assert verify_root(root).problems == []


def test_a_partition_of_another_number_or_stage_is_wrong(root):
    shutil.copy(root.path("rows/00000.parquet"), root.path("rows/00007.parquet"))
    shutil.copy(root.path("rows/00000.parquet"), root.path("selection/00001.parquet"))
    problems = verify_root(root).problems
    for name in ("rows/00007.parquet", "selection/00001.parquet"):
        assert f"{name}: is damaged or belongs to another partition; remove it, run again" in problems
    assert "rows/00007.parquet: root.json has no such partition" in problems


# What is accounted for


def test_a_row_that_is_lost_between_stages_is_named(root, tmp_path):
    """An images partition of another corpus: sound by itself, but its keys are not those of the rows."""
    write_tar(tmp_path / "other/source/0.tar", range(3))
    (tmp_path / "other/my.toml").write_text(TOML)
    other = build(tmp_path / "other/my.toml")
    shutil.copy(other.path("images/00000.parquet"), root.path("images/00000.parquet"))
    shutil.copy(other.path(find(other, "images/*.tar")), root.path("images"))
    problems = verify_root(root).problems
    assert (
        "images/00000.parquet: its keys differ from those of rows/00000.parquet: a row is not accounted for" in problems
    )
    assert "images/00000.parquet: was made from another version of rows/00000.parquet; run again" in problems


@pytest.mark.slow
def test_a_set_that_the_configuration_has_no_more_stays_as_it_was(root, tmp_path):
    (tmp_path / "my.toml").write_text(TOML + "[sets.more]\n")
    build(tmp_path / "my.toml")
    (tmp_path / "my.toml").write_text(TOML)
    build(tmp_path / "my.toml")
    assert verify_root(root).problems == []
    flip(root, find(root, "shards/more-000000-*.tar"), 600)
    for name in ("more", "more@*"):
        assert (
            f"; remove {find(root, f'shards/{name}.json')}, which no run makes again" in verify_root(root).problems[0]
        )
        do_what_verify_says(root)
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_a_set_that_is_not_the_selection_is_named(root, tmp_path):
    config = tmp_path / "my.toml"
    config.write_text(TOML.replace("[sets.train]", "[sets.train]\nwhere = \"text != 'picture 3'\""))
    build(config, until="selection")
    (problem,) = verify_root(root).problems
    assert problem.startswith("set train: 1 samples are not selected, but in its shards, ")
    build(config)
    assert verify_root(root).problems == []
