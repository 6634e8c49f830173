"""Questions about many partitions are asked of some at a time, and say what one question says."""

import pytest
from support.corpora import ONE_PROCESS, build, write_tar

from pipelines.catalog import groups as groups_module
from pipelines.catalog.catalog import query
from pipelines.catalog.groups import add_answer, ask_each, groups, on_disk
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.manifest import stages_of
from pipelines.reports.report import gather

TOML = f"""
root = "{{name}}"
[source]
kind = "webdataset"
path = "source"
[images]
min_side = 30
[sets.train]
{ONE_PROCESS}"""
QUESTION = "SELECT partition, key, reason, width FROM samples ORDER BY partition, key"


@pytest.fixture
def root(tmp_path):
    for number in range(5):
        write_tar(tmp_path / f"source/{number}.tar", range(10 * number, 10 * number + number + 1))
    (tmp_path / "one.toml").write_text(TOML.format(name="one"))
    return build(tmp_path / "one.toml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("most", "rows", "expected"),
    [(256, 50_000, [[0, 1, 2, 3, 4]]), (2, 50_000, [[0, 1], [2, 3], [4]]), (256, 5, [[0, 1], [2], [3], [4]])],
)
def test_groups_are_bounded_by_partitions_and_rows(most, rows, expected, root, monkeypatch):
    monkeypatch.setattr(groups_module, "MOST", most)
    monkeypatch.setattr(groups_module, "MOST_ROWS", rows)
    stages = stages_of(root)
    commits = {name: read_commits(root, name) for name in stages}
    found = [*groups(commits["rows"], reversed(range(5)))]
    assert found == expected and [*groups(commits["rows"], [])] == []
    with on_disk() as gathered:
        for group, connection in ask_each(root, [*stages.values()], commits, found, [QUESTION]):
            answer = connection.sql(QUESTION).to_arrow_table()
            assert {*answer["partition"].to_pylist()} == {*group}
            add_answer(gathered, "answers", answer)
        assert gathered.sql("FROM answers").to_arrow_table().to_pylist() == query(root, QUESTION).to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("most", [256, 1])
def test_the_report_and_the_distributions_do_not_depend_on_groups(most, root, tmp_path, monkeypatch):
    monkeypatch.setattr(groups_module, "MOST", most)
    (tmp_path / "two.toml").write_text(TOML.format(name="two"))
    again = build(tmp_path / "two.toml")
    for name in ("charts", "hosts", "formats", "left_out"):
        assert gather(again)[name] == gather(root)[name]
    of = 'SELECT "set", measure, value, samples FROM distributions ORDER BY ALL'
    assert query(again, of).to_pylist() == query(root, of).to_pylist() != []
