"""Tars are those of Python's own tarfile, byte for byte, and every reader reads them."""

import io
import tarfile
from hashlib import sha256

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.engine.tar import BLOCK, TarWriter, header

Members = list[tuple[str, bytes]]

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=99).map("{}x".format)
members = st.lists(st.tuples(names, st.binary(max_size=3 * BLOCK)), max_size=10)


def written(members: Members) -> tuple[bytes, list[int], str]:
    """A tar by us: its bytes, the offset of each payload, and the SHA-256 that the writer gave."""
    file = io.BytesIO()
    tar = TarWriter(file)
    offsets = [tar.add(name, data) for name, data in members]
    digest = tar.close()
    assert tar.size == len(file.getvalue())
    return file.getvalue(), offsets, digest


def by_tarfile(members: Members) -> bytes:
    """The same by Python's tarfile, with the same fixed headers; it fills up to whole records of 20 blocks."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o644, 0
            tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    return file.getvalue()[: end + 2 * BLOCK]


@given(members)
@settings(max_examples=100, deadline=None)
def test_bytes_are_those_of_tarfile(members):
    data, offsets, digest = written(members)
    assert data == by_tarfile(members)
    assert digest == sha256(data).hexdigest()
    assert [data[at : at + len(payload)] for at, (_, payload) in zip(offsets, members, strict=True)] == [
        d for _, d in members
    ]


@given(members)
@settings(max_examples=50, deadline=None)
def test_tarfile_reads_every_member_back(members):
    data, offsets, _ = written(members)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = tar.getmembers()
        assert [(member.name, tar.extractfile(member).read()) for member in found] == members
        assert [member.offset_data for member in found] == offsets


def test_chunks_larger_than_what_is_written_at_once_change_nothing(tmp_path):
    members = [(f"{n}.bin", bytes([n]) * size) for n, size in enumerate((3_000_000, 0, 1, 511, 512, 513, 2_000_000))]
    data, _, digest = written(members)
    assert data == by_tarfile(members) and digest == sha256(data).hexdigest()


def test_webdataset_reads_it(tmp_path):
    samples = {f"{n:016x}-caption": {"jpg": bytes([n]) * 700, "txt": f"text {n}".encode()} for n in range(20)}
    members = [(f"{key}.{ext}", data) for key, sample in samples.items() for ext, data in sample.items()]
    path = tmp_path / "train-000000.tar"
    path.write_bytes(written(members)[0])
    read = {sample["__key__"]: sample for sample in webdataset.WebDataset(str(path), shardshuffle=False)}
    assert {key: {ext: sample[ext] for ext in ("jpg", "txt")} for key, sample in read.items()} == samples


def test_an_empty_tar_is_its_end():
    data, _, digest = written([])
    assert data == bytes(2 * BLOCK) and digest == sha256(data).hexdigest()


def test_names_have_1_to_100_bytes_of_ascii():
    assert len(header("n" * 100, 0)) == BLOCK
    for name in ("", "n" * 101, "ü.png"):
        with pytest.raises(ValueError):
            header(name, 0)


def test_a_member_has_less_than_8_gib():
    info = tarfile.TarInfo("a")
    info.size, info.mode = 8**11 - 1, 0o644
    assert header("a", 8**11 - 1) == info.tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(ValueError, match="a: 8589934592 bytes do not fit"):
        header("a", 8**11)
