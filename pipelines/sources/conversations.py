"""JSON, or JSON lines, of conversations about several images, one, or none: MiniCPM-V's, LLaVA's, ShareGPT's and VQA's.

`image` or `images` is a path, a list of paths, or an object from marks to paths: {"<image_00>": "a.jpg", …}. The first
image is in the row of the conversation; each other image has its own row, whose `part_of` names that row.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from pipelines.engine.commit import digest, key_of
from pipelines.sources.coco import annotations_of, is_vqa, vqa_entries
from pipelines.sources.files import suffix
from pipelines.sources.lines import Lost, json_records, read_json, with_lost
from pipelines.sources.source import FileSource, FileStamp
from pipelines.sources.turns import compact, read_conversation
from schemas.arrow import Row
from schemas.config.sources import ConversationsConfig
from schemas.errors import UserError

TURNS, IMAGES = ("conversations", "messages"), ("image", "images")  # the first that is not empty
NOT_READ = ("video", "videos", "audio", "audios")  # what else an entry may bring


class Conversations(FileSource[ConversationsConfig]):
    def files(self) -> list[FileStamp]:
        stamps = dict(self.find(("json", "jsonl")))
        if not stamps:
            raise self.nothing(".json and no .jsonl")
        self.check_images()
        answers = {file: annotations_of(file, [*stamps]) for file in stamps}
        together = {file: digest([stamps[file], stamps[other]]) for file, other in answers.items() if other}
        used = {*answers.values()}
        return [FileStamp(file, together.get(file, stamp)) for file, stamp in stamps.items() if file not in used]

    def count(self, file: str) -> int:
        return self._counts[file] if file in self._counts else sum(1 for _ in self._entries(file))

    def check(self, file: str) -> None:
        self._counts[file] = sum(1 for _ in self._entries(file))  # all of them, for the encoding

    def reads_all(self, file: str) -> bool:
        return True

    @cached_property
    def _counts(self) -> dict[str, int]:
        return {}

    def rows(self, file: str) -> Iterator[Row]:
        first_by_id: dict[str, str] = {}  # digest of the first entry with an id
        for number, entry in enumerate(self._entries(file)):
            if isinstance(entry, Lost):
                yield {"names": (file, "/", str(number)), "reason": entry.reason, "detail": entry.detail}
            else:
                yield self._row(entry, file, first_by_id)

    def _row(self, entry: dict[str, Any], file: str, first_by_id: dict[str, str]) -> Row:
        turns = next((name for name in sorted(TURNS, key=lambda name: not entry.get(name)) if name in entry), TURNS[0])
        brought = "images" if entry.get("images") and not entry.get("image") else "image"
        several = [names for names in (TURNS, IMAGES) if _differ(entry, *names)]
        system = entry.get("system")
        fields = {
            "id": entry.pop("id", None),
            "image": entry.pop(brought, None),
            "conversations": entry.pop(turns, None),
        }
        row = {"names": _names(fields, system, first_by_id), "extra": entry | {"id": fields["id"]}}
        try:
            if several:
                raise ValueError(f"has both {' and '.join(several[0])}, and they differ")
            if other := [name for name in NOT_READ if entry.get(name)]:
                raise ValueError(f"brings {other[0]}, which is not read")
            said, images = read_conversation(fields["conversations"], fields["image"], system)
            paths = [self._path_of(image, file) for image in images.values()]
        except ValueError as error:
            return row | {"reason": "bad_conversation", "detail": f"{fields['id']}: {error}"}
        row["conversation"] = compact({"turns": said, "images": list(images)})
        first, *more = paths or [None]
        return row | {"file": first, "part": 0, "more": more}

    def _path_of(self, image: Any, file: str) -> str:
        """Raises `ValueError` for anything but a path in the folder of images."""
        if isinstance(image, dict) and image.keys() <= {"path", "bytes"} and not image.get("bytes"):
            image = image.get("path")  # as `datasets` writes a list of images into JSON
        if not isinstance(image, str):
            raise ValueError(f"image is neither a path nor {{mark: path}}: {str(image)[:200]}")
        try:
            return self.resolve(image, file)
        except ValueError as error:
            raise ValueError(f"image {error}") from None

    def _entries(self, file: str) -> Iterator[dict[str, Any] | Lost]:
        with self.open(file) as raw:
            if suffix(file) == "jsonl":
                yield from json_records(raw, file, self.config.encoding)
                return
            entries = read_json(raw, file, self.config.encoding)
        if is_vqa(entries):
            entries = vqa_entries(entries, self._answers(file))
        elif not isinstance(entries, list):
            raise UserError(f"source.path: {file} holds no list; write [{{id, image, conversations}}, …]")
        objects = (entry if isinstance(entry, dict) else {"json": entry} for entry in entries)
        yield from with_lost(objects, file, self.config.encoding)

    def _answers(self, file: str) -> Any:
        """VQA's answers to the questions in a file. Raises `UserError`."""
        other = annotations_of(file, [found.path for found in self.find(("json",))])
        if other is None:
            raise UserError(
                f"source.path: {file} holds questions of VQA without answers; put its …_annotations.json beside it, "
                'or write kind = "instructions"'
            )
        with self.open(other) as raw:
            return read_json(raw, other, self.config.encoding)


def _differ(entry: dict[str, Any], one: str, other: str) -> bool:
    """Whether two fields of an entry say different things."""
    values = [value if isinstance(value := entry.get(name), list | dict) else [value] for name in (one, other)]
    return bool(entry.get(one) and entry.get(other)) and values[0] != values[1]


def _names(fields: dict[str, Any], system: Any, first_by_id: dict[str, str]) -> tuple[str, ...]:
    """The names of an entry: its id, or all that it says. An entry that says other things than the first with its id
    is named by both."""
    if fields["id"] is None:
        return ("conversation", compact(fields))
    name, said = str(fields["id"]), key_of(compact([fields["image"], fields["conversations"], system]))
    first = first_by_id.setdefault(name, said)
    return ("conversation", name) if said == first else ("conversation", name, said)


SOURCE = Conversations
