"""A row of URLs whose text was corrected is a new row; its URL is not asked again."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import build, picture
from support.picture_server import serving

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from pipelines.stages.moved_images import MOVED, find_moved, read_moved

COUNT = 24
PICTURES = [picture(number)[0] for number in range(COUNT)]


@pytest.fixture
def served():
    """Every fourth picture is not there."""
    with serving({number: PICTURES[number % COUNT] for number in range(COUNT + 4) if number % 4 != 3}) as served:
        yield served


@pytest.fixture
def server(served) -> str:
    return served[0]


@pytest.fixture
def asked(served) -> Counter[str]:
    return served[1]


TOML = """
[source]
kind = "laion"
path = "list.parquet"
rows_per_partition = 4
[fetch]
contact = "data@example.org"
allow_hosts = ["127.0.0.1"]
tries = 1
[sets.train]
samples_per_shard = 5
"""


def write(folder: Path, server: str, texts: list[str | None], first: int = 0) -> None:
    urls = [f"{server}/{number}.png" for number in range(first, first + len(texts))]
    pq.write_table(pa.table({"URL": urls, "TEXT": pa.array(texts, pa.string())}), folder / "list.parquet")


def kept(root: Root) -> dict[str, tuple]:
    """What became of each URL."""
    sql = "select url, text, sha256, size, left_out_by, reason, width, phash256 from samples order by url"
    return {row.pop("url"): tuple(row.values()) for row in query(root, sql).to_pylist()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "correct",
    [lambda n: f"corrected {n}", lambda n: None if n % 2 else f"text {n}", lambda n: f"text {n}" + "." * (n % 3 == 0)],
    ids=["all", "without a text", "some"],
)
def test_a_corrected_text_asks_no_url_again(correct, server, asked, tmp_path, configure):
    write(tmp_path, server, [f"text {n}" for n in range(COUNT)])
    root = build(configure(TOML))
    before = kept(root)
    assert len(asked) == COUNT == asked.total()
    write(tmp_path, server, texts := [correct(n) for n in range(COUNT)])
    build(configure(TOML))
    assert asked.total() == COUNT, "nothing is asked again, 404 neither"
    after = kept(root)
    for number in range(COUNT):
        was, now = before[url := f"{server}/{number}.png"], after[url]
        assert now[0] == texts[number] and now[1:3] == was[1:3] and now[5:] == was[5:]
        assert now[3:5] == was[3:5] or (now[3:5] == ("selection", "no_caption") and texts[number] is None)
    verified = verify_root(root)
    assert verified.problems == [] and not root.exists(MOVED)
    build(configure(TOML))
    assert kept(root) == after and asked.total() == COUNT


@pytest.mark.slow
def test_what_a_clean_run_makes_is_the_same(server, tmp_path, configure):
    write(tmp_path, server, [f"text {n}" for n in range(COUNT)])
    build(configure(TOML))
    write(tmp_path, server, [f"corrected {n}" for n in range(COUNT)])
    one = build(configure(TOML))
    other = build(configure(TOML, "other.toml", root="other"))
    files = [{path.name: path.read_bytes() for path in Path(root.url).glob("[irs]*/*.tar")} for root in (one, other)]
    assert {name: files[0][name] for name in files[1]} == files[1] and files[1]


@pytest.mark.slow
def test_another_url_is_asked(server, asked, tmp_path, configure):
    write(tmp_path, server, [f"text {n}" for n in range(COUNT)])
    root = build(configure(TOML))
    write(tmp_path, server, [f"corrected {n}" for n in range(4, COUNT + 4)], first=4)
    build(configure(TOML))
    assert {path for path, count in asked.items() if count != 1} == set()
    assert len(asked) == COUNT + 4 and len(kept(root)) == COUNT


@pytest.mark.slow
def test_a_damaged_ledger_costs_requests_only(server, asked, tmp_path, configure):
    write(tmp_path, server, [f"text {n}" for n in range(COUNT)])
    build(configure(TOML))
    write(tmp_path, server, [f"corrected {n}" for n in range(COUNT)])
    root = build(configure(TOML), "rows")
    for path in Path(root.url, "runs").glob("*/changes-rows.parquet"):
        path.write_bytes(path.read_bytes()[:50])
    build(configure(TOML), "images")
    assert asked.total() == 2 * COUNT and not root.exists(MOVED)


@pytest.mark.slow
def test_what_is_at_hand_is_judged_by_the_settings_of_now(server, asked, tmp_path, configure):
    write(tmp_path, server, [f"text {n}" for n in range(COUNT)])
    root = build(configure(TOML))
    write(tmp_path, server, [f"corrected {n}" for n in range(COUNT)])
    gates = "[gates]\nempty_sets = false\nlost_share = false\n"
    build(configure(TOML + gates + "[images]\nmin_side = 300\n"))
    assert asked.total() == COUNT
    assert {row[4] for row in kept(root).values()} == {"too_small", "http_404"}
    (tmp_path / "no.txt").write_text("127.0.0.1\n")
    write(tmp_path, server, [f"corrected again {n}" for n in range(COUNT)])
    build(configure(TOML.replace("tries = 1", 'tries = 1\nopt_out = ["no.txt"]') + gates))
    assert asked.total() == COUNT
    assert {row[4] for row in kept(root).values()} <= {"opt_out", "http_404"}


@pytest.mark.slow
def test_a_run_that_was_killed_hands_on_what_it_had_found(server, asked, tmp_path, configure):
    """Some partitions are made, with the others' old rows gone, when it dies."""
    write(tmp_path, server, [f"text {n}" for n in range(COUNT)])
    root = build(configure(TOML))
    write(tmp_path, server, [f"corrected {n}" for n in range(COUNT)])
    build(configure(TOML), "rows")
    assert find_moved(root)
    stage = open_corpus(configure(TOML)).made["images"]
    before = {path.name: path.read_bytes() for path in Path(root.url, "images").glob("*.parquet")}
    build(configure(TOML), "images")
    left = sorted(name for name in before if name[0] != "_")
    for name in left[: len(left) // 2]:  # as if these had not been made yet
        Path(root.url, "images", name).write_bytes(before[name])
    Path(root.url, MOVED).write_bytes(before["_moved.parquet"])
    assert stage.ready(root, None).moved
    assert sum(len(read_moved(root, int(name[:5]))) for name in left) == COUNT
    build(configure(TOML))
    assert asked.total() == COUNT and not root.exists(MOVED)
    assert {row[0] for row in kept(root).values()} == {f"corrected {n}" for n in range(COUNT)}
