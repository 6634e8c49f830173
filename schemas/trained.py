"""Training runs and evaluations as views: the table [training] names their folders."""

from collections.abc import Sequence

from schemas.config.table import Location, Table

LOG, EVALUATION = "log.parquet", "evaluation.json"     # what `training.train` writes; what `training.evaluate` prints
FOLDER = "regexp_extract(filename, '^(.*)/[^/]+$', 1)"


class TrainingConfig(Table):
    """Training runs that the catalog shows. No shard depends on it."""

    folders: tuple[Location, ...] = ()                  # of runs and checkpoints on this machine: their log.parquet is
                                                        # in the view `training`, evaluation.json in `evaluations`


def evaluations_sql(evaluations: Sequence[str], alignment: Sequence[str]) -> str:
    """The view `evaluations`: one row per figure. `evaluations`: files with a line of JSON; `alignment`: the root's
    align.json, if there is one. Both as SQL."""
    said = [
        "SELECT NULL::VARCHAR AS folder, NULL::INTEGER AS round, NULL::JSON AS figures, NULL::JSON AS intervals "
        "WHERE false"
    ]
    if evaluations:
        said.append(
            f"SELECT {FOLDER}, NULL, try_cast(content AS JSON), try_cast(content AS JSON)->'intervals' "
            f"FROM read_text([{', '.join(evaluations)}])"
        )
    for file in alignment:
        known = f"(SELECT try_cast(content AS JSON) AS known FROM read_text({file}))"
        said += [
            f"SELECT NULL, 0, known->'start'->'values', known->'start'->'intervals' FROM {known}",
            f"""
            SELECT NULL, round::INTEGER, figures->'values', figures->'intervals' FROM (
                SELECT unnest(range(1, json_array_length(known->'rounds')::BIGINT + 1)) AS round,
                       unnest(from_json(known->'rounds', '["JSON"]'))->'figures' AS figures FROM {known})""",
        ]
    return f"""
SELECT folder, round, figure, try_cast(figures->>figure AS DOUBLE) AS value,
       try_cast(intervals->figure->>0 AS DOUBLE) AS low, try_cast(intervals->figure->>1 AS DOUBLE) AS high
FROM (SELECT *, unnest(json_keys(figures)) AS figure FROM ({" UNION ALL ".join(said)}))
WHERE try_cast(figures->>figure AS DOUBLE) IS NOT NULL
ORDER BY folder, round, figure"""
