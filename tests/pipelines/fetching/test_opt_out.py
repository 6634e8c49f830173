"""Who does not want an image to be used is heard: in headers, in lists, in robots.txt."""

import pytest
from support.fetching import fetch
from support.hostile_server import Hostile
from yarl import URL

from pipelines.fetching.opt_out import may_ask, read_opt_outs, refusal, robots_rules
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
    assert {tag: answer.reason for tag, answer in zip(tags, answers)} == tags
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
    with pytest.raises(UserError, match=r"fetch.opt_out: \S+/none.txt cannot be read: "):
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


# robots.txt

ROBOTS = """\
# who may come
Sitemap: https://example.com/map.xml
User-agent: *
Disallow: /private/
Allow: /private/open
Crawl-delay: 10

User-agent: otherbot
User-agent: Shardmill/2.0
Disallow: /*.gif$
Disallow: /a%20b
Disallow:
Allow: /a b/c
disallow : /x   # both
User-agent: shardmill
Disallow: /y
"""


def test_the_rules_for_our_name_count_and_of_those_the_longest_that_fits():
    ours, others = robots_rules(ROBOTS), robots_rules(ROBOTS.replace("hardmill", "omeone"))
    said = {
        "/private/1": (True, False), "/private/open/1": (True, True), "/1.gif": (False, True), "/1.gif?x": (True, True),
        "/a b": (False, True), "/a%20b/d": (False, True), "/a%20b/c": (True, True), "/x1": (False, True),
        "/y": (False, True), "/": (True, True), "/PRIVATE/1": (True, True),
    }  # fmt: skip
    for path, (us, them) in said.items():
        url = URL(f"http://example.com{path}")
        assert (may_ask(ours, url), may_ask(others, url)) == (us, them), path


def test_no_robots_txt_whatever_is_in_it_takes_long_or_fails():
    url = URL("http://example.com/" + "a" * 2000)
    assert may_ask(robots_rules("User-agent: *\nDisallow: /" + "*a" * 2001 + "$"), url)
    assert not may_ask(robots_rules("User-agent: *\nDisallow: /" + "*a" * 2000 + "$"), url)
    assert robots_rules("<html>\0\nDisallow: /\nUser-agent\n:::\n") == []
    assert robots_rules("User-agent: *\r\nDisallow: /\r\n") == [("/", False)]


def test_robots_txt_is_read_once_a_host_and_obeyed_if_the_configuration_says_so(server):
    urls = [server.url(f"/good/{n}", "closed.r") for n in range(20)]
    others = [("/good/no1", "partly.r"), ("/good/secret", "partly.r"), ("/good/1", "none.r"), ("/good/1", "moved.r")]
    others.append((f"/to/http:||closed.s.localhost:{server.port}|good|1", "none.r"))
    urls += [server.url(path, host) for path, host in others]
    answers = fetch(urls, robots_txt=True, per_host=8)
    assert [answer.reason for answer in answers] == ["opt_out"] * 21 + [None, None, "opt_out", "opt_out"]
    asked = {path: len(at) for path, at in server.asked().items() if ".r." in path or ".s." in path}
    robots = {path: times for path, times in asked.items() if path.endswith(".txt")}
    assert set(robots.values()) == {1} and not [path for path in asked if path.startswith("closed") and "good" in path]
    assert answers[0].detail == f"http://closed.r.localhost:{server.port}/robots.txt" and answers[0].tries == 0
    assert [answer.reason for answer in fetch(urls[:3])] == [None] * 3  # by default nobody asks for it


def test_who_cannot_say_what_his_robots_txt_says_is_left_alone(server):
    urls = [server.url(f"/good/{n}", "broken.r") for n in range(10)]
    answers = fetch(urls, robots_txt=True)
    assert {answer.reason for answer in answers} == {"http_5xx"} and {answer.tries for answer in answers} == {0}
    assert {answer.detail for answer in answers} <= {
        "robots.txt: status 500", "not asked, after this: robots.txt: status 500"
    }  # fmt: skip
    asked = {path: len(at) for path, at in server.asked().items() if path.startswith("broken.r")}
    assert asked == {"broken.r.localhost/robots.txt": 2}  # tries


def test_a_robots_txt_without_end_is_read_so_far(server):
    (answer,) = fetch([server.url("/good/1", "huge.r")], robots_txt=True)
    assert answer.reason == "opt_out"
