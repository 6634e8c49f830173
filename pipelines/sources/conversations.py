"""MiniCPM-V's fine-tune format: a JSON list, or JSON lines, of {id, image, conversations}; several images, or none.

`image` is a path, or an object from marks to paths: {"<image_00>": "a.jpg", "<image_01>": "b.jpg"}. The first image
stands in the row of the conversation; each other image has a row of its own, whose `part_of` names that row.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from pipelines.sources.source import FileStamp, Source, object_of, suffix
from pipelines.sources.tables import is_inside
from schemas.arrow import Row
from schemas.errors import UserError

ROLES = {"system", "user", "assistant"}
MARK = re.compile(r"<image(?:_\d+)?>")


class Conversations(Source):
    def files(self) -> list[FileStamp]:
        files = self.find(("json", "jsonl"))
        if not files:
            raise UserError(f"source.path: no .json and no .jsonl under {self.config.path}")
        self.check_images()
        return files

    def buckets(self, file: str) -> int:
        return max(1, -(-sum(1 for _ in self._entries(file)) // self.config.rows_per_partition))

    def check(self, file: str) -> None:
        next(self._entries(file), None)

    def rows(self, file: str) -> Iterator[Row]:
        for entry in self._entries(file):
            fields = {name: entry.pop(name, None) for name in ("id", "image", "conversations")}
            names = ("conversation", str(fields["id"]) if fields["id"] is not None else compact(fields))
            row = {"names": names, "extra": entry | {"id": fields["id"]}}
            try:
                turns, images = read_conversation(fields["conversations"], fields["image"])
            except ValueError as error:
                yield row | {"reason": "bad_conversation", "detail": f"{fields['id']}: {error}"}
                continue
            row["conversation"] = compact({"turns": turns, "images": list(images)})
            first, *more = images.values() or [None]
            yield row | {"file": first, "part": 0, "more": more}

    def _entries(self, file: str) -> Iterator[dict[str, Any]]:
        with self.fs.open(f"{self.base}/{file}", "rb") as raw:
            if suffix(file) == "jsonl":
                yield from (object_of(line.strip().decode("utf-8", "replace")) for line in raw if line.strip())
                return
            try:
                entries = json.loads(raw.read().decode("utf-8-sig", "replace"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"source.path: {file} is no JSON: {error}") from None
        if not isinstance(entries, list):
            raise UserError(f"source.path: {file} holds no list; write [{{id, image, conversations}}, …]")
        yield from (entry if isinstance(entry, dict) else {"json": entry} for entry in entries)


def compact(value: Any) -> str:
    """JSON that is the same for equal values, not escaped: a lone surrogate stays as it is, and is replaced later."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def read_conversation(turns: Any, image: Any) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The turns, and mark -> path of the images. Raises `ValueError` for what the format does not allow."""
    _check_turns(turns)
    images = _images_of(image)
    _check_marks(turns, images)
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns], images


def _check_turns(turns: Any) -> None:
    if not isinstance(turns, list) or not turns:
        raise ValueError("conversations is no list of turns")
    for turn in turns:
        if not _is_turn(turn):
            raise ValueError(f"a turn is no {{role, content}}: {str(turn)[:200]}")
    if all(turn["role"] != "assistant" for turn in turns):
        raise ValueError("no turn of the assistant: nothing to learn")


def _is_turn(turn: Any) -> bool:
    if not isinstance(turn, dict):
        return False
    role, content = turn.get("role"), turn.get("content")
    return isinstance(role, str) and role in ROLES and isinstance(content, str)


def _images_of(image: Any) -> dict[str, str]:
    """mark -> path, of what an entry holds under `image`."""
    images = {"<image>": image} if isinstance(image, str) else image or {}
    if not isinstance(images, dict) or not all(isinstance(path, str) for path in images.values()):
        raise ValueError(f"image is no path, and no {{mark: path}}: {str(image)[:200]}")
    if wrong := [mark for mark in images if not MARK.fullmatch(mark)]:
        raise ValueError(f"{wrong[0]!r} is no mark of an image; write <image_00>")
    if outside := [path for path in images.values() if not is_inside(path)]:
        raise ValueError(f"{outside[0]!r} does not lie in the folder of images")
    return images


def _check_marks(turns: list[dict[str, str]], images: dict[str, str]) -> None:
    """Raises `ValueError` if a mark in the text names no image or is repeated. Without images, no text is a mark."""
    marks = [mark for turn in turns for mark in MARK.findall(turn["content"])] if images else []
    if unknown := [mark for mark in marks if mark not in images]:
        raise ValueError(f"{unknown[0]} is in the text, but no image has that mark")
    if repeated := [mark for mark in images if marks.count(mark) > 1]:
        raise ValueError(f"{repeated[0]} stands in the text more than once")


SOURCE = Conversations
