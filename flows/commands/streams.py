"""Standard output that nobody reads, is full, or is closed: the command still runs to its end."""

import io
import os
import sys

from schemas.errors import one_line


class Output(io.FileIO):
    """A pipe or a file that takes what can be written, and drops the rest. `lost`: why it cannot be written."""

    lost = ""

    def write(self, data, /) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:  # as of `| head -1`: the reader has what it wants
            pass
        except OSError as error:
            self.lost = f"standard output: {one_line(error)}"
        return memoryview(data).nbytes


def open_streams() -> None:
    """Gives the process all three standard streams, so that no file which is opened later takes the place of one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0)
    sys.stderr = sys.stderr or open(2, "w")
    if sys.stdout is None:
        sys.stdout = open(1, "w")
    elif (text := sys.stdout) is sys.__stdout__ and isinstance(text, io.TextIOWrapper) and not text.isatty():
        text.flush()
        binary = io.BufferedWriter(Output(1, "w", closefd=False))
        sys.stdout = io.TextIOWrapper(binary, text.encoding, text.errors, None, text.line_buffering, text.write_through)


def lost_output() -> str:
    """Why a part of what the command printed cannot be written; "" if all is."""
    sys.stdout.flush()
    return getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "lost", "")
