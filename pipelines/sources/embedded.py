"""Images inside tables: columns of {bytes, path}, as `datasets` writes them, or of bytes, as img2dataset does.

A row names the table as its file, `<column>/<number>` as its member, and the number of its record as its offset. Such a
table is one partition, and is read once, in its order. What a row says comes from columns that are found by their
usual names: a pair, a conversation, a question with its answer, a question, or a caption.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.engine.commit import key_of
from pipelines.sources.cells import BadCell, Unread, choose, plain, text_of, texts_of
from pipelines.sources.choices import Choices, choices_of
from pipelines.sources.columnar import is_list, is_text
from pipelines.sources.features import class_names, classes_of, features_of, is_class
from pipelines.sources.files import TooLarge
from pipelines.sources.lines import Lost
from pipelines.sources.source import FileSource
from pipelines.sources.turns import compact, read_conversation, turns_of
from schemas.arrow import Row
from schemas.errors import UserError
from schemas.texts import is_empty

# Usual names of columns, the first of which is taken
IMAGES = ("image", "images", "jpg", "jpeg", "png", "webp", "img", "picture", "photo", "image_bytes")
EITHER = ("image", "images", "img", "picture", "photo")  # of these a column of bytes may hold paths, too
URLS = ("url", "URL", "image_url")
COLUMNS = {
    "text_column": ("text", "caption", "captions", "TEXT"),
    "conversations_column": ("conversations", "messages", "conversation", "texts"),
    "question_column": ("question", "prompt", "instruction"),
    "answer_column": ("answer", "multiple_choice_answer"),
    "chosen_column": ("chosen",),
    "rejected_column": ("rejected",),
}
CLASSES = ("label", "labels", "class", "class_label", "category")  # of classes that are captions beside other texts
NAMES = ("ds_question_id", "question_id", "id", "idx")  # columns that name a question


class Layout(NamedTuple):
    """What the columns of a table with images are."""

    image: str
    others: frozenset[str]  # further columns of images
    columns: Mapping[str, str | None]  # field of the configuration -> column
    classes: Mapping[str, Any]  # column -> its feature, if it holds classes
    choices: Choices | None = None  # that answers may name
    take: Callable[[Sequence[str]], str | None] | None = None  # of several answers one

    def column(self, field: str) -> str:
        """The column of a field; one that the table has, as its task needs it."""
        column = self.columns[field]
        if column is None:
            raise KeyError(field)
        return column

    def task(self) -> str:
        """What its rows say: pair, conversation, answer, question or caption."""
        has = {field: column is not None for field, column in self.columns.items()}
        if has["chosen_column"] and has["rejected_column"] and has["question_column"]:
            return "pair"
        if has["conversations_column"]:
            return "conversation"
        if has["question_column"]:
            return "answer" if has["answer_column"] else "question"
        return "caption"


class Held(NamedTuple):
    """An image in a cell."""

    data: bytes | None
    path: str | None


# Columns


def layout_of(schema: pa.Schema, config: Any, file: str, first: Callable[[str], Any]) -> Layout | None:
    """The layout of a table; None if no column of it holds images. `first`: the first value of a column.

    Raises `UserError` if it is not clear which column holds them.
    """
    features = features_of(schema)
    held = [field.name for field in schema if _holds_images(field, features.get(field.name), first)]
    configured = getattr(config, "image_column", None)
    if configured and configured not in held:
        return None
    usual = [name for name in IMAGES if name in held]
    if not held:
        return None
    if not configured and len(held) > 1 and len(usual) != 1:
        raise UserError(f"source.image_column: {file} has images in {', '.join(usual or held)}; write which one")
    set_columns = {field: getattr(config, field, None) for field in COLUMNS}
    columns = {}
    for field, names in COLUMNS.items():
        column = set_columns[field]
        if column and column not in schema.names:
            raise UserError(f"source.{field}: {file} has no column {column!r}; it has {', '.join(schema.names)}")
        found = (name for name in names if name in schema.names and name not in held)
        columns[field] = column or next(found, None)
    for field, column in {"image_column": configured or (usual or held)[0], **columns}.items():
        if column and schema.names.count(column) > 1:
            raise UserError(f"source.{field}: {file} has two columns {column!r}; rename one")
    if columns["question_column"] is None and all(
        (name := columns[field]) and is_list(schema.field(name).type) for field in ("chosen_column", "rejected_column")
    ):
        columns["question_column"] = columns["chosen_column"]  # turns, the first of which asks
    if any(set_columns.values()):  # a column that the user names decides
        text_alone = set_columns["text_column"] and not any(set_columns[f] for f in COLUMNS if f != "text_column")
        for field in COLUMNS:
            if not set_columns[field] and (text_alone or field == "conversations_column"):
                columns[field] = None
    layout = Layout(configured or (usual or held)[0], frozenset(held), columns, classes_of(schema))
    if layout.task() == "answer":
        others = [column for column in columns.values() if column] + held
        given, answer = getattr(config, "choices_column", None), columns["answer_column"]
        choices = choices_of(schema, file, answer, given, others, first)
        return layout._replace(choices=choices, take=_taker(schema.field(answer).type, config, file, answer))
    if layout.task() == "caption" and columns["text_column"] is None:
        columns["text_column"] = _class_column(schema, file, held)
    return layout


def _taker(kind: pa.DataType, config: Any, file: str, column: str) -> Callable[[Sequence[str]], str | None] | None:
    """How one of several answers is taken; None for a column of single ones. Raises `UserError` if nothing says so."""
    how = getattr(config, "captions", None)
    if not (is_list(kind) and is_text(kind.value_type)):
        return None
    if how in (None, "all"):
        raise UserError(
            f"source.captions: {file} has lists in the column {column!r}; "
            'write captions = "first", "longest" or "random", which takes one of several answers, too'
        )
    return lambda texts: choose(texts, how, config.seed, key_of(*texts))


def _class_column(schema: pa.Schema, file: str, held: Sequence[str]) -> str | None:
    """The column of classes that are the captions of a table without any. Raises `UserError` if it is not clear which
    column says what the images show."""
    classes = [name for name, feature in features_of(schema).items() if is_class(feature)]
    texts = [field.name for field in schema if field.name not in held and (
        is_text(field.type) or (is_list(field.type) and is_text(field.type.value_type)))]  # fmt: skip
    if len(classes) > 1 or (classes and texts and classes[0] not in CLASSES):
        others = f", and texts in {', '.join(texts)}" if texts else ""
        raise UserError(f"source.text_column: {file} has classes in {', '.join(classes)}{others}; write which one")
    return next(iter(classes), None)


def _holds_images(field: pa.Field, feature: Any, first: Callable[[str], Any]) -> bool:
    kind = _plain(field.type)
    if is_list(kind):
        kind = _plain(kind.value_type)
    if pa.types.is_struct(kind):
        names = [kind.field(number).name for number in range(kind.num_fields)]
        return names.count("bytes") == 1 and {*names} <= {"bytes", "path"} and _is_binary(kind.field("bytes").type)
    is_image = isinstance(feature, dict) and feature.get("_type") == "Image"
    if not _is_binary(kind) or not (is_image or field.name in IMAGES):
        return False
    return is_image or field.name not in EITHER or not _is_text(first(field.name))


def _is_text(cell: Any) -> bool:
    """Whether bytes are a text, such as the path of a file; no image is UTF-8."""
    try:
        return text_of(cell[0] if isinstance(cell, list) and cell else cell) is not None
    except BadCell:
        return False


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, without a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_binary(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


# Images


def images_of(cell: Any) -> list[Held]:
    """The images in a cell, without nulls. Raises `BadCell`."""
    found = [_held(one) for one in (cell if isinstance(cell, list | tuple) else [cell])]
    return [held for held in found if held.data is not None or held.path]


def bytes_of(record: Row | Lost, row: Row, limit: int) -> bytes | Exception:
    """The bytes of a row's image in its record, or an error that says why they cannot be read."""
    column, _, nth = row["member"].rpartition("/")
    try:
        if isinstance(record, Lost):
            raise EOFError(record.detail)
        data = images_of(record[column])[int(nth)].data
        if data is None:
            raise EOFError(f"{row['file']}, row {row['byte_offset']}: {column} holds no image")
        if len(data) > limit:
            raise TooLarge(len(data), limit)
    except (EOFError, TooLarge) as error:
        return error
    except (BadCell, IndexError) as error:
        return EOFError(f"{row['file']}, row {row['byte_offset']}: {column} {error}")
    return data


def _held(one: Any) -> Held:
    if one is None or isinstance(one, bytes):
        return Held(one, None)
    if isinstance(one, dict):
        data, path = one.get("bytes"), one.get("path")
        if isinstance(data, bytes | None) and isinstance(path, str | None):
            return Held(data, path)
        one = next(value for value in (data, path) if not isinstance(value, bytes | str | None))
    raise BadCell(one.why if isinstance(one, Unread) else "holds no image")


# Rows


def rows_of(
    source: FileSource, record: Row, file: str, number: int, layout: Layout, captioned: Callable[..., Iterator[Row]]
) -> Iterator[Row]:
    """The rows of one record, the n-th of its file. `captioned`: makes rows with a caption, see `Tables.captioned`."""
    row: Row = {"names": (file, str(number))}
    record = {name: class_names(value, layout.classes.get(name)) for name, value in record.items()}
    task = layout.task()
    used = {"caption": ["text_column"], "conversation": ["conversations_column"]}.get(task, [])
    used = {layout.columns[field] for field in used}
    row["extra"] = {
        name: plain(value) for name, value in record.items() if name not in layout.others and name not in used
    }
    url = next((record[name] for name in URLS if isinstance(record.get(name), str)), None)
    row["url"] = url
    try:
        places = [_place(source, held, layout.image, file, number, nth)
                  for nth, held in enumerate(images_of(record[layout.image]))]  # fmt: skip
    except ValueError as error:
        yield row | {"reason": "no_image", "detail": f"{file}, row {number}: {layout.image} {error}"}
        return
    if not places and task != "conversation":
        yield row | {"reason": "no_image", "detail": f"{file}, row {number}: {layout.image} holds no image"}
    elif len(places) > 1 and task != "conversation" and task != "answer":
        detail = f"{file}, row {number}: {layout.image} holds {len(places)} images; a {task} has one"
        yield row | {"reason": "several_images", "detail": detail}
    elif task == "caption":
        column = layout.columns["text_column"]
        yield from captioned(row | places[0], row["names"], record.get(column) if column else None, file, column, False)
    else:
        try:
            yield row | TASKS[task](record, places, layout)
        except BadCell as error:
            yield row | {"reason": "bad_text", "detail": f"{file}, row {number}: {error}"}
        except ValueError as error:
            yield row | {"reason": "bad_conversation", "detail": f"{file}, row {number}: {error}"}


def _place(source: FileSource, held: Held, column: str, file: str, number: int, nth: int) -> Row:
    """Where an image is. Raises `ValueError` for a path that is not in the folder of images."""
    if held.data is None:
        return {"file": source.resolve(held.path, file)}
    digest = sha256(held.data).hexdigest()
    place = {"file": file, "member": f"{column}/{nth}", "byte_offset": number}
    return place | {"size": len(held.data), "sha256": digest}


def _text(record: Row, column: str, read: Callable[[Any], str | None]) -> str | None:
    """The text in a column, as `read` reads it. Raises `BadCell`."""
    try:
        return read(record.get(column))
    except BadCell as error:
        raise BadCell(f"{column} {error}") from None


def _conversation(record: Row, places: list[Row], layout: Layout) -> Row:
    return _talk(record.get(layout.column("conversations_column")), places, record.get("system"))


def _answer(record: Row, places: list[Row], layout: Layout) -> Row:
    question = _text(record, layout.column("question_column"), text_of)
    answer = _text(record, layout.column("answer_column"), partial(_answer_of, record, layout))
    if is_empty(question):
        raise ValueError(f"{layout.column('question_column')} is empty")
    said = [("user", question), ("assistant", answer)]
    return _talk([{"role": role, "content": text or ""} for role, text in said], places, record.get("system"))


def _answer_of(record: Row, layout: Layout, cell: Any) -> str | None:
    """The text of an answer: of several, the one that is asked for. Raises `BadCell`."""
    if isinstance(cell, list) and layout.take:
        return layout.take(texts_of(cell))
    return layout.choices.reader(record)(cell) if layout.choices else text_of(cell)


def _talk(turns: Any, places: list[Row], system: Any) -> Row:
    said, images = read_conversation(turns, places, system)
    first, *more = images.values() or [{}]
    return first | {"part": 0, "more": more, "conversation": compact({"turns": said, "images": list(images)})}


def _question(record: Row, places: list[Row], layout: Layout) -> Row:
    question = layout.column("question_column")
    return _asked(record, places, {question}, _said(record.get(question), question, "user"), {})


def _pair(record: Row, places: list[Row], layout: Layout) -> Row:
    names = [layout.column(field) for field in ("question_column", "chosen_column", "rejected_column")]
    question = _said(record.get(names[0]), names[0], "user")
    chosen, rejected = (_said(record.get(name), name, "assistant") for name in names[1:])
    for name in names[1:]:
        cell = record.get(name)
        if isinstance(cell, list) and any(t["role"] == "user" and t["content"] != question for t in turns_of(cell)):
            raise ValueError(f"{name} answers another question")
    return _asked(record, places, {*names}, question, {"chosen": chosen, "rejected": rejected})


def _asked(record: Row, places: list[Row], used: set[str], question: str | None, answers: Row) -> Row:
    """A row that asks one question of its image; the answers that a source brings are in the question's `extra`."""
    name = next((name for name in NAMES if record.get(name) is not None), None)
    rest = {key: plain(value) for key, value in record.items() if key not in used and key != name}
    rest = {key: value for key, value in rest.items() if key not in IMAGES} | answers
    asked = {"question": question, "name": text_of(record.get(name)) if name else None, "extra": rest}
    return places[0] | {"extra": {"instructions": [asked]}}


def _said(cell: Any, column: str, role: str) -> str | None:
    """A text, or the one turn of a role in a list of turns, as TRL has them. Raises `ValueError`."""
    if not isinstance(cell, list):
        return _text({column: cell}, column, text_of)
    said = [turn["content"] for turn in turns_of(cell) if turn["role"] == role]
    if len(said) != 1:
        raise ValueError(f"{column} has {len(said)} turns of the {role}; one is what a pair has")
    return said[0]


TASKS = {"conversation": _conversation, "answer": _answer, "question": _question, "pair": _pair}
