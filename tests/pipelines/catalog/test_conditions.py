"""A condition that fails on some row: one line that names its set and the way out."""

import json

import pytest
from support.corpora import build

from pipelines.catalog.catalog import query
from schemas.errors import UserError

SOURCE = '[source]\nkind = "folder"\npath = "pictures"\n'


@pytest.fixture
def scored(pictures):
    """Captions of which one has a score that is no number."""
    scores = [0.5, "0.7", "n/a", None]
    lines = [{"image": f"{n}.png", "text": f"text {n}", "score": score} for n, score in enumerate(scores)]
    (pictures / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.slow
def test_a_cast_that_fails_names_its_set_and_try_cast(scored, configure):
    sets = "[sets.all]\n[sets.good]\nwhere = \"(extra->>'score')::double > 0.4\"\n"
    with pytest.raises(UserError, match=r"^sets\.good\.where: .*'n/a'.*; write try_cast\(… AS …\)"):
        build(configure(SOURCE + sets))
    root = build(configure(SOURCE + sets.replace("(extra->>'score')::double", "try_cast(extra->>'score' as double)")))
    counted = query(root, "select set, count(*) as n from shards group by set order by set").to_pylist()
    assert [tuple(row.values()) for row in counted] == [("all", 4), ("good", 2)]


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["(extra->>'score')::double > 0.4", "(extra->>'score')::date > '2024-01-01'"])
def test_other_conditions_hint_at_it_too(condition, scored, configure):
    asking = (
        '[endpoints.m]\nmodel = "m"\nurl = "http://127.0.0.1:9/v1"\n[responses]\nendpoint = "m"\n'
        f'[verdicts]\nlabelers = ["m"]\n[instructions]\nquestions = ["What?"]\nwhere = "{condition}"\n'
    )
    with pytest.raises(UserError, match=r"^instructions\.where: .*; write try_cast"):
        build(configure(SOURCE + asking))
    gate = f'[gates]\nscores = "(select bool_and({condition}) from samples)"\n[sets.train]\n'
    with pytest.raises(UserError, match=r"^gates\.scores: .*; write try_cast"):
        build(configure(SOURCE + gate, root="gated"))


@pytest.mark.parametrize("condition", ["extra.score = 'high'", "extra.score in ('low', 'high')", "'en' != extra.score"])
def test_a_field_of_extra_that_is_compared_with_a_text_is_shown_how(condition, scored, configure):
    with pytest.raises(UserError, match=r"^sets\.good\.where: .*; write \(extra->>'name'\) = 'text' to compare"):
        build(configure(f'{SOURCE}[sets.good]\nwhere = "{condition}"\n'))
