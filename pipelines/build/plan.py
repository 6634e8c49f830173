"""What a run would do and why, from commits alone: nothing is computed, nothing is written."""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pipelines.build.corpus import Commits, Corpus
from pipelines.engine.commit import Commit, Stage, fingerprint_of
from pipelines.engine.commit_cache import uncollected
from pipelines.engine.corpus_stage import CorpusStage
from pipelines.engine.manifest import read_manifest
from pipelines.engine.partition_stage import PartitionStage
from pipelines.engine.releases import read_card
from pipelines.stages.rows import settle
from pipelines.stages.shards import card_of, lay_out, shards_there

DIGEST = re.compile("[0-9a-f]{16}([0-9a-f]{16})?")  # of a prompt or a file, which tells a reader nothing


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


@dataclass(frozen=True)
class RunPlan:
    vanished: list[tuple[str, list[int]]]  # source files that are gone, and their partitions
    stages: list[StagePlan]

    def work(self) -> int:
        return len(self.vanished) + sum(len(stage.todo) for stage in self.stages)


@uncollected()
def plan(corpus: Corpus, until: str | None = None) -> RunPlan:
    """What a run would make, and why. Writes nothing."""
    names, root = corpus.stages(until), corpus.root
    settled = read_manifest(root)
    commits = corpus.commits("rows", *corpus.made)
    settlement = settle(corpus.rows, settled, commits["rows"])
    gone = {p for file in settlement.vanished for p in file.partitions}
    commits = {stage: {p: c for p, c in found.items() if p not in gone} for stage, found in commits.items()}
    waiting = {p: "new file" for file in settlement.new for p in file.partitions}
    for partition in (p for file in settlement.changed for p in file.partitions):
        now = commits["rows"].get(partition)
        reason = why(now, corpus.rows, {}) if now else "changed"
        waiting[partition] = "file changed" if reason == "changed" else reason
    known = all(p in commits["rows"] for p in waiting)
    rows = _rows_in(commits["rows"], waiting) if known else None
    plans = [StagePlan("rows", waiting, rows, len(settlement.partitions()))]
    commits["rows"] |= {p: None for p in waiting if p not in commits["rows"]}
    for name, stage in corpus.made.items():
        if isinstance(stage, CorpusStage):
            planned = _plan_step(corpus, stage, commits, plans)
            waiting = waiting | {p: why for p, why in planned.todo.items() if p not in commits[name]}
        else:
            waiting = todo(stage, commits, waiting)
            # Rows that turn from left out to kept in a step that it reads are made too.
            unsure = any(p.todo and isinstance(corpus.made.get(p.stage), CorpusStage) for p in plans)
            rows, total = _rows_in(commits["rows"], waiting), len(commits["rows"])
            planned = StagePlan(name, waiting, rows, total, open=unsure and len(waiting) < total)
        plans.append(planned)
        commits[name] |= {p: None for p in waiting if p not in commits[name]}
    choosing = {stage.stages[-1].name for stage in corpus.shards}
    plans.append(_plan_shards(corpus, commits, any(p.todo for p in plans if p.stage in choosing)))
    return RunPlan([(f.path, list(f.partitions)) for f in settlement.vanished], [p for p in plans if p.stage in names])


def _rows_in(commits: dict[int, Commit], partitions) -> int | None:
    """How many rows are in some partitions; None if one of them was never split."""
    found = [commits[p] for p in partitions]
    return sum(c.rows for c in found) if all(found) else None


def _plan_step(corpus: Corpus, step: CorpusStage, commits: Commits, plans: list[StagePlan]) -> StagePlan:
    upstream = {name: commits[name] for name in corpus.before(step.name)}
    every, why = commits["rows"], None
    if changing := [plan.stage for plan in plans if plan.todo]:
        why = f"follows {changing[-1]}"
    elif not step.is_current(corpus.root, upstream, commits[step.name]):
        why = "the corpus or its settings changed"
    rows = _rows_in(every, every) if why else 0
    return StagePlan(step.name, {p: why for p in every} if why else {}, rows, len(every))


def _plan_shards(corpus: Corpus, commits: Commits, choosing: bool) -> StagePlan:
    """`choosing`: what goes into the shards is still to be chosen."""
    cards = {stage.set: read_card(corpus.root, stage.set) for stage in corpus.shards}
    total = sum(len(card["shards"]) for card in cards.values() if card)
    if choosing:
        return StagePlan("shards", {0: "those with samples that change"}, None, total, open=True)
    waiting, rows = {}, 0
    for stage in corpus.shards:
        card = cards[stage.set]
        layout, there = lay_out(corpus.root, stage, card, commits), shards_there(corpus.root, stage, card)
        shards = [shard for pack in layout.packs(there) for shard in pack.wanted]
        rows += sum(shard.samples for shard in shards)
        known = {entry["fingerprint"] for entry in card["shards"]} if card else set()
        why = ["gone or damaged" if shard.fingerprint in known else "samples changed" for shard in shards]
        waiting |= {len(waiting) + n: f"{stage.set}: {one}" for n, one in enumerate(why)}
        if not shards and card_of(stage, layout, there) != card:
            waiting[len(waiting)] = f"{stage.set}: made, but not published"
    return StagePlan("shards", waiting, rows, total)


def todo(
    stage: PartitionStage, commits: Mapping[str, Mapping[int, Commit]], upstream_todo: Collection[int] = ()
) -> dict[int, str]:
    """partition -> why it is not current. A partition whose input is to be made follows it, unless equal columns
    come out there."""
    found, first, last = {}, stage.info.answers, [*stage.inputs][-1]
    own, identity = commits.get(stage.name, {}), stage.identity()
    for partition in commits[first]:
        if partition in upstream_todo:
            found[partition] = f"follows {last}" if partition in own else "new"
            continue
        inputs = stage.declared({name: commits[name][partition] for name in stage.inputs})
        now = own.get(partition)
        if now is None:
            found[partition] = "new"
        elif now.fingerprint != fingerprint_of(identity, inputs):
            found[partition] = why(now, stage, inputs)
    return found


def why(now: Commit, stage: Stage, inputs: Mapping[str, Mapping[str, str]]) -> str:
    """What has changed since a partition was made, in a few words."""
    if now.version != stage.version:
        return f"stage version {now.version} -> {stage.version}"
    settings = json.loads(json.dumps(stage.settings()))  # as a commit keeps them: lists, no tuples
    for name in sorted(settings.keys() | now.settings.keys()):
        if settings.get(name) != now.settings.get(name):
            return _change(name, now.settings.get(name), settings.get(name))
    for name, columns in inputs.items():
        changed = [column for column in columns if now.inputs.get(name, {}).get(column) != columns[column]]
        if changed:
            return f"{name} changed: {', '.join(changed)}"
    return "changed"


def _change(name: str, before: object, after: object) -> str:
    """How a setting changed; of a table, the first of its keys that did."""
    if isinstance(before, dict) and isinstance(after, dict):
        key = next(key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key))
        return _change(f"{name}.{key}", before.get(key), after.get(key))
    if isinstance(before, dict) or isinstance(after, dict):
        return f"{name} {'is new' if before is None else 'is gone'}"
    if all(isinstance(value, str) and DIGEST.fullmatch(value) for value in (before, after)):
        return f"{name} changed"
    return f"{name} {_short(before)} -> {_short(after)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
