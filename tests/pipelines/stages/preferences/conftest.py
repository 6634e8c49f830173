"""Instructions, a scripted server, and a configuration that asks it."""

from pathlib import Path

import pytest
from support.corpora import picture
from support.preference_runs import QUESTIONS, write
from support.scripted_server import Scripted


@pytest.fixture
def server():
    with Scripted() as server:
        yield server


@pytest.fixture
def instructions(tmp_path) -> Path:
    """Four pictures, the first asked about twice."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(picture(number)[0])
    write(folder, [(number, QUESTIONS[0]) for number in range(4)] + [(0, QUESTIONS[1])])
    return folder


@pytest.fixture
def configured(configure, server):
    def write(
        labelers: tuple[str, ...] = ("labeler",), draws: int = 4, claims: str = 'endpoint = "divider"',
        path: str = "data", endpoint: str = "",
    ):  # fmt: skip
        said = f'model = "scripted"\nurl = "{server.url}"\ntries = 2\n{endpoint}\n'
        names = dict.fromkeys(("policy", "divider", *labelers))
        endpoints = "".join(f'[endpoints.{name}]\nrevision = "{name}"\n{said}' for name in names)
        return configure(
            f'[source]\nkind = "instructions"\npath = "{path}"\n{endpoints}'
            f'[responses]\nendpoint = "policy"\ndraws = {draws}\n[claims]\n{claims}\n'
            f"[verdicts]\nlabelers = {list(labelers)}\n[pairs]\nlength_balance = false\n"
            '[sets.dpo]\ntask = "preference"\n'
        )

    return write
