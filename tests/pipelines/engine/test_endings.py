"""How the ledger tells the end of a run that did not complete."""

import pytest

from pipelines.engine.ledger import ending


class Signalled(BaseException):
    """As Prefect raises it for a signal."""

    def __init__(self, signal: int):
        self.signal = signal


def broken_pipe() -> SystemExit:
    """As `rich` ends a process whose output nobody reads."""
    try:
        try:
            raise BrokenPipeError(32, "Broken pipe")
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904
    except SystemExit as end:
        return end


@pytest.mark.parametrize(
    ("error", "asked", "status", "detail"),
    [
        (KeyboardInterrupt(), False, "cancelled", "stopped by Ctrl-C"),
        (Signalled(15), True, "cancelled", "cancelled in Prefect"),
        (Signalled(15), False, "failed", "ended by SIGTERM"),
        (Signalled(1), False, "failed", "ended by SIGHUP"),
        (broken_pipe(), False, "failed", "what started it is gone: nobody reads its output any more (broken pipe)"),
        (SystemExit(1), False, "failed", "ended by SystemExit 1"),
        (OSError(28, "No space left on device"), False, "failed", "[Errno 28] No space left on device"),
        (ValueError(), False, "failed", "ValueError"),
    ],
)
def test_the_end_of_a_run_has_its_reason(error, asked, status, detail):
    assert ending(error, asked) == (status, detail)
