"""Records in the ledger how the samples of releases are distributed, for the view `drift`."""

from collections.abc import Collection

import duckdb

from pipelines.catalog.catalog import connect, one_line, stage_files
from pipelines.catalog.ledger_files import ledger_files
from pipelines.engine.ledger import Ledger
from pipelines.engine.manifest import stages_of
from pipelines.engine.parquet import Corrupt
from pipelines.engine.root import Root
from schemas.drift import distributions_sql
from schemas.shards import Card
from schemas.stages import of_corpus
from schemas.views import OF_VIEWS, literal

KNOWN = 'SELECT DISTINCT "set", release FROM distributions'


def record_distributions(root: Root, ledger: Ledger, cards: Collection[Card]) -> None:
    """Records the distributions of the published releases that have none yet. They are made of the corpus as it is now.

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
        question = distributions_sql(", ".join(map(literal, releases)))
        files = stage_files(root, of_corpus(stages).values())
        with connect(root, files, stages.values(), [question]) as connection:
            rows = connection.sql(question).to_arrow_table().to_pylist()
    except duckdb.Error as error:
        raise Corrupt(f"distributions: {one_line(error)}") from None
    if rows:
        ledger.distribute([{"run": ledger.run, "release": releases[row["set"]], **row} for row in rows])
