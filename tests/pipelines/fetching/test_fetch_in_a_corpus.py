"""What a corpus keeps of URLs: every row is accounted for, and none is asked for again without need."""

import sys
import time
from collections import Counter
from hashlib import md5, sha256

import pytest
from support.corpora import build, kill_group
from support.fetched_corpora import REASONS_OF, configure, rewrite
from support.hostile_server import Hostile, image
from support.paths import PROJECT

from pipelines.catalog.catalog import query
from pipelines.engine.payload import read_payload
from pipelines.maintain.verify import verify_root

IN_A_CORPUS = {
    "/good/1": None, "/packed/1": None, "/hops/2/1": None, "/html/1": "not_an_image",
    "/no-image/1": "not_an_image", "/empty/1": "not_an_image", "/status/404/1": "http_404", "/silent/1": "timeout",
    "/tag/noai": "opt_out", "/to/http:||10.0.0.1|": "blocked_address", "/bomb/1": "too_large",
}  # fmt: skip


def test_every_row_is_accounted_for_and_what_was_measured_stands_in_the_ledger(server, tmp_path):
    urls = [server.url(path, f"c{n}") for n, path in enumerate(IN_A_CORPUS)]
    root = build(configure(tmp_path, urls, "[images]\nmax_bytes = 1000000"), "images")
    rows = query(root, "select i.*, url, host from images i join rows using (partition, key)").to_pylist()
    assert {row["url"]: row["reason"] for row in rows} == dict(zip(urls, IN_A_CORPUS.values(), strict=True))
    payloads = {name[:5]: name for name in root.files("images") if name.endswith(".tar")}
    for row in rows:
        if row["reason"] is None:
            data = image("/hops/0/1" if "/hops/" in row["url"] else row["url"].split(str(server.port))[1])
            assert (row["sha256"], row["width"], row["height"]) == (sha256(data).hexdigest(), 256, 256)
            assert read_payload(root, "images", row | {"payload": payloads[f"{row['partition']:05d}"]}) == data
    seen = {row["host"]: row for row in query(root, "select * from fetches").to_pylist()}
    assert set(seen) == {row["host"] for row in rows}
    said = {path: seen[f"c{n}.localhost"] for n, path in enumerate(IN_A_CORPUS)}
    assert {path: (row["status"], row["tries"]) for path, row in said.items()} == {
        **dict.fromkeys(IN_A_CORPUS, (200, 1)), "/status/404/1": (404, 1), "/silent/1": (None, 2),
        "/to/http:||10.0.0.1|": (307, 1),
    }  # fmt: skip
    assert 450 <= said["/silent/1"]["milliseconds"] < 1500 and said["/good/1"]["bytes"] == len(image("/good/1"))
    assert (verify_root(root).problems, verify_root(root).garbage) == ([], [])


def test_hosts_are_listed_with_what_they_gave_and_how_fast(server, tmp_path):
    urls = [server.url(f"/{what}/{n}", what.split("/")[0]) for what in ("slow/0.2", "good", "status/404", "empty")
            for n in range(5)]  # fmt: skip
    root = build(configure(tmp_path, [*urls, server.url("/good/9", "empty")]), "images")
    hosts = {row["host"]: row for row in query(root, "select * from yield_by_host").to_pylist()}
    facts = {host: (row["rows"], row["kept"], row["kept_share"], row["main_reason"]) for host, row in hosts.items()}
    assert facts == {
        "slow.localhost": (5, 5, 1.0, None), "good.localhost": (5, 5, 1.0, None),
        "status.localhost": (5, 0, 0.0, "http_404"), "empty.localhost": (6, 1, 0.1667, "not_an_image"),
    }  # fmt: skip
    assert hosts["empty.localhost"]["reasons"] == [("not_an_image", 5)]
    assert 200 <= hosts["slow.localhost"]["median_milliseconds"] < 1000


def test_bytes_that_the_source_does_not_mean_are_left_out(server, tmp_path):
    urls = [server.url(f"/good/{n}", "hash") for n in range(8)]
    data = [image(f"/good/{n}") for n in range(8)]
    right = [sha256(data[0]).hexdigest(), "0" * 64, md5(data[2]).hexdigest().upper(), "0" * 32, "12345", None]
    hashes = [*right, sha256(b"").hexdigest(), sha256(data[7]).hexdigest()]
    root = build(configure(tmp_path, urls, hash=hashes), "images")
    reasons = {r["url"]: r["reason"] for r in query(root, REASONS_OF).to_pylist()}
    assert [reasons[url] for url in urls] == [
        None, "hash_mismatch", None, "hash_mismatch", None, None, "hash_mismatch", None
    ]  # fmt: skip
    before = server.asked()
    root = build(rewrite(tmp_path, fetch="check_hash = false"), "images")
    assert query(root, "select count(*) as n from images where reason is null").to_pylist() == [{"n": 8}]
    again = {path for path, at in server.asked().items() if at != before[path]}
    assert again == {f"hash.localhost/good/{n}" for n in (1, 3, 6)}  # their bytes were not kept


def test_a_url_is_asked_once_whatever_changes_afterwards(server, tmp_path):
    urls = [server.url(path, f"once{n}") for n, path in enumerate(["/good/1", "/status/404/1", "/html/1", "/tag/noai"])]

    def reasons() -> list[str | None]:
        rows = query(root, REASONS_OF).to_pylist()
        return [{row["url"]: row["reason"] for row in rows}[url] for url in urls]

    root = build(configure(tmp_path, urls, fetch="honour_robots_tag = false"), "images")
    assert reasons() == [None, "http_404", "not_an_image", None]
    asked = server.asked()
    build(rewrite(tmp_path, fetch="honour_robots_tag = false\ntries = 5\nin_flight = 3\nconnect_seconds = 2"), "images")
    build(rewrite(tmp_path), "images")
    assert reasons() == [None, "http_404", "not_an_image", "opt_out"]
    build(rewrite(tmp_path, "[images]\nmin_side = 300"), "images")
    assert reasons() == ["too_small", "http_404", "not_an_image", "opt_out"]
    again = {path: len(at) - len(asked[path]) for path, at in server.asked().items() if at != asked[path]}
    assert again == {"once3.localhost/tag/noai": 1}  # left out by a wish: its bytes were not kept


@pytest.mark.slow
def test_a_body_longer_than_its_server_says_is_not_kept(server, tmp_path):
    urls = [server.url(f"/long/{n}", f"long{n}") for n in range(10)] + [
        server.url("/good/1", f"long{n}") for n in range(10)
    ]
    root = build(configure(tmp_path, urls), "images")
    reasons = {row["url"]: row["reason"] for row in query(root, REASONS_OF).to_pylist()}
    assert {reasons[url] for url in urls[:10]} <= {"truncated", "bad_answer"}
    assert {reasons[url] for url in urls[10:]} == {None}


@pytest.mark.slow
def test_a_killed_run_asks_for_nothing_of_a_committed_partition_again(tmp_path):
    import subprocess

    with Hostile() as server:
        urls = [server.url(f"/slow/0.3/{n}", f"h{n % 50}") for n in range(600)]
        config = configure(tmp_path, urls, fetch="in_flight = 20\nper_host = 20\n[beam]\n")
        command = [sys.executable, "-m", "pipelines.build", str(config), "--until", "images"]
        run = subprocess.Popen(command, cwd=PROJECT, start_new_session=True, stdout=subprocess.DEVNULL)
        images, until = tmp_path / "corpus/images", time.monotonic() + 120
        while len(list(images.glob("[0-9]*.parquet"))) < 6 and run.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        kill_group(run)
        committed = {path.stem for path in images.glob("[0-9]*.parquet")}
        time.sleep(3)  # Beam's workers are gone
        asked = server.asked()
        assert 6 <= len(committed) < 30 and len(asked) < 600
        subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
        after = server.asked()
        done = {str(int(partition)) for partition in committed}
        from pipelines.build.corpus import open_corpus

        rows = query(open_corpus(config).root, REASONS_OF)
        again = Counter()
        for row in rows.to_pylist():
            assert row["reason"] is None
            path = row["url"].removeprefix("http://").replace(f":{server.port}", "")
            again[str(row["partition"]) in done] += len(after[path]) - len(asked.get(path, []))
        assert again[True] == 0 and again[False] > 0
