"""What a run would do and why, from commits alone: nothing is computed, nothing is written."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pipelines.commit import Commit, fingerprint_of
from pipelines.partition import PartitionStage


@dataclass
class StagePlan:
    """What one stage would make."""

    stage: str
    todo: dict[int, str] = field(default_factory=dict)  # partition -> why
    rows: int | None = 0  # in them; None where nobody knows yet
    total: int = 0  # partitions of the stage
    open: bool = False  # how many is known only when the stages before are made

    def reasons(self) -> list[tuple[str, int]]:
        return Counter(self.todo.values()).most_common()


def todo(
    stage: PartitionStage, commits: Mapping[str, Mapping[int, Commit]], upstream_todo: Collection[int] = ()
) -> dict[int, str]:
    """partition -> why it is not current. A partition whose input is to be made follows it, unless equal columns
    come out there."""
    found, (first, *_), last = {}, stage.reads, [*stage.reads][-1]
    own, identity = commits.get(stage.name, {}), stage.identity()
    for partition in commits[first]:
        if partition in upstream_todo:
            found[partition] = f"follows {last}" if partition in own else "new"
            continue
        inputs = stage.declared({name: commits[name][partition] for name in stage.reads})
        now = own.get(partition)
        if now is None:
            found[partition] = "new"
        elif now.fingerprint != fingerprint_of(identity, inputs):
            found[partition] = why(now, stage, inputs)
    return found


def why(now: Commit, stage: PartitionStage, inputs: Mapping[str, Mapping[str, str]]) -> str:
    """What has changed since a partition was made, in a few words."""
    if now.version != stage.version:
        return f"stage version {now.version} -> {stage.version}"
    settings = stage.settings()
    for name in sorted(settings.keys() | now.settings.keys()):
        if settings.get(name) != now.settings.get(name):
            return f"{name} {_short(now.settings.get(name))} -> {_short(settings.get(name))}"
    for name, columns in inputs.items():
        changed = [column for column in columns if now.inputs.get(name, {}).get(column) != columns[column]]
        if changed:
            return f"{name} changed: {', '.join(changed)}"
    return "changed"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
