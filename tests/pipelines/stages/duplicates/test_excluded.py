"""What lists of excluded images keep out of a corpus."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import data_files, say
from support.duplicates import Pictures, exclude, like, noise, phash_of, planned, sha256_of

from pipelines.build.run import run
from pipelines.catalog.catalog import query
from schemas.errors import UserError


@pytest.fixture
def lists(pictures) -> Pictures:
    """Eight pictures, of which lists of each kind hold one."""
    pictures.put({f"{seed}.png": noise(seed) for seed in range(8)})
    folder = pictures.folder
    (folder / "bench/deep").mkdir(parents=True)
    (folder / "bench/deep/test.jpg").write_bytes(like(0, 1, 0.05))
    (folder / "bench/unlike.png").write_bytes(noise(100))
    (folder / "bench/answers.txt").write_text("of no interest")
    (folder / "one.png").write_bytes(noise(1))
    (folder / "bytes.sha256").write_text(f"# taken down\n\n{sha256_of(noise(2)).upper()}  2.png\n")
    (folder / "looks.txt").write_text(f"{phash_of(like(3, 2, 0.05))}, a test set's\n{'0' * 16}\n")
    table = {"sha256": [sha256_of(noise(4)), None, None], "phash": [None, phash_of(noise(5)), None], "n": [1, 2, 3]}
    pq.write_table(pa.table(table), folder / "hashes.parquet")
    return pictures


LISTS = {  # what is excluded -> the picture that goes, and what its row says
    "bench": ("0.png", "bench/deep/test.jpg, distance {near}"),
    "bench/**/*.jpg": ("0.png", "bench/deep/test.jpg, distance {near}"),
    "one.png": ("1.png", "one.png, distance 0"),
    "bytes.sha256": ("2.png", "bytes.sha256, distance 0"),
    "l*s.txt": ("3.png", "{folder}/looks.txt, distance {near}"),
    "hashes.parquet": ("4.png 5.png", "hashes.parquet, distance 0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", LISTS)
def test_what_a_list_holds_is_kept_out(place, lists):
    names, detail = LISTS[place]
    near = 2 if "{near}" in detail else 0
    said = lists.build(exclude(place))
    assert {name for name, row in said.items() if row[0]} == {*names.split()}
    assert said[names.split()[0]] == ("benchmark_overlap", None, near)
    (found,) = query(lists.root, "SELECT DISTINCT detail FROM duplicates WHERE reason IS NOT NULL").to_pylist()
    assert found["detail"] == detail.format(near=near, folder=lists.folder.name)


@pytest.mark.slow
def test_all_copies_of_what_is_excluded_go_and_it_is_no_ones_original(lists):
    lists.put({"like.jpg": like(1, 9), "again.png": noise(1)})
    said = lists.build(exclude("one.png"))
    assert {name for name, row in said.items() if row[0] == "benchmark_overlap"} == {"1.png", "like.jpg", "again.png"}
    said = lists.build(exclude("one.png", near=-1))
    assert {name for name, row in said.items() if row[0] == "benchmark_overlap"} == {"1.png", "again.png"}
    assert said["like.jpg"] == (None, None, None)


@pytest.mark.slow
def test_the_images_of_another_corpus_can_be_excluded(lists, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    benchmark = Pictures(other)
    benchmark.put({"a.jpg": like(6), "b.png": noise(200), "broken.png": noise(7)[:300]})
    benchmark.build()
    said = lists.build(exclude("other/corpus/images/*.parquet"))
    assert [name for name, row in said.items() if row[0]] == ["6.png"]


@pytest.mark.slow
def test_the_content_of_lists_decides_and_not_where_they_lie(lists):
    lists.build(exclude("bench", "bytes.sha256"))
    before = data_files(lists.folder / "corpus")
    (lists.folder / "elsewhere").mkdir()
    for name in ("bench", "bytes.sha256"):
        shutil.move(lists.folder / name, lists.folder / "elsewhere" / name)
    lists.build(exclude("elsewhere/bytes.sha256", "elsewhere/bench"))
    assert lists.made() == {} and data_files(lists.folder / "corpus") == before
    (lists.folder / "elsewhere/bytes.sha256").write_text(sha256_of(noise(3)))
    assert planned(lists, exclude("elsewhere/bytes.sha256", "elsewhere/bench"))["duplicates"][0] == 3
    said = lists.build(exclude("elsewhere/bytes.sha256", "elsewhere/bench"))
    assert {name for name, row in said.items() if row[0]} == {"0.png", "3.png"}


WRONG = {  # what is excluded -> what the one line says
    "nothing.txt": "{here}/nothing.txt: no such file or folder",
    "*.lst": "{here}/*.lst: no such file or folder",
    "text": "{here}/text: has no images; name lists of hashes by their files",
    "s4://a/b": "s4://a/b: Protocol not known: s4",
    "text/word.txt": "word.txt: line 2: 'not a hash' is not a SHA-256 (64 hex digits) or perceptual hash (16)",
    "text/short.txt": "short.txt: line 1: 'abc' is not a SHA-256 (64 hex digits)",
    "text/comments.txt": "comments.txt: has no line with a SHA-256",
    "text/binary": "binary: is not an image, Parquet or text",
    "text/none.parquet": "none.parquet: has neither a column sha256 nor a column phash",
    "text/short.parquet": "short.parquet: row 2: 'abc' is not a SHA-256",
    "text/numbers.parquet": "numbers.parquet: row 1: '1' is not a SHA-256",
    "text/broken.parquet": "broken.parquet: is not Parquet with hashes: ",
    "broken": "broken/a.png: cannot be decoded as an image (",
}


@pytest.fixture
def here(lists) -> Path:
    folder = lists.folder
    (folder / "text").mkdir()
    (folder / "broken").mkdir()
    (folder / "text/word.txt").write_text(f"{'a' * 64}\nnot a hash\n")
    (folder / "text/short.txt").write_text("abc")
    (folder / "text/comments.txt").write_text("# to come\n")
    (folder / "text/binary").write_bytes(b"\xff\xfe\x00")
    pq.write_table(pa.table({"hash": ["a" * 64]}), folder / "text/none.parquet")
    pq.write_table(pa.table({"phash": ["a" * 16, "abc"]}), folder / "text/short.parquet")
    pq.write_table(pa.table({"sha256": [1]}), folder / "text/numbers.parquet")
    (folder / "text/broken.parquet").write_bytes(b"PAR1 and then nothing")
    (folder / "broken/a.png").write_bytes(noise(1)[:300])
    return folder


@pytest.mark.parametrize("place", WRONG)
def test_what_is_wrong_with_a_list_is_said_in_one_line_and_nothing_is_written(place, here, lists):
    with pytest.raises(UserError) as error:
        run(lists.write(exclude(place)))
    assert f"duplicates.exclude: {WRONG[place].format(here=here)}" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (here / "corpus").exists()


def test_perceptual_hashes_are_refused_where_only_equal_bytes_count(lists):
    with pytest.raises(UserError) as error:
        run(lists.write(exclude("one.png", "bytes.sha256", "looks.txt", near=-1)))
    assert str(error.value) == (
        "duplicates.exclude: looks.txt: holds perceptual hashes, which duplicates.near = -1 does not look at; "
        "set it to 0 or more"
    )


def test_the_command_line_says_so_too(lists):
    config = lists.write(exclude("nothing.txt"))
    said = say("plan", config)
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        f"shardmill: {config}: duplicates.exclude: {lists.folder}/nothing.txt: no such file or folder\n"
    )
    for tables, answer in (
        ("[duplicates]\nneer = 3", "duplicates.neer: unknown; did you mean `near`?"),
        ("[duplicates]\nnear = 9", "duplicates.near: input should be less than or equal to 8, not '9'"),
        ("[duplicates]\nexclude = 'a.txt'", "duplicates.exclude: write a list: [\"…\"], not 'a.txt'"),
    ):
        assert answer in say("plan", lists.write(tables)).err
