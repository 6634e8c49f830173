"""The downloader against strangers: hostile ones, img2dataset, and a hundred thousand of them.

    python tests/benchmarks/fetch.py [--parts hostile,peer,near,memory] [--img2dataset PYTHON]

The server is `tests/support/hostile_server.py`, on the same cores. Times are of `python -m pipelines.build --until
images`, an empty root.

hostile: 20,000 URLs of 2,500 hosts, one in ten hostile in one of 20 ways, deadline 5 s, 2 tries, against the good ones
    alone: every row has its bytes or the reason of its kind, and it takes no more than 15 s longer.
peer: the same 10,000 good URLs of 2,000 hosts by img2dataset, at its best of some settings, two processes, no resizing,
    WebDataset out. `--img2dataset` (or the variable IMG2DATASET_PYTHON) is the Python of an environment that has it.
    Hosts are as far away as on the web, 0.1 s most of them, one in a hundred a second. Images a second are counted from
    the first request to the last file written; and, beside it, over the whole command.
near: the same with hosts that answer at once.
memory: the peak over all processes of 100,000 rows against 20,000.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parents[2]
sys.path[:0] = [str(HERE / "tests"), str(HERE / "tests/benchmarks")]

from memory import peak  # noqa: E402
from support.hostile_server import Hostile  # noqa: E402

HOSTILE = {  # path -> reasons it may end with; none is an image in the end
    "drip": ["timeout"], "silent": ["timeout"], "slow-head": ["timeout"], "slow/60": ["timeout"],
    "reset": ["connection"], "reset-inside": ["connection"], "short": ["connection"],
    "long": ["truncated", "bad_answer"], "no-http": ["bad_answer"], "endless": ["too_large"], "bomb": ["too_large"],
    "status/404": ["http_404"], "status/500": ["http_5xx"], "recovers": [None], "busy/1": [None],
    "always-busy/60": ["http_429"], "loop": ["redirect_loop"], "html": ["not_an_image"], "tag/noai": ["opt_out"],
    "to/http:||169.254.169.254|": ["blocked_address"],
}  # fmt: skip
TOML = """
root = "{name}-corpus"
[source]
kind = "laion"
path = "{name}.parquet"
[images]
max_bytes = 5000000
[fetch]
contact = "data@example.org"
allow_hosts = ["localhost"]
deadline = 5
"""
PEER = {  # of which its best counts
    "256 threads": {"thread_count": 256},
    "256 threads, bytes as they came": {"thread_count": 256, "skip_reencode": True, "extract_exif": False},
    "64 threads, bytes as they came": {"thread_count": 64, "skip_reencode": True, "extract_exif": False},
}
LOCALHOST = """
import socket

real = socket.getaddrinfo


def getaddrinfo(host, *words, **more):
    return real("127.0.0.1" if isinstance(host, str) and host.endswith(".localhost") else host, *words, **more)


socket.getaddrinfo = getaddrinfo
"""


def write_source(folder: Path, name: str, urls: list[str]) -> list[str]:
    """A source and its configuration; the command that downloads it."""
    table = pa.table({"URL": urls, "TEXT": [f"picture {number}" for number in range(len(urls))]})
    pq.write_table(table, folder / f"{name}.parquet")
    (folder / f"{name}.toml").write_text(TOML.format(name=name))
    return ["-m", "pipelines.build", str(folder / f"{name}.toml"), "--until", "images"]


def timed(command: list[str], folder: Path, **env: str) -> tuple[float, float]:
    """When a command began and how many seconds it took."""
    began = time.time()
    done = subprocess.run(command, cwd=folder, env=os.environ | env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return began, time.time() - began


def ours(command: list[str], folder: Path) -> tuple[float, float]:
    return timed([sys.executable, *command], folder, PYTHONPATH=str(HERE))


def reasons(folder: Path, name: str) -> list[tuple[str, str | None]]:
    """(URL, why it gave no image) of every row."""
    root = folder / f"{name}-corpus"
    return duckdb.sql(f"""
        SELECT r.url, i.reason FROM '{root}/rows/[0-9]*.parquet' r JOIN '{root}/images/[0-9]*.parquet' i USING (key)
    """).fetchall()


def hostile(folder: Path, rows: int) -> dict:
    good, seconds, kinds = {}, {}, list(HOSTILE)
    with Hostile() as server:
        for number in range(rows):
            if number % 10:
                good[server.url(f"/web/{number}", f"h{number % 2000}")] = [None]
        bad = {}
        for number in range(0, rows, 10):
            kind = kinds[number // 10 % len(kinds)]
            bad[server.url(f"/{kind}/{number}", f"bad{number // 10 % 500}")] = HOSTILE[kind]
        for name, some in (("good", good), ("mixed", good | bad)):
            _, seconds[name] = ours(write_source(folder, name, list(some)), folder)
            said = reasons(folder, name)
            wrong = Counter((url.split("/")[3], reason) for url, reason in said if reason not in some[url])
            unaccounted = len(some) - len({url for url, _ in said})
    return {
        "rows": rows, "hostile": len(bad), "unaccounted": unaccounted, "bar": 15,
        "longer_seconds": round(seconds["mixed"] - seconds["good"], 1),
        "seconds": {name: round(took, 1) for name, took in seconds.items()},
        "reasons": {str(reason): count for reason, count in Counter(reason for _, reason in said).most_common()},
        "other_than_expected": {f"{kind}: {reason}": count for (kind, reason), count in wrong.items()},
    }  # fmt: skip


def peer(folder: Path, images: int, python: str | None, path: str) -> dict | str:
    if not python:
        return "skipped: name the Python of an environment with img2dataset by --img2dataset"
    (folder / "sitecustomize.py").write_text(LOCALHOST)
    rates, own = {}, []
    for name, settings in PEER.items():  # by turns, since machines have moods
        own.append(rate(folder, images, path))
        rates[name] = rate(folder, images, path, python, settings)
    own.sort(key=lambda one: one["images_a_second"])
    ratios = {
        what: round(own[len(own) // 2][what] / max(one[what] for one in rates.values()), 2)
        for what in ("images_a_second", "whole_command")
    }
    return {
        "images": images, "bar": 1.5, "ratio": ratios["images_a_second"],
        "ratio_whole_command": ratios["whole_command"], "ours": own, **rates,
    }  # fmt: skip


def rate(folder: Path, images: int, path: str, python: str | None = None, settings: dict | None = None) -> dict:
    """Images a second by ours, or by img2dataset in an environment of its own."""
    name = f"{path}-{len(list(folder.iterdir()))}"
    with Hostile() as server:
        urls = [server.url(f"/{path}/{number}", f"h{number % 2000}") for number in range(images)]
        command, out = write_source(folder, name, urls), folder / f"{name}-corpus/images"
        if python:
            out = folder / f"{name}-out"
            told = settings | {
                "url_list": f"{name}.parquet", "input_format": "parquet", "url_col": "URL", "caption_col": "TEXT",
                "output_format": "webdataset", "output_folder": str(out), "processes_count": 2, "resize_mode": "no",
                "number_sample_per_shard": 1000,
            }  # fmt: skip
            main = f"from img2dataset import download\nif __name__ == '__main__':\n    download(**{told!r})\n"
            (folder / "peer.py").write_text(main)
            began, took = timed([python, "peer.py"], folder, PYTHONPATH=str(folder))
            kept = sum(json.loads(file.read_text())["successes"] for file in out.glob("*_stats.json"))
        else:
            began, took = ours(command, folder)
            kept = [reason for _, reason in reasons(folder, name)].count(None)
        first = min(at for times in server.asked().values() for at in times)
    if kept != images:
        sys.exit(f"{name}: {kept} of {images} images")
    last = max(file.stat().st_mtime for file in out.iterdir())
    return {
        "images_a_second": round(images / (last - first)), "whole_command": round(images / took),
        "seconds": [round(x, 1) for x in (first - began, last - first, began + took - last)],
    }  # fmt: skip


def memory(folder: Path, few: int, many: int) -> dict:
    peaks = {}
    for rows in (few, many):
        with Hostile() as server:
            urls = [server.url(f"/good/{number}", f"h{number % 2000}") for number in range(rows)]
            peaks[rows] = peak(write_source(folder, f"rows{rows}", urls), folder)
        assert [reason for _, reason in reasons(folder, f"rows{rows}")] == [None] * rows
    return {
        "rows": [few, many], "bar": 1.2, "ratio": round(peaks[many]["MB"] / peaks[few]["MB"], 3),
        "peak_MB": {rows: round(one["MB"]) for rows, one in peaks.items()}, "at_peak": peaks[many]["parts"],
        "seconds": {rows: one["seconds"] for rows, one in peaks.items()},
    }  # fmt: skip


def main(parts: str, img2dataset: str | None, rows: int, images: int, many: int) -> None:
    found = {"benchmark": "fetch"}
    for part in parts.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            found[part] = {
                "hostile": lambda: hostile(folder, rows),
                "peer": lambda: peer(folder, images, img2dataset, "web"),
                "near": lambda: peer(folder, images, img2dataset, "good"),
                "memory": lambda: memory(folder, many // 5, many),
            }[part]()
    print(json.dumps(found))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parts", default="hostile,peer,near,memory")
    options.add_argument("--img2dataset", default=os.environ.get("IMG2DATASET_PYTHON"), metavar="PYTHON")
    options.add_argument("--rows", type=int, default=20_000, help="of which one in ten is hostile")
    options.add_argument("--images", type=int, default=10_000, help="that img2dataset and ours download")
    options.add_argument("--many", type=int, default=100_000, help="rows whose memory is that of a fifth of them")
    main(**vars(options.parse_args()))
