"""Who does not want an image to be used is heard: in headers and in lists."""

import random
import re
import time

import pytest
from support.fetching import fetch
from support.hostile_server import Hostile
from yarl import URL

from pipelines.fetching.opt_out import read_opt_outs, refusal
from schemas.errors import UserError

TAGS = {
    ("noai",): "noai", ("noimageai",): "noimageai", ("noindex",): "noindex", ("noimageindex",): "noimageindex",
    ("none",): "none", ("NoAI",): "noai", ("nofollow, noai",): "noai", ("nofollow", "noindex"): "noindex",
    ("shardmill: noai",): "noai", ("Shardmill: noarchive, noindex",): "noindex", ("shardmill/1.0: noai",): "noai",
    ("*: noai",): "noai", ("otherbot: nofollow, shardmill: noai",): "noai", ("noai, otherbot: nofollow",): "noai",
    ("unavailable_after: 25 Jun 2030 15:00:00 PST, noai",): "noai", ("max-snippet: 3, noindex",): "noindex",
    ("otherbot: noai",): None, ("otherbot: nofollow, noindex",): None, ("otherbot: noindex", "nofollow"): None,
    ("nofollow",): None, ("all",): None, ("",): None, (): None, ("noarchive, nosnippet, notranslate",): None,
    ("unavailable_after: noai",): None, ("noaim",): None, ("otherbot: noindex", "noai"): "noai",
}  # fmt: skip


@pytest.mark.parametrize("headers", TAGS)
def test_tags_speak_to_everyone_or_to_the_agent_they_name(headers):
    assert refusal(headers) == TAGS[headers]


@pytest.fixture(scope="module")
def server():
    with Hostile() as hostile:
        yield hostile


def test_tags_are_honoured_unless_the_configuration_says_otherwise(server):
    tags = {
        "noai": "opt_out",
        "nofollow,+noimageindex": "opt_out",
        "shardmill:+noai": "opt_out",
        "otherbot:+noai": None,
    }
    urls = [server.url(f"/tag/{tag}", "tagged") for tag in tags]
    answers = fetch(urls)
    assert {tag: answer.reason for tag, answer in zip(tags, answers, strict=True)} == tags
    assert [answer.detail for answer in answers] == [
        "X-Robots-Tag: noai", "X-Robots-Tag: noimageindex", "X-Robots-Tag: noai", None
    ]  # fmt: skip
    assert [bool(answer.data) for answer in answers] == [False, False, False, True]
    anyway = fetch(urls, honour_robots_tag=False)
    assert {answer.reason for answer in anyway} == {None} and all(answer.data for answer in anyway)
    assert [answer.robots_tag for answer in anyway] == [tag.replace("+", " ") for tag in tags]


# Lists


@pytest.fixture
def opt_outs(tmp_path):
    def read(*lines: str):
        (tmp_path / "list.txt").write_text("\n".join(lines))
        return read_opt_outs([str(tmp_path / "list.txt")])

    return read


def test_a_host_is_left_alone_with_all_below_it(opt_outs):
    said = opt_outs("# the kind people of", "example.com   # asked us", "", "https://Photos.Example.org", "www.x.org.")
    for url in (
        "http://example.com/1.jpg",
        "https://www.example.com:8080/",
        "http://photos.example.org/a?b",
        "http://EXAMPLE.COM/",
        "http://example.com./1",
        "http://www.x.org/1",
    ):
        assert said.covers(URL(url)), url
    for url in ("http://notexample.com/", "http://example.com.evil.org/", "http://example.org/", "http://x.org/"):
        assert said.covers(URL(url)) is None, url


def test_patterns_are_of_hosts_and_paths(opt_outs):
    said = opt_outs("example.com/art/*", "*.example.org/*.png", "shop.example/a b/ü.jpg", "*.tumblr.example")
    for url in (
        "http://example.com/art/1.jpg",
        "https://example.com/ART/x?y=1",
        "http://a.b.example.org/x/y.png",
        "http://shop.example/a%20b/%C3%BC.jpg",
        "http://shop.example/a b/ü.jpg",
        "http://me.tumblr.example/1",
    ):
        assert said.covers(URL(url)), url
    for url in (
        "http://example.com/1.jpg",
        "http://www.example.com/art/1.jpg",
        "http://example.org/1.png",
        "http://a.example.org/1.jpg",
        "http://shop.example/",
    ):
        assert said.covers(URL(url)) is None, url
    assert said.covers(URL("http://tumblr.example/")) == "tumblr.example"


def test_names_in_other_scripts_are_the_same_in_ascii(opt_outs):
    assert opt_outs("bücher.example").covers(URL("http://xn--bcher-kva.example/1"))
    assert opt_outs("xn--bcher-kva.example").covers(URL("http://bücher.example/1"))


def test_equal_lists_have_equal_digests_and_others_have_not(opt_outs):
    one = opt_outs("a.example", "b.example/x*").digest
    assert opt_outs("b.example/x*  # of b", "", "http://a.example").digest == one != opt_outs("a.example").digest


def test_a_list_that_cannot_be_read_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match=r"fetch.opt_out: \S+/none.txt: does not exist"):
        read_opt_outs([str(tmp_path / "none.txt")])


def test_who_is_in_a_list_is_not_asked_not_even_by_a_redirect(server, opt_outs):
    urls = [
        server.url("/good/listed", "listed"), server.url(f"/to/http:||a.listed.localhost:{server.port}|good|listed"),
        server.url("/good/other", "other"),
    ]  # fmt: skip
    answers = fetch(urls, opt_outs=opt_outs("listed.localhost"))
    assert [answer.reason for answer in answers] == ["opt_out", "opt_out", None]
    assert answers[0].detail == "listed.localhost in a list of fetch.opt_out" and answers[0].tries == 0
    assert not [path for path in server.asked() if "/good/listed" in path]


def test_a_line_that_is_no_host_and_no_pattern_is_named_with_its_file(tmp_path):
    lines = [
        "two words.com",
        "/art/*",
        "me@example.com",
        "a.com,2020-01-01",
        "http://",
        "a..b",
        "::1",
        "[::1",
        "a.com:x/y",
        "<html>",
    ]
    for line in lines:
        (tmp_path / "list.txt").write_text(f"# ours\nexample.com\n{line}\n")
        with pytest.raises(UserError, match=r"fetch.opt_out: \S+list.txt, line 3: .* is neither a host nor a pattern"):
            read_opt_outs([str(tmp_path / "list.txt")])
    (tmp_path / "list.txt").write_bytes(b"example.com\n\xff\xfe\n")
    with pytest.raises(UserError, match=r"list.txt, line 2 cannot be read: .*UTF-8"):
        read_opt_outs([str(tmp_path / "list.txt")])
    (tmp_path / "list.txt").write_bytes(b"\n\n" + bytes(100_000))
    with pytest.raises(UserError, match=r"list.txt, line 3: longer than 16,384 bytes"):
        read_opt_outs([str(tmp_path / "list.txt")])


def test_lines_say_what_their_author_meant(opt_outs):
    said = opt_outs("[2001:DB8::1]", "a.com:8080/x*", "b.com/proxy?u=http://c.com/*", "*bücher*.example/*")
    for url in ("http://[2001:db8::1]/a", "http://a.com/xy", "http://b.com/proxy?u=http://c.com/1"):
        assert said.covers(URL(url)), url
    assert not said.covers(URL("http://c.com/1")) and not said.covers(URL("http://b.com/1"))


def test_matching_takes_time_of_the_length_of_patterns_and_url(opt_outs):
    """As regular expressions, 20 stars against 2,000 letters do not end."""
    said = opt_outs(
        "*" + "a*" * 5_000 + "b.png", *("*" * 4 + f"a*a*a*a*a*{n}" for n in range(500)), "x.com/" + "*a" * 8_000 + "$"
    )
    began = time.process_time()
    for host in ("x.com", "y.com"):
        assert said.covers(URL(f"http://{host}/" + "a" * 16_000)) is None
    assert time.process_time() - began < 2


@pytest.mark.slow
def test_a_hundred_thousand_patterns_cost_little(tmp_path):
    """In memory, and for a URL that none is for."""
    (tmp_path / "list.txt").write_text(
        "".join(f"*.host{n}.example/art/*\nhost{n}.example/x*\n" for n in range(100_000))
    )
    began = time.process_time()
    said = read_opt_outs([str(tmp_path / "list.txt")])
    assert time.process_time() - began < 10
    began = time.process_time()
    for n in range(1_000):
        assert said.covers(URL(f"http://a.host{n}.example/art/1")) == f"*.host{n}.example/art/*"
        assert said.covers(URL(f"http://a.other{n}.example/art/1")) is None
    assert time.process_time() - began < 1


def test_patterns_are_held_as_regular_expressions_would_hold_them(opt_outs):
    draws = random.Random(1)
    for _ in range(300):
        patterns = ["a.com/" + "".join(draws.choices("Ab*", (3, 2, 2), k=draws.randrange(7))) for _ in range(5)]
        said = opt_outs(*patterns)
        for _ in range(20):
            path = "".join(draws.choices("aB", k=draws.randrange(8)))
            expected = any(
                re.fullmatch(p.replace(".", r"\.").replace("*", ".*"), f"a.com/{path}", re.I) for p in patterns
            )
            assert bool(said.covers(URL(f"http://a.com/{path}"))) is expected, (patterns, path)
