"""Instructions, and the rows and requests of a run over them."""

import json
from collections import Counter
from pathlib import Path

from pipelines.engine.parquet import read_rows
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root

QUESTIONS = ("Describe the picture.", "What is on the left?")


def write(folder: Path, asked: list[tuple[int, str]]) -> None:
    lines = [{"image_path": f"{number}.png", "question": question} for number, question in asked]
    (folder / "instructions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def rows(root: Root, stage: str) -> list[dict]:
    names = [name for name in root.files(stage) if name[0].isdigit()]
    return sorted((row for name in names for row in read_rows(root, f"{stage}/{name}")), key=lambda row: row["key"])


def kinds(asked: list[dict]) -> Counter[str]:
    """How many requests of each kind a server was asked."""

    def kind(text: str) -> str:
        if "answer yes or no" in text:
            return "verdicts"
        return "questions" if "Sentences:" in text else "facts" if "Answer:" in text else "responses"

    return Counter(kind(one["text"]) for one in asked)


def check_accounting(root: Root) -> None:
    """Every row of a stage has its rows in the next, or one that says why not."""
    assert verify_root(root).problems == []
    responses, claims, verdicts = (rows(root, stage) for stage in ("responses", "claims", "verdicts"))
    assert {row["key"] for row in claims} == {row["key"] for row in responses}
    assert {row["response"] for row in verdicts} == {row["key"] for row in responses}
