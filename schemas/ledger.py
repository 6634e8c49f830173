"""The ledger under `runs/`: what each run measured and changed."""

from typing import TypedDict

from schemas.arrow import arrow_schema


class RunRow(TypedDict):
    run: str                # UTC start time and a random tail; sorts by time
    config: str             # the configuration file's name
    version: str            # of shardmill
    started: str            # UTC, ISO 8601
    ended: str | None
    status: str             # running, completed, failed, cancelled, died
    detail: str | None      # what a failed run said


class WorkRow(TypedDict):
    run: str
    stage: str
    item: str               # partition, source file or shard
    partition: int | None
    rows: int
    kept: int
    made: int               # rows computed; the others were taken over
    seconds: float
    started: str            # UTC, ISO 8601
    host: str
    pid: int


class ChangeRow(TypedDict):
    run: str
    stage: str
    partition: int | None   # none for samples of a shard set
    key: str                # of the row; of the sample in stage shards
    change: str             # added, removed, changed; made, in place of a row an added key: see `MADE`
    before: str | None      # JSON of the columns that changed, or of the whole removed row
    after: str | None       # JSON of the columns that changed; an added row is in the stage's view


# The one row in a file for all keys of a partition that was made for the first time. The view `changes` has a row for
# each of them.
MADE = {"key": "", "change": "made", "before": None, "after": None}


class FetchRow(TypedDict):
    run: str
    partition: int
    key: str
    host: str | None        # of the URL as the source has it, as in `rows`
    status: int | None      # HTTP's, of the last answer; none if there was no answer
    tries: int              # in which it was asked for; none of them if its host was left alone
    milliseconds: int       # of the last try: connecting, redirects and reading
    bytes: int              # of the last body


class CallRow(TypedDict):
    run: str
    stage: str
    partition: int
    key: str                # of the row that was made of the answer
    endpoint: str
    tries: int              # requests, the one that was answered included
    tokens_in: int          # of all tries, as the server counts them
    tokens_out: int
    milliseconds: int       # of the last try
    waited: int             # milliseconds before it, for a turn and after failures
    reason: str | None      # why there was no answer


class ReleaseRow(TypedDict):
    run: str                # that published it
    set: str
    release: str            # names its content
    task: str
    samples: int
    bytes: int              # of its tars
    shards: int
    added: int              # samples, against the release that was published before
    removed: int
    changed: int
    settings: str | None    # digest of all settings that decide its samples; none if it was put back by a command
    published: str          # UTC, ISO 8601


class ComparisonRow(TypedDict):
    run: str
    stage: str
    pairs: int              # of pictures that were compared, whose answers were not known
    copies: int             # of these, the ones that are copies of each other
    milliseconds: int       # of processor time, reading the pictures included


class DistributionRow(TypedDict):
    run: str                # that published the release
    set: str
    release: str
    measure: str            # see `schemas.drift`
    value: str              # of a number the least of its bin
    samples: int


RUNS = arrow_schema(RunRow)
COMPARISONS = arrow_schema(ComparisonRow)
DISTRIBUTIONS = arrow_schema(DistributionRow)
RELEASES = arrow_schema(ReleaseRow)
WORK = arrow_schema(WorkRow)
CHANGES = arrow_schema(ChangeRow)
FETCHES = arrow_schema(FetchRow)
CALLS = arrow_schema(CallRow)
MEASURED = {"fetches": FETCHES, "calls": CALLS}     # of single rows, by the workers that made them
