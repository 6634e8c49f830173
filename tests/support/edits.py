"""A source as plain data that can be edited, in any of the formats that a corpus is made from."""

import io
import json
import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from os import utime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from support.corpora import picture

PICTURES = 24  # that there are
TEXTS = (
    "A square above a sign of a shop.",
    "IMG_0042.JPG",
    "sale sale sale sale sale sale",
    "a sign",
    "Someone painted this square by hand, and put a word below it.",
    "ein Schild unter einem Quadrat",
    "",
    None,
)
LISTED = {"tables", "laion", "conversations"}  # formats whose files are lists of images that lie beside them


@dataclass(frozen=True)
class Sample:
    name: str
    picture: int
    form: str = "png"  # a function of FORMS
    text: str | None = None
    more: tuple[int, ...] = ()  # pictures of its conversation beside the first


@dataclass(frozen=True)
class Files:
    """The source files, each with its samples in order."""

    kind: str
    files: dict[str, tuple[Sample, ...]]
    cut: dict[str, float] = field(default_factory=dict)  # file -> the share of a tar's bytes that is left


# Forms of a picture


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def image_of(number: int) -> Image.Image:
    return Image.open(io.BytesIO(picture(number)[0]))


FORMS = {
    "png": lambda number: picture(number)[0],
    "jpg": lambda number: encoded(image_of(number), "JPEG", quality=88),  # a near duplicate
    "small": lambda number: encoded(image_of(number).resize((160, 160)), "PNG"),  # and another
    "tiny": lambda number: encoded(image_of(number).resize((8, 8)), "PNG"),
    "tall": lambda number: encoded(image_of(number).resize((30, 90)), "PNG"),
    "cut": lambda number: picture(number)[0][: len(picture(number)[0]) // 2],
    "html": lambda number: b"<html>There is no picture %d.</html>" % number,
}


@cache
def bytes_of(number: int, form: str) -> bytes:
    return FORMS[form](number)


def ext(form: str) -> str:
    return "jpg" if form == "jpg" else "png"


# Writing


def write(source: Files, folder: Path) -> None:
    """Makes a folder say what a source does: files whose bytes are others are written, and those that are gone removed.
    Lists of images are read again when an image of theirs is another."""
    wanted, changed = dict(_rendered(source)), False
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in wanted:
            path.unlink()
            changed = True
    for name, data in wanted.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            changed = True
    if changed and source.kind in LISTED:
        for name in source.files:
            utime(folder / "lists" / name)


def configured(kind: str, rows_per_partition: int) -> dict:
    """The table [source] of a configuration."""
    table = {"kind": "folder" if kind == "tables" else kind, "path": "source"}
    if kind in LISTED:
        table["path"] = "source/lists"
    if kind in ("laion", "conversations"):
        table["images"] = "source/pictures"
    if kind == "laion":
        table["image_column"] = "image"
    return table | ({} if kind == "webdataset" else {"rows_per_partition": rows_per_partition})


def _rendered(source: Files) -> Iterator[tuple[str, bytes]]:
    for name, samples in source.files.items():
        if source.kind == "webdataset":
            data = _tar(samples)
            yield name, data[: int(len(data) * source.cut.get(name, 1))]
            continue
        if source.kind == "folder":
            for one in samples:
                yield f"{name}/{one.name}.{ext(one.form)}", bytes_of(one.picture, one.form)
                if one.text is not None:
                    yield f"{name}/{one.name}.txt", one.text.encode()
            continue
        pictures = "lists/pictures" if source.kind == "tables" else "pictures"
        for one in samples:
            yield f"{pictures}/{_path(one)}", bytes_of(one.picture, one.form)
            for number in one.more:
                yield f"{pictures}/more/{number}.png", bytes_of(number, "png")
        yield f"lists/{name}", LISTS[source.kind](samples)


def _path(one: Sample) -> str:
    return f"{one.name}.{ext(one.form)}"


def _tar(samples: tuple[Sample, ...]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for one in samples:
            members = {ext(one.form): bytes_of(one.picture, one.form), "json": b'{"n": %d}' % one.picture}
            members |= {} if one.text is None else {"txt": one.text.encode()}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{one.name}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _table(samples: tuple[Sample, ...]) -> bytes:
    lines = [{"image": f"pictures/{_path(one)}", "text": one.text, "n": one.picture} for one in samples]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _laion(samples: tuple[Sample, ...]) -> bytes:
    buffer = io.BytesIO()
    columns = {
        "url": [f"http://host{one.picture % 3}.example/{one.name}" for one in samples],
        "text": [one.text for one in samples],
        "image": [None if one.picture % 7 == 6 else _path(one) for one in samples],  # only a URL is known of some
        "n": [one.picture for one in samples],
    }
    kinds = (pa.string(), pa.string(), pa.string(), pa.int64())
    pq.write_table(
        pa.table({name: pa.array(columns[name], kind) for name, kind in zip(columns, kinds, strict=False)}), buffer
    )
    return buffer.getvalue()


def _conversations(samples: tuple[Sample, ...]) -> bytes:
    said = []
    for one in samples:
        images = [_path(one), *(f"more/{number}.png" for number in one.more)]
        marks = {f"<image_{n:02d}>": path for n, path in enumerate(images)}
        turns = [{"role": "user", "content": f"{' '.join(marks)} What is it?"}]
        turns += [{"role": "assistant", "content": one.text}] if one.text is not None else []
        said.append({"id": one.name, "image": marks, "conversations": turns, "n": one.picture})
    return json.dumps(said).encode()


LISTS = {"tables": _table, "laion": _laion, "conversations": _conversations}
SUFFIX = {"webdataset": ".tar", "folder": "", "tables": ".jsonl", "laion": ".parquet", "conversations": ".json"}


# Drawing and editing


def drawn_sample(source: Files, draws: random.Random) -> Sample:
    """A sample of a name that is not there; most are fit to be kept."""
    there = {one.name for samples in source.files.values() for one in samples}
    form = draws.choice([*FORMS, "png", "png", "png", "png", "jpg", "jpg"])
    more = draws.sample(range(PICTURES), draws.choice((0, 0, 1, 2))) if source.kind == "conversations" else ()
    names = (f"s{draws.randrange(10_000):04d}" for _ in count())
    name = next(name for name in names if name not in there)
    return Sample(name, draws.randrange(PICTURES), form, draws.choice(TEXTS), tuple(more))


def drawn_file(source: Files, draws: random.Random, most: int = 10) -> Files:
    """The source with one more file."""
    names = (f"{draws.choice('abcdefgh')}{draws.randrange(100)}{SUFFIX[source.kind]}" for _ in count())
    name = next(name for name in names if name not in source.files)
    source = replace(source, files={**source.files, name: ()})
    for _ in range(draws.randint(2, most)):
        source = _with(source, name, (*source.files[name], drawn_sample(source, draws)))
    return source


def drawn_source(kind: str, draws: random.Random) -> Files:
    source = Files(kind, {})
    for _ in range(draws.randint(3, 5)):
        source = drawn_file(source, draws)
    return source


def _with(source: Files, name: str, samples: tuple[Sample, ...]) -> Files:
    return replace(source, files={**source.files, name: samples})


def _one_changed(source: Files, draws: random.Random, **fields) -> Files:
    name = draws.choice([name for name, samples in source.files.items() if samples] or [None])
    if name is None:
        return source
    samples = [*source.files[name]]
    at = draws.randrange(len(samples))
    samples[at] = replace(samples[at], **fields)
    return _with(source, name, tuple(samples))


def another_caption(source: Files, draws: random.Random) -> Files:
    return _one_changed(source, draws, text=f"A caption with the number {draws.randrange(100)} in it.")


def no_caption(source: Files, draws: random.Random) -> Files:
    return _one_changed(source, draws, text=None)


def another_picture(source: Files, draws: random.Random) -> Files:
    return _one_changed(source, draws, picture=draws.randrange(PICTURES))


def another_form(source: Files, draws: random.Random) -> Files:
    """A picture that is broken, or mended, or encoded anew."""
    return _one_changed(source, draws, form=draws.choice([*FORMS]))


def fewer_rows(source: Files, draws: random.Random) -> Files:
    name = draws.choice([*source.files])
    first, *others = source.files[name] or (drawn_sample(source, draws),)  # a folder without images is an error
    return _with(source, name, (first, *(one for one in others if draws.random() < 0.6)))


def more_rows(source: Files, draws: random.Random) -> Files:
    name = draws.choice([*source.files])
    for _ in range(draws.randint(1, 4)):
        samples = [*source.files[name]]
        samples.insert(draws.randint(0, len(samples)), drawn_sample(source, draws))
        source = _with(source, name, tuple(samples))
    return source


def another_order(source: Files, draws: random.Random) -> Files:
    name = draws.choice([*source.files])
    return _with(source, name, tuple(draws.sample(source.files[name], len(source.files[name]))))


def a_cut_file(source: Files, draws: random.Random) -> Files:
    """A tar that ends too early, or is whole again."""
    name = draws.choice([*source.files])
    return replace(source, cut=source.cut | {name: draws.choice((0.3, 0.7, 1, 1))})


def more_files(source: Files, draws: random.Random) -> Files:
    return drawn_file(source, draws)


def fewer_files(source: Files, draws: random.Random) -> Files:
    if len(source.files) < 2:
        return source
    gone = draws.choice([*source.files])
    return replace(source, files={name: samples for name, samples in source.files.items() if name != gone})


def moved_rows(source: Files, draws: random.Random) -> Files:
    """Samples that go from one file to another."""
    one, other = draws.choices([*source.files], k=2)
    moved = {sample.name for sample in source.files[one] if one != other and draws.random() < 0.5}
    there = tuple(sample for sample in source.files[one] if sample.name in moved)
    source = _with(source, one, tuple(sample for sample in source.files[one] if sample.name not in moved))
    return _with(source, other, (*source.files[other], *there))


def doubled_rows(source: Files, draws: random.Random) -> Files:
    """Samples that stand in two files, which in lists have the same key in both."""
    one, other = draws.choices([*source.files], k=2)
    there = {sample.name for sample in source.files[other]}
    some = tuple(sample for sample in source.files[one] if sample.name not in there and draws.random() < 0.3)
    return _with(source, other, (*source.files[other], *some))


EDITS = (another_caption, no_caption, another_picture, another_form, fewer_rows, more_rows, another_order, a_cut_file,
         moved_rows, doubled_rows)  # fmt: skip
OF_FILES = (more_files, fewer_files)  # after which partitions have other numbers than in a root that is made at once
