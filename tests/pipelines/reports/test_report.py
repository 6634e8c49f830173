"""Which samples a report shows, what it says of changes and gates, and a note for what is damaged."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.corpora import ONE_PROCESS, build, data_files, picture, say, write_tar
from support.pages import Page, read
from support.reports import TOML, measured_left_out, pixels, write_and_read

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from pipelines.catalog.gates import GateFailed
from pipelines.engine.root import Root
from pipelines.maintain.clean import clean_root
from pipelines.maintain.verify import verify_root
from pipelines.reports import contact_sheet
from pipelines.reports.report import REPORT, gather


@pytest.mark.slow
def test_samples_are_drawn_by_hash_and_so_stay(folder, monkeypatch):
    monkeypatch.setattr(contact_sheet, "SAMPLES", 16)
    root = open_corpus(folder / "my.toml").root

    def shown(seed: int) -> list[str]:
        (train,) = (one for one in gather(root, seed)["sheets"] if one["set"] == "train")
        return [place["key"] for place in train["places"]]

    def first(seed: int) -> list[str]:
        keys = query(root, "select key from selection where len(samples) > 0")["key"].to_pylist()
        return sorted(keys, key=lambda key: hashlib.md5(f"{seed}/{key}".encode()).hexdigest())[:8]

    before = shown(0)
    assert before == first(0)[: len(before)] and len(before) == 8
    assert shown(1) == first(1) and set(shown(1)) != set(before)
    write_tar(folder / "source/2.tar", range(16, 20))
    build(folder / "my.toml")
    assert shown(0) == first(0)
    assert set(before) - set(shown(0)) <= set(before[-4:])  # four new ones push out four at most, the last ones first
    said = say("report", root.url, "--seed", "1")
    assert (said.code, said.out) == (0, f"wrote {root.url}/report.html\n")
    assert all(key in root.read(REPORT).decode() for key in first(1))


@pytest.mark.slow
def test_an_image_is_shown_in_every_set_that_it_is_in(tmp_path, configure: Callable[..., Path]):
    write_tar(tmp_path / "source/0.tar", range(3))
    root = build(configure('[source]\nkind = "webdataset"\npath = "source"\n[sets.a]\n[sets.b]\nweight = 0.5'))
    page = read(root)
    samples = query(root, "select len(samples) n from selection")["n"].to_pylist()
    assert len(page.all("img")) == sum(samples) > 3
    assert {"set-1", "set-2"} <= page.ids()
    for image in page.all("img"):
        number = int(query(root, f"select text from rows where key = '{image['alt'][-16:]}'")["text"][0].as_py()[8:])
        shown, drawn = pixels(image).astype(int), np.asarray(Image.open(io.BytesIO(picture(number)[0])).convert("RGB"))
        assert np.abs(shown - drawn).mean() < 6


@pytest.mark.slow
def test_a_duplicate_stands_beside_the_row_that_was_kept(tmp_path, configure: Callable[..., Path]):
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        (tmp_path / f"pictures/{number}.png").write_bytes(picture(number // 2)[0])
    root = build(configure('[source]\nkind = "folder"\npath = "pictures"\nrows_per_partition = 1\n[duplicates]'))
    duplicates = query(root, "select key, of from duplicates where of is not null").to_pylist()
    page = read(root)
    alts = [image["alt"][-16:] for image in page.all("img")]
    assert len(duplicates) == 2 and "left-duplicates-exact_duplicate" in page.ids()
    for row in duplicates:
        assert (row["key"], row["of"]) in list(pairwise(alts))
        assert f"duplicate of {row['of']}" in page.text


@pytest.mark.slow
def test_conversations_are_shown_turn_by_turn_with_all_their_images(tmp_path, configure: Callable[..., Path]):
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        (tmp_path / f"pictures/{number}.png").write_bytes(picture(number)[0])
    said = [{"role": role, "content": f"{role} <b>says</b> {n} " + "word " * 400 * (n == 0)}
            for n in range(5) for role in ("user", "assistant")]  # fmt: skip
    said[0]["content"] = "<image_00> and <image_01>: " + said[0]["content"]
    image = {"<image_00>": "0.png", "<image_01>": "1.png"}
    gone = {"id": 2, "image": {"<image_00>": "0.png", "<image_01>": "gone.png"}, "conversations": said[2:4]}
    (tmp_path / "all.json").write_text(json.dumps([{"id": 1, "image": image, "conversations": said}, gone]))
    source = '[source]\nkind = "conversations"\npath = "all.json"\nimages = "pictures"\n'
    root = build(configure(f'{source}[sets.talk]\ntask = "conversation"'))
    page = read(root)
    (sheet,) = gather(root)["sheets"]
    assert sheet["rows"] == 1 and len(page.all("img")) == 2 + 1
    (lost,) = query(root, "select key from rows where reason = 'no_image'")["key"].to_pylist()
    assert f"the image of {lost} was left out" in page.text and f"left out because {lost}: rows: no_image" in page.text
    assert "user <image_00> and <image_01>: user <b>says</b> 0 word word" in page.text
    assert "assistant assistant <b>says</b> 2 and 4 more turns" in page.text and "says</b> 3" not in page.text


def test_before_there_is_a_selection_what_is_kept_so_far_is_shown(tmp_path, configure: Callable[..., Path]):
    write_tar(tmp_path / "source/0.tar", range(3))
    root = build(configure('[source]\nkind = "webdataset"\npath = "source"\n[sets.a]'), "images")
    page = read(root)
    assert len(page.all("img")) == 3
    assert "3 kept so far, 100.0%" in page.text and "no shard set is published yet" in page.text


# What changed


@pytest.mark.slow
def test_the_last_run_s_changes_stand_there_with_before_and_after(folder):
    write_tar(folder / "source/0.tar", range(7), lambda n: "a <new> caption" if n == 2 else f"picture {n}")
    root = build(folder / "my.toml")
    page = read(root)
    counts = query(root, "select stage, change, count(*) n from changes where run = (select max(run) from runs) "
                         "group by all").to_pylist()  # fmt: skip
    for stage in ("rows", "images", "selection", "shards"):
        said = [next((c["n"] for c in counts if (c["stage"], c["change"]) == (stage, change)), 0)
                for change in ("added", "changed", "removed")]  # fmt: skip
        assert f"{stage} {said[0]} {said[1]} {said[2]}" in page.text, stage
    (key,) = query(root, "select key from rows where text = 'a <new> caption'")["key"].to_pylist()
    assert f"{key} text picture 2 a <new> caption" in page.text


@pytest.mark.slow
def test_a_run_that_a_gate_stopped_is_in_it_with_the_reason(folder):
    config = folder / "my.toml"
    config.write_text(config.read_text().replace("[gates]", '[gates]\nmany = "kept > 100"'))
    write_tar(folder / "source/2.tar", range(16, 18))
    with pytest.raises(GateFailed):
        build(config)
    text = read(open_corpus(config).root).text
    assert "failed" in text and "gate many: kept > 100 does not hold" in text
    assert "selection 18 of 20, 90.0%" in text and "train caption" in text


# The same, and not part of the data


@pytest.mark.slow
def test_equal_roots_give_equal_reports_but_for_what_is_measured(folder, built, root):
    before = root.read(REPORT).decode()
    assert write_and_read(root).replace(str(folder), str(built)) == before
    for path in (folder / "corpus", folder / "prefect"):
        shutil.rmtree(path, ignore_errors=True)
    build(folder / "my.toml")
    again = root.read(REPORT).decode()
    assert again != before and measured_left_out(again) == measured_left_out(before)
    assert len(measured_left_out(again)) > 0.8 * len(again)


def test_it_is_no_data_and_no_garbage(root):
    before = data_files(Path(root.url))
    assert "report.html" not in before
    assert verify_root(root).garbage == [] and verify_root(root).problems == []
    assert clean_root(root, 0, keep=1) == (0, 0) and root.exists(REPORT)
    root.remove(REPORT)
    assert verify_root(root).problems == []
    assert say("report", root.url).code == 0 and root.exists(REPORT)
    assert data_files(Path(root.url)) == before


@pytest.mark.slow
@pytest.mark.parametrize("place", ["memory://report-test/{}"])
def test_it_stands_in_an_object_store_as_well(built, tmp_path, place, configure: Callable[..., Path]):
    shutil.copytree(built / "source", tmp_path / "source")
    toml = TOML.replace('root = "corpus"', "").replace(ONE_PROCESS, "")
    root = build(configure(toml, root=place.format(tmp_path.name)))
    here = open_corpus(built / "my.toml").root
    assert measured_left_out(write_and_read(root)) == measured_left_out(write_and_read(here))
    assert say("report", root.url).out == f"wrote {root.url_of(REPORT)}\n"


# Damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path: Path) -> None:
    """Blanks bytes at the beginning, of which a footer tells nothing."""
    data = bytearray(path.read_bytes())
    data[8:800] = bytes(792)
    path.write_bytes(data)


def one(root: Root, pattern: str) -> Path:
    return sorted(Path(root.url).glob(pattern))[0]


DAMAGE = {
    "an image tar is gone": (lambda root: one(root, "images/*.tar").unlink(), "are gone"),
    "an image tar is cut": (lambda root: cut(one(root, "images/00000-*.tar")), "are gone"),
    "an image tar has other bytes": (lambda root: spoil(one(root, "images/00000-*.tar")), "are not those that were"),
    "a partition is gone": (lambda root: one(root, "images/00001.parquet").unlink(), "1 of 2 partitions are missing"),
    "a partition is cut": (lambda root: cut(one(root, "selection/00000.parquet")), "1 of 2 partitions are missing"),
    "a partition's rows are damaged": (lambda root: spoil(one(root, "rows/00000.parquet")), "cannot be read"),
    "a stage is gone": (lambda root: shutil.rmtree(root.path("selection")), "kept so far"),
    "a card is damaged": (lambda root: cut(one(root, "shards/train.json")), "0 samples in 1 shard set"),
    "all shards are gone": (lambda root: shutil.rmtree(root.path("shards")), "no shard set is published yet"),
    "all stages are gone": (lambda root: [shutil.rmtree(root.path(s)) for s in root.folders("")],
                            "nothing is made yet"),
    "the ledger is gone": (lambda root: shutil.rmtree(root.path("runs")), "no run is recorded"),
    "the ledger is damaged": (lambda root: cut(one(root, "runs/*/run.parquet")), "no run is recorded"),
    "a stage's changes are damaged": (lambda root: cut(one(root, "runs/*/changes-rows.parquet")), "cannot be read"),
    "all changes are damaged": (lambda root: [*map(cut, Path(root.url).glob("runs/*/changes-*"))], "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_missing_or_damaged_leaves_a_note(root, what):
    do, note = DAMAGE[what]
    do(root)
    said = say("report", root.url)
    assert (said.code, said.err) == (0, "")
    assert note in read(root).text


def test_a_root_that_was_never_run_is_named_in_one_line(tmp_path):
    said = say("report", tmp_path)
    assert said.code == 2 and said.err.startswith(f"shardmill: {tmp_path}: no corpus found here")
    (tmp_path / "my.toml").write_text('root = "corpus"\n[source]\nkind = "scenes"\n')
    assert say("report", tmp_path / "my.toml").err.endswith(f"; first run: shardmill run {tmp_path}/my.toml\n")
    assert not (tmp_path / REPORT).exists()
    assert "nothing is made yet" in Page(write_and_read(Root(str(tmp_path / "empty")))).text


@pytest.mark.slow
def test_a_source_without_rows_has_a_report(tmp_path, configure: Callable[..., Path]):
    none = pa.array([], pa.string())
    pq.write_table(pa.table({"url": none, "text": none}), tmp_path / "0.parquet")
    root = build(configure('[source]\nkind = "laion"\npath = "*.parquet"\n[sets.train]\n[gates]\nempty_sets = false'))
    assert "0 rows in" in read(root).text
