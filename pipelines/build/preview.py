"""`shardmill try captions my.toml`: what a model makes of some captions, before a run pays for all of them.

Nothing is committed. The answers are put down as chunks beside the partitions, where the run that follows finds them.
"""

from collections.abc import Iterator
from itertools import islice
from shlex import quote

from pipelines.build.corpus import Corpus
from pipelines.build.run import begin
from pipelines.engine.checkpoints import read_chunks, write_chunk
from pipelines.engine.commit import file_of, old_rows, read_commit
from pipelines.engine.ledger import Ledger, new_attempt
from pipelines.engine.partition_stage import Unit, finished, left_out_by, read_inputs
from pipelines.engine.root import Root
from pipelines.stages.captions import Rewrite
from schemas.arrow import Row
from schemas.errors import UserError


def try_captions(corpus: Corpus, rows: int) -> list[Row]:
    """The rows of so many captions that a run would have rewritten, those at hand included, in order of partitions.

    Raises `UserError` if there is no table `[captions]`, or the stages before it are not made.
    """
    stage = corpus.made.get("captions")
    if stage is None:
        raise UserError(f'{corpus.name}: captions: missing; add the table [captions] with endpoint = "…"')
    partitions = list(corpus.commits("rows")["rows"])
    if not partitions:
        before = corpus.before(stage.name)[-1]
        raise UserError(
            f"{corpus.name}: there are no rows yet; first: shardmill run {quote(corpus.name)} --until {before}"
        )
    found: list[Row] = []
    with begin(corpus) as run:
        ledger = run.ledger
        stage = stage.ready(corpus.root, ledger)
        for partition in partitions:
            if len(found) < rows:
                found += _tried(stage, corpus.root, ledger, partition, rows - len(found))
    return found


def _tried(stage: Rewrite, root: Root, ledger: Ledger, partition: int, most: int) -> list[Row]:
    """The rows of a partition that would be rewritten; those that are not at hand are asked for, and put down."""
    upstream = {name: read_commit(root, file_of(name, partition)) for name in stage.inputs}
    if missing := [name for name, commit in upstream.items() if commit is None]:
        raise UserError(f"captions: {missing[0]} is not made yet; first: shardmill run … --until {missing[0]}")
    units = list(islice(_asked(stage, root, partition, upstream), most))
    there = [*old_rows(root, stage.file(partition), stage.info.optional), *read_chunks(root, stage, partition)]
    at_hand = {row["made_from"]: row for row in there}
    todo = {unit.key: unit for unit in {u.made_from: u for u in units if u.made_from not in at_hand}.values()}
    made, measured = [], []
    try:
        for key, fields in stage.make([{**unit.row, "before": None} for unit in todo.values()], root):
            row, _, seen = finished(stage, todo[key], fields)
            made.append(row)
            measured += seen
    finally:
        if made:
            ledger.measure(stage.measures, stage.name, partition, measured, new_attempt())
            write_chunk(root, stage, partition, made)
    at_hand |= {row["made_from"]: row for row in made}
    return [stage.named(unit, at_hand[unit.made_from]) for unit in units]


def _asked(stage: Rewrite, root: Root, partition: int, upstream: dict) -> Iterator[Unit]:
    made_with = stage.made_with()
    for key, row in read_inputs(stage, root, partition, upstream).items():
        if not left_out_by(row) and stage.is_asked(row):
            yield from stage.units(key, row, made_with)
