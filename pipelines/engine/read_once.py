"""A root in an object store, read while one partition is made: what several steps need is asked for once."""

import errno
import io
import os
from dataclasses import dataclass, field
from typing import BinaryIO

from pipelines.engine.conditional import is_s3
from pipelines.engine.root import Root


@dataclass(frozen=True)
class ReadOnce(Root):
    """A root for the time in which one partition is made: each small file of S3 is read once."""

    kept: dict[str, tuple[bytes, str] | None] = field(default_factory=dict, compare=False)

    def read_stamped(self, name: str) -> tuple[bytes, str]:
        if self.is_local or not is_s3(self.fs):
            return super().read_stamped(name)
        if name not in self.kept:
            try:
                self.kept[name] = super().read_stamped(name)
            except FileNotFoundError:
                self.kept[name] = None
        if (kept := self.kept[name]) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path(name))
        return kept

    def open_at_once(self, name: str, last: int | None = None) -> BinaryIO:
        return super().open_at_once(name) if not is_s3(self.fs) else io.BytesIO(self.read_stamped(name)[0])
