"""The folder of an export: nothing in it looks finished before all of it is.

A hidden note, `.export.json`, says which release lies there and as what; while an export goes on, it also says which
one is being written. Tables are written into the hidden folder `.data`, which becomes `data` at the end; the README and
the JSON of conversations are written last. So a killed export leaves the old one as it was, or one that has no README.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

from typing_extensions import TypedDict

from pipelines.engine import root as engine
from pipelines.engine.root import Root, new_file, point
from schemas.checked import checked, plain_json
from schemas.errors import UserError

NOTE = ".export.json"
README = "README.md"
JSON = "conversations.json"
DATA, UNFINISHED, IMAGES = "data", ".data", "images"
OWN = re.compile(rf"{README}|{JSON}|{DATA}|{IMAGES}|train-\d{{5}}-of-\d{{5}}\.parquet")  # the last are those of 0.1


class Release(NamedTuple):
    """What is exported, as the note says it."""

    set: str
    release: str
    form: str


class Named(TypedDict):
    set: str
    release: str
    form: str


class Note(Named):
    unfinished: NotRequired[list[Named]]  # those that have begun since


class Target:
    """A folder that one export is written to."""

    def __init__(self, root: Root, release: Release):
        self.root, self.release = root, release

    def begin(self) -> None:
        """Claims the folder. Raises `UserError` if no files can be written to it, or if no export wrote those in it."""
        try:
            self._claim()
        except OSError as error:
            raise UserError(f"export-set: {self.root.url} cannot be written: {error.strerror or error}") from None

    def _claim(self) -> None:
        names = [*self._files(""), *self.root.folders("")]
        noted = _noted(self.root)
        others = [name for name in names if not name.startswith(".") and not (noted and OWN.fullmatch(name))]
        if others:
            raise UserError(
                f"export-set: {self.root.url} holds {min(others)}, which no export wrote; choose an empty folder"
            )
        self._remove_folder(UNFINISHED)
        self.root.create()
        # Until it is finished the old release lies there too, and who looks for its samples has to find it.
        note: Mapping[str, Any] = noted or self.release._asdict()
        self._write_note({**note, "unfinished": [*note.get("unfinished", ()), self.release._asdict()]})
        point("export:begun")

    def put_table(self, name: str, file: Path) -> None:
        """Adds a file of a table; it is hidden until `finish_tables`."""
        self.root.put(file, f"{UNFINISHED}/{name}")
        point("export:table")

    def begin_json(self) -> None:
        """Makes an older export unfinished, since its images are about to be replaced."""
        self._make_unfinished(keep=IMAGES)

    def put_images(self, folder: str, images: Mapping[str, bytes]) -> None:
        """Writes images to `images/<folder>/`."""
        names = {f"{IMAGES}/{folder}/{name}": data for name, data in images.items()}
        if self.root.is_local:
            os.makedirs(self.root.path(f"{IMAGES}/{folder}/"), exist_ok=True)
            for name, data in names.items():
                self.root.remove(name)  # a link is replaced, never written through
                with new_file(Path(self.root.path(name))) as file:
                    file.write(data)
        else:
            self.root.fs.pipe({self.root.path(name): data for name, data in names.items()})
        point("export:images")

    def keep_images(self, folder: str, names: Collection[str]) -> None:
        """Removes all images of a folder but these: an older export left them."""
        for name in self.root.files(f"{IMAGES}/{folder}").keys() - names:
            self.root.remove(f"{IMAGES}/{folder}/{name}")

    def keep_image_folders(self, folders: Collection[str]) -> None:
        """Removes all that is in `images` but these folders."""
        for folder in set(self.root.folders(IMAGES)) - {*folders}:
            self._remove_folder(f"{IMAGES}/{folder}")
        for name in self.root.files(IMAGES):  # of 0.1, which had no folders
            self.root.remove(f"{IMAGES}/{name}")

    def put_json(self, file: Path) -> None:
        """Adds the JSON, whose images are all there; it is hidden until `finish`."""
        if self.root.is_local and engine.FSYNC:
            os.sync()  # once for all images, which are many: the JSON must not outlive one
        self.root.put(file, f"{UNFINISHED}/{JSON}")
        point("export:json")

    def finish(self, readme: str) -> None:
        """Makes a whole export of all that was put."""
        names = self._files(UNFINISHED)
        if names == [JSON]:
            self._move(f"{UNFINISHED}/{JSON}", JSON)
        else:
            self._make_unfinished()
            if self.root.is_local:
                os.makedirs(self.root.path(UNFINISHED), exist_ok=True)
                os.rename(self.root.path(UNFINISHED), self.root.path(DATA))
            else:
                for name in names:
                    self._move(f"{UNFINISHED}/{name}", f"{DATA}/{name}")
        point("export:data")
        self._remove_folder(UNFINISHED)
        self.root.write(README, readme.encode())
        self._write_note(self.release._asdict())
        point("export:finished")

    def temporary(self) -> Path:
        """A new local path for a large file; the next export removes it if this one is killed."""
        return self.root.temporary(UNFINISHED)

    def _make_unfinished(self, keep: str = "") -> None:
        """Removes an older export, but its images if the new one has some too. The README is removed first."""
        for name in (README, JSON, *(name for name in self._files("") if OWN.fullmatch(name))):
            self.root.remove(name)
        for folder in {DATA, IMAGES} - {keep}:
            self._remove_folder(folder)
        point("export:unfinished")

    def _move(self, name: str, to: str) -> None:
        if self.root.is_local:
            os.replace(self.root.path(name), self.root.path(to))
        else:
            self.root.fs.mv(self.root.path(name), self.root.path(to))

    def _write_note(self, note: Mapping[str, object]) -> None:
        self.root.write(NOTE, json.dumps(note).encode())

    def _files(self, folder: str) -> list[str]:
        try:
            return [*self.root.files(folder)]
        except NotADirectoryError:
            raise UserError(f"export-set: {self.root.url} is not a folder; choose another") from None

    def _remove_folder(self, folder: str) -> None:
        """Removes a folder with all that is in it."""
        path = self.root.path(folder)
        if self.root.fs.exists(path):
            self.root.fs.rm(path, recursive=True)


def _noted(root: Root) -> Note | None:
    """The note of a folder; None without one that an export wrote."""
    try:
        return checked(Note, plain_json(root.read(NOTE)))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
