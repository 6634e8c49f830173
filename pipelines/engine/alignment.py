"""`align.json`: which rounds of an alignment have begun in a root, and what became of each."""

import json

from pipelines.engine.root import Corrupt, Root
from schemas.align import Alignment, nothing_begun
from schemas.checked import checked, plain_json

ALIGN = "align.json"


def read_alignment(root: Root) -> Alignment:
    """What is known of the rounds of a root. Raises `Corrupt` for a file that says something else."""
    try:
        return checked(Alignment, plain_json(root.read(ALIGN)))
    except FileNotFoundError:
        return nothing_begun()
    except ValueError as error:
        raise Corrupt(f"{ALIGN}: cannot be read: {error}; restore it, or remove it and begin again") from None


def write_alignment(root: Root, alignment: Alignment) -> None:
    root.write(ALIGN, json.dumps(alignment, indent=1).encode())
