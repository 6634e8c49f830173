"""A published set that a stranger has written: training ends in one line, or leaves out the samples that are wrong."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.releases import captions, publish, small_tokenizer
from support.root_fuzzing import bound

from schemas.errors import UserError
from schemas.shards import Damaged
from training.layout import SampleRejected
from training.pack_files import NO_PACK, PLANNED, SideFile, open_side_file, write_side_file
from training.pack_plan import plan_set
from training.sample_text import conversation_of, pair_of
from training.samples import SampleEncoder
from training.shards import Shards, _opened

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """25 samples in 3 shards."""
    return publish(tmp_path / "corpus", "train", captions(25), each=10)


def to_itself(path: Path) -> None:
    path.symlink_to(path)


NO_FILES = pytest.mark.parametrize(
    "plant", [os.mkfifo, bound, Path.mkdir, to_itself, lambda path: path.symlink_to("/dev/zero")],
    ids=["pipe", "socket", "folder", "link to itself", "device"],
)  # fmt: skip


def put(path: Path, plant) -> None:
    _opened.cache_clear()  # as in a process that starts now
    path.unlink()
    plant(path)


@NO_FILES
def test_what_is_no_file_is_named_and_never_waited_for(plant, root):
    before, shards = list(Shards(root, "train")), Shards(root, "train")
    put(Path(shards.shards[0].tar), plant)
    put(Path(shards.shards[1].file), plant)
    with pytest.raises(Damaged, match=rf"{shards.shards[0].tar}: is not a file; remove it"):
        shards[0]
    with pytest.raises(Damaged, match="is not a file"):
        list(shards.shards[0].each())
    with pytest.raises(Damaged, match=rf"{shards.shards[1].file}: is not a file; remove it"):
        shards[10]
    with pytest.raises(Damaged, match="is not a file"):
        shards.shards[1].columns(["sample"])  # as it is looked for what is held out and trained
    assert [shards[number] for number in range(20, 25)] == before[20:]  # those beside it
    put(root / "shards/train.json", plant)
    with pytest.raises(UserError, match=r"shards/train\.json: is damaged: is not a file; remove it"):
        Shards(root, "train")


CARDS = [
    ({"samples": None}, "samples: "), ({"samples": 26}, "samples: are not the sum"), ({"samples": -1}, "samples: "),
    ({"samples": 1 << 60}, "samples: "), ({"shards": {}}, "shards: "), ({"shards": [{}]}, r"shards\.0\."),
    ({"release": "../x"}, "release: is not the name"), ({"set": 5}, "set: "), ({"samples_per_shard": 0}, "samples_per"),
    ({"settings": []}, "settings: "), ({"groups": None}, "groups: "), ({"more": float("nan")}, "NaN is not a number"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), CARDS)
def test_a_card_is_held_against_its_type(change, said, root):
    path = root / "shards/train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"shards/train\.json: is damaged: {said}.*; `shardmill verify` says more"):
        Shards(root, "train")


@pytest.mark.parametrize("text", ["", "[", "[]", "5", '"card"', "[" * 100_000, '{"set": "a", "set": "b"}', "\ud800"])
def test_a_card_that_is_no_card_is_one_line(text, root):
    (root / "shards/train.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"train\.json: is damaged: ") as error:
        Shards(root, "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../../diary", "/etc/hostname", "a/b.tar", "..", "", 5])
@pytest.mark.parametrize("field", ["tar", "index"])
def test_a_card_leads_to_files_beside_it_alone(name, field, root):
    path = root / "shards/train.json"
    card = json.loads(path.read_text())
    card["shards"][1][field] = name
    path.write_text(json.dumps(card))
    with pytest.raises(UserError, match=rf"shards\.1\.{field}: "):
        Shards(root, "train")
    if name != 5:
        with pytest.raises(Damaged, match="is not the name of a file beside the card"):
            Shards(publish(root, "other", captions(1), each=1), "other").read(name, "x", 0, 5, [])


def rewritten(root: Path, change) -> Shards:
    """The set with another index of its first shard, whose digest is on the card."""
    path = root / "shards/train.json"
    card = json.loads(path.read_text())
    entry = card["shards"][0]
    index = root / "shards" / entry["index"]
    rows = pq.read_table(index)
    made = change(rows)
    if isinstance(made, bytes):
        index.write_bytes(made)
    else:
        pq.write_table(made, index)
    entry["index_sha256"] = sha256(index.read_bytes()).hexdigest()
    path.write_text(json.dumps(card))
    return Shards(root, "train")


def replaced(name: str, values: pa.Array):
    return lambda rows: rows.set_column(rows.schema.names.index(name), name, values)


INDEXES = [
    (lambda rows: rows.slice(1), "has 9 samples, the card says 10"),
    (lambda rows: rows.drop_columns(["members"]), "has no column members"),
    (replaced("size", pa.array(["x"] * 10)), "column size: is string, not int64"),
    (replaced("size", pa.array([None] * 10, pa.int64())), "column size: a value is missing"),
    (replaced("members", pa.array([[5]] * 10)), "column members: is int64"),
    (replaced("members", pa.array([[{"ext": "png"}]] * 10)), "column members: has no byte_offset"),
    (lambda rows: b"PAR1", ""), (lambda rows: b"", ""), (lambda rows: b"x" * 1000, ""),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), INDEXES)
def test_an_index_is_held_against_its_types(change, said, root):
    before = list(Shards(root, "train"))
    shards = rewritten(root, change)
    with pytest.raises(Damaged, match=rf"{shards.shards[0].entry['index']}: .*{said}") as error:
        shards[0]
    assert "\n" not in str(error.value)
    assert [shards[number] for number in range(10, 25)] == before[10:]


PLACES = [
    ("byte_offset", -512, "are not a sample"), ("byte_offset", 1 << 62, "are not a sample"),
    ("size", -1, "are not a sample"),
    ("size", 1 << 62, "are not a sample"), ("byte_offset", 1 << 40, "is not what was published"),
    ("size", 0, "is not what was published"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "said"), PLACES)
def test_a_place_that_no_tar_has_loses_its_sample_alone(name, value, said, root):
    before = list(Shards(root, "train"))
    shards = rewritten(root, lambda rows: replaced(name, pa.array([value, *rows[name].to_pylist()[1:]]))(rows))
    with pytest.raises(Damaged, match=said):
        shards[0]
    first, *others = shards.shards[0].each()
    assert isinstance(first, Damaged) and others == before[1:10]
    assert [shards[number] for number in range(1, 25)] == before[1:]


MEMBERS = [
    ({"ext": "../x"}, "is not the suffix"), ({"ext": "a\0b"}, "is not the suffix"), ({"size": -1}, "are in no tar"),
    ({"byte_offset": -5}, "are in no tar"), ({"size": 1 << 62}, "are in no tar"), ({"ext": "txt"}, "of one name"),
    ({"ext": "__key__"}, "of one name"), ({"byte_offset": 0}, "is not what was published"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), MEMBERS)
def test_a_member_that_no_tar_has_loses_its_sample_alone(change, said, root):
    def changed(rows: pa.Table) -> pa.Table:
        first, *others = rows["members"].to_pylist()
        return replaced("members", pa.array([[first[0] | change, *first[1:]], *others], rows["members"].type))(rows)

    before = list(Shards(root, "train"))
    shards = rewritten(root, changed)
    with pytest.raises(Damaged, match=said):
        shards[0]
    assert [shards[number] for number in range(1, 25)] == before[1:]


@pytest.mark.parametrize("offset", [0, 100, 511, 1 << 40])
@pytest.mark.parametrize("size", [1, 200])
def test_a_member_beside_its_sample_is_not_read_even_if_no_digest_is_checked(offset, size, root):
    shards = Shards(root, "train", check=False)
    member = {"ext": "txt", "byte_offset": offset, "size": size, "sha256": ""}
    with pytest.raises(Damaged, match="txt of x is not what was published"):
        shards.unpack(bytes(1024), "a.tar", "x", 512, [member])


def test_a_tar_that_is_one_hole_is_not_read_to_its_end(root):
    shards = Shards(root, "train")
    with open(shards.shards[0].tar, "r+b") as tar:
        tar.truncate(0)
        tar.truncate(20 << 30)
    with pytest.raises(Damaged, match="is not what was published"):
        shards[0]
    rows = lambda rows: replaced("size", pa.array([20 << 30] * 10))(rows)  # noqa: E731
    with pytest.raises(Damaged, match="are not a sample"):
        rewritten(root, rows)[0]


# Plans of packs


@pytest.fixture
def encoder(tmp_path) -> SampleEncoder:
    return SampleEncoder(small_tokenizer(tmp_path / "tokenizer"), queries=4, length=1024)


def only_plan(root: Path) -> Path:
    (path,) = (root / "shards/packs").rglob("*.arrows")
    return path


@NO_FILES
def test_a_plan_that_is_no_file_is_never_waited_for(plant, root, encoder):
    plan_set(Shards(root, "train"), encoder)
    put(only_plan(root), plant)
    if plant is Path.mkdir:
        with pytest.raises(UserError, match=r"arrows: cannot be written: Is a directory; remove it"):
            plan_set(Shards(root, "train"), encoder)
    else:
        assert plan_set(Shards(root, "train"), encoder).counts["samples"] == 25  # planned again, in its place
        assert only_plan(root).is_file() and not only_plan(root).is_symlink()


def planned(**change) -> pa.Table:
    row = {"pack": 0, "tokens": 5, "sample": "a-caption", "tar": "a.tar", "byte_offset": 0, "size": 512, "members": [],
           "reason": None, "detail": None}  # fmt: skip
    return pa.Table.from_pylist([row | change], PLANNED)


@pytest.mark.parametrize("change", [{"pack": 1 << 40}, {"pack": -2}, {"pack": 1}, {"sample": None}, {"members": None}])
def test_a_plan_that_no_planner_writes_is_refused(change, tmp_path):
    write_side_file(tmp_path / "a.arrows", planned(**change))
    file = open_side_file(tmp_path / "a.arrows")
    if file is not None:
        with pytest.raises(UserError, match=r"a\.arrows: is damaged: .*; remove it, and it will be planned again"):
            file.pack(0)
    write_side_file(tmp_path / "b.arrows", planned())
    file = open_side_file(tmp_path / "b.arrows")
    assert isinstance(file, SideFile)
    assert [row["sample"] for row in file.pack(0)] == ["a-caption"] and not file.pack(NO_PACK)


COUNTS = ["{}", "[]", "", '{"packs": -1, "tokens": 0, "samples": 0, "reasons": {}}', "[" * 100_000,
          '{"packs": 1e9, "tokens": 0, "samples": 0, "reasons": {}}',
          '{"packs": 1, "tokens": 0, "samples": 0, "reasons": {"a": "b"}}']  # fmt: skip


@pytest.mark.parametrize("counts", COUNTS)
def test_a_plan_with_strange_counts_is_planned_again(counts, root, encoder):
    before = plan_set(Shards(root, "train"), encoder).counts
    path = only_plan(root)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, PLANNED.with_metadata({"counts": counts})):
        pass
    path.write_bytes(sink.getvalue().to_pybytes() + sha256(sink.getvalue()).digest())
    assert plan_set(Shards(root, "train"), encoder).counts == before


# Documents


DOCUMENTS = [
    b"[" * 100_000, b"5", b"[]", b"{}", b"", b"\xff", b'{"conversation": {}}', b'{"pair": []}',
    b'{"conversation": {"turns": [{"role": "user", "content": "\\ud800"}], "images": []}}',
    b'{"conversation": {"turns": [{"role": "user", "content": "a"}], "images": [[1]]}}',
    b'{"conversation": {"turns": 5, "images": []}}', b'{"conversation": "' + b"[" * 100_000 + b'"}',
    b'{"pair": {"question": "\\udfff", "chosen": "a", "rejected": "b"}}',
]  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document[:40])
def test_a_document_that_says_anything_is_a_reason(document):
    for read in (conversation_of, pair_of):
        with pytest.raises(SampleRejected):
            read({"__key__": "a", "json": document})
