"""What strangers' servers do to a downloader: every URL ends with its bytes or a reason, in bounded time."""

import itertools
import os
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from support.fetching import CONTACT, fetch
from support.hostile_server import Hostile, image

from pipelines.fetching.bodies import BLOCK, Bodies, FetchRequest, FetchResult
from pipelines.fetching.fetch import MANY, Fetcher, Offline, fetcher
from pipelines.fetching.opt_out import OptOuts
from schemas.images import REASONS, FetchConfig

# path -> reason, status and tries
OUTCOMES = {
    "/good/1": (None, 200, 1),
    "/slow/0.3/1": (None, 200, 1),
    "/slow/1/1": ("timeout", None, 2),  # no byte within read_seconds
    "/silent/1": ("timeout", None, 2),
    "/drip/1": ("timeout", 200, 2),  # bytes in time, but no end
    "/slow-head/1": ("timeout", None, 2),
    "/reset/1": ("connection", None, 2),
    "/reset-inside/1": ("connection", 200, 2),
    "/reset-once/1": (None, 200, 1),  # the client itself asks again, once, by a new connection
    "/short/1": ("connection", 200, 2),
    "/until-closed/1": (None, 200, 1),
    "/until-closed/reset": (None, 200, 1),  # nobody said how long it is: decoding tells
    "/chunked/1": (None, 200, 1),
    "/endless/1": ("too_large", 200, 1),
    "/endless-head/1": ("bad_answer", None, 1),
    "/no-http/1": ("bad_answer", None, 1),
    "/status/204/1": ("bad_answer", None, 1),
    "/status/206/1": ("bad_answer", 206, 1),
    "/status/401/1": ("http_4xx", 401, 1),
    "/status/403/1": ("http_403", 403, 1),
    "/status/404/1": ("http_404", 404, 1),
    "/status-with-image/404/1": ("http_404", 404, 1),
    "/status/408/1": ("http_4xx", 408, 2),
    "/status/410/1": ("http_410", 410, 1),
    "/status/500/1": ("http_5xx", 500, 2),
    "/status/501/1": ("http_5xx", 501, 1),
    "/recovers/1": (None, 200, 2),
    "/busy/1": (None, 200, 2),
    "/busy-date/1": (None, 200, 2),
    "/always-busy/1": ("http_429", 429, 2),
    "/always-busy/3600": ("http_429", 429, 1),  # longer than it is waited for
    "/hops/3/1": (None, 200, 1),
    "/hops/5/1": (None, 200, 1),
    "/hops/6/1": ("redirect_loop", 301, 1),
    "/loop/1": ("redirect_loop", 302, 1),
    "/ever-on/1": ("redirect_loop", 302, 1),
    "/to-nowhere": ("bad_answer", 302, 1),
    "/to/ftp:||a.localhost|1": ("bad_url", 307, 1),
    "/to/javascript:alert(1)": ("bad_url", 307, 1),
    "/packed/1": (None, 200, 1),
    "/packed-badly/1": ("bad_answer", 200, 1),
    "/packed-oddly/1": ("bad_answer", 200, 1),
    "/bomb/1": ("too_large", 200, 1),
    "/tag/noai": ("opt_out", 200, 1),
}  # fmt: skip


def test_every_url_ends_with_its_bytes_or_a_reason_whatever_its_server_does(server):
    started = time.monotonic()
    answers = fetch([server.url(path, f"outcome{n}") for n, path in enumerate(OUTCOMES)])
    assert {p: (a.reason, a.status, a.tries) for p, a in zip(OUTCOMES, answers, strict=True)} == OUTCOMES
    assert time.monotonic() - started < 2 * 2.0 + 1.25 + 5  # two tries, the pause between them, a busy machine
    for path, answer in zip(OUTCOMES, answers, strict=True):
        assert answer.reason in {None, *REASONS} and bool(answer.detail) == bool(answer.reason)
        last = path.replace("/hops/3", "/hops/0").replace("/hops/5", "/hops/0")
        assert answer.data == (b"" if answer.reason else image(last)), path
        assert answer.milliseconds < 2500, path


def test_what_no_server_answers_has_a_reason_too(server):
    urls = {
        "https://a.localhost:{}/good/1": "tls",  # it speaks no TLS
        "http://nobody.localhost:1/": "connection",  # refused
        "http://no-such-name.invalid/": "dns",
        f"http://{'a' * 64}.example/": "dns",
        "http://a..example/": "dns",
        "ftp://a.localhost/": "bad_url", "//a.localhost/": "bad_url", "a.localhost/1.jpg": "bad_url", "": "bad_url",
        "http://": "bad_url", "http://[::1": "bad_url", "http://a.localhost:99999/": "bad_url", "data:,x": "bad_url",
        "file:///etc/passwd": "bad_url",
    }  # fmt: skip
    answers = fetch([url.format(server.port) for url in urls], tries=1)
    assert {url: answer.reason for url, answer in zip(urls, answers, strict=True)} == urls


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(tmp_path):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    now, day = datetime.now(UTC), timedelta(1)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - day).not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.localhost")]), False).sign(key, hashes.SHA256())
    )  # fmt: skip
    pem, raw = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file = tmp_path / "certificate.pem"
    file.write_bytes(key.private_bytes(pem, raw, serialization.NoEncryption()) + certificate.public_bytes(pem))
    with Hostile(file) as server:
        (answer,) = fetch([f"https://a.localhost:{server.port}/good/1"])
    assert (answer.reason, answer.tries) == ("tls", 1) and "self-signed" in answer.detail


def test_answers_with_changed_bytes_are_answers_or_reasons(server):
    urls = [server.url(f"/garbled/{n}", f"garbled{n}") for n in range(300)]
    answers = fetch(urls, tries=1)
    assert {answer.reason for answer in answers} <= {None, *REASONS}
    assert len({answer.reason for answer in answers}) > 2


def test_a_server_is_left_alone_for_as_long_as_it_asks(server):
    urls = [server.url("/busy/1", "asks"), *(server.url(f"/good/{n}", "asks") for n in range(6))]
    assert {answer.reason for answer in fetch(urls, per_host=1)} == {None}
    first, second = server.asked()["asks.localhost/busy/1"]
    assert 1.0 <= second - first < 3.0
    others = [at for n in range(6) for at in server.asked()[f"asks.localhost/good/{n}"]]
    assert len(others) == 6 and min(others) >= first + 0.99


def test_who_is_always_busy_is_asked_less_and_less_and_then_no_more(server):
    urls = [server.url(f"/always-busy/0/{n}", "busy") for n in range(200)]
    started = time.monotonic()
    answers = fetch(urls)
    assert {answer.reason for answer in answers} == {"http_429"}
    assert time.monotonic() - started < 10
    times = sorted(at for path, all in server.asked().items() if path.startswith("busy.localhost") for at in all)
    bursts = [at for at, before in zip(times, [0.0, *times], strict=False) if at - before > 0.5]
    assert len(times) <= 4 * len(bursts) and [round(b - a) for a, b in itertools.pairwise(bursts)] == [1, 2]
    assert "not asked, after this: status 429" in {answer.detail for answer in answers}


def test_a_host_that_does_not_answer_costs_five_tries_not_one_a_row(server):
    urls = [server.url(f"/silent/{n}", "mute") for n in range(500)] + [server.url("/good/1", "other")]
    started = time.monotonic()
    *mute, other = fetch(urls)
    assert {answer.reason for answer in mute} == {"timeout"} and other.reason is None
    assert sum(map(len, (at for path, at in server.asked().items() if path.startswith("mute.")))) <= 8
    assert time.monotonic() - started < 10


def test_no_more_are_in_flight_than_allowed_over_all_and_per_host():
    with Hostile() as server:
        urls = [server.url(f"/slow/0.02/{n}", f"h{n % 2}") for n in range(80)]
        assert {answer.reason for answer in fetch(urls, in_flight=5, per_host=3)} == {None}
        most = server.says("most")
    assert most.pop("*") == 5 and max(most.values()) == 3 and len(most) == 2


def test_requests_say_who_asks_and_carry_nothing_of_ours(server, monkeypatch, tmp_path):
    with socket.socket() as nobody:  # a proxy that answers no one
        nobody.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        (tmp_path / ".netrc").write_text("machine who.localhost login me password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        urls = [
            server.url("/cookie", "who"), server.url("/good/1", "me:secret@who"),
            server.url(f"/to/http:||me:secret@who.localhost:{server.port}|good|2", "who"),
        ]  # fmt: skip
        assert {answer.reason for answer in fetch(urls, per_host=1)} == {None}
    heads = server.says("heads")
    seen = [heads[f"who.localhost{path}"] for path in ("/good/after-a-cookie", "/good/1", "/good/2")]
    for said in seen:
        assert set(said) == {"Host", "User-Agent", "Accept", "Accept-Encoding"}
        assert "Shardmill/" in said["User-Agent"] and CONTACT in said["User-Agent"]


def test_partitions_that_fetch_at_the_same_moment_share_one_fetcher():
    config, together = FetchConfig(contact=CONTACT, in_flight=3), Barrier(16)

    def one(_: int) -> Fetcher:
        together.wait()
        return fetcher(config)

    with ThreadPoolExecutor(16) as threads:
        assert len(set(map(id, threads.map(one, range(16))))) == 1


def test_a_body_that_is_thrown_away_leaves_its_place_to_the_next(server):
    fetcher = Fetcher(FetchConfig(contact=CONTACT, allow_hosts=("localhost",), in_flight=1))
    with open(os.memfd_create("bodies"), "r+b") as file:
        bodies = Bodies(file.fileno(), 500_000)
        urls = [server.url(f"/{what}/{n}", f"place{n}") for n in range(10) for what in ("endless", "good")]
        answers = dict(itertools.chain(*fetcher.fetch([FetchRequest(url) for url in urls], bodies, OptOuts())))
        assert Counter(answer.reason for answer in answers.values()) == {"too_large": 10, None: 10}
        assert [bodies.read(answers[n]) for n in range(1, 20, 2)] == [image(f"/good/{n}") for n in range(10)]
        assert bodies.end <= 500_000 + 11 * BLOCK
    fetcher.close()


def test_a_body_in_one_piece_takes_as_long_as_it_is():
    with open(os.memfd_create("bodies"), "r+b") as file:
        bodies = Bodies(file.fileno(), 10**9)

        def seconds(size: int) -> float:
            answer, data, began = FetchResult(), os.urandom(1000) * (size // 1000), time.process_time()
            bodies.write(answer, data)
            took = time.process_time() - began
            assert bodies.read(answer) == data
            bodies.drop(answer)
            return took

        assert seconds(48_000_000) < 20 * seconds(6_000_000) + 0.5, "64 times as long if what is left is copied"


def test_a_full_disk_stops_the_run_and_is_nobody_elses_fault(server):
    fetcher = Fetcher(FetchConfig(contact=CONTACT, allow_hosts=("localhost",)))
    with open("/dev/full", "r+b", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        list(fetcher.fetch([FetchRequest(server.url("/good/1", "full"))], Bodies(full.fileno(), 10**6), OptOuts()))
    fetcher.close()


@pytest.mark.slow
def test_a_machine_without_network_blames_no_server(server, monkeypatch):
    def no_answer(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr("pipelines.fetching.addresses.socket.getaddrinfo", no_answer)
    urls = [f"http://host{n}.example/{k}" for n in range(MANY) for k in range(7)] + ["http://127.0.0.1/", "bad"]
    with pytest.raises(Offline, match="not one of 100 hosts could be reached"):
        fetch(urls, tries=2)
    assert {answer.reason for answer in fetch(urls[:-9], tries=1)} == {"dns"}  # fewer hosts may well be gone
