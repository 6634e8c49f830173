"""The process of the temporary Prefect server, started by `flows.server`; it imports nothing else of this project."""

import os
import signal
import sys
import threading
import time

import uvicorn

GRACE = 2.0  # seconds


def main(port: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    uvicorn.run("prefect.server.api.server:create_app", factory=True, port=port, log_level="error")


def _end_with_parent() -> None:
    """Blocks until the parent closes its end of our standard input, even if it is killed."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
