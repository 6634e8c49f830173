"""MiniCPM-V's fine-tune format: a JSON list, or JSON lines, of {id, image, conversations}; several images, or none.

`image` is a path, or a mark for each path: {"<image_00>": "a.jpg", "<image_01>": "b.jpg"}. The first image stands in
the row of the conversation; each other one has a row of its own that says what it is `part_of`.
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
            said = {name: entry.pop(name, None) for name in ("id", "image", "conversations")}
            names = ("conversation", str(said["id"]) if said["id"] is not None else compact(said))
            row = {"names": names, "extra": entry | {"id": said["id"]}}
            try:
                turns, images = read_conversation(said["conversations"], said["image"])
            except ValueError as error:
                yield row | {"reason": "bad_conversation", "detail": f"{said['id']}: {error}"}
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
    """One text for one value, in Unicode: half a surrogate pair stays visible, to be replaced with all others."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def read_conversation(turns: Any, image: Any) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The turns, and mark -> path of the images. Raises `ValueError` for what the format does not allow."""
    if not isinstance(turns, list) or not turns:
        raise ValueError("conversations is no list of turns")
    for turn in turns:
        said = [turn.get(name) for name in ("role", "content")] if isinstance(turn, dict) else [None]
        if not all(isinstance(text, str) for text in said) or said[0] not in ROLES:
            raise ValueError(f"a turn is no {{role, content}}: {str(turn)[:200]}")
    if all(turn["role"] != "assistant" for turn in turns):
        raise ValueError("no turn of the assistant: nothing to learn")
    images = {"<image>": image} if isinstance(image, str) else image or {}
    if not isinstance(images, dict) or not all(isinstance(path, str) for path in images.values()):
        raise ValueError(f"image is no path, and no {{mark: path}}: {str(image)[:200]}")
    if wrong := [mark for mark in images if not MARK.fullmatch(mark)]:
        raise ValueError(f"{wrong[0]!r} is no mark of an image; write <image_00>")
    if outside := [path for path in images.values() if not is_inside(path)]:
        raise ValueError(f"{outside[0]!r} does not lie in the folder of images")
    named = [mark for turn in turns for mark in MARK.findall(turn["content"])] if images else []
    if unknown := [mark for mark in named if mark not in images]:
        raise ValueError(f"{unknown[0]} is in the text, but no image has that mark")
    if twice := [mark for mark in images if named.count(mark) > 1]:
        raise ValueError(f"{twice[0]} stands in the text more than once")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns], images
