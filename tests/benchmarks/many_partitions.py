"""What the driver needs for corpora of very many partitions: memory, and seconds to plan and to close a stage.

    python tests/benchmarks/many_partitions.py [--partitions 20000 200000]

The corpora are made up: their files are empty, and their commits are in the caches that a run leaves. Each measurement
runs in a process of its own. `bytes_a_commit` is what the columns of a stage take; peaks are of resident memory over
what the process had before it opened the corpus.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

STAGES = ("rows", "images", "selection")
ROWS = 1000  # of a partition
TOML = 'root = "corpus"\n[source]\nkind = "laion"\npath = "source/*.parquet"\n[fetch]\ncontact = "a@example.org"\n'


def made_up(*names: object) -> str:
    return sha256(repr(names).encode()).hexdigest()


def write(folder: Path, partitions: int) -> None:
    """A corpus of one source file whose stages are all current, up to the shards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.build.corpus import open_corpus
    from pipelines.engine.commit import Commit, fingerprint_of
    from pipelines.engine.commit_cache import write_cache
    from pipelines.engine.corpus_stage import CorpusStage
    from pipelines.engine.manifest import SourceFile, write_manifest
    from pipelines.engine.root import Root
    from pipelines.stages.rows import settle

    (folder / "source").mkdir()
    pq.write_table(pa.table({"url": ["http://a/b"], "caption": ["c"]}), folder / "source/0.parquet")
    (folder / "my.toml").write_text(TOML)
    corpus = open_corpus(folder / "my.toml")
    root: Root = corpus.root
    root.create()
    (file,) = settle(corpus.rows.values(), [], []).files
    settled = [SourceFile(file.path, 0, partitions, file.split)]
    write_manifest(root, settled, corpus.infos[1:], [])
    stages = {"rows": corpus.rows[None], **corpus.made}

    def commits_of(name: str) -> Iterator[Commit]:
        stage = stages[name]
        for number in range(partitions):
            digests = {column: made_up(name, number, column)[:32] for column in stage.schema.names}
            digests["key"] = made_up("rows", number, "key")[:32]
            inputs = {}
            if name == "images":
                inputs = {s: {c: made_up(s, number, c)[:32] for c in columns} for s, columns in stage.columns.items()}
            fingerprint = fingerprint_of(stage.identity(), inputs or digests)
            payload = f"{number:05d}-{made_up(number)[:16]}.tar" if name == "images" else None
            reasons = {"http_404": 100 + number % 7, "timeout": 30, "too_small": number % 3 + 1}
            yield Commit(
                name, number, stage.version, json.loads(json.dumps(stage.settings())), inputs, fingerprint, digests,
                ROWS, ROWS - sum(reasons.values()), reasons, payload, made_up("tar", number) if payload else None,
            )  # fmt: skip

    for name in STAGES:
        (folder / "corpus" / name).mkdir(exist_ok=True)
        for number in range(partitions):
            (folder / f"corpus/{name}/{number:05d}.parquet").touch()
        write_cache(root, name, commits_of(name))
    upstream = corpus.commits("rows", *corpus.made)
    for name, stage in corpus.made.items():
        if isinstance(stage, CorpusStage):
            stage.note(root, {s: upstream[s] for s in corpus.before(name)})


def peak() -> int:
    """The largest resident memory of this process so far, in MB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def measure(what: str, folder: Path) -> dict:
    """Plans, or closes a stage of which every partition was made."""
    from pipelines.build.corpus import open_corpus
    from pipelines.build.plan import plan
    from pipelines.build.run import close_ledger
    from pipelines.engine.commit_cache import read_commits
    from pipelines.engine.ledger import Ledger
    from schemas.ledger import MADE

    corpus = open_corpus(folder / "my.toml")
    ledger = Ledger.start(corpus.root, "my.toml", "0")
    if what == "close":
        from pipelines.engine import root as engine_root

        engine_root.FSYNC = False
        for number, fingerprint in read_commits(corpus.root, "images").fingerprints():
            ledger.record("images", f"{number:05d}", fingerprint, [MADE], partition=number, rows=ROWS, kept=900,
                          made=ROWS, started=time.time())  # fmt: skip
    before = peak()
    began, cpu = time.monotonic(), time.process_time()
    found = {}
    if what == "plan":
        planned = plan(corpus, "selection")
        found["to_make"] = {stage.stage: stage.reasons() for stage in planned.stages}
    else:
        close_ledger(corpus.root, ledger)
    found |= {"seconds": round(time.monotonic() - began, 2), "cpu_seconds": round(time.process_time() - cpu, 2)}
    found["peak_mb"] = peak() - before
    if what == "plan":
        commits = corpus.commits(*STAGES)
        found["bytes_a_commit"] = {
            name: round(of_stage.table.nbytes / max(1, len(of_stage))) for name, of_stage in commits.items()
        }
    return {"what": what, **found}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--partitions", type=int, nargs="+", default=[20_000, 200_000])
    asked.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], Path(options.one[1]))))
        return
    found = []
    for partitions in options.partitions:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), partitions)
            for what in ("plan", "close"):
                command = [sys.executable, __file__, "--one", what, folder]
                answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found.append({"partitions": partitions, **json.loads(answer)})
    print(json.dumps({"benchmark": "many_partitions", "found": found}))


if __name__ == "__main__":
    main()
