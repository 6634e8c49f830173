"""Small files that are written whole or not at all."""

import os
from pathlib import Path

from schemas.errors import naming


def replace(path: Path, data: str | bytes) -> None:
    """Replaces a file. After a kill or a loss of power it is the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    with naming(path), new.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
