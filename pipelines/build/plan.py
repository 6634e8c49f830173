"""What a run would do and why, from commits alone. Computes and writes nothing."""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pipelines.build.corpus import CommitsByStage, Corpus
from pipelines.catalog.ledger_files import left_out
from pipelines.engine.commit import Commit, Stage, fingerprint_of
from pipelines.engine.commits import Commits, as_recorded
from pipelines.engine.corpus_stage import CorpusStage
from pipelines.engine.manifest import SourceFile, read_manifest, sizes_of
from pipelines.engine.partition_stage import PartitionStage
from pipelines.engine.releases import marked, name_of, read_card
from pipelines.stages.row_counts import LookByWorkers, Unknown
from pipelines.stages.rows import Looking, Rows, Settlement, settle
from pipelines.stages.shard_layout import lay_out
from pipelines.stages.shard_releases import card_of, shards_there
from schemas.config.file import place_of

DIGEST = re.compile("[0-9a-f]{16}([0-9a-f]{16})?")  # of a prompt or a file: not worth showing


@dataclass
class StagePlan:
    """What one stage would make."""

    stage: str
    todo: dict[int, str] = field(default_factory=dict)  # partition -> why
    rows: int | None = 0  # in these partitions; None if not known yet
    total: int = 0  # partitions of the stage
    open: bool = False  # whether the number is known only once the stages before are made

    def reasons(self) -> list[tuple[str, int]]:
        return Counter(self.todo.values()).most_common()


@dataclass(frozen=True)
class RunPlan:
    vanished: list[tuple[str, list[int]]]  # source files that are gone, and their partitions
    stages: list[StagePlan]
    hints: list[str] = field(default_factory=list)  # what the user may not have meant

    def work(self) -> int:
        return len(self.vanished) + sum(len(stage.todo) for stage in self.stages)


def has_work(corpus: Corpus, until: str | None = None) -> bool:
    """Whether a run would make anything. Does not wait until large tables of text, new or changed, are read."""
    try:
        return plan(corpus, until, LookByWorkers(corpus.root)).work() > 0
    except Unknown:
        return True


def plan(corpus: Corpus, until: str | None = None, looking: Looking | None = None) -> RunPlan:
    """What a run would make, and why. Writes nothing. `looking`: see `settle`."""
    names = corpus.stages(until)
    settled = read_manifest(corpus.root)
    commits = corpus.commits("rows", *corpus.made)
    settlement = settle(corpus.rows.values(), settled, commits["rows"], sizes_of(corpus.root), looking)
    commits = _without_vanished(commits, settlement)
    plans = [_plan_rows(corpus.rows, settlement, commits["rows"])]
    waiting = plans[0].todo
    every = sorted({*commits["rows"], *waiting})
    for name, stage in corpus.made.items():
        if isinstance(stage, CorpusStage):
            planned = _plan_step(corpus, stage, commits, plans, every)
            waiting = waiting | {p: why for p, why in planned.todo.items() if p not in commits[name]}
        else:
            planned = _plan_partitions(corpus, stage, commits, plans, waiting, len(every))
            waiting = planned.todo
        plans.append(planned)
    choosing = {stage.stages[-1].name for stage in corpus.shards}
    plans.append(_plan_shards(corpus, commits, any(p.todo for p in plans if p.stage in choosing)))
    vanished = [(str(file), list(file.partitions)) for file in settlement.vanished]
    notes = (f"{place_of(name)}: {note}" for name, stage in corpus.rows.items() for note in stage.source.notes())
    hints = [*map(_renamed, settlement.renamed()), *notes, *_put_back(corpus, plans[-1]), *left_out(corpus.root)]
    return RunPlan(vanished, [p for p in plans if p.stage in names], hints)


def _put_back(corpus: Corpus, shards: StagePlan) -> list[str]:
    """Notes on releases that a user put back and that a run would replace."""
    back = marked(corpus.root, "put-back")
    waiting = {reason.split(":")[0] for reason in shards.todo.values()}
    cards = {stage.set: read_card(corpus.root, stage.set) for stage in corpus.shards}
    would = "may replace" if shards.open else "would replace"
    return [
        f"sets.{name}: {name_of(card)} was put back; a run {would} it by what the configuration gives now"
        for name, card in cards.items()
        if card and name_of(card) in back and (shards.open or name in waiting)
    ]


def _renamed(names: tuple[str | None, str | None]) -> str:
    """A note for a user who gives a source another name."""
    was, now = names
    before, instead = (was, f'name = "{was}"') if was else ("the source without a name", "no name")
    return f"{place_of(now)}: has all files of {before}, which is gone; to keep what was made of them, write {instead}"


def _without_vanished(commits: CommitsByStage, settlement: Settlement) -> CommitsByStage:
    """The commits of all partitions but those of source files that are gone."""
    gone = {p for file in settlement.vanished for p in file.partitions}
    return {stage: of_stage.without(gone) if gone else of_stage for stage, of_stage in commits.items()}


def _plan_rows(stages: Mapping[str | None, Rows], settlement: Settlement, commits: Commits) -> StagePlan:
    """What would be split: the partitions of new and of changed source files."""
    waiting = {p: _of_source(file, "new file") for file in settlement.new for p in file.partitions}
    for file in settlement.changed:
        for partition in file.partitions:
            now = commits.get(partition)
            reason = why(now, stages[file.source], {}) if now else "changed"
            waiting[partition] = _of_source(file, "file changed" if reason == "changed" else reason)
    return StagePlan("rows", waiting, commits.rows_in(waiting), len(settlement.partitions()))


def _of_source(file: SourceFile, reason: str) -> str:
    """A reason with the name of the file's source, if that has one."""
    return f"{file.source}: {reason}" if file.source else reason


def _plan_partitions(
    corpus: Corpus, stage: PartitionStage, commits: CommitsByStage, plans: list[StagePlan],
    upstream_todo: Collection[int], total: int,
) -> StagePlan:  # fmt: skip
    waiting = todo(stage, commits, upstream_todo)
    # Rows that turn from left out to kept in a step that it reads are made too.
    unsure = any(p.todo and isinstance(corpus.made.get(p.stage), CorpusStage) for p in plans)
    rows = commits["rows"].rows_in(waiting)
    return StagePlan(stage.name, waiting, rows, total, open=unsure and len(waiting) < total)


def _plan_step(
    corpus: Corpus, step: CorpusStage, commits: CommitsByStage, plans: list[StagePlan], every: list[int]
) -> StagePlan:
    upstream, why = {name: commits[name] for name in corpus.before(step.name)}, None
    if changing := [plan.stage for plan in plans if plan.todo]:
        why = f"follows {changing[-1]}"
    elif not step.is_current(corpus.root, upstream, commits[step.name]):
        older = commits[step.name].versions() - {step.version}
        why = f"stage version {min(older)} -> {step.version}" if older else "the corpus or its settings changed"
    rows = commits["rows"].rows_in(every) if why else 0
    return StagePlan(step.name, {p: why for p in every} if why else {}, rows, len(every))


def _plan_shards(corpus: Corpus, commits: CommitsByStage, choosing: bool) -> StagePlan:
    """`choosing`: whether the run still has to choose what goes into the shards."""
    cards = {stage.set: read_card(corpus.root, stage.set) for stage in corpus.shards}
    total = sum(len(card["shards"]) for card in cards.values() if card)
    if choosing:
        return StagePlan("shards", {0: "only shards whose samples change"}, None, total, open=True)
    waiting, rows = {}, 0
    for stage in corpus.shards:
        card = cards[stage.set]
        layout, packed = lay_out(corpus.root, stage, card, commits), shards_there(corpus.root, stage, card)
        shards = [shard for pack in layout.packs(stage, packed, card) for shard in pack.wanted]
        rows += sum(shard.samples for shard in shards)
        known = {entry["fingerprint"] for entry in card["shards"]} if card else set()
        reasons = ["gone or damaged" if shard.fingerprint in known else "samples changed" for shard in shards]
        waiting |= {len(waiting) + n: f"{stage.set}: {reason}" for n, reason in enumerate(reasons)}
        if not shards and card_of(stage, layout, packed) != card:
            waiting[len(waiting)] = f"{stage.set}: made, but not published"
    return StagePlan("shards", waiting, rows, total)


def todo(
    stage: PartitionStage, commits: Mapping[str, Mapping[int, Commit]], upstream_todo: Collection[int] = ()
) -> dict[int, str]:
    """partition -> why it is not current. A partition whose input has to be made is made after it, unless the
    new input has equal columns."""
    reasons, first, last = {}, stage.answers, [*stage.inputs][-1]
    own, identity = commits.get(stage.name, {}), stage.identity()
    current = as_recorded(stage, commits)
    for partition in sorted({*commits[first], *upstream_todo} - current | {*upstream_todo}):  # without commits if new
        if partition in upstream_todo:
            reasons[partition] = f"follows {last}" if partition in own else "new"
            continue
        upstream = {name: commits[name][partition] for name in stage.inputs}
        inputs, now = stage.declared(upstream), own.get(partition)
        if now is None:
            reasons[partition] = "new"
        elif not stage.is_current(now, fingerprint_of(identity, inputs), upstream):
            reasons[partition] = why(now, stage, inputs)
    return reasons


def why(now: Commit, stage: Stage, inputs: Mapping[str, Mapping[str, str | None]]) -> str:
    """What has changed since a partition was made, in a few words."""
    if now.version != stage.version:
        return f"stage version {now.version} -> {stage.version}"
    settings = json.loads(json.dumps(stage.settings()))  # as a commit stores them: lists, not tuples
    for name in sorted(settings.keys() | now.settings.keys()):
        if settings.get(name) != now.settings.get(name):
            return change_of(name, now.settings.get(name), settings.get(name))
    for name, columns in inputs.items():
        changed = [column for column in columns if now.inputs.get(name, {}).get(column) != columns[column]]
        if changed:
            return f"{name} changed: {', '.join(changed)}"
    return "changed"


def change_of(name: str, before: object, after: object) -> str:
    """How a setting changed; for a table, its first changed key."""
    if isinstance(before, dict) and isinstance(after, dict):
        key = next(key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key))
        return change_of(f"{name}.{key}", before.get(key), after.get(key))
    if any(isinstance(value, dict | list) for value in (before, after)) and None in (before, after):
        return f"{name} {'is new' if before is None else 'is gone'}"
    if any(_is_long(value) for value in (before, after)):
        return f"{name} changed"
    return f"{name} {_short(before)} -> {_short(after)}"


def _is_long(value: object) -> bool:
    """Whether a setting cannot be shown in a few words: a digest, a table, or tables."""
    tables = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value))
    return tables or (isinstance(value, str) and bool(DIGEST.fullmatch(value)))


def _short(value: object) -> str:
    text = "unset" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
