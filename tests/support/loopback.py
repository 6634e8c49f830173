"""What servers of the tests share: a connection that a task answers, and a process from `with` to its end."""

import asyncio
import socket
import struct
import subprocess
import sys
from typing import Self


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def answers(port: int) -> bool:
    """Whether something listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Answering(asyncio.Protocol):
    """A connection whose answer, `task`, ends with it."""

    task: asyncio.Task | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.task:
            self.task.cancel()

    def reset(self) -> None:
        """Ends it by RST instead of FIN."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()


class ServerProcess:
    """A server in a process of its own; its first line says on which port it listens."""

    command: list[str]  # of Python: the script and its arguments
    port: int

    def __enter__(self) -> Self:
        self.process = subprocess.Popen([sys.executable, *self.command], stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
