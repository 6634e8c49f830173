"""Sets that no run makes any more are withdrawn with all their releases."""

from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import pytest
from support.corpora import build, data_files, picture, say
from support.takedown_corpus import NOISE, TOML, key, told_anywhere, write
from support.takedowns import take

from pipelines.build.corpus import open_corpus
from pipelines.engine.root import Root
from pipelines.maintain.takedown import releases_with
from pipelines.maintain.verify import verify_root
from pipelines.stages.takedown_list import TakedownList


def leave_out(here: Path, name: str) -> None:
    """Takes a shard set out of the configuration."""
    text = (here / "my.toml").read_text()
    begin = text.index(f"[sets.{name}]")
    (here / "my.toml").write_text(text[:begin] + text[text.index("[", begin + 1) :])


def cards(root: Path) -> list[str]:
    return sorted(path.stem.split("@")[0] for path in root.glob("shards/*.json"))


@pytest.mark.slow
@pytest.mark.usefixtures("reported")
def test_a_set_that_is_in_the_configuration_no_more_is_withdrawn_with_all_its_releases(here):
    root = Path(open_corpus(here / "my.toml").root.url)
    for where in ("where = \"host != 'a.example'\"\n", ""):  # a release that has nothing of it; the first again
        (here / "my.toml").write_text(TOML.replace("[sets.captions]\n", f"[sets.captions]\n{where}"))
        build(here / "my.toml")
    dirty = [*releases_with(Root(str(root)), TakedownList(key=frozenset({key(Root(str(root)), "a00")})))]
    assert cards(root).count("captions") == 3 and sum(name.startswith("captions@") for name in dirty) == 1
    leave_out(here, "captions")
    (here / "list.txt").write_text("https://a.example/a00.png")
    said = say("takedown", here / "my.toml", here / "list.txt")
    assert said.code == 0, said.err
    assert "withdrawn, because it had some of this and is no longer configured: shard set captions\n" in said.out
    assert cards(root) == ["texts"] * len(cards(root))
    assert [path.name for path in root.glob("shards/captions*")] == []
    assert told_anywhere(root, sha256(NOISE).hexdigest(), "what a00 shows", data=NOISE[60:200]) == []
    assert verify_root(Root(str(root))).problems == []
    again = say("takedown", here / "my.toml", here / "list.txt")
    assert "withdrawn" not in again.out


@pytest.mark.slow
def test_a_set_that_had_nothing_of_it_stays_though_it_is_in_the_configuration_no_more(here):
    root = open_corpus(here / "my.toml").root
    leave_out(here, "captions")
    (here / "my.toml").write_text((here / "my.toml").read_text() + "[sets.few]\nwhere = \"host = 'c.example'\"\n")
    build(here / "my.toml")
    (here / "my.toml").write_text((here / "my.toml").read_text().partition("[sets.few]")[0])
    before = data_files(Path(root.url))
    done = take(here, "https://a.example/a00.png")
    after = data_files(Path(root.url))
    assert done.withdrawn == ["captions"]
    few = {name for name in before if name.startswith("shards/few")}
    assert len(few) > 2 and {name: after.get(name) for name in few} == {name: before[name] for name in few}


@pytest.mark.slow
@pytest.mark.usefixtures("reported")
def test_bytes_of_a_row_that_its_source_has_no_more_go_out_of_a_set_that_no_run_makes(here):
    """The list names bytes; no row is left by which a key could be found."""
    root = open_corpus(here / "my.toml").root
    leave_out(here, "captions")
    write(here / "tars/0.tar", {"a01": (picture(1)[0], "what a01 shows")})
    write(here / "tars/2.tar", {"b14": (picture(14)[0], "what b14 shows")})
    build(here / "my.toml")
    done = take(here, sha256(NOISE).hexdigest())
    assert done.rows == 0 and done.withdrawn == ["captions"]
    assert told_anywhere(Path(root.url), data=NOISE[60:200]) == []
    assert verify_root(root).problems == []


class PowerCut(BaseException):
    """As if it was killed."""


@pytest.mark.slow
@pytest.mark.usefixtures("reported")
def test_a_set_is_withdrawn_whatever_file_was_the_last_to_go(here):
    """Each run is ended after one file more; what then stands there lets the next go on."""
    root = open_corpus(here / "my.toml").root
    leave_out(here, "captions")
    (here / "list.txt").write_text("https://a.example/a00.png")

    def cut(name: str) -> None:
        if name == "takedown:removed":
            raise PowerCut

    for ended in range(200):
        try:
            with patch("pipelines.maintain.takedown.point", cut):
                done = take(here, *["https://a.example/a00.png"][: not ended])
            break
        except PowerCut:
            pass
    assert ended > 10 and done.removed == 0
    assert cards(Path(root.url)) == ["texts"] * 2
    assert told_anywhere(Path(root.url), sha256(NOISE).hexdigest(), "what a00 shows", data=NOISE[60:200]) == []
    found = verify_root(root)
    assert found.problems == [] and found.garbage == []
