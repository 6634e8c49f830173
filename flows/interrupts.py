"""Ctrl-C while the command line imports what it needs: one line instead of a traceback."""

import sys
from types import TracebackType


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python shows of an error that ends the process. After Ctrl-C the exit code is 130 whatever is shown."""
    if issubclass(kind, KeyboardInterrupt):
        print("shardmill: stopped by Ctrl-C", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = tell
