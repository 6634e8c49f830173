"""Records in the ledger how the samples of releases are distributed, for the view `drift`."""

from collections.abc import Collection, Mapping

import duckdb

from pipelines.catalog.catalog import connect, one_line
from pipelines.catalog.groups import add_answer, ask_each, groups, on_disk
from pipelines.catalog.ledger_files import ledger_files
from pipelines.engine.commit import Commit
from pipelines.engine.ledger import Ledger
from pipelines.engine.manifest import stages_of
from pipelines.engine.parquet import Corrupt
from pipelines.engine.root import Root
from schemas.drift import DISTRIBUTED, counts_sql
from schemas.shards import Card
from schemas.views import OF_VIEWS, literal

KNOWN = 'SELECT DISTINCT "set", release FROM distributions'


def record_distributions(
    root: Root, ledger: Ledger, cards: Collection[Card], commits: Mapping[str, Mapping[int, Commit]]
) -> None:
    """Records the distributions of the published releases that have none yet. They are made of the corpus as it is now,
    whose stages have these `commits`.

    Sets of pairs and of best responses have none. Raises `Corrupt` for a file that cannot be read.
    """
    releases = {card["set"]: card["release"] for card in cards if card["task"] not in OF_VIEWS}
    try:
        with connect(root, {"distributions": ledger_files(root)["distributions"]}, queries=[KNOWN]) as connection:
            for set_name, release in connection.sql(KNOWN).fetchall():
                if releases.get(set_name) == release:
                    del releases[set_name]
        if not releases:
            return
        stages = stages_of(root)
        question = counts_sql(", ".join(map(literal, releases)))
        asked = groups(commits["rows"], commits["selection"])
        with on_disk() as gathered:
            gathered.execute('CREATE TABLE counts ("set" VARCHAR, measure VARCHAR, value VARCHAR, n BIGINT)')
            for _, connection in ask_each(root, [*stages.values()], commits, asked, [question]):
                add_answer(gathered, "counts", connection.sql(question).to_arrow_table())
            rows = gathered.sql(DISTRIBUTED).to_arrow_table().to_pylist()
    except duckdb.Error as error:
        raise Corrupt(f"distributions: {one_line(error)}") from None
    if rows:
        ledger.distribute([{"run": ledger.run, "release": releases[row["set"]], **row} for row in rows])
