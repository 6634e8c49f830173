"""The steps of a round of an alignment. Each decides from `align.json` and the folder of checkpoints what is left to
do, so that an alignment goes on wherever it was killed.

    <checkpoints>/start/            the log of the evaluation of the policy at the start
    <checkpoints>/round-1/pairs     the pairs in TRL's form, for an external trainer
    <checkpoints>/round-1/run       the run of the trainer
    <checkpoints>/round-1/checkpoint    its model: the policy of round 2, if it is the best one
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import close
from pathlib import Path

from pipelines.build.corpus import Corpus
from pipelines.engine.alignment import read_alignment, write_alignment
from pipelines.engine.child import module_command
from pipelines.engine.lock import Busy, hold
from pipelines.engine.releases import name_of, read_card
from pipelines.engine.root import Root
from pipelines.exports.export import export
from pipelines.models.commands import filled_words, last_lines, run_command
from pipelines.models.endpoints import endpoint_of, weights_of
from pipelines.reports.report import write_report
from pipelines.stages.rounds import set_of
from schemas import file_lock
from schemas.align import (
    STOPPED,
    AlignConfig,
    Alignment,
    Figures,
    Policy,
    best_policy,
    checkpoint_of,
    figures_of,
    new_round,
    outcome,
)
from schemas.errors import UserError

Say = Callable[[str], None]  # tells a person a line of progress

FOR_TRAINERS = "trl"  # the form of {pairs}


def settings_of(corpus: Corpus) -> AlignConfig:
    """Raises `UserError` for a corpus without [align]."""
    if corpus.config.align is None:
        raise UserError(f'{corpus.name}: align: missing; add the table [align] with checkpoints = "…"')
    return corpus.config.align


@contextmanager
def aligning(corpus: Corpus) -> Iterator[None]:
    """One alignment of a folder of checkpoints at a time. Raises `Busy` if another one goes on."""
    folder = Path(settings_of(corpus).checkpoints)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = file_lock.take(folder / "lock.json", file_lock.this_process())
    except file_lock.Held as held:
        who = file_lock.process_of(held.holder) or "another process"
        raise Busy(f"{folder} is in use by {who}, which aligns; wait for it, or stop it") from None
    try:
        yield
    finally:
        close(lock)


def is_over(corpus: Corpus, rounds: int) -> bool:
    """Whether all rounds are done, or one has stopped the alignment."""
    done = [one["outcome"] for one in read_alignment(corpus.root)["rounds"]]
    return STOPPED in done or (len(done) >= rounds and all(done[:rounds]))


def evaluate_start(corpus: Corpus, say: Say) -> None:
    """Evaluates the policy of the configuration, unless that is done."""
    alignment = read_alignment(corpus.root)
    if alignment["start"] is None:
        alignment["start"] = _evaluated(corpus, {"model": None, "revision": None}, "start", say)
        _write(corpus, alignment)


def begin_round(corpus: Corpus, say: Say) -> int:
    """Begins the next round with the best policy so far, unless one is going on. Returns its number.

    Where the policy has a url, its servers are made to serve it, until all is answered.
    """
    alignment = read_alignment(corpus.root)
    if not alignment["rounds"] or alignment["rounds"][-1]["outcome"]:
        alignment["rounds"].append(new_round(best_policy(alignment)[0]))
        _write(corpus, alignment)
    number, current = len(alignment["rounds"]), alignment["rounds"][-1]
    align = settings_of(corpus)
    if align.policy_command and current["release"] is None:
        words = filled_words(align.policy_command, {"policy": _model(corpus, current["policy"]), "round": str(number)})
        run_command(words, _folder(corpus, number) / "policy.log", f"align: policy of round {number}", say)
    return number


def train_policy(corpus: Corpus, say: Say) -> None:
    """Trains the policy of the round on its pairs, unless that is done."""
    align, alignment = settings_of(corpus), read_alignment(corpus.root)
    number, current = len(alignment["rounds"]), alignment["rounds"][-1]
    if current["checkpoint"]:
        return
    if current["release"] is None:
        card = read_card(corpus.root, set_of(number))
        if card is None or not card["samples"]:
            raise UserError(f"sets.{set_of(number)}: round {number} has no pairs; `shardmill stats` says why")
        current["release"] = name_of(card)
        _write(corpus, alignment)
    folder, policy = _folder(corpus, number), _model(corpus, current["policy"])
    out = folder / "checkpoint"
    if align.train_command:
        export(corpus.root, current["release"], FOR_TRAINERS, Root(str(folder / "pairs")))
        blanks = {"policy": policy, "pairs": str(folder / "pairs"), "out": str(out), "round": str(number)}
        words = filled_words(align.train_command, blanks)
    else:
        recipe = ["--recipe", align.recipe] if align.recipe else []
        places = (policy, corpus.root.url, current["release"], str(folder / "run"), str(out))
        words = module_command("training.align", *places, *recipe)
    run_command(words, folder / "train.log", f"align: training of round {number}", say)
    if not out.exists():
        raise UserError(f"align.train_command: ended without writing {out}; let it write the model to {{out}}")
    current["checkpoint"] = {"model": str(out), "revision": weights_of(str(out))}
    _write(corpus, alignment)


def end_round(corpus: Corpus, say: Say) -> str:
    """Evaluates what the round has trained, and decides what becomes of it. Returns it in a line."""
    alignment = read_alignment(corpus.root)
    number, current = len(alignment["rounds"]), alignment["rounds"][-1]
    if current["outcome"] is None and current["checkpoint"]:
        if current["figures"] is None:
            current["figures"] = _evaluated(corpus, current["checkpoint"], f"round-{number}", say)
            _write(corpus, alignment)
        current["outcome"], current["why"] = outcome(settings_of(corpus), alignment, current["figures"])
        _write(corpus, alignment)
    with hold(corpus.root):
        write_report(corpus.root)
    return f"round {number}: {current['outcome']}: {current['why']}"


def _evaluated(corpus: Corpus, policy: Policy, name: str, say: Say) -> Figures:
    """The figures of a policy, from the last line of its evaluation's output that is a JSON object."""
    align, model = settings_of(corpus), _model(corpus, policy)
    log = Path(align.checkpoints) / name / "evaluate.log"
    if align.evaluate_command:
        words = filled_words(align.evaluate_command, {"policy": model})
    else:
        words = module_command("training.evaluate", model, str(align.held_out), align.held_out_set)
    run_command(words, log, f"align: evaluation of {name}", say)
    for line in last_lines(log):
        try:
            printed = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(printed, dict):
            return figures_of(printed)
    raise UserError(f"align: the evaluation of {name} printed no line of JSON; its log is {log}")


def _model(corpus: Corpus, policy: Policy) -> str:
    """The name or the path of a policy's model."""
    responses = corpus.config.responses
    name = responses.endpoint if responses else None
    return (
        checkpoint_of(settings_of(corpus), policy)
        or endpoint_of(corpus.config, "responses.endpoint", name or "").config.model
    )


def _folder(corpus: Corpus, number: int) -> Path:
    return Path(settings_of(corpus).checkpoints) / f"round-{number}"


def _write(corpus: Corpus, alignment: Alignment) -> None:
    with hold(corpus.root):
        write_alignment(corpus.root, alignment)
