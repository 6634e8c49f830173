"""A root is never held by two: not by a race, not by a clock, and not by who comes back late."""

import threading
import time
import uuid
from contextlib import ExitStack, suppress
from unittest.mock import patch

import pytest
from support.object_store import object_store
from support.word_stages import Loud, said, say

from pipelines.engine import lease
from pipelines.engine.commit import read_commit
from pipelines.engine.conditional import Replaced
from pipelines.engine.ledger import Ledger
from pipelines.engine.lock import LOCK, Busy, Hold, hold
from pipelines.engine.make_partition import make_partition
from pipelines.engine.root import Root


@pytest.fixture(scope="module")
def store():
    with object_store() as store:
        yield store


@pytest.fixture
def quick(monkeypatch):
    """Leases of a second and a half."""
    monkeypatch.setattr(lease, "LEASE", 1.5)
    monkeypatch.setattr(lease, "RENEW", 0.1)


def die(held: lease.Lease) -> None:
    """Nothing renews a lease any more."""
    held.ended.set()
    held.renewing.join()


@pytest.fixture(params=["local", "memory", "s3"])
def root(request, tmp_path) -> Root:
    if request.param == "s3":
        request.getfixturevalue("store")
    name = uuid.uuid4().hex
    root = Root(
        {"local": f"{tmp_path}/{name}", "memory": f"memory://{name}", "s3": f"s3://bucket/{name}"}[request.param]
    )
    root.create()
    return root


def test_a_file_is_replaced_only_if_it_is_the_one_that_was_seen(root):
    first = root.write_if("a", b"1", None)
    assert root.read_stamped("a") == (b"1", first)
    assert root.url.startswith("memory") or root.files("")["a"].stamp == first
    with pytest.raises(Replaced):
        root.write_if("a", b"2", None)
    second = root.write_if("a", b"22", first)
    for old in (first, None):
        with pytest.raises(Replaced):
            root.write_if("a", b"333", old)
    root.remove("a")
    with pytest.raises(Replaced):
        root.write_if("a", b"4444", second)
    assert not root.exists("a")


def test_shares_exclude_runs_and_other_configurations(root, quick):
    with hold(root, share="one"), hold(root, share="one") as second:
        second.check()
        for share in (None, "two"):
            with pytest.raises(Busy), hold(root, share=share):
                raise AssertionError("held by both")
        second.check()
    with hold(root) as alone:
        alone.check()
        with pytest.raises(Busy), hold(root, share="one"):
            raise AssertionError("held by both")
    with hold(root, share="two"):
        pass
    assert root.files("leases") == {}


@pytest.mark.parametrize("shares", [(None, None, None, None), (None, "a", "b", "a"), (None, None, "a", "a")])
def test_of_many_who_begin_at_once_no_two_hold_it_that_may_not(root, quick, shares, request):
    store = request.getfixturevalue("store") if root.url.startswith("s3") else None
    if store:  # every second write is late, as on a bad line
        store.waits = lambda asked: 0.15 if asked.method == "PUT" and len(store.asked) % 2 else 0.0
    holding, wrong, together = [], [], []
    lock = threading.Lock()

    def begin(share):
        tries, end = 0, time.monotonic() + 60
        while tries < 3 or (not together and time.monotonic() < end):  # all may fail on a busy machine
            tries += 1
            with suppress(Busy), hold(root, share=share):
                with lock:
                    holding.append(share)
                    if len(holding) > 1 and (None in holding or len({*holding}) > 1):
                        wrong.append([*holding])
                    together.append(len(holding))
                time.sleep(0.05)
                with lock:
                    holding.remove(share)

    threads = [threading.Thread(target=begin, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if store:
        store.waits = lambda asked: 0.0
    assert wrong == [] and together


@pytest.mark.parametrize("root", ["memory", "s3"], indirect=True)
@pytest.mark.parametrize("ahead", [-600.0, 600.0])
def test_clocks_do_not_count(root, quick, ahead):
    """The observer's clock is ten minutes off the holder's: a live lease is kept, and a dead one is taken in time."""
    real = time.time
    with hold(root), patch("time.time", lambda: real() + ahead):
        for _ in range(2):
            with pytest.raises(Busy), hold(root):
                raise AssertionError("taken from who lives")
    held = lease.take(root, None)
    die(held)
    begun = time.monotonic()
    with patch("time.time", lambda: real() + ahead), hold(root) as other:
        assert 1.4 < time.monotonic() - begun < 10
        other.check()


@pytest.mark.parametrize("root", ["memory", "s3"], indirect=True)
def test_who_slept_learns_that_its_lease_is_lost(root, quick):
    with ExitStack() as stack, pytest.raises(lease.Lost, match="another run holds it now"):
        sleeper = stack.enter_context(hold(root))
        with patch.object(Root, "write_if", side_effect=OSError("asleep")):
            time.sleep(1.7)
            sleeper.check()
    taken = lease.take(root, None)
    assert lease.read_id(root, LOCK) == taken.id
    taken.release()


@pytest.mark.parametrize("root", ["memory", "s3"], indirect=True)
def test_a_dead_share_holds_nobody_up_for_ever(root, quick):
    dead = lease.take(root, "one")
    die(dead)
    dead.renewing.join()
    with hold(root) as alone:
        alone.check()
    assert root.files("leases") == {}


def dead_hold(root: Root) -> Hold:
    """The hold of a run whose driver was killed; its workers live on."""
    if root.is_local:
        with hold(root) as held:
            return held
    taken = lease.take(root, None)
    die(taken)
    taken.renewing.join()
    return Hold(root, taken.file, taken.id)


def test_a_zombie_replaces_nothing_newer(root, quick):
    """A worker of an older run wakes in the middle of a partition, after a newer run has made it."""
    say(root, "a", "b")
    with ExitStack() as newer:

        class Sleepy(Loud):
            def make(self, rows, root):
                made = [*super().make(rows, root)]
                held = newer.enter_context(hold(root))
                make_partition(Loud(times=2), root, Ledger(root, "newer", held), 0)
                yield from made

        with pytest.raises(lease.Lost, match="another run holds it now"):
            make_partition(Sleepy(times=3), root, Ledger(root, "older", dead_hold(root)), 0)
    assert said(root, "loud") == ["AA", "BB"] and read_commit(root, "loud/00000.parquet").settings == {"times": 2}


def test_a_newer_run_replaces_what_a_zombie_commits_meanwhile(root, quick):
    """The zombie began its last partition before the newer run began: what it commits is replaced in that run."""
    say(root, "a", "b")

    class Slow(Loud):
        def make(self, rows, root):
            made = [*super().make(rows, root)]
            if not zombies:
                zombies.append(make_partition(Loud(times=3), root, Ledger(root, "older"), 0))
            yield from made

    zombies = []
    with hold(root) as newer:
        make_partition(Slow(times=2), root, Ledger(root, "newer", newer), 0)
    assert zombies and said(root, "loud") == ["AA", "BB"]


def test_the_same_rows_by_two_workers_are_committed_once(root):
    say(root, "a", "b")

    class Twice(Loud):
        def make(self, rows, root):
            made = [*super().make(rows, root)]
            make_partition(Loud(), root, Ledger(root, "first"), 0)
            stamps.append(root.files("loud")["00000.parquet"].stamp)
            yield from made

    stamps = []
    make_partition(Twice(), root, Ledger(root, "second"), 0)
    assert stamps == [root.files("loud")["00000.parquet"].stamp] and said(root, "loud") == ["A", "B"]
