"""Proves for `shardmill verify` that nothing is left of what was taken down."""

import hashlib
import json
import re
import tarfile
from collections.abc import Collection, Iterator
from contextlib import suppress

import duckdb
import pyarrow as pa

from pipelines.catalog.catalog import one_line, open_catalog
from pipelines.engine.manifest import stages_of
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.releases import card_names, read_card, read_index
from pipelines.engine.root import Root
from pipelines.stages.takedown_list import TakedownList, read_takedowns
from schemas.arrow import Row
from schemas.shards import ShardEntry
from schemas.stage import StageInfo
from schemas.stages import STAGES, Stages
from schemas.takedown import REASON
from schemas.views import quoted


def left_of(root: Root, garbage: list[str]) -> Iterator[str]:
    """A line for each file under a root that has something of what was taken down. Reads `garbage` too."""
    taken = read_takedowns(root)
    if not any(taken):
        return
    with open_catalog(root) as connection:
        lists = {"taken_keys": taken.key, "taken_images": taken.image}
        for name, values in lists.items():
            connection.register(name, pa.table({"value": pa.array(sorted(values), pa.string())}))
        names = {name: frozenset(names_of(stage)) for name, stage in stages_of(root).items()}
        connection.create_function(
            "tells", lambda stage, text: tells(json.loads(text), names.get(stage, NAMES)), [str, str], bool
        )
        for where, condition in _conditions(stages_of(root)):
            try:
                ((count, first),) = connection.sql(
                    f"SELECT count(*), min(key) FROM {quoted(where)} WHERE {condition}"
                ).fetchall()
            except duckdb.Error as error:
                yield f"{where}: cannot be checked for what was taken down: {one_line(error)}"
                continue
            if count:
                yield f"{where}: {count} rows have something of what was taken down, the first is {first}; {TAKE_DOWN}"
    seen: set[str] = set()
    for card in (read_card(root, name) for name in card_names(root, releases=True)):
        for entry in card["shards"] if card else ():
            if entry["index"] not in seen:
                seen.add(entry["index"])
                yield from _of_index(root, entry, taken)
    for name in garbage:
        if name.endswith((".tar", ".parquet", ".arrows")) or "/." in f"/{name}":
            yield from _of_garbage(root, name, taken)


TAKE_DOWN = "run `shardmill takedown` again"


def _conditions(stages: Stages) -> Iterator[tuple[str, str]]:
    """(view, a condition that must hold for no row of the view)."""
    for name, stage in stages.items():
        told = [_tells(field) for field in stage.schema if field.name not in names_of(stage)]
        kept = f" OR reason IS DISTINCT FROM '{REASON}'" if name == "rows" else " OR reason IS NULL"
        yield name, f"left(key, 16) IN (FROM taken_keys) AND ({' OR '.join(told) or 'false'}{kept})"
        for column in {"sha256", "checksum"} & {*stage.schema.names} if not stage.own else ():
            digest = column if column == "sha256" else "lower(regexp_extract(checksum, '^sha256:(.*)$', 1))"
            yield name, f"sha256({digest}) IN (FROM taken_images)"
    yield "recorded_changes", "left(key, 16) IN (FROM taken_keys) AND (tells(stage, before) OR tells(stage, after))"


def names_of(stage: StageInfo) -> set[str]:
    """The columns of a stage that only name a row, or say that it was taken down."""
    return {"key", "reason", "detail", "made_from", *stage.names}


NAMES = frozenset().union(*(names_of(stage) for stage in STAGES.values()))


def _tells(field: pa.Field) -> str:
    """The condition that a column is not empty. A column that cannot be null is empty if its list or object is."""
    if pa.types.is_list(field.type):
        return f"len({quoted(field.name)}) > 0"
    return f"{quoted(field.name)} IS NOT NULL" if field.nullable else f"{quoted(field.name)} != '{{}}'"


def tells(row: Row, names: Collection[str] = NAMES) -> bool:
    """Whether a row, or a change of one, holds more than names and the fact that they were taken down."""
    detail = row.get("detail")
    named = detail is None or re.fullmatch("[a-z0-9_]+", detail) or detail.endswith(REASON)
    return not named or any(value not in (None, [], "{}") for name, value in row.items() if name not in names)


def _of_index(root: Root, entry: ShardEntry, taken: TakedownList) -> Iterator[str]:
    try:
        rows = read_index(root, entry)
    except Corrupt:  # reported by `verify`
        return
    for row in rows:
        if taken.covers_sample(row):
            yield f"shards/{entry['index']}: sample {row['sample']} was taken down; {TAKE_DOWN}"


def _of_garbage(root: Root, name: str, taken: TakedownList) -> Iterator[str]:
    """Checks a file that no commit names; it may be incomplete."""
    if name.endswith(".parquet"):
        try:
            rows = read_rows(root, name)
        except Corrupt:
            rows = []
        of_it = [row for row in rows if str(row.get("key"))[:16] in taken.key]
        if any(tells(row) or row.get("reason") is None for row in of_it):
            yield f"{name}: has something of what was taken down; {TAKE_DOWN}"
        return
    if name.endswith(".arrows"):  # packs that training planned: a stream, and its SHA-256
        with suppress(pa.ArrowException, OSError, Corrupt, KeyError), pa.ipc.open_stream(root.read(name)) as stream:
            if any(map(taken.covers_sample, stream.read_all().select(["sample", "members"]).to_pylist())):
                yield f"{name}: has something of what was taken down; {TAKE_DOWN}"
        return
    try:
        with root.open(name) as raw, tarfile.open(fileobj=raw, mode="r|") as tar:
            for member in tar:
                data = tar.extractfile(member)
                named = member.name[:16] in taken.key  # an encoded image has another digest than its original
                if data and (named or taken.has_image(hashlib.sha256(data.read()).hexdigest())):
                    yield f"{name}: {member.name} was taken down; {TAKE_DOWN}"
    except (tarfile.TarError, EOFError):
        pass
