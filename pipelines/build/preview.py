"""`shardmill try captions my.toml`: how a model rewrites some captions, before a run pays for all of them.

Nothing is committed. The answers are stored as chunks beside the partitions, where the next run finds them.
"""

from collections.abc import Iterator
from itertools import islice
from shlex import quote

from pipelines.build.corpus import Corpus
from pipelines.build.run import begin
from pipelines.engine.checkpoints import write_chunk
from pipelines.engine.commit import file_of, read_commit
from pipelines.engine.ledger import Ledger, new_attempt
from pipelines.engine.make_partition import OldRows
from pipelines.engine.partition_stage import Unit, finished, left_out_by, read_inputs
from pipelines.engine.root import Root
from pipelines.stages.captions import Rewrite
from schemas.arrow import Row
from schemas.errors import UserError


def try_captions(corpus: Corpus, rows: int) -> list[Row]:
    """The first `rows` rows whose captions a run would have rewritten, in order of partitions.

    Raises `UserError` without a table `[captions]`, or if the stages before it are not made.
    """
    stage = corpus.made.get("captions")
    if not isinstance(stage, Rewrite):
        raise UserError(f'{corpus.name}: captions: missing; add the table [captions] with endpoint = "…"')
    partitions = list(corpus.commits("rows")["rows"])
    if not partitions:
        before = corpus.before(stage.name)[-1]
        raise UserError(f"{corpus.name}: no rows yet; first run: shardmill run {quote(corpus.name)} --until {before}")
    tried: list[Row] = []
    with begin(corpus) as run:
        ledger = run.ledger
        stage = stage.ready(corpus.root, ledger)
        for partition in partitions:
            if len(tried) < rows:
                tried += _tried(stage, corpus.root, ledger, partition, rows - len(tried))
    return tried


def _tried(stage: Rewrite, root: Root, ledger: Ledger, partition: int, most: int) -> list[Row]:
    """The rows of a partition that would be rewritten. Answers that are not stored yet are asked for and stored."""
    upstream = {}
    for name in stage.inputs:
        upstream[name] = read_commit(root, file_of(name, partition))
        if upstream[name] is None:
            raise UserError(f"captions: {name} is not made yet; first run: shardmill run … --until {name}")
    units = list(islice(_asked(stage, root, partition, upstream), most))
    old = OldRows.read(stage, root, partition, read_commit(root, stage.file(partition)), set())
    at_hand = dict(old.at_hand)
    todo = {unit.key: unit for unit in {u.made_from: u for u in units if u.made_from not in at_hand}.values()}
    made, measured = [], []
    try:
        for key, fields in stage.make([old.handed_on(unit, stage).row for unit in todo.values()], root):
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
