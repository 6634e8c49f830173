"""A run's measurements: `log.parquet` for the catalog, and `log.jsonl` with the same rows and the tables of stages."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.printable import printable_line
from schemas.training import TRAINING, StageTable, TrainingRow
from training.whole_files import replace

LOG, LINES = "log.parquet", "log.jsonl"


class RunLog:
    """The log of a run, up to its step `done` where it goes on.

    A line of `log.jsonl` has the `kind` "stage", a table of `training.stage_table`, or "step", a row.
    """

    def __init__(self, run: Path, done: int = 0):
        self.run = run
        try:
            rows = list(read_log(run))
        except (pa.ArrowException, OSError) as error:  # it is only shown: the run does not need it
            print(printable_line(f"{run / LOG}: cannot be read and is begun again: {error}"), flush=True)
            rows = []
        # A row of step 0 is of the stage that begins behind `done`: it will be measured again.
        self.rows: list[TrainingRow] = [row for row in rows if row["total"] <= done - (row["step"] == 0)]
        begun = {row["stage"] for row in self.rows}
        self.tables = {table["stage"]: table for table in read_tables(run) if table["stage"] in begun}

    def add(self, row: TrainingRow) -> None:
        self.rows.append(row)

    def write(self) -> None:
        """Replaces both files."""
        rows = pa.Table.from_pylist(self.rows, TRAINING)
        parquet = BytesIO()
        pq.write_table(rows, parquet)
        replace(self.run / LOG, parquet.getvalue())
        lines, told = [], set[str]()
        for row in rows.to_pylist():
            if row["stage"] in self.tables and row["stage"] not in told:
                lines.append({"kind": "stage", **self.tables[row["stage"]]})
            told.add(row["stage"])
            lines.append({"kind": "step", **row})
        lines += [{"kind": "stage", **table} for stage, table in self.tables.items() if stage not in told]
        replace(self.run / LINES, "".join(json.dumps(line) + "\n" for line in lines))


def read_log(run: Path) -> Sequence[TrainingRow]:
    """The rows of a run."""
    return pq.read_table(run / LOG).to_pylist() if (run / LOG).exists() else []


def read_tables(run: Path) -> list[StageTable]:
    """The tables of the stages that a run has begun."""
    try:
        lines = [json.loads(line) for line in (run / LINES).read_text().splitlines()]
    except (FileNotFoundError, ValueError):  # none yet, or half a line of a killed writer
        return []
    stages = [{key: line[key] for key in line if key != "kind"} for line in lines if line["kind"] == "stage"]
    return [StageTable(**stage) for stage in stages]
