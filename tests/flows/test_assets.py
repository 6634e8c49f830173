"""The keys of shard sets as assets, and what is not shown in Prefect."""

import re

import pytest
from prefect.assets import Asset
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.assets import asset_key


@pytest.mark.parametrize("root", ["/data/corpus", "s3://bucket/corpus", "/data/team-a/corpus_1.2"])
def test_a_plain_root_is_its_own_key(root):
    assert asset_key(root, "train") == f"{root if '://' in root else 'file://' + root}/shards/train"


def test_every_root_has_a_valid_key_of_its_own():
    odd = (
        "my corpora",
        "my-corpora",
        "日本",
        "中文",
        "a%20b",
        "a#b",
        "a?b",
        "a'b",
        'a"b',
        "a[b]",
        "a\nb",
        "{{ a }}",
        "a" * 600,
    )
    roots = [f"/data/{name}" for name in odd] + ["s3://bucket/my corpora", "gcs+x://bucket/c", "S3://bucket/c"]
    names = ("train", "日本", "b" * 600)
    keys = [asset_key(root, name) for root in roots for name in names]
    assert len({*keys}) == len(roots) * len(names)
    for key in keys:
        assert Asset(key=key).key == key and re.fullmatch(r"[a-z0-9]+://[\w./-]+", key)
    assert asset_key("/data/my corpora", "train").startswith("file:///data/my-corpora/shards/train-")


@pytest.mark.parametrize("error", [ValueError("bad key"), OSError(28, "full"), RuntimeError("no flow")])
def test_what_cannot_be_shown_does_not_fail_a_run(error):
    from flows.build_corpus import showing

    with showing("the releases"):
        raise error
    with pytest.raises(KeyboardInterrupt), showing("the releases"):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_a_root_with_a_space_is_published_and_announced(server, tmp_path):
    from support.corpora import ONE_PROCESS
    from support.prefect_server import until

    from flows.build_corpus import build_corpus

    folder = tmp_path / "my corpora é"
    folder.mkdir()
    scenes = f'root = "corpus"\n[source]\nkind = "scenes"\ncount = 4\n[sets.train]\n{ONE_PROCESS}'
    (folder / "my.toml").write_text(scenes)
    with temporary_settings({PREFECT_API_URL: server.url}):
        state = build_corpus(folder / "my.toml", return_state=True)
    assert (state.name, state.message.split(";")[-1]) == ("Completed", " 4 samples")
    key = asset_key(str(folder / "corpus"), "train")
    filter = {"event": {"name": ["prefect.asset.materialization.succeeded"]}, "resource": {"id": [key]}}
    until(lambda: server.ask("events/filter", {"filter": filter})["events"])
