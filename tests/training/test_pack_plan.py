"""Packs planned into side files: what they hold, when they are made anew, and where they are written."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from support.paths import PROJECT
from support.releases import captions, flip, publish, small_tokenizer

import schemas.shards
import training.pack_plan
from schemas.errors import UserError
from schemas.shards import Damaged
from training.pack_files import PLANNED, SideFile, open_side_file, write_side_file
from training.pack_files import _read as read_again
from training.pack_plan import PlannedSet, plan_set
from training.samples import SampleEncoder, Slicing
from training.shards import Shards

SIDE = Slicing(side=112)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> SampleEncoder:
    return SampleEncoder(small_tokenizer(tmp_path_factory.mktemp("tokenizer")), queries=4, length=256, slicing=SIDE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """35 samples, 4 of them not to be packed, in 4 shards."""
    long, *some = captions(35)
    bad = {"png": b"no image"}, {"txt": b" "}, {"txt": b"\xff"}
    some[10:13] = [(name, members | wrong) for (name, members), wrong in zip(some[10:13], bad, strict=False)]
    samples = [(long[0], long[1] | {"txt": b"long " * 256}), *some]
    return publish(tmp_path / "corpus", "train", samples, each=10)


pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(autouse=True)
def units_of_two_shards(monkeypatch):
    monkeypatch.setattr(schemas.shards, "UNIT", 20)


def side_files(root: Path) -> dict[str, str]:
    files = sorted((root / "shards/packs").rglob("*"))
    return {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}


def plan(root: Path | str, recipe: SampleEncoder, cache: Path | None = None, **options) -> PlannedSet:
    return plan_set(Shards(root, "train"), recipe, cache, **options)


def test_each_sample_is_in_one_pack_or_has_a_reason(root, recipe):
    planned = plan(root, recipe)
    packs = [planned[number] for number in range(len(planned))]
    packed = [row["sample"] for pack in packs for row in pack]
    lost = {row["sample"]: row["reason"] for row in planned.lost()}
    names = [sample["__key__"] for sample in Shards(root, "train")]
    assert sorted([*packed, *lost]) == sorted(names)
    assert lost == {names[0]: "too_long", names[11]: "unreadable_image", names[12]: "no_answer",
                    names[13]: "unreadable_text"}  # fmt: skip
    assert planned.counts["reasons"] == {"no_answer": 1, "too_long": 1, "unreadable_image": 1, "unreadable_text": 1}
    assert (planned.counts["samples"], planned.counts["packs"]) == (35, len(packs))
    assert all(pack and sum(row["tokens"] for row in pack) <= 256 for pack in packs)
    with pytest.raises(IndexError):
        planned[len(planned)]


def test_a_pack_says_where_its_samples_are_and_how_long(root, recipe):
    shards, planned = Shards(root, "train"), plan(root, recipe)
    expected = {sample["__key__"]: sample for sample in shards}
    for number in range(len(planned)):
        for row in planned[number]:
            sample = shards.read(row["tar"], row["sample"], row["byte_offset"], row["size"], row["members"])
            assert sample == expected[row["sample"]]
            assert len(recipe.tokens(sample).ids) == row["tokens"]


def test_what_is_planned_is_read_again_and_not_planned_again(root, recipe):
    first, files = plan(root, recipe), side_files(root)
    stamps = [path.stat().st_mtime_ns for path in (root / "shards/packs").rglob("*.arrows")]
    told = []
    again = plan(root, recipe, progress=lambda *done: told.append(done))
    assert again == first and told == []
    assert [path.stat().st_mtime_ns for path in (root / "shards/packs").rglob("*.arrows")] == stamps
    assert side_files(root) == files and len(files) == 2


@pytest.mark.parametrize("workers", [0, 3])
def test_a_side_file_is_a_function_of_shards_and_settings(root, recipe, tmp_path, workers):
    told = []
    plan(root, recipe, tmp_path / "cache", workers=workers, progress=lambda *done: told.append(done))
    (root / "moved").mkdir()
    elsewhere = (root / "shards").rename(root / "moved/shards").parent
    plan(elsewhere, recipe)
    files = {path.name: path.read_bytes() for path in (elsewhere / "shards/packs").rglob("*.arrows")}
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").rglob("*.arrows")} == files
    assert len(files) == 2 and told == [(1, 2), (2, 2)]


def test_other_shards_or_other_settings_have_other_side_files(root, recipe):
    plan(root, recipe)
    before = {*side_files(root)}
    first, *others = files_of(root, recipe)
    changed = list(captions(35))
    changed[30] = (changed[30][0], changed[30][1] | {"txt": b"another caption"})
    publish(root, "train", changed, each=10)
    assert files_of(root, recipe) != [first, *others]
    publish(root, "train", [*captions(20), *changed[20:]], each=10)
    second = files_of(root, recipe)
    publish(root, "train", captions(35), each=10)
    third = files_of(root, recipe)
    assert [a == b for a, b in zip(second, third, strict=False)] == [True, False]
    count = len(side_files(root))
    for other in (
        SampleEncoder(recipe.tokenizer, 4, 300, SIDE),
        SampleEncoder(recipe.tokenizer, 4, 256, Slicing(side=126)),
    ):
        plan(root, other)
        assert len(side_files(root)) == (count := count + 2)
    assert before < {*side_files(root)}


def test_a_shard_more_leaves_other_units_as_they_are(root, recipe):
    publish(root, "train", captions(40), each=10)
    before = files_of(root, recipe)
    publish(root, "train", captions(65), each=10)
    told = []
    after = files_of(root, recipe, progress=lambda *done: told.append(done))
    assert after[:2] == before and len(after) == 4 and told == [(1, 2), (2, 2)]


def test_a_shard_that_is_gone_leaves_other_units_as_they_are(root, recipe):
    before, card = files_of(root, recipe), json.loads((root / "shards/train.json").read_text())
    card["samples"] -= card["shards"].pop(0)["samples"]
    (root / "shards/train.json").write_text(json.dumps(card))
    assert [a == b for a, b in zip(before, files_of(root, recipe), strict=True)] == [False, True]


def test_an_old_release_is_planned_under_its_own_name(root, recipe):
    old = plan(root, recipe)
    (root / "shards/train@abc.json").write_bytes((root / "shards/train.json").read_bytes())
    publish(root, "train", captions(5), each=10)
    assert plan(root, recipe).counts["samples"] == 5
    assert plan_set(Shards(root, "train@abc"), recipe) == old


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_index_is_named_in_one_line(root, recipe, workers):
    index = root / "shards" / Shards(root, "train").card["shards"][3]["index"]
    flip(index, 200)
    with pytest.raises(Damaged) as error:
        plan(root, recipe, workers=workers)
    fix = "remove it, and `shardmill run` makes it again"
    assert str(error.value) == f"{index}: is not the index that was published; {fix}"


def samples_of(planned: PlannedSet) -> set[str]:
    read_again.cache_clear()  # as in a process that starts now
    return {row["sample"] for number in range(len(planned)) for row in planned[number]}


def files_of(root: Path, recipe: SampleEncoder, **options) -> list[Path]:
    return [file.path for file in plan(root, recipe, **options).files]


# Damage


def damage(root: Path, number: int, ext: str) -> str:
    """Flips a byte of a member of a sample in the second shard; returns the sample's name."""
    shard = Shards(root, "train").shards[1]
    name, members = shard.index[0][number].as_py(), shard.index[3][number].as_py()
    flip(Path(shard.tar), next(member["byte_offset"] for member in members if member["ext"] == ext))
    return name


def test_a_damaged_sample_is_left_out_and_named_until_it_is_mended_and_planned_strictly(root, recipe):
    whole = plan(root, recipe, cache := root / "whole").counts
    name = damage(root, 5, "txt")
    planned = plan(root, recipe)
    (lost,) = (row for row in planned.lost() if row["reason"] == "damaged")
    assert (lost["sample"], lost["detail"]) == (name, f"{lost['tar']}: txt of {name} is not what was published")
    assert planned.counts["reasons"]["damaged"] == 1
    with pytest.raises(UserError, match=f"^[^\n]*{lost['tar']}: txt of {name} is not what was published$"):
        plan(root, recipe, strict=True)
    assert plan(root, recipe).counts == planned.counts

    damage(root, 5, "txt")  # flips it back
    assert plan(root, recipe) == planned
    before = samples_of(planned)
    mended = plan(root, recipe, strict=True)
    assert mended.counts == whole and samples_of(mended) == {*before, name}
    with pytest.raises(UserError, match="was planned again since this run began; start it again"):
        samples_of(planned)
    assert {path.read_bytes() for path in (root / "shards/packs").rglob("*.arrows")} == {
        path.read_bytes() for path in cache.rglob("*.arrows")
    }


def test_what_is_no_side_file_is_planned_again(root, recipe):
    plan(root, recipe)
    files = side_files(root)
    for content in (b"", b"half a side file", (root / min(files)).read_bytes()[:100]):
        (root / min(files)).write_bytes(content)
        assert open_side_file(root / min(files)) is None
        plan(root, recipe)
        assert side_files(root) == files


def test_a_side_file_that_cannot_be_put_in_place_leaves_nothing_behind(root, recipe):
    first, second = files_of(root, recipe)
    first.unlink()
    first.mkdir()
    with pytest.raises(OSError):
        write_side_file(first, PLANNED.empty_table())
    assert {*first.parent.iterdir()} == {first, second}


def test_any_flipped_byte_of_a_side_file_is_noticed(root, recipe):
    expected = plan(root, recipe).counts
    file = root / min(side_files(root))
    whole = file.read_bytes()
    for at in range(0, len(whole), 97):
        copy = file.with_name(f"{at}.arrows")
        copy.write_bytes(whole)
        flip(copy, at)
        with pytest.raises(UserError, match=f"{copy}: is damaged; remove it"):
            SideFile(copy, {}, copy.read_bytes()[-32:]).pack(0)
        copy.unlink()
    file.unlink()
    assert plan(root, recipe).counts == expected


# Where they are written


def as_nobody(do: Callable[[], None]) -> int:
    """Runs something in a process without root's rights; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            do()
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_folder_that_cannot_be_written_needs_a_cache_and_is_read_from_all_the_same(root, recipe, tmp_path):
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    (cache := tmp_path / "cache").mkdir()
    cache.chmod(0o777)
    (root / "shards").chmod(0o555)

    def unwritable():
        with pytest.raises(UserError, match="cannot be planned into it: Permission denied; name another as cache"):
            plan(root, recipe)
        assert plan(root, recipe, cache).counts["samples"] == 35

    def written():
        assert plan(root, recipe).counts["samples"] == 35
        assert plan(root, recipe, cache / "other").counts["samples"] == 35

    try:
        assert as_nobody(unwritable) == 0
        assert not (root / "shards/packs").exists() and len([*cache.rglob("*.arrows")]) == 2
        (root / "shards").chmod(0o755)
        plan(root, recipe)
        (root / "shards").chmod(0o555)
        assert as_nobody(written) == 0
        assert not (cache / "other").exists()
    finally:
        (root / "shards").chmod(0o755)


def test_an_object_store_needs_a_cache(root, recipe, tmp_path):
    store = fsspec.filesystem("memory")
    store.put(str(root / "shards"), "/planned/shards", recursive=True)
    try:
        with pytest.raises(UserError, match="name one as cache"):
            plan("memory://planned", recipe)
        there = plan("memory://planned", recipe, tmp_path / "cache")
        here = plan(root, recipe)
        assert there.counts == here.counts
        assert [file.path.name for file in there.files] == [file.path.name for file in here.files]
        assert [there[number] for number in range(len(there))] == [here[number] for number in range(len(here))]
    finally:
        store.rm("/planned", recursive=True)


def test_ranks_that_plan_at_once_share_the_work_and_end_with_the_same(root, recipe):
    publish(root, "train", captions(200), each=10)  # 10 units
    with ThreadPoolExecutor(4) as threads:
        ranks = list(threads.map(lambda rank: plan(root, recipe, turn=(rank, 4)), range(4)))
    assert all(rank == ranks[0] for rank in ranks)
    assert len(side_files(root)) == 10  # no temporary file is left


def test_each_rank_begins_elsewhere(root, recipe, monkeypatch):
    publish(root, "train", captions(80), each=10)
    written = []
    write = training.pack_plan.write_side_file
    monkeypatch.setattr(
        training.pack_plan, "write_side_file", lambda file, table: (written.append(file.name[:12]), write(file, table))
    )
    plan(root, recipe, root / "one", turn=(0, 4))
    plan(root, recipe, root / "two", turn=(2, 4))
    assert written == [f"train-00000{unit}" for unit in (0, 1, 2, 3, 2, 3, 0, 1)]


def test_a_side_file_is_an_arrow_stream_that_others_can_read(root, recipe):
    planned = plan(root, recipe)
    rows = [pa.ipc.open_stream(file.path.read_bytes()).read_all() for file in planned.files]
    assert sum(table.num_rows for table in rows) == 35


def command(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "training.pack_plan", *map(str, words)], cwd=PROJECT, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_command_says_how_full_packs_are_and_what_is_left_out(root, recipe):
    folder = recipe.tokenizer.path.parent
    options = ("--tokenizer", folder, "--length", 256, "--queries", 4, "--side", 112, "--workers", 0)
    done = command(root, "train", *options)
    assert done.returncode == 0, done.stderr
    *lost, last = done.stdout.splitlines()
    assert len(lost) == 4
    long = r"0{16}-caption of train-000000-\w+.tar: too_long: \d+ tokens, \d+ of them of images, of 256"
    assert re.fullmatch(long, lost[0])
    assert last.startswith("35 samples in ") and last.endswith(
        "left out: 1 no_answer, 1 too_long, 1 unreadable_image, 1 unreadable_text"
    )
    name = damage(root, 5, "png")
    done = command(root, "train", *options, "--length", 255, "--strict")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"png of {name} is not" in done.stderr
