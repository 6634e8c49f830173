"""Chunks of a killed run are taken over, those of other settings are not."""

import os

import pytest
from support.word_stages import Loud, made, said, say

from pipelines.engine.checkpoints import read_chunks, write_chunk
from pipelines.engine.ledger import Ledger
from pipelines.engine.make_partition import make_partition
from pipelines.engine.parquet import Corrupt, read_rows


class Costly(Loud):
    chunk_rows = 2


class Dies(Costly):
    """Is killed after some words."""

    def make(self, rows, root):
        for number, one in enumerate(super().make(rows, root)):
            if number == 5:
                raise KeyboardInterrupt
            yield one


def test_chunks_of_a_killed_run_are_taken_over(root):
    words = [chr(ord("a") + n) for n in range(8)]
    say(root, *words)
    with pytest.raises(KeyboardInterrupt):
        made(Dies(), root)
    assert len(root.files("loud/chunks/00000")) == 2 and not root.exists("loud/00000.parquet")
    kept = {row["word"].lower() for row in read_chunks(root, Costly(), 0)}
    stage = Costly()
    assert made(stage, root) == sorted({*words} - kept) and len(kept) == 4
    assert root.files("loud/chunks/00000") == {} and root.folders("loud/chunks") == []
    data = root.read("loud/00000.parquet")
    root.remove("loud/00000.parquet")
    made(Costly(), root)
    assert root.read("loud/00000.parquet") == data


class Paid(Costly):
    """Is killed as no program can help it: nothing of what it has in hand comes to be written."""

    measures = "calls"

    def make(self, rows, root):
        call = {name: 1 for name in ("tries", "tokens_in", "tokens_out", "milliseconds", "waited")}
        for number, (key, row) in enumerate(super().make(rows, root)):
            if number == 5:
                os._exit(9)
            yield key, {**row, "measured": {**call, "endpoint": "m", "reason": None}}


def test_what_a_killed_run_paid_for_is_counted_as_far_as_it_was_put_down(root):
    say(root, *"abcdefgh")
    if (child := os.fork()) == 0:
        make_partition(Paid(), root, Ledger(root, "killed"), 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    paid = {row["key"] for row in read_chunks(root, Costly(), 0)}
    assert len(paid) == 4 and Ledger(root, "killed").spent("m") == (4, 8)
    (name,) = root.files("runs/killed")
    assert {row["key"] for row in read_rows(root, f"runs/killed/{name}")} == paid


def test_chunks_of_other_settings_are_not(root):
    say(root, *"abcdefgh")
    with pytest.raises(KeyboardInterrupt):
        made(Dies(), root)
    assert made(Costly(times=2), root) == [*"abcdefgh"]
    assert said(root, "loud") == ["AA", "BB", "CC", "DD", "EE", "FF", "GG", "HH"]


def test_damaged_chunks_and_old_rows_are_made_again(root):
    say(root, *"abcdefgh")
    with pytest.raises(KeyboardInterrupt):
        made(Dies(), root)
    first, second = root.files("loud/chunks/00000")
    root.write(f"loud/chunks/00000/{first}", b"half a fi")
    kept = {row["word"].lower() for row in read_rows(root, f"loud/chunks/00000/{second}")}
    assert made(Costly(), root) == sorted({*"abcdefgh"} - kept)
    data = bytearray(root.read("loud/00000.parquet"))
    data[100] ^= 1
    root.write("loud/00000.parquet", bytes(data))
    with pytest.raises(Corrupt, match=r"loud/00000.parquet: cannot be read"):
        read_rows(root, "loud/00000.parquet")
    say(root, *"abcdefghi")
    assert made(Costly(), root) == [*"abcdefghi"]


def test_a_chunk_that_was_left_behind_goes_when_the_partition_is_current(root):
    say(root, "a")
    made(Costly(), root)
    write_chunk(root, Costly(), 0, read_rows(root, "loud/00000.parquet"))
    made(Costly(), root)
    assert root.files("loud/chunks/00000") == {}
