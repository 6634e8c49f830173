"""Roots that a stranger has been at, with values of other types and files of other kinds, and what commands say then.

What a stranger changes is made to fit again: a card names the digest of its changed shards, an index that of its
members. So commands read what was changed, instead of ending at the first digest.
"""

import io
import json
import os
import random
import resource
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support.corpora import ONE_PROCESS, build, picture, say, write_tar
from support.mutation import mutated

from pipelines.engine.releases import release_of
from pipelines.engine.tar import TarWriter

TOML = f"""
root = "corpus"
[[source]]
name = "web"
kind = "webdataset"
path = "web"
[[source]]
name = "talks"
kind = "conversations"
path = "talks"
[measures]
[sets.train]
where = "text is not null"
[sets.small]
where = "text is not null"
max_side = 64
stable_json = true
[sets.talks]
task = "conversation"
{ONE_PROCESS}"""
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 1 << 40, 1 << 62, 1 << 70, -(1 << 62), 1.5, 1e300, float("nan"), float("inf"), "", "x",
    "../../diary", "/etc/hostname", "a/b", "\ud800", "\x1b[31m\x07\n", "9" * 5000, "0" * 64, "train", [], [[]], {},
    [1], {"": ""}, [None], {"samples": {}},
)  # fmt: skip
PLACES = ("json", "text", "parquet", "columns", "footer", "document", "index", "kind")
VIEWS = ("rows", "images", "measures", "runs", "changes", "accounting", "releases", "work", "drift")
LONGEST = 10  # seconds of a command


def make(folder: Path) -> Path:
    """A corpus of three sets, each with two releases, and its configuration."""
    write_tar(folder / "web/0.tar", range(3))
    (folder / "talks").mkdir()
    talks = []
    for number in range(2):
        (folder / f"talks/{number}.png").write_bytes(picture(number)[0])
        turns = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": f"A {number}."}]
        talks.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (folder / "talks/talks.json").write_text(json.dumps(talks))
    (folder / "my.toml").write_text(TOML)
    build(folder / "my.toml")
    write_tar(folder / "web/1.tar", range(3, 5))
    build(folder / "my.toml")
    return folder / "corpus"


def changed(value: Any, draws: random.Random) -> Any:
    """A value of JSON in which one place is another, gone, or there twice."""
    return mutated(value, draws, ODD, ("more", "", "\ud800", "set"), 8, (0.1, (1,)))


# What a stranger does to a root: each takes its folder, and says what it did


def change_json(root: Path, draws: random.Random) -> str:
    path = draws.choice(jsons(root))
    value = changed(json.loads(path.read_text()), draws)
    if path.parent.name == "shards" and isinstance(value, dict):
        fit(value)
    path.write_bytes(json.dumps(value).encode("utf-8", "surrogatepass"))
    return str(path.relative_to(root))


def change_text(root: Path, draws: random.Random) -> str:
    path = draws.choice(jsons(root))
    text = path.read_text()
    at = draws.randrange(len(text) + 1)
    odd = draws.choice(("", "\xff", '"', "[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, "9" * 5000, "NaN", "\x00"))
    text = draws.choice((text[:at] + odd + text[at + 1 :], odd, text[:at], text.replace("{", '{"samples": 1, ', 1),
                         text[:-1] + ', "files": [], "samples": 2, "samples": 3}'))  # fmt: skip
    path.write_bytes(text.encode("latin-1", "replace"))
    return f"{path.relative_to(root)}: {text[:80]!r}"


def change_parquet(root: Path, draws: random.Random) -> str:
    """A cell, whose column then has another type."""
    path, table, footer = table_of(root, draws)
    rows = table.to_pylist()
    if rows:
        row = draws.choice(rows)
        name = draws.choice(list(row))
        row[name] = changed(row[name], draws)
    columns = {field.name: column_of([row.get(field.name) for row in rows], field) for field in table.schema}
    write_table(path, pa.table(columns), footer)
    return str(path.relative_to(root))


def change_columns(root: Path, draws: random.Random) -> str:
    """A column is gone, has another name or type, or is full of nulls or odd values."""
    path, table, footer = table_of(root, draws)
    at = draws.randrange(table.num_columns)
    name, rows = table.schema.names[at], table.num_rows
    how = draws.randrange(4)
    if how == 0:
        table = table.remove_column(at)
    elif how == 1:
        table = table.rename_columns([f"{n}x" if n == name else n for n in table.schema.names])
    else:
        odd = draws.choice(([None] * rows, [-1] * rows, ["x"] * rows, [1 << 62] * rows, [[1]] * rows, [1.5] * rows,
                            [b"\xff"] * rows, [{"a": 1}] * rows, ["\x1b[31m"] * rows))  # fmt: skip
        kind = table.schema.field(name).type if odd and odd[0] is None else None
        table = table.set_column(at, name, pa.array(odd, kind))
    write_table(path, table, footer)
    return f"{path.relative_to(root)}: {name}"


def change_footer(root: Path, draws: random.Random) -> str:
    path, table, footer = table_of(root, draws)
    told = json.loads(footer) if footer else {}
    write_table(path, table, json.dumps(changed(told, draws)).encode("utf-8", "surrogatepass"))
    return str(path.relative_to(root))


def change_document(root: Path, draws: random.Random) -> str:
    """The .json of a sample, or another member, with all digests made to fit."""
    card = read_card(path := draws.choice(cards(root)))

    def change(row: dict, members: dict[str, bytes]) -> None:
        ext = draws.choice([*members, "json", "json", "json"])
        if ext == "json":
            members[ext] = json.dumps(changed(json.loads(members[ext]), draws)).encode("utf-8", "surrogatepass")
        else:
            members[ext] = draws.choice((b"", b"\xff\xfe", members[ext][:50], draws.randbytes(99)))

    repack(root, card, change)
    write_card(root, path, card)
    return path.name


def change_index(root: Path, draws: random.Random) -> str:
    """A row of an index, whose types stay as they are."""
    card = read_card(path := draws.choice(cards(root)))
    entry = draws.choice(card["shards"])
    index = root / "shards" / entry["index"]
    table, footer = pq.read_table(index), pq.read_metadata(index).metadata.get(b"shardmill")
    rows = table.to_pylist()
    row = draws.choice(rows)
    member = draws.choice([row, draws.choice(row["members"])])
    name = draws.choice([name for name, value in member.items() if isinstance(value, int | str)])
    odd = (-1, 0, 1 << 40, 1 << 62, -(1 << 62)) if isinstance(member[name], int) else (
        "", "../x", "json", "a/b", "\x1b", "x" * 300, "ü", "0" * 64, "txt", ".", "png\n")  # fmt: skip
    member[name] = draws.choice(odd)
    write_table(index, pa.Table.from_pylist(rows, schema=table.schema), footer)
    entry["index_sha256"] = sha256(index.read_bytes()).hexdigest()
    write_card(root, path, card)
    return f"{index.name}: {name} = {member[name]!r}"


def change_kind(root: Path, draws: random.Random) -> str:
    """Something else in place of a file."""
    path = draws.choice([path for path in sorted(root.rglob("*")) if path.is_file()])
    path.unlink()
    pipe = path.with_suffix(".pipe")
    kinds: dict[str, Callable[[], Any]] = {
        "pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "socket": lambda: bound(path), "empty": path.touch,
        "link to a device": lambda: path.symlink_to("/dev/zero"), "link to nothing": lambda: path.symlink_to("nothing"),
        "link to itself": lambda: path.symlink_to(path.name), "without end": lambda: sparse(path),
        "link to a pipe": lambda: (os.mkfifo(pipe), path.symlink_to(pipe.name)),
        "gone": lambda: None,
    }  # fmt: skip
    kind = draws.choice(list(kinds))
    kinds[kind]()
    return f"{path.relative_to(root)}: {kind}"


CHANGES = dict(zip(PLACES, (change_json, change_text, change_parquet, change_columns, change_footer, change_document,
                            change_index, change_kind), strict=True))  # fmt: skip


def bound(path: Path) -> None:
    """A socket; the path of one has at most 107 characters."""
    here = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 << 30)


def jsons(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*.json")) if path.name != "lock.json"]


def cards(root: Path) -> list[Path]:
    return [path for path in sorted((root / "shards").glob("*.json")) if "@" not in path.name]


def read_card(path: Path) -> dict:
    return json.loads(path.read_text())


def fit(card: dict) -> None:
    """Gives a card the release of its shards, if it has any."""
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        card["release"] = release_of(card["shards"])


def write_card(root: Path, path: Path, card: dict) -> None:
    """A card, under its own name and under that of its release."""
    fit(card)
    for name in (path.name, f"{card['set']}@{card['release']}.json"):
        (root / "shards" / name).write_text(json.dumps(card, indent=1))


def repack(root: Path, card: dict, change: Callable[[dict, dict[str, bytes]], None]) -> None:
    """Writes the first shard of a card again, after a change of the members of its first sample."""
    entry = card["shards"][0]
    index, old = root / "shards" / entry["index"], (root / "shards" / entry["tar"]).read_bytes()
    table, footer = pq.read_table(index), pq.read_metadata(index).metadata.get(b"shardmill")
    rows, file = table.to_pylist(), io.BytesIO()
    tar = TarWriter(file)
    for number, row in enumerate(rows):
        members = {m["ext"]: old[m["byte_offset"] : m["byte_offset"] + m["size"]] for m in row["members"]}
        if number == 0:
            change(row, members)
        row["byte_offset"] = tar.size
        row["members"] = [
            {"ext": ext, "byte_offset": tar.add(f"{row['sample']}.{ext}", data), "size": len(data),
             "sha256": sha256(data).hexdigest()}
            for ext, data in members.items()
        ]  # fmt: skip
        row["size"] = tar.size - row["byte_offset"]
    entry["sha256"] = tar.close()
    (root / "shards" / entry["tar"]).write_bytes(file.getvalue())
    write_table(index, pa.Table.from_pylist(rows, schema=table.schema), footer)
    entry |= {"bytes": tar.size, "index_sha256": sha256(index.read_bytes()).hexdigest()}
    card["bytes"] = sum(entry["bytes"] for entry in card["shards"])


def table_of(root: Path, draws: random.Random) -> tuple[Path, pa.Table, bytes | None]:
    path = draws.choice(sorted(root.rglob("*.parquet")))
    with pq.ParquetFile(path) as file:
        return path, file.read(), (file.metadata.metadata or {}).get(b"shardmill")


def column_of(values: list, field: pa.Field) -> pa.Array:
    """A column of one type: its own, if the values still fit."""
    for kind in (field.type, None):
        try:
            return pa.array(values, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
    return pa.array([repr(value) for value in values])


def write_table(path: Path, table: pa.Table, footer: bytes | None) -> None:
    """A table; if it is the index of a shard, published cards name its new digest."""
    with pq.ParquetWriter(path, table.schema, store_schema=False, compression="zstd") as writer:
        writer.write_table(table)
        if footer is not None:
            writer.add_key_value_metadata({b"shardmill": footer})
    if path.parent.name == "shards":
        for card_path in cards(path.parents[1]):
            card = read_card(card_path)
            for entry in card["shards"]:
                if entry["index"] == path.name:
                    entry["index_sha256"] = sha256(path.read_bytes()).hexdigest()
                    write_card(path.parents[1], card_path, card)


# What commands make of it


def commands(root: Path, draws: random.Random) -> list[tuple[str, ...]]:
    """Verify, and some others."""
    names = [path.stem for path in sorted((root / "shards").glob("*.json"))] or ["train"]
    one, other = draws.choice(names), draws.choice(names)
    form = draws.choice(("huggingface", "trl", "llava", "minicpm-v", "rlaif-v"))
    others = [
        ("stats",), ("urls", one), ("urls", one, "--wids"), ("sql", "from samples"), ("sql", "from shards"),
        ("sql", f"from {draws.choice(VIEWS)}"),
        ("releases",), ("diff", one, other), ("diff", one, other, "--names"),
        ("export-set", one, str(root.parent / f"out-{form}"), "--form", form), ("clean", "--grace", "0"), ("report",),
    ]  # fmt: skip
    return [("verify",), *draws.sample(others, 4)]


class TooLong(BaseException):
    """A command did not end."""


@contextmanager
def limited(seconds: int):
    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz_roots(folder: Path, count: int | None = None, seconds: float = 0, seed: int = 0, patience: int = 60) -> dict:
    """Changes so many copies of a corpus, or for so long, and asks some commands about each. Gives what came of it, and
    under `wrong` what should not have: a traceback, several lines of an error, a command that does not end."""
    made = make(folder / "made")
    (folder / "diary").write_text("mine")
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    number, codes, wrong, slowest = 0, Counter(), [], 0.0
    while (number < count) if count else (time.monotonic() - began < seconds):
        draws = random.Random(f"{seed}/{number}")
        root = folder / "copy/corpus"
        shutil.rmtree(folder / "copy", ignore_errors=True)
        shutil.copytree(made, root)
        place = PLACES[number % len(PLACES)]
        what = f"{number}: {place}: {CHANGES[place](root, draws)}"
        for name, *words in commands(root, draws):
            started = time.process_time()
            try:
                with limited(patience):
                    said = say(name, root, *words)
            except (Exception, TooLong) as error:
                wrong.append(f"{what}: {name} {words}: {error!r}")
                continue
            slowest = max(slowest, time.process_time() - started)
            codes[f"{name} {said.code}"] += 1
            if said.code not in (0, 1, 2) or said.err.count("\n") > 1 or "\x1b" in said.out + said.err:
                wrong.append(f"{what}: {name} {words}: {said}")
        if (folder / "diary").read_text() != "mine":
            wrong.append(f"{what}: a file outside the root was changed")
        number += 1
    return {
        "runs": number, "codes": dict(sorted(codes.items())), "wrong": wrong, "slowest": round(slowest, 2),
        "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
