"""Texts by which Prefect shows a run: its name, the keys of its artifacts, a line for each stage, how it ended."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipelines.build.run import StageReport


def label(config: Path) -> str:
    """The name of a configuration among others: its folder and its stem."""
    words = (Path(os.path.abspath(config)).parent.name, config.stem)
    return "-".join(filter(None, (re.sub(r"[^\w.-]+", "-", word).strip("-") for word in words))) or "corpus"


def run_title(config: Path, scheduled: datetime) -> str:
    """The name of a run: the configuration and the scheduled time."""
    return f"{label(config)} {scheduled.astimezone(UTC):%Y-%m-%d %H:%M}"


def artifact_key(kind: str, root: str, *more: str) -> str:
    """The key of an artifact, which each corpus has for itself: lower case letters, digits and dashes."""
    digest = hashlib.sha256(root.encode()).hexdigest()[:6]
    words = "-".join((kind, *root.rstrip("/").split("/")[-2:], digest, *more))
    return re.sub(r"[^a-z0-9]+", "-", f"shardmill-{words}".lower()).strip("-")


def stage_line(report: StageReport) -> str:
    """What a stage made, in one line."""
    what = "shards" if report.stage == "shards" else "partitions"
    made = f"{report.made:,} of {report.of:,} {what} made" if report.made else "nothing to make"
    if report.stage == "shards":
        return f"shards: {made}, {report.kept:,} samples"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(report.reasons).most_common())
    left_out = f", {sum(report.reasons.values()):,} left out: {reasons}" if reasons else ""
    return f"{report.stage}: {made}, {report.kept:,} rows kept{left_out}"


def run_line(reports: Sequence[StageReport]) -> str:
    """What a run made, in one line."""
    made = ", ".join(f"{report.stage} {report.made:,}" for report in reports if report.made)
    samples = f"; {reports[-1].kept:,} samples" if reports and reports[-1].stage == "shards" else ""
    return f"made: {made}{samples}" if made else "nothing to make: everything is current"
