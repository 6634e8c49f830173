"""What is printed in some real photographs, written down by hand, and whether a text that was read in one is right."""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.paths import TESTS

PRINTED: dict[str, list[str]] = json.loads((TESTS / "data/photographs.json").read_text())


def photographs(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each photograph with a transcription, in a folder and in the tars in it."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar.getmembers():
                    if member.name in PRINTED and (file := tar.extractfile(member)):
                        yield member.name, file.read()
        elif path.name in PRINTED:
            yield path.name, path.read_bytes()


def fitted_on(name: str) -> bool:
    """Whether thresholds may be fitted on this photograph. They are stated on the others."""
    return hashlib.sha256(name.encode()).hexdigest()[0] in "02468ace"


def is_right(name: str, lines: Sequence[str]) -> bool:
    """Whether each line that was read is printed in a photograph: the same letters and digits in the same case."""
    return {*map(only_letters, lines)} <= {*map(only_letters, PRINTED[name])}


def only_letters(text: str) -> str:
    """The letters and digits of a text."""
    return "".join(character for character in text if character.isalnum())
