"""Only the public internet is asked: whatever a URL, a name server or a redirect says."""

import socket

import pytest
from support.fetching import fetch
from support.hostile_server import Hostile

from pipelines.fetching.addresses import is_public

PRIVATE = {
    "127.0.0.1": "loopback", "127.255.0.9": "loopback", "0.0.0.0": "this host", "10.1.2.3": "private",
    "172.16.0.1": "private", "172.31.255.255": "private", "192.168.1.1": "private", "169.254.1.1": "link-local",
    "169.254.169.254": "metadata of most clouds", "100.64.0.1": "shared by a provider's customers",
    "100.100.100.200": "metadata of Alibaba", "192.0.0.192": "metadata of Oracle", "168.63.129.16": "Azure's host",
    "192.0.2.1": "documentation", "198.18.0.1": "benchmarks", "203.0.113.9": "documentation", "224.0.0.1": "multicast",
    "255.255.255.255": "broadcast", "240.0.0.1": "reserved", "192.88.99.1": "6to4 relays",
    "::": "this host", "::1": "loopback", "fe80::1": "link-local", "fe80::1%eth0": "link-local with its zone",
    "fe80::1%": "link-local with no name of a zone",
    "fc00::1": "unique local", "fd00:ec2::254": "metadata of Amazon", "fec0::1": "site-local", "ff02::1": "multicast",
    "2001:db8::1": "documentation", "3fff::1": "documentation", "2001::1": "Teredo", "100::1": "discard",
    "5f00::1": "segment routing", "64:ff9b:1::7f00:1": "NAT64 of one's own",
    "::ffff:127.0.0.1": "IPv4-mapped", "::ffff:a00:1": "IPv4-mapped", "::127.0.0.1": "IPv4-compatible",
    "2002:7f00:1::": "6to4", "2002:a9fe:a9fe::1": "6to4", "64:ff9b::10.0.0.1": "NAT64", "64:ff9b::a9fe:a9fe": "NAT64",
}  # fmt: skip
PUBLIC = (
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0",
    "169.253.255.255", "2606:4700::1111", "2a00:1450:4001::64", "::ffff:8.8.8.8", "2002:808:808::1", "64:ff9b::8.8.8.8",
)  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_on_the_public_internet(address):
    assert not is_public(address), PRIVATE[address]


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_that_are(address):
    assert is_public(address)


@pytest.fixture(scope="module")
def server():
    with Hostile() as hostile:
        yield hostile


# How a URL can say "this machine", or another one that is none of a stranger's business
WRITTEN = (
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0", "0.0.0.0", "%31%32%37.0.0.1",
    "１２７.0.0.1", "127。0。0。1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[fd00:ec2::254]", "169.254.169.254", "10.0.0.1", "localhost", "LOCALHOST", "localhost.",
    "a.localhost", "me@127.0.0.1", "example.org@127.0.0.1",
)  # fmt: skip
REFUSED = ("blocked_address", "bad_url", "dns")  # a client may not even take it for a name


def test_no_way_to_write_an_address_leads_to_this_machine(server):
    urls = [f"http://{host}:{server.port}/good/direct{n}" for n, host in enumerate(WRITTEN)]
    answers = fetch(urls, allow_hosts=(), tries=1)
    assert {host: answer.reason in REFUSED for host, answer in zip(WRITTEN, answers, strict=True)} == dict.fromkeys(
        WRITTEN, True
    )
    assert [answer.reason for answer in answers].count("blocked_address") >= 20
    assert not [path for path in server.asked() if "direct" in path]


def test_no_redirect_leads_there_either(server):
    to = [f"/to/http:||{host}:{server.port}|good|sent{n}" for n, host in enumerate(WRITTEN)]
    answers = fetch([server.url(path, "kind") for path in to], allow_hosts=("kind.localhost",), tries=1)
    assert {host: answer.reason in REFUSED for host, answer in zip(WRITTEN, answers, strict=True)} == dict.fromkeys(
        WRITTEN, True
    )
    assert [answer.reason for answer in answers].count("blocked_address") >= 20
    assert {answer.status for answer in answers} == {307}
    assert not [path for path in server.asked() if "/good/sent" in path]


def test_hosts_are_allowed_by_name_with_all_below_them_and_nothing_else(server):
    allowed = ("inner.localhost", "127.0.0.1")
    hosts = {"inner.localhost": None, "a.inner.localhost": None, "INNER.localhost": None, "127.0.0.1": None}
    hosts |= dict.fromkeys(("localhost", "other.localhost", "notinner.localhost", "127.0.0.2"), "blocked_address")
    answers = fetch([f"http://{host}:{server.port}/good/1" for host in hosts], allow_hosts=allowed, tries=1)
    assert {host: answer.reason for host, answer in zip(hosts, answers, strict=True)} == hosts


def answers_of(monkeypatch, *answers: list[str]) -> list[str]:
    """Has the machine's resolver give these answers, one after the other, for every name; says which were asked for."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host, *words, **options):
        if not host.endswith(".example"):
            return real(host, *words, **options)
        asked.append(host)
        return [info for one in answers[min(len(asked), len(answers)) - 1] for info in real(one, *words, **options)]

    monkeypatch.setattr("pipelines.fetching.addresses.socket.getaddrinfo", getaddrinfo)
    return asked


def test_a_name_that_means_this_machine_is_refused(server, monkeypatch):
    for addresses in (["127.0.0.1"], ["::1"], ["10.0.0.1", "::ffff:127.0.0.1"]):
        answers_of(monkeypatch, addresses)
        (answer,) = fetch([f"http://inside.example:{server.port}/good/inside"])
        assert (answer.reason, answer.tries) == ("blocked_address", 1) and addresses[0] in answer.detail
    assert not [path for path in server.asked() if "inside" in path]


def test_a_name_that_means_something_else_a_moment_later_is_not_believed(server, monkeypatch):
    """DNS rebinding: the address that was checked is the one that is connected to, and it is not looked up again."""
    asked = answers_of(monkeypatch, ["192.88.98.1"], ["127.0.0.1"])
    urls = [f"http://rebinding.example:{server.port}/good/rebound{n}" for n in range(4)]
    answers = fetch(urls, connect_seconds=0.3, per_host=1)
    assert {answer.reason for answer in answers} <= {"timeout", "connection"}
    assert asked == ["rebinding.example"]
    assert not [path for path in server.asked() if "rebound" in path]


def test_of_mixed_addresses_only_public_ones_are_tried(server, monkeypatch):
    answers_of(monkeypatch, ["127.0.0.1", "192.88.98.1"])
    (answer,) = fetch([f"http://mixed.example:{server.port}/good/mixed"], connect_seconds=0.3, tries=1)
    assert answer.reason in ("timeout", "connection")
    assert not [path for path in server.asked() if "mixed" in path]


def test_the_address_is_checked_where_the_socket_is_opened(server, monkeypatch):
    """Even if looking up the name let it pass."""
    real = is_public
    monkeypatch.setattr("pipelines.fetching.addresses.Resolver.resolve", let_all_pass)
    assert real is is_public
    (answer,) = fetch([f"http://a.localhost:{server.port}/good/late"], allow_hosts=())
    assert answer.reason == "blocked_address" and not [path for path in server.asked() if "late" in path]


async def let_all_pass(self, host, port=0, family=socket.AF_UNSPEC):
    return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}]


def test_a_connection_that_one_url_was_allowed_serves_no_other_host(server):
    """Kept-open connections belong to their host; the same address by another name is checked anew."""
    urls = [f"http://127.0.0.1:{server.port}/good/1", f"http://localhost:{server.port}/good/again"]
    first, second = fetch(urls, allow_hosts=("127.0.0.1",), in_flight=1, tries=1)
    assert (first.reason, second.reason) == (None, "blocked_address")
