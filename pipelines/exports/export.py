"""A published shard set in the files that other trainers read: `shardmill export-set ROOT SET FOLDER --form trl`.

The same release gives the same bytes. Image bytes are those of the shard, but for pictures that EXIF turns. Memory is
bounded by a group of samples: a table is written in row groups, JSON entry by entry.
"""

import json
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.releases import card_named
from pipelines.engine.root import Root
from pipelines.exports.columns import Column, schema
from pipelines.exports.dataset_card import Sizes, dataset_card
from pipelines.exports.entries import QUESTIONS, Entry, LeftOut, Tally, entry_of
from pipelines.exports.forms import FORMS, Form
from pipelines.exports.samples import samples
from pipelines.exports.target import IMAGES, Release, Target
from schemas.arrow import Row
from schemas.errors import UserError
from schemas.shards import Card, ShardEntry
from schemas.texts import is_empty

GROUP, GROUP_BYTES = 100, 64 << 20  # samples, and bytes of their images, that are held at once


class Exported(NamedTuple):
    files: int  # of data, without README.md and the note
    tally: Tally


class Export(NamedTuple):
    """One export of a release."""

    root: Root
    card: Card
    form: Form
    question: str | None  # that captions and OCR answer
    target: Target
    tally: Tally

    def groups(self, shard: ShardEntry, folder: str = "") -> Iterator[list[tuple[Row, Entry]]]:
        """The rows of a shard, each with its entry, in groups. The names of pictures begin with `folder`.

        A sample that the form cannot hold is counted by its reason.
        """
        group, size = [], 0
        for sample in samples(self.root, shard, self.card["task"]):
            try:
                entry = entry_of(sample, self.card["task"], self.question)
                entry = entry._replace(
                    pictures=tuple(picture._replace(name=folder + picture.name) for picture in entry.pictures)
                )
                row = self.form.row(entry, self.card["task"], self.card)
            except LeftOut as reason:
                self.tally.left_out[str(reason)] += 1
                continue
            self.tally.count(entry)
            group.append((row, entry))
            size += sum(len(picture.data) for picture in entry.pictures)
            if len(group) == GROUP or size >= GROUP_BYTES:
                yield group
                group, size = [], 0
        if group:
            yield group

    def write_tables(self, columns: Sequence[Column]) -> Sizes:
        """Parquet, one file per shard, under names by which `datasets` finds a split."""
        wanted, sizes = schema(columns), Sizes()
        for number, shard in enumerate(self.card["shards"]):
            file = self.target.temporary()
            with pq.ParquetWriter(file, wanted, compression="zstd", use_dictionary=False) as writer:
                for group in self.groups(shard):
                    table = pa.Table.from_pylist([row for row, _ in group], schema=wanted)
                    writer.write_table(table)
                    sizes.memory += table.nbytes
            sizes.files += 1
            sizes.disk += os.path.getsize(file)
            self.target.put_table(f"train-{number:05d}-of-{len(self.card['shards']):05d}.parquet", file)
        return sizes

    def write_json(self) -> Sizes:
        """A JSON list of all entries, and their images in a folder a shard."""
        self.target.begin_json()
        sizes, file, between = Sizes(files=1), self.target.temporary(), "[\n "
        with open(file, "w", encoding="utf-8") as json_file:
            for number, shard in enumerate(self.card["shards"]):
                folder, names = f"{number:05d}", set()
                for group in self.groups(shard, f"{IMAGES}/{folder}/"):
                    images = {os.path.basename(p.name): p.data for _, entry in group for p in entry.pictures}
                    self.target.put_images(folder, images)
                    names |= images.keys()
                    for row, _ in group:
                        json_file.write(between + json.dumps(row, indent=1, ensure_ascii=False).replace("\n", "\n "))
                        between = ",\n "
                self.target.keep_images(folder, names)
                sizes.files += len(names)
            json_file.write("[]" if between.startswith("[") else "\n]")
        self.target.keep_image_folders({f"{number:05d}" for number in range(len(self.card["shards"]))})
        self.target.put_json(file)
        return sizes


def export(root: Root, set_name: str, form_name: str, folder: Root, question: str | None = None) -> Exported:
    """Writes a shard set, or a release `set@release`, into a folder.

    `question`: what captions and OCR answer in forms of conversations, instead of `QUESTIONS`. Raises `UserError` for
    an unknown set, a task or question that does not fit, or a folder with other files; `Corrupt` for a damaged shard.
    """
    if form_name not in FORMS:
        raise UserError(f"--form: unknown form {form_name!r}; choose from {', '.join(FORMS)}")
    form, card = FORMS[form_name], card_named(root, set_name, "export-set")
    task = card["task"]
    if task not in form.tasks:
        raise UserError(f"export-set: {set_name} has the task {task!r}; {form_name} needs {' or '.join(form.tasks)}")
    asked = form.asks and task in QUESTIONS
    if question is not None and (not asked or is_empty(question)):
        why = "is blank" if asked else f"{form_name} asks none about a set with the task {task!r}; leave it out"
        raise UserError(f"--question: {why}")
    target = Target(folder, Release(card["set"], card["release"], form_name))
    target.begin()
    question = (question or QUESTIONS[task]) if asked else None
    one = Export(root, card, form, question, target, Tally())
    sizes = one.write_tables(form.columns(task)) if form.columns else one.write_json()
    target.finish(dataset_card(root, card, form_name, question, one.tally, sizes))
    return Exported(sizes.files, one.tally)
