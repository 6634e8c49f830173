"""The commits of a stage as columns say what the commits say, in some hundred bytes each."""

from dataclasses import replace
from hashlib import sha256

import pytest
from support.word_stages import Long, Loud, made, say

from pipelines.build.plan import todo
from pipelines.engine.commit import Commit, contents
from pipelines.engine.commit_cache import CACHE, Part, read_commits
from pipelines.engine.commits import Commits, as_recorded, texts_of
from pipelines.engine.root import Root
from schemas.stages import STAGES


def made_up(*names: object) -> str:
    return sha256(repr(names).encode()).hexdigest()


def commit(partition: int, **fields) -> Commit:
    """A commit of `images`, as a run leaves it."""
    columns = STAGES["images"].schema.names
    usual = Commit(
        "images", partition, 4, {"min_side": 32, "fetch": {"robots_txt": True}},
        {"rows": {name: made_up("rows", partition, name)[:32] for name in ("key", "file", "sha256", "url", "reason")}},
        made_up("fingerprint", partition)[:32], {name: made_up(partition, name)[:32] for name in columns}, 1000, 900,
        {"http_404": 70 + partition % 7, "timeout": 23 - partition % 7, "too_small": 7},
        f"{partition:05d}-{made_up('tar', partition)[:16]}.tar", made_up("tar", partition),
    )  # fmt: skip
    return replace(usual, **fields)


ODD = [
    {"fingerprint": "f"},
    {"payload": "another.tar"},
    {"payload": None},
    {"payload": None, "payload_sha256": None},
    {"rows": 1 << 40, "kept": 1 << 40},
    {"digests": {}, "inputs": {}},
    {"inputs": {"rows": {"key": None, "url": made_up(1)[:32]}}},
    {"digests": {"key": made_up(2)[:32].upper()}},
    {"answered": made_up(3)[:32], "reasons": {}},
    {"settings": {"é": [1, None, "\ud800x"[1:]]}},
    {"version": 9},
]


def test_columns_give_back_each_commit_whatever_it_holds():
    commits = [commit(number) for number in range(5)]
    commits += [commit(100_000 + number, **odd) for number, odd in enumerate(ODD)]
    columns = Commits.of("images", reversed(commits))
    assert [*columns.values()] == commits and [*columns] == [commit.partition for commit in commits]
    assert columns == {commit.partition: commit for commit in commits} and 5 not in columns and -1 not in columns
    rows, kept, reasons = columns.totals()
    assert (rows, kept) == (sum(c.rows for c in commits), sum(c.kept for c in commits))
    assert reasons == {
        name: sum(c.reasons.get(name, 0) for c in commits) for name in ("http_404", "timeout", "too_small")
    }
    assert {reason: having.tolist() for reason, having in columns.by_reason().items()} == {
        name: [c.partition for c in commits if name in c.reasons] for name in reasons
    }
    assert columns.rows_in([3, 100_004]) == 1000 + (1 << 40) and columns.rows_in([3, 7]) is None
    assert dict(columns.fingerprints()) == {c.partition: c.fingerprint for c in commits}
    for named in (None, ("key",), ("reason", "key", "nothing")):
        assert [*columns.texts(named)] == [*texts_of({c.partition: c for c in commits}, named)]
        assert contents(columns.texts(named, 2, 4)) == contents(texts_of({n: commits[n] for n in (2, 3)}, named))
    left = columns.without([0, 100_003])
    assert [*left] == [c.partition for c in commits if c.partition not in (0, 100_003)]


def test_a_commit_of_a_usual_stage_takes_at_most_400_bytes():
    columns = Commits.of("images", map(commit, range(2000)))
    assert columns.table.nbytes / 2000 <= 400 and len(columns.shapes) == 1


@pytest.fixture
def root(tmp_path) -> Root:
    root = Root(f"{tmp_path}/corpus")
    root.create()
    for partition in range(6):
        say(root, f"a{partition}", "", "b", partition=partition)
        for stage in (Loud(), Long()):
            made(stage, root, partition)
    return root


@pytest.mark.parametrize("loud", [Loud(), Loud(times=2)])
def test_what_columns_call_current_is_what_commits_call_current(root, loud):
    say(root, "other", partition=2)
    made(Loud(times=2), root, 4)
    columns = {name: read_commits(root, name) for name in ("words", "loud", "long")}
    objects = {name: dict(of_stage) for name, of_stage in columns.items()}
    for stage in (loud, Long()):
        waiting = todo(stage, objects)
        assert todo(stage, columns) == waiting
        assert as_recorded(stage, columns) == {*range(6)} - waiting.keys() and as_recorded(stage, objects) == set()
    assert 0 < len(todo(loud, columns)) < 6 and todo(loud, columns, [0])[0] == "follows words"


def test_the_cache_is_used_in_parts_and_read_again_where_a_file_changed(root, monkeypatch):
    whole = read_commits(root, "loud", write=True)
    read = []
    monkeypatch.setattr("pipelines.engine.commit_cache.read_commit", lambda root, name: read.append(name))
    assert read_commits(root, "loud") == whole and read == []
    assert read_commits(root, "loud", only=Part(1, 4)) == {1: whole[1], 5: whole[5]}
    root.write("loud/00003.parquet", b"another")
    assert read_commits(root, "loud").keys() == whole.keys() - {3} and read == ["loud/00003.parquet"]
    root.remove("loud/00003.parquet")
    assert read_commits(root, "loud", cached=False) == {} and len(read) == 6


def test_a_cache_that_a_stranger_wrote_stops_nothing(root):
    whole = read_commits(root, "loud", write=True)
    data = root.read(f"loud/{CACHE}")
    places = [data.find(text) for text in (b"shapes", b"times", b"fingerprint", b"made_from") if text in data]
    for place in [*places, *range(10, len(data) - 10, 97)]:
        damaged = bytearray(data)
        damaged[place : place + 3] = b"\x00]\xff"
        root.write(f"loud/{CACHE}", bytes(damaged))
        commits = read_commits(root, "loud")
        assert [*commits] == [*whole]
        assert all(isinstance(commit, Commit) for commit in commits.values())
