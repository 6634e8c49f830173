"""Optional packages: which extra brings each of them, and the command that installs it here."""

import json
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

EXTRAS = {
    "easyocr": "easyocr", "gcsfs": "gs", "gguf": "gguf", "llama_cpp": "gguf", "s3fs": "s3", "safetensors": "train",
    "tensorboard": "tensorboard", "tokenizers": "train", "torch": "train", "transformers": "train",
}  # fmt: skip


def not_installed(package: str, extra: str | None = None) -> str:
    """One line that says that a package is not installed, and the command that installs its extra."""
    return f"{package} is not installed; run: {_install(extra or EXTRAS[package])}"


def needs(package: str) -> None:
    """Ends a program that is run as `python -m` with one line and exit code 2 if a package is not installed."""
    if sys.argv[:1] == ["-m"] and find_spec(package) is None:  # what argv holds while `python -m` imports a package
        print(not_installed(package), file=sys.stderr)
        sys.exit(2)


def _install(extra: str) -> str:
    """The command that adds an extra to this installation, from the same checkout or wheel."""
    try:
        source = json.loads(distribution("shardmill").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        source = {}
    url, editable = source.get("url", ""), source.get("dir_info", {}).get("editable")
    if "dir_info" in source and url.startswith("file://"):
        what = ["-e"] * bool(editable) + [f"{url.removeprefix('file://')}[{extra}]"]
    else:
        what = [f"shardmill[{extra}] @ {url}" if url else f"shardmill[{extra}]"]
    return shlex.join([sys.executable, "-m", "pip", "install", *what])
