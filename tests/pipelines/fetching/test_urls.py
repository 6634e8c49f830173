"""URLs are asked as they are written: a server that knows only one spelling gets that spelling."""

import re
import shutil
import socketserver
import subprocess
import threading
from http.client import HTTPConnection

import pyarrow.parquet as pq
import pytest
from support.fetching import fetch
from support.hostile_server import PHOTOGRAPH
from support.paths import SHARED

from pipelines.fetching.hosts import FetchFailed
from pipelines.fetching.opt_out import read_opt_outs
from pipelines.fetching.robots import may_ask, read_robots
from pipelines.fetching.urls import LONGEST, meanings, url_of
from pipelines.stages.takedown_list import url_values

LAION = SHARED / "laion/laion400m-url-text-10000.parquet"

# Paths and queries that are asked as they are
AS_WRITTEN = [
    "/", "/plain.jpg", "/a%2Cb.jpg", "/a,b.jpg", "/a%2Fb.jpg", "/a%3Ab.jpg", "/a:b.jpg", "/u%40h.jpg", "/u@h.jpg",
    "/%7Euser/a.jpg", "/~user/a.jpg", "/a%28test%29.jpg", "/a(test).jpg", "/x%27y.jpg", "/x'y.jpg", "/a+b.jpg",
    "/a%2Bb.jpg", "/a%20b.jpg", "/caf%C3%A9.jpg", "/caf%c3%a9.jpg", "/%41.jpg", "/a%252Fb.jpg", "/a//b.jpg", "//a.jpg",
    "/./a.jpg", "/a/../b.jpg", "/a/%2e%2e/b.jpg", "/a/..", "/a;v=1/b.jpg", "/a=b&c.jpg", "/a!$*.jpg", "/i.jpg?",
    "/i.jpg??", "/?", "/?a", "/i.jpg?a=b?c=d", "/i.jpg?a=%20b", "/i.jpg?a=+b", "/i.jpg?a=/b/../c", "/i.jpg?u=http://o.example/a.jpg",
    "/i.jpg?u=https%3A%2F%2Fo.example%2Fa.jpg", "/i.jpg?e=a%40b.example", "/i.jpg?a=50%", "/i.jpg?a[]=1&b={2}|3",
    "/i.jpg?a=1&amp;b=2", "/a[1].jpg", "/a{1}.jpg", "/a|b.jpg", "/a%00b.jpg",
    "/i.jpg?response-content-type=image%2Fjpeg&Signature=aa%2Bb%3D",
    "/i.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Signature=0f",
    "/i.jpg?Expires=1&Signature=aa-bb~cc_&Key-Pair-Id=APKA",
    "/thumbor/_9eOz=/640x360/smart/filters:fill(fff)/http%3A%2F%2Forigin.example%2Fa.jpg",
    "/fetch/w_300,c_fill/https%3A%2F%2Fo.example%2Fb.jpg",
]  # fmt: skip
ESCAPED = {  # and what no request line can hold
    "/a b.jpg": "/a%20b.jpg", "/é.jpg": "/%C3%A9.jpg", "/i.jpg?q=ü x": "/i.jpg?q=%C3%BC%20x", "/a\x01b": "/a%01b",
    "/a\x7fb": "/a%7Fb", "/50%.jpg": "/50%25.jpg", "/%zz%2C": "/%25zz%2C", "/a\nb\tc.jpg": "/abc.jpg", "": "/",
    "?a=1": "/?a=1", "/a#b?c": "/a", "/猫.jpg?": "/%E7%8C%AB.jpg?",
}  # fmt: skip
HOSTS = {
    "HTTP://Example.COM": "http://example.com", "http://example.com:80": "http://example.com",
    "http://example.com:8080": "http://example.com:8080", "https://bücher.example": "https://xn--bcher-kva.example",
    "http://user:secret@example.com": "http://example.com", "http://a@b@example.com": "http://example.com",
    "http://[2001:DB8::1]:81": "http://[2001:db8::1]:81", "http://example.com.": "http://example.com.",
    "http://１２７.0.0.1": "http://127.0.0.1",
}  # fmt: skip


@pytest.mark.parametrize("target", AS_WRITTEN)
def test_a_path_and_a_query_are_asked_as_they_are(target):
    for url in (url_of(f"http://example.com{target}#part"), url_of(f"//example.com{target}", url_of("http://a.com/"))):
        assert url.raw_path_qs == target and url.raw_host == "example.com"


def test_what_a_request_line_cannot_hold_is_escaped_and_nothing_else():
    assert {target: url_of(f"http://a.com{target}").raw_path_qs for target in ESCAPED} == ESCAPED


def test_hosts_are_written_in_one_way_without_user_and_password():
    for target in ("", "/a%2Cb?"):
        assert {host: str(url_of(f"{host}{target}")) for host in HOSTS} == {
            host: f"{said}{target or '/'}" for host, said in HOSTS.items()
        }


def test_a_redirect_leads_where_its_server_says():
    base = url_of("https://a.com:8443/d%2Ce/f/g.jpg?q=%2C")
    places = {
        "h.jpg": "/d%2Ce/f/h.jpg", "./h%2C.jpg?": "/d%2Ce/f/h%2C.jpg?", "../h.jpg": "/d%2Ce/h.jpg",
        "../../../h.jpg": "/h.jpg", "/x/../%7Ey": "/x/../%7Ey", "?x=%2F": "/d%2Ce/f/g.jpg?x=%2F",
        "": "/d%2Ce/f/g.jpg?q=%2C", "#a": "/d%2Ce/f/g.jpg?q=%2C", "..": "/d%2Ce/",
    }  # fmt: skip
    moved = {to: url_of(to, base) for to in places}
    assert {to: url.raw_path_qs for to, url in moved.items()} == places
    assert {str(url.origin()) for url in moved.values()} == {"https://a.com:8443"}
    assert str(url_of("//b.com/%2C", base)) == "https://b.com/%2C"
    assert str(url_of("http://me@b.com/%2C?", base)) == "http://b.com/%2C?"
    assert url_of("/caf\udcc3\udca9", base).raw_path_qs == "/caf%C3%A9"  # bytes of a header that are no ASCII


@pytest.mark.parametrize(
    "text", ["", "/a", "a.com/b", "ftp://a.com/", "javascript:alert(1)", "data:,x", "http:a", "http:///a", "http://[::1/",
             "http://a.com:99999/", "http://a\\@b.com/", "http://\ud800.com/", "http://a.com/\ud800"]
)  # fmt: skip
def test_what_is_no_address_of_the_web_has_a_reason(text):
    with pytest.raises(FetchFailed, match="bad_url"):
        url_of(text)


def test_a_url_that_no_server_takes_has_a_reason():
    assert url_of("http://a.com/" + "a" * (LONGEST - 13)).raw_path_qs
    with pytest.raises(FetchFailed, match="bad_url: 16,385 characters"):
        url_of("http://a.com/" + "a" * (LONGEST - 12))


def test_no_spelling_of_a_path_gets_around_the_wishes_of_its_owner(tmp_path):
    (tmp_path / "list.txt").write_text("a.com/private/*\n")
    opt_outs, robots = read_opt_outs([str(tmp_path / "list.txt")]), read_robots(b"User-agent: *\nDisallow: /private/\n")
    for target in ("/private/1", "/%70rivate/1", "/x/../private/1", "/x/%2e%2E/private/1", "/./private/1?a",
                   "/private%2F1", "/x/..%2Fprivate/1", "/../private/1"):  # fmt: skip
        url = url_of(f"http://a.com{target}")
        assert opt_outs.covers(url) and not may_ask(robots, url), meanings(url)
    for target in ("/public/1", "/private", "/x?y=/private/1", "/x/../public/private/1"):
        url = url_of(f"http://a.com{target}")
        assert not opt_outs.covers(url) and may_ask(robots, url), meanings(url)


def test_what_was_taken_down_is_recognised_by_either_spelling():
    one, other = "http://A.com:80/a%2Cb.jpg?u=%2F#x", "http://a.com/a,b.jpg?u=/"
    assert not url_values(one).isdisjoint(url_values(other))


class Raw:
    """A server on loopback that notes the targets of request lines as bytes, and answers with a photograph, or with a
    redirect: `/to?7` leads to `places[7]`."""

    def __init__(self):
        self.asked, self.places = [], []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                while line := self.rfile.readline():
                    while self.rfile.readline().strip():
                        pass
                    target = line.split(b" ", 1)[1].rsplit(b" ", 1)[0]
                    if target.startswith(b"/to?"):
                        to = outer.places[int(target[4:])].encode()
                        self.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % to)
                        continue
                    outer.asked.append(target)
                    size = len(PHOTOGRAPH)
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (size, PHOTOGRAPH))

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.server.daemon_threads, self.server.request_queue_size = True, 1000
        self.server.server_bind()
        self.server.server_activate()
        self.port = self.server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def asked_by_http_client(port: int, targets: list[str]) -> list[bytes]:
    """What Python's own client sends, byte for byte."""
    sent = []
    for target in targets:
        connection = HTTPConnection("127.0.0.1", port)
        connection.putrequest("GET", target)
        sent.append(connection._buffer[0].split(b" ", 1)[1].rsplit(b" ", 1)[0])
    return sent


def test_first_requests_redirects_and_robots_txt_go_out_as_they_are_written():
    with Raw() as server:
        base = f"http://127.0.0.1:{server.port}"
        server.places = [*AS_WRITTEN[:20], *(f"{base}{target}" for target in AS_WRITTEN[20:])]
        server.places = [f"{base}{to}" if to.startswith("//") else to for to in server.places]
        hosts = {"in_flight": 1, "allow_hosts": ("127.0.0.1",)}
        assert {a.reason for a in fetch([base + target for target in AS_WRITTEN], **hosts)} == {None}
        assert [target.decode() for target in server.asked] == AS_WRITTEN
        assert server.asked == asked_by_http_client(server.port, AS_WRITTEN)
        server.asked.clear()
        assert {a.reason for a in fetch([f"{base}/to?{n}" for n in range(len(AS_WRITTEN))], **hosts)} == {None}
        assert [target.decode() for target in server.asked] == AS_WRITTEN
        server.asked.clear()
        assert fetch([f"{base}/1.jpg?"], robots_txt=True, **hosts)[0].reason is None
        assert server.asked == [b"/robots.txt", b"/1.jpg?"]


@pytest.mark.skipif(not shutil.which("curl"), reason="compares with curl")
def test_curl_sends_the_same():
    with Raw() as server:
        urls = [f"http://127.0.0.1:{server.port}{target}" for target in AS_WRITTEN]
        subprocess.run(["curl", "-sg", "--path-as-is", *urls], check=True, stdout=subprocess.DEVNULL)
        assert [target.decode() for target in server.asked] == AS_WRITTEN


def quoted(text: str) -> str:
    """A text between the quotes of curl's configuration."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


@pytest.mark.slow
@pytest.mark.skipif(not LAION.exists(), reason="needs 10,000 URLs of LAION-400M")
def test_ten_thousand_urls_of_laion_are_asked_as_curl_asks_them(tmp_path):
    urls = pq.read_table(LAION, columns=["URL"])["URL"].to_pylist()
    targets = [re.sub(r"^[^/]*//[^/?#]*/?", "", url).partition("#")[0] for url in urls]
    with Raw() as server:
        here = [f"http://127.0.0.1:{server.port}/{target}" for target in targets]
        patient = {"connect_seconds": 30.0, "read_seconds": 30.0, "deadline": 60.0}  # a retry would change the order
        hosts = {"in_flight": 1, "per_host": 1, "allow_hosts": ("127.0.0.1",), **patient}
        assert {answer.reason for answer in fetch(here, **hosts)} == {None}
        ours, server.asked = server.asked, []
        plain = [n for n, url in enumerate(here) if url.isascii() and " " not in url]
        (tmp_path / "list").write_text("".join(f'url = "{quoted(here[n])}"\noutput = "/dev/null"\n' for n in plain))
        subprocess.run(["curl", "-sg", "--path-as-is", "--config", str(tmp_path / "list")], check=True)
        assert len(plain) > 9_950 and [ours[n] for n in plain] == server.asked
