"""`shardmill retry`: rows that did not work out are made anew, and nothing else is."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import build, data_files, picture, say

from pipelines.build.corpus import open_corpus
from pipelines.build.run import to_retry
from pipelines.catalog.catalog import query
from schemas.errors import UserError

TOML = """
root = "corpus"
[source]
kind = "laion"
path = "rows"
rows_per_partition = 10
[fetch]
contact = "https://example.com/bot"
allow_hosts = ["127.0.0.1"]
tries = 1
deadline = 5
[sets.train]
task = "caption"
"""


class Server(ThreadingHTTPServer):
    """Gives picture n under /n.png; those in `down` are a failure, those in `gone` are nowhere."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.down, self.gone, self.asked = set(), set(), Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        number = int(self.path[1:].split(".")[0])
        self.server.asked[number] += 1
        status = 500 if number in self.server.down else 404 if number in self.server.gone else 200
        body = picture(number)[0] if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def config(tmp_path, server) -> Path:
    """60 rows in about 6 partitions, five down and three gone."""
    server.down, server.gone = {3, 14, 15, 26, 35}, {1, 41, 59}
    urls = [f"http://127.0.0.1:{server.server_port}/{n}.png" for n in range(60)]
    (tmp_path / "rows").mkdir()
    texts = [f"picture {n}" for n in range(60)]
    pq.write_table(pa.table({"URL": urls, "TEXT": texts}), tmp_path / "rows/0.parquet")
    (tmp_path / "my.toml").write_text(TOML)
    build(tmp_path / "my.toml")
    server.asked.clear()
    return tmp_path / "my.toml"


def images(root) -> dict[str, dict]:
    sql = "select regexp_extract(url, '([0-9]+).png', 1)::int as n, i.* from images i join rows r using (key)"
    return {row["n"]: row for row in query(root, sql).to_pylist()}


def test_those_that_match_are_asked_once_more_and_nobody_else(config, server):
    root = open_corpus(config).root
    before = images(root)
    assert {n for n, row in before.items() if row["reason"] == "http_5xx"} == server.down
    server.down = {26}
    build(config, retry=to_retry(open_corpus(config), None, "reason = 'http_5xx'"))
    assert server.asked == Counter({3: 1, 14: 1, 15: 1, 26: 1, 35: 1})
    after = images(root)
    assert {n for n, row in after.items() if row["reason"] == "http_5xx"} == {26}
    for n in after.keys() - {3, 14, 15, 26, 35}:
        moved = {"byte_offset"}
        assert {k: v for k, v in after[n].items() if k not in moved} == {
            k: v for k, v in before[n].items() if k not in moved
        }
    trained = query(root, "select count(*) from shards").to_pylist()
    assert trained == [{"count_star()": 56}], "what came back is in the shards"
    assert say("verify", root.url).code == 0


def test_what_came_back_gives_the_bytes_of_a_run_in_which_nothing_failed(config, server, tmp_path):
    server.down, server.gone = set(), set()
    root = build(config, retry=to_retry(open_corpus(config), None, "reason like 'http_%'"))
    other = tmp_path / "other.toml"
    other.write_text(TOML.replace('"corpus"', '"clean"'))
    clean = build(other)
    made, wanted = data_files(Path(root.url)), data_files(Path(clean.url))
    assert wanted.items() <= made.items()


def test_without_a_condition_what_can_pass_is_tried_again(config, server):
    server.down, server.gone = set(), set()
    build(config, retry=to_retry(open_corpus(config), None, None))
    assert {*server.asked} == {3, 14, 15, 26, 35}, "a 404 does not pass by itself"


def test_url_and_host_can_be_asked_for(config, server):
    build(config, retry=to_retry(open_corpus(config), "images", "host = '127.0.0.1' and url like '%/41.png'"))
    assert server.asked == Counter({41: 1})


def test_a_retry_that_changes_nothing_writes_no_byte(config, server):
    root = open_corpus(config).root
    before = data_files(Path(root.url))
    build(config, retry=to_retry(open_corpus(config), None, None))
    assert server.asked.total() == 5
    assert data_files(Path(root.url)) == before


@pytest.mark.parametrize(
    ("stage", "where", "said"),
    [
        ("rows", "true", "--stage: unknown stage 'rows'"),
        (None, "reazon = 'x'", '--where: unknown column "reazon"; similar names: "reason"'),
        (None, "1", "write a condition"),
        (None, " ", "empty"),
    ],
)
def test_a_condition_that_is_none_is_said_in_one_line(config, stage, where, said):
    with pytest.raises(UserError, match=said) as error:
        to_retry(open_corpus(config), stage, where)
    assert "\n" not in str(error.value)


def test_nothing_to_retry(config, server):
    said = say("retry", config, "--where", "reason = 'tls'")
    assert (said.code, server.asked.total()) == (0, 0)
    assert "nothing to retry" in said.out
