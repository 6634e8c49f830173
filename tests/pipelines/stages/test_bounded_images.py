"""Shard sets that bound their images: encoded once, recorded, and as every reader of the shard sees them."""

import io
import json
import tarfile
from collections.abc import Callable
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import pytest
from PIL import Image
from support.corpora import build, data_files, picture, say
from support.takedowns import take

from pipelines.catalog.catalog import query
from pipelines.engine.parquet import read_rows
from pipelines.engine.releases import read_card, read_index
from pipelines.engine.root import Root
from pipelines.engine.tar import TarWriter
from pipelines.maintain.clean import clean_root
from pipelines.maintain.verify import verify_root
from pipelines.stages import bounded_images
from pipelines.stages.bounded_images import BoundedImages
from schemas.pictures import open_image
from schemas.selection import SetConfig
from schemas.shards import ShardEntry, document_of
from training.pixels import size_of
from training.shards import Shards

SOURCE = '[source]\nkind = "webdataset"\npath = "source"\n[duplicates]\nnear = -1\n'
BOUNDS = '[sets.train]\nmax_side = 112\nformat = "jpg"\nsamples_per_shard = 4\n'


def image_of(number: int) -> tuple[bytes, str]:
    """A picture of 224 x 224: PNG, JPEG, WEBP, or a JPEG that is small enough."""
    image = Image.open(io.BytesIO(picture(number)[0]))
    format, side = (("PNG", 224), ("JPEG", 224), ("WEBP", 200), ("JPEG", 100))[number % 4]
    buffer = io.BytesIO()
    image.resize((side, side)).save(buffer, format)
    return buffer.getvalue(), format.lower().replace("jpeg", "jpg")


def write_source(folder: Path, numbers=range(12), text: Callable[[int], str] = "picture {}".format) -> None:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number in numbers:
            data, ext = image_of(number)
            for suffix, payload in ((ext, data), ("txt", text(number).encode())):
                info = tarfile.TarInfo(f"{number:06d}.{suffix}")
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))


@pytest.fixture
def corpus(configure, tmp_path) -> Path:
    """The configuration of a corpus of twelve pictures, of which three are within the bounds of the set."""
    write_source(tmp_path / "source")
    return configure(SOURCE + BOUNDS)


@contextmanager
def encodes():
    """Counts the images that are encoded."""
    done, real = [], bounded_images.encode

    def counted(data: bytes, config: SetConfig, *regions):
        done.append(sha256(data).hexdigest())
        return real(data, config, *regions)

    with patch.object(bounded_images, "encode", counted):
        yield done


def indexed(root: Root, name: str = "train") -> list[dict]:
    return [row for entry in read_card(root, name)["shards"] for row in read_rows(root, f"shards/{entry['index']}")]


# What is in the shard


@pytest.mark.slow
def test_every_reader_sees_the_size_that_the_sample_says(corpus):
    root = build(corpus)
    originals = {sha256(image_of(n)[0]).hexdigest(): image_of(n)[0] for n in range(12)}
    samples = list(Shards(root.url, "train"))
    assert len(samples) == 12
    for sample, row in zip(samples, indexed(root), strict=True):
        document = json.loads(sample["json"])
        (told,), (picture,) = document["pictures"], row["pictures"]
        original = originals[document["sha256"]]
        assert size_of(sample["jpg"]) == (document["width"], document["height"]) == (told["width"], told["height"])
        assert (told["sha256"], told["size"]) == (sha256(sample["jpg"]).hexdigest(), len(sample["jpg"]))
        assert told["original"] == {
            "sha256": sha256(original).hexdigest(), "size": len(original), "format": open_image(original).format,
            "width": open_image(original).width, "height": open_image(original).height,
        }  # fmt: skip
        assert picture["original_sha256"] == document["sha256"] and picture["ext"] == told["member"] == "jpg"
        assert (sample["jpg"] == original) == (told["original"]["width"] == 100)
        assert max(size_of(sample["jpg"])) <= 112
    assert verify_root(root).problems == []
    rows = query(root, "SELECT pictures[1].original_width AS was, pictures[1].width AS is_now FROM shards").to_pylist()
    assert sorted({(row["was"], row["is_now"]) for row in rows}) == [(100, 100), (200, 112), (224, 112)]


@pytest.mark.slow
def test_a_set_without_bounds_stays_as_it_was_beside_one_that_has_them(corpus, configure):
    root = build(configure(SOURCE + "[sets.plain]\n", root="alone"))
    alone = {name: digest for name, digest in data_files(Path(root.url)).items() if "shards/plain-" in name}
    both = build(configure(SOURCE + BOUNDS + "[sets.plain]\n"))
    assert len(alone) == 2 and alone.items() <= data_files(Path(both.url)).items()
    plain = query(both, "SELECT set, count(pictures) AS n FROM shards GROUP BY set ORDER BY set").to_pylist()
    assert plain == [{"set": "plain", "n": 0}, {"set": "train", "n": 12}]
    assert "pictures" not in indexed(both, "plain")[0] and verify_root(both).problems == []


@pytest.mark.slow
@pytest.mark.parametrize("format", ["png", "webp"])
def test_without_a_format_each_image_keeps_its_own(corpus, configure, format):
    root = build(configure(SOURCE + "[sets.train]\nmax_pixels = 10000\n[sets.one]\nformat = " + f'"{format}"'))
    suffixes = [member["ext"] for row in indexed(root) for member in row["members"]]
    assert [suffixes.count(ext) for ext in ("png", "jpg", "webp")] == [3, 6, 3]
    assert {row["pictures"][0]["width"] for row in indexed(root)} == {100}
    for row in indexed(root, "one"):
        assert [member["ext"] for member in row["members"]] == [format, "json", "txt"]
        assert row["pictures"][0]["width"] == row["pictures"][0]["original_width"]
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_boxes_of_ocr_are_in_pixels_of_the_image_in_the_shard(configure, tmp_path):
    write_source(tmp_path / "source", range(0, 12, 4))
    root = build(configure(SOURCE + "[ocr]\n" + BOUNDS + "[sets.plain]\n"))
    small, full = ({s["__key__"]: json.loads(s["json"]) for s in Shards(root.url, name)} for name in ("train", "plain"))
    lines = [(a, b) for name in full for a, b in zip(small[name]["ocr"], full[name]["ocr"], strict=True)]
    assert lines
    for scaled, line in lines:
        assert scaled["text"] == line["text"]
        assert scaled["box"] == pytest.approx([value / 2 for value in line["box"]], abs=0.01)
    assert all(document["width"] == 112 for document in small.values())


@pytest.mark.slow
def test_images_of_other_formats_are_left_out_where_a_set_says_so(corpus, configure):
    more = '[sets.jpegs]\nformat = "jpg"\nother_formats = "leave_out"\n'
    root = build(configure(SOURCE + more))
    assert len(indexed(root, "jpegs")) == 6
    reasons = query(root, "SELECT reason, count(*) AS n FROM selection WHERE reason IS NOT NULL GROUP BY ALL")
    assert reasons.to_pylist() == [{"reason": "other_format", "n": 6}]
    root = build(configure(SOURCE + more + "[sets.all]\n"))
    assert len(indexed(root, "all")) == 12 and len(indexed(root, "jpegs")) == 6
    assert verify_root(root).problems == []


# Encoded once


@pytest.mark.slow
def test_nothing_is_encoded_twice(corpus, tmp_path):
    with encodes() as done:
        root = build(corpus)
    assert len(done) == len(set(done)) == 9
    before = {row["sample"]: row["pictures"] for row in indexed(root)}
    with encodes() as done:
        build(corpus)
        write_source(tmp_path / "source", text=lambda n: "another" if n == 0 else f"picture {n}")
        build(corpus)
    assert done == [], "one caption changed"
    assert {row["sample"]: row["pictures"] for row in indexed(root)} == before
    assert "another" in {sample["txt"].decode() for sample in Shards(root.url, "train")}
    with encodes() as done:
        write_source(tmp_path / "source", range(14))
        build(corpus)
    assert set(done) == {sha256(image_of(n)[0]).hexdigest() for n in (12, 13)} and len(done) == 2
    with encodes() as done:
        corpus.write_text(corpus.read_text().replace("samples_per_shard = 4", "samples_per_shard = 3"))
        build(corpus)
        corpus.write_text(corpus.read_text().replace("[sets.train]", "[sets.train]\nstable_json = true"))
        build(corpus)
    assert done == [], "samples went to other shards, and their JSON has another form"
    with encodes() as done:
        corpus.write_text(corpus.read_text().replace("max_side = 112", "max_side = 96"))
        build(corpus)
    assert len(done) == 14, "other bounds"
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_what_is_taken_over_is_what_a_clean_build_encodes(corpus, configure, tmp_path):
    root = build(corpus)
    write_source(tmp_path / "source", range(3, 15), lambda n: f"another {n}")
    build(corpus)
    clean_root(root, grace=0, keep=1)
    fresh = build(configure(SOURCE + BOUNDS, root="fresh"))
    for name in ("shards",):
        one, other = ({p.name: p.read_bytes() for p in Path(r.url, name).glob("*.tar")} for r in (root, fresh))
        assert {data for data in one.values()} == {data for data in other.values()}


@pytest.mark.slow
def test_an_image_in_the_last_release_that_has_changed_is_encoded_again(corpus, tmp_path):
    root = build(corpus)
    before = data_files(tmp_path / "corpus")
    for entry in read_card(root, "train")["shards"]:
        rows, path = read_rows(root, f"shards/{entry['index']}"), tmp_path / "corpus/shards" / entry["tar"]
        data = bytearray(path.read_bytes())
        for row in rows:
            data[row["members"][0]["byte_offset"] + 60] ^= 1
        path.write_bytes(data)
    write_source(tmp_path / "source", text=lambda n: f"another {n}")
    with encodes() as done:
        build(corpus)
    assert len(done) == 9
    clean_root(root, grace=0, keep=1)
    assert verify_root(root).problems == []
    assert before.keys() != data_files(tmp_path / "corpus").keys()


@pytest.mark.slow
def test_an_image_under_another_key_is_found_in_any_shard_of_its_group(corpus, tmp_path):
    build(corpus)
    with tarfile.open(tmp_path / "source/0.tar", "w") as tar:  # the same images, each with the name of another
        for number in range(12):
            data, ext = image_of(number)
            for suffix, payload in ((ext, data), ("txt", b"as before")):
                info = tarfile.TarInfo(f"{900 + number}.{suffix}")
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))
    with encodes() as done:
        root = build(corpus)
    assert done == [] and len(indexed(root)) == 12
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_only_the_indexes_that_are_needed_are_read(corpus, tmp_path):
    root = build(corpus)
    assert len(read_card(root, "train")["shards"]) == 3
    write_source(tmp_path / "source", text=lambda n: "another" if n == 0 else f"picture {n}")
    read, real = [], bounded_images.read_index

    def counted(root: Root, entry: ShardEntry) -> list[dict]:
        read.append(entry["index"])
        return real(root, entry)

    with patch.object(bounded_images, "read_index", counted):
        build(corpus)
    assert len(read) == 1


class Died(BaseException):
    """A run that ends at a point of a commit."""


def die_at(name: str, nth: int, config: Path) -> int:
    """Ends a run when it comes to a point for the nth time; returns how many images it encoded."""
    come = []

    def die(point: str) -> None:
        come.extend([point] * (point == name))
        if len(come) == nth:
            raise Died

    writers = ("pipelines.stages.shard_packing.point", "pipelines.stages.shard_releases.point")
    with encodes() as done, patch(writers[0], die), patch(writers[1], die), pytest.raises(Died):
        build(config)
    return len(done)


POINTS = ["shards:payload", "shards:committed", "shards:release", "shards:published"]


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_encodes_at_most_one_shard_again_and_ends_with_the_same_bytes(point, corpus, configure, tmp_path):
    expected = data_files(Path(build(configure(SOURCE + BOUNDS, "clean.toml", "clean")).url))
    nth = 2 if point in POINTS[:2] else 1
    encoded = die_at(point, nth, corpus)
    with encodes() as done:
        root = build(corpus)
    assert encoded + len(done) <= 9 + 4 if point == "shards:payload" else encoded + len(done) == 9
    clean_root(root, grace=0, keep=1)
    assert data_files(tmp_path / "corpus") == expected
    write_source(tmp_path / "source", text=lambda n: f"another {n}")
    assert die_at(point, nth, corpus) == 0
    with encodes() as done:
        build(corpus)
    assert done == []
    clean_root(root, grace=0, keep=1)
    again = build(configure(SOURCE + BOUNDS, "clean.toml", "clean"))
    clean_root(again, grace=0, keep=1)
    assert data_files(tmp_path / "corpus") == data_files(Path(again.url))
    assert verify_root(root).problems == []


def test_an_image_that_several_samples_of_a_shard_have_is_encoded_once(tmp_path):
    """As an image is in each of its pairs."""
    root, data = Root(str(tmp_path)), image_of(0)[0]
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.tar").write_bytes(data)
    place = {"payload": "0.tar", "key": "k", "byte_offset": 0, "size": len(data), "sha256": sha256(data).hexdigest()}
    place |= {"ext": "png", "width": 224, "height": 224}
    with encodes() as done, open(tmp_path / "a.tar", "w+b") as file:
        tar = TarWriter(file)
        images = BoundedImages(root, SetConfig(max_side=50), tar, ())
        fitted = []
        for number in range(3):
            image = images.fit(place)
            offset = tar.add(f"{number}.png", image.data)
            member = {"byte_offset": offset, "size": len(image.data), "sha256": image.sha256}
            images.packed({"members": [member], "pictures": [image.picture]})
            fitted.append(image)
    assert len(done) == 1 and len({image.data for image in fitted}) == 1


# What else goes by the original


@pytest.mark.slow
def test_a_takedown_names_the_original(corpus, configure, tmp_path):
    root = build(corpus)
    (before,) = {f"train@{read_card(root, 'train')['release']}"}
    original = sha256(image_of(0)[0]).hexdigest()
    write_source(tmp_path / "source", range(1, 12))
    build(corpus)  # only the release before has it still
    (tmp_path / "list.txt").write_text(original)
    assert root.exists(f"shards/{before}.json")
    done = take(tmp_path, original)
    assert before in done.releases and not root.exists(f"shards/{before}.json")
    assert original not in {row["pictures"][0]["original_sha256"] for row in indexed(root)}
    assert verify_root(root).problems == [] and verify_root(root).garbage == []


@pytest.mark.slow
def test_an_excluded_image_is_in_no_bounded_set(corpus, configure, tmp_path):
    (tmp_path / "excluded.txt").write_text(sha256(image_of(1)[0]).hexdigest())
    root = build(configure(SOURCE + 'exclude = ["excluded.txt"]\n' + BOUNDS))
    assert len(indexed(root)) == 11


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["width", "original", "json"])
def test_verify_finds_an_index_that_says_what_is_not_so(corpus, wrong):
    root = build(corpus)
    card = read_card(root, "train")
    if wrong == "original":
        rows = read_rows(root, "images/00000.parquet")
        changed = [row | {"sha256": "0" * 64} if row["size"] else row for row in rows]
        with patch("pipelines.maintain.verify_pictures.read_rows", lambda root, name, columns: (
            changed if name.startswith("images/") else read_rows(root, name, columns)
        )):  # fmt: skip
            said = " ".join(verify_root(root).problems)
        assert "12 images were not made from an image of the corpus" in said
        return

    def lying(root, entry, columns=None):
        rows = read_index(root, entry, columns)
        if entry == card["shards"][0] and columns is None:
            for row in rows:
                for picture in row["pictures"]:
                    picture.update({"width": 3} if wrong == "width" else {"original_sha256": "0" * 64})
        return rows

    with patch("pipelines.maintain.verify_shards.read_index", lying):
        said = " ".join(verify_root(root).problems)
    assert ("but the index says otherwise" if wrong == "width" else "names another original") in said


@pytest.mark.slow
def test_stats_and_the_report_show_bounds_where_a_set_has_them(corpus, configure, reports):
    root = build(configure(SOURCE + BOUNDS + "[sets.plain]\n"))
    for text in (say("stats", root.url).out, root.read("report.html").decode()):
        assert "max_side 112, format jpg" in text and "as they came" in text
    root = build(configure(SOURCE + "[sets.plain]\n", root="other"))
    for text in (say("stats", root.url).out, root.read("report.html").decode()):
        assert "as they came" not in text


@pytest.mark.slow
def test_a_stable_document_reads_back_as_it_was(corpus, configure):
    root = build(configure(SOURCE + "[sets.train]\nstable_json = true\n[sets.plain]\n"))
    for stable, plain in zip(Shards(root.url, "train"), Shards(root.url, "plain"), strict=True):
        one, other = document_of(stable["json"]), json.loads(plain["json"])
        assert one == {name: "" if value is None and name != "ocr" else value for name, value in other.items()}
        assert all(isinstance(value, str | int) for value in json.loads(stable["json"]).values())
