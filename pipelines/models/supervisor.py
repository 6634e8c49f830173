"""Keeps a server: starts the command that standard input names, and ends it when standard input closes.

So a server ends with the run that started it, even if that is killed; see `pipelines.models.servers`.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from io import SEEK_END, FileIO

from pipelines.engine.child import piped
from pipelines.engine.secrets import Secrets, replaced

GRACE = 10.0  # seconds between asking a server to end and killing it
BEFORE = 2_000  # characters
FIRST, MOST = 1 << 20, 64 << 20  # bytes of a log that are always kept, and that it has at most
CUT = b"\n... what followed is left out; the last lines are below ...\n"
PARENT_DEATH = 1  # prctl's PR_SET_PDEATHSIG


def main() -> None:
    """Runs until the server ends. The server's output goes to a log, without the key."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    instructions = json.loads(sys.stdin.buffer.readline())
    secrets = Secrets([(instructions["secret"] or "").encode().decode("latin-1")])
    with open(instructions["log"], "w+b", buffering=0) as log:
        try:
            server = subprocess.Popen(
                instructions["command"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                preexec_fn=_end_with_keeper,
            )  # fmt: skip
        except OSError as error:
            log.write(f"{instructions['command'][0]}: {error.strerror}\n".encode())
            sys.exit(1)

        def copy() -> None:
            output = piped(server.stdout).fileno()
            before = ""  # the end of what was written, in which a key may begin
            while data := os.read(output, 1 << 16):
                text = before + data.decode("latin-1")
                spans = [(max(len(before), start), end) for start, end in secrets.spans(text) if end > len(before)]
                log.write(
                    replaced(
                        text[len(before) :], [(start - len(before), end - len(before)) for start, end in spans]
                    ).encode("latin-1")
                )
                before = text[-BEFORE:]
                if log.tell() > MOST:
                    shorten(log)

        def watch() -> None:
            while os.read(sys.stdin.fileno(), 1):
                pass
            os.killpg(0, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.wait(GRACE)
            os.killpg(0, signal.SIGKILL)

        copying = threading.Thread(target=copy, daemon=True)
        copying.start()
        threading.Thread(target=watch, daemon=True).start()
        code = server.wait()
        copying.join(2)
    sys.exit(1 if code else 0)


def shorten(log: FileIO) -> None:
    """Leaves out the middle of a log, so that a command that never stops printing does not fill the disk."""
    log.seek(-FIRST, SEEK_END)
    last = log.read(FIRST)
    log.seek(FIRST)
    log.truncate()
    log.write(CUT + last)


def _end_with_keeper() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)


if __name__ == "__main__":
    main()
