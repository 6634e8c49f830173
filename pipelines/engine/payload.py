"""Payloads: the tar beside a partition, which holds the bytes of its rows."""

import hashlib
import tempfile
import threading
import uuid
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path

from pipelines.engine.commit import Commit, Stage
from pipelines.engine.parquet import Corrupt
from pipelines.engine.partition_stage import Data
from pipelines.engine.root import Root, new_file, read_at
from pipelines.engine.tar import TarWriter
from schemas.arrow import Row
from schemas.errors import naming


class Payload:
    """The tar of a partition that is being made. Rows get the offset and size of their bytes in it."""

    def __init__(self, root: Root, stage: Stage, partition: int, before: Commit | None):
        self.root, self.stage, self.partition = root, stage, partition
        self.before = before.payload if before else None
        self.temporary = root.temporary(stage.name)
        self.files = ExitStack()
        self.file = self.files.enter_context(new_file(self.temporary))
        self.tar = TarWriter(self.file)

    def __enter__(self) -> "Payload":
        return self

    def __exit__(self, *error) -> None:
        self.files.__exit__(*error)  # the temporary file goes if anything failed

    def old_bytes(self, row: Row) -> bytes | None:
        """The bytes of a row that is taken over."""
        return read_payload(self.root, self.stage.name, {**row, "payload": self.before}) if row["size"] else None

    def place(self, row: Row, data: Data) -> Row:
        if data is None:
            return row
        data = data() if callable(data) else data
        with naming(self.temporary):
            offset = self.tar.add(f"{row['key']}.{row['format'].lower()}", data)
        return {**row, "byte_offset": offset, "size": len(data)}

    def put(self) -> tuple[str | None, str | None]:
        """Commits the tar under a name with its digest. Returns (name, SHA-256), or Nones if no bytes were kept."""
        empty = self.tar.size == 0
        with naming(self.temporary):
            sha256 = self.tar.close()
            self.files.close()
        if empty:
            self.temporary.unlink()
            return None, None
        name = f"{self.partition:05d}-{sha256[:16]}.tar"
        self.root.put(self.temporary, f"{self.stage.name}/{name}")
        return name, sha256


class Copies:
    """Tars of remote roots that this process reads more than one row of: they are copied whole, each by one request."""

    def __init__(self):
        self.lock, self.seen = threading.Lock(), set[tuple[str, str]]()
        self.files = OrderedDict[tuple[str, str], Path]()
        self.folder: tempfile.TemporaryDirectory | None = None

    def read(self, root: Root, name: str, offset: int, size: int, whole: bool) -> bytes:
        """Some bytes of a tar. `whole`: more of it will be asked for."""
        if root.is_local:
            return root.read_range(name, offset, size)
        with self.lock:
            place = root.url, name
            if place not in self.files and place not in self.seen and not whole:
                self.seen.add(place)
                return root.read_range(name, offset, size)
            if place not in self.files:
                self.files[place] = self._copied(root, name)
            self.files.move_to_end(place)
            with self.files[place].open("rb") as file:
                return read_at(file, name, offset, size)

    def _copied(self, root: Root, name: str) -> Path:
        while len(self.files) >= COPIES:
            self.files.popitem(last=False)[1].unlink(missing_ok=True)
        if self.folder is None:
            self.folder = tempfile.TemporaryDirectory(prefix="shardmill-tars-", ignore_cleanup_errors=True)
        path = Path(self.folder.name) / uuid.uuid4().hex
        root.copy_to(name, path)
        return path


COPIES = 80  # tars: those of a group of partitions, and some more
copies = Copies()  # of this process


def read_payload(root: Root, stage: str, row: Row, whole: bool = False) -> bytes:
    """The bytes of a row, checked. `whole`: most of its tar will be read. Raises `Corrupt` naming the key."""
    name = f"{stage}/{row['payload']}"
    try:
        data = copies.read(root, name, row["byte_offset"], row["size"], whole)
    except (FileNotFoundError, EOFError) as error:
        raise Corrupt(f"{name}: the bytes of {row['key']} are gone: {error}") from None
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise Corrupt(f"{name}: the bytes of {row['key']} are not those that were committed")
    return data
