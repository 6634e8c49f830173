"""Faults of the machine, one after another, as a command meets them: its message, its exit code, and the next run.

    python tests/benchmarks/faults.py [--only full,read-only]

Each fault is one row. Faults that need the rights of an administrator (a full disk, a disk without rights to write, no
network) are left out for other users.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import pyarrow as pa
import pyarrow.parquet as pq
from support.corpora import ONE_PROCESS, picture
from support.paths import PROJECT
from support.prefect_server import serving
from support.scripted_server import Scripted

from pipelines.engine.ledger import runs
from pipelines.engine.root import Root

CONFIG = f"""
root = "disk/corpus"
[source]
kind = "folder"
path = "pictures"
rows_per_partition = 4
[sets.train]
samples_per_shard = 4
{ONE_PROCESS}"""
SHARDMILL = [sys.executable, "-c", "from flows.cli import main; main()"]
HELD = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")  # an administrator to whom rights apply


class Corpus:
    """Eight pictures, and a root on a disk of its own."""

    def __init__(self, folder: Path, **env: str):
        self.folder, self.env = folder, env
        (folder / "pictures").mkdir(parents=True)
        (folder / "disk").mkdir()
        for number in range(8):
            (folder / f"pictures/{number}.png").write_bytes(picture(number)[0])
            (folder / f"pictures/{number}.txt").write_text(f"a picture with the number {number}")
        (folder / "my.toml").write_text(CONFIG)

    def run(self, *before: str, **env: str) -> tuple[int, str]:
        """The exit code of a run, and what it says of its end. `before`: a command that starts it."""
        said = subprocess.run(
            [*before, *SHARDMILL, "run", "my.toml"], cwd=self.folder, capture_output=True, text=True, timeout=600,
            env={**os.environ, "PYTHONPATH": str(PROJECT), **self.env, **env},
        )  # fmt: skip
        lines = [line for line in said.stderr.splitlines() if line.strip()]
        return said.returncode, " | ".join(lines)

    def ledger(self) -> str:
        rows = [ledger.row() for ledger in runs(Root(str(self.folder / "disk/corpus")))]
        return rows[-1]["status"] if rows and rows[-1] else "no run"

    def row(self, what: str, code: int, says: str) -> dict:
        return {"what": what, "exit": code, "says": says.replace(str(self.folder), "…"), "ledger": self.ledger()}

    def next(self, row: dict) -> dict:
        """The row, and how the next run and `verify` end."""
        before = self.ledger()
        code, _ = self.run()
        ledgers = [ledger.row() for ledger in runs(Root(str(self.folder / "disk/corpus")))]
        died = any(found and found["status"] == "died" for found in ledgers)
        verified = subprocess.run(
            [*SHARDMILL, "verify", "my.toml"], cwd=self.folder, capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )  # fmt: skip
        left = [str(path.name) for path in self.folder.glob("disk/corpus/**/*.tmp*")]
        named = "died" if died and before == "running" else row["ledger"]
        return row | {"ledger": named, "next": code, "verify": verified.returncode, "left": left}


@contextmanager
def disk(folder: Path, size: str = "64m") -> Iterator[None]:
    """A disk of its own behind a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def full(corpus: Corpus) -> dict:
    with disk(corpus.folder / "disk", "3m"):
        (corpus.folder / "disk/filler").write_bytes(bytes((3 << 20) - (200 << 10)))
        row = corpus.row("disk full", *corpus.run())
        (corpus.folder / "disk/filler").unlink()
        return corpus.next(row)


def read_only(corpus: Corpus) -> dict:
    with disk(corpus.folder / "disk"):
        assert corpus.run()[0] == 0
        (corpus.folder / "pictures/0.txt").write_text("another text")
        subprocess.run(["mount", "-o", "remount,ro", corpus.folder / "disk"], check=True)
        row = corpus.row("root read-only", *corpus.run())
        subprocess.run(["mount", "-o", "remount,rw", corpus.folder / "disk"], check=True)
        return corpus.next(row)


def no_rights_root(corpus: Corpus) -> dict:
    (corpus.folder / "disk").chmod(0o555)
    row = corpus.row("no right to write the root", *corpus.run(*HELD))
    (corpus.folder / "disk").chmod(0o755)
    return corpus.next(row)


def no_rights_source(corpus: Corpus) -> dict:
    (corpus.folder / "pictures").chmod(0)
    row = corpus.row("no right to read the source", *corpus.run(*HELD))
    (corpus.folder / "pictures").chmod(0o755)
    return corpus.next(row)


def no_home(corpus: Corpus) -> dict:
    row = corpus.row("HOME cannot be written", *corpus.run(HOME="/proc/nothing", PREFECT_API_URL=""))
    return corpus.next(row)


def proxy(corpus: Corpus) -> dict:
    dead = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")}
    return corpus.next(corpus.row("HTTP_PROXY set, and dead", *corpus.run(PREFECT_API_URL="", **dead)))


def no_network(corpus: Corpus) -> dict:
    urls = [f"https://pictures.example/{n}.png" for n in range(4)]
    pq.write_table(pa.table({"URL": urls, "TEXT": urls}), corpus.folder / "urls.parquet")
    config = CONFIG.replace('kind = "folder"\npath = "pictures"', 'kind = "laion"\npath = "urls.parquet"')
    config += "[fetch]\ncontact = 'me@example.org'\n"
    (corpus.folder / "my.toml").write_text(config)
    inside = 'ip link set lo up; exec "$@"'
    return corpus.row(
        "no network, for a source of URLs",
        *corpus.run("unshare", "-n", "sh", "-c", inside, "sh", PREFECT_API_URL=""),
    )


def torn(corpus: Corpus) -> dict:
    assert corpus.run()[0] == 0
    file = corpus.folder / "disk/corpus/images/00000.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    (corpus.folder / "pictures/0.txt").write_text("another text")
    return corpus.next(corpus.row("a torn file of the corpus", *corpus.run()))


def server_gone(corpus: Corpus) -> dict:
    with Scripted() as server:
        (corpus.folder / "my.toml").write_text(
            CONFIG.replace("[sets.train]", f'[endpoints.m]\nmodel = "scripted"\nurl = "{server.url}"\n'
                           '[captions]\nendpoint = "m"\nrewrite = "all"\n[sets.train]')
        )  # fmt: skip
        url = server.url
    row = corpus.row("the model's server is gone", *corpus.run())
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    with Scripted(port=port):
        return corpus.next(row)


FAULTS: dict[str, Callable[[Corpus], dict]] = {
    "full": full, "read-only": read_only, "no-rights-root": no_rights_root, "no-rights-source": no_rights_source,
    "no-home": no_home, "proxy": proxy, "no-network": no_network, "torn": torn, "server-gone": server_gone,
}  # fmt: skip
FOR_ROOT = {"full", "read-only", "no-rights-root", "no-rights-source", "no-network"}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--only", default=",".join(FAULTS))
    only = asked.parse_args().only.split(",")
    rows, before = list[dict](), time.monotonic()
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    with ExitStack() as stack:
        server = stack.enter_context(serving(folder / "prefect"))
        for name in only:
            if name in FOR_ROOT and os.geteuid():
                continue
            rows.append(FAULTS[name](Corpus(folder / name, **server.env)))
    shutil.rmtree(folder)
    print(json.dumps({"benchmark": "faults", "rows": rows, "seconds": round(time.monotonic() - before)}))


if __name__ == "__main__":
    main()
