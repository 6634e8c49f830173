"""Which addresses may be asked: those of the public internet, and of hosts that the configuration names.

A name is looked up once, and the address that a socket is opened to is checked where it is opened: what a name says a
moment later, or what a URL is redirected to, makes no difference.
"""

import asyncio
import errno
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

KEPT = 300.0  # seconds that an answer about a name is good for
NAMES = 20_000  # whose answers are kept
LOCAL = frozenset({"localhost"})

# IANA's special-purpose registries, multicast, and the address at which Azure's machines find their host.
SPECIAL = [
    ip_network(block)
    for block in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "2001::/23", "2001:db8::/32", "3fff::/20",
    )
]  # fmt: skip
UNICAST = ip_network("2000::/3")  # all that is given out of IPv6
NAT64 = ip_network("64:ff9b::/96")

exempt: ContextVar[bool] = ContextVar("exempt", default=False)  # whether the host that is asked now was named


class Blocked(OSError):
    """An address that is not on the public internet."""

    def __init__(self, address: str):
        super().__init__(errno.EACCES, f"{address} is no public address")


def is_public(address: str) -> bool:
    """Whether an address belongs to a host on the public internet; those that hold another one are judged by it."""
    ip = ip_address(address.split("%")[0])
    if isinstance(ip, IPv6Address):
        held = ip.ipv4_mapped or ip.sixtofour or (IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None)
        if held:
            return is_public(str(held))
        if ip not in UNICAST:
            return False
    return not any(ip in block for block in SPECIAL)


def is_below(host: str, names: frozenset[str]) -> str | None:
    """Which of some names is a host's own, or that of a domain it belongs to."""
    parts = host.split(".")
    return next((name for n in range(len(parts)) if (name := ".".join(parts[n:])) in names), None)


def checked_socket(info: tuple) -> socket.socket:
    """The socket of a connection that is about to be made. Raises `Blocked` if its address may not be asked."""
    family, kind, protocol, _, address = info
    if not exempt.get() and not is_public(address[0]):
        raise Blocked(address[0])
    return socket.socket(family, kind, protocol)


class Resolver:
    """Looks names up in threads, each once for a while, however many ask for it. Names under `localhost` are this
    machine's without asking anyone (RFC 6761). It is an `AbstractResolver` of aiohttp in all but name: who only asks
    whether a host is below another does without that."""

    def __init__(self, threads: int):
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="dns")
        self.known: dict[tuple, tuple[float, asyncio.Future]] = {}

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[dict[str, Any]]:
        """All addresses that may be asked. Raises `Blocked` when a name has none but others, and `gaierror`."""
        infos = await asyncio.shield(self._looked_up(host.rstrip(".").lower(), family))
        good = infos if exempt.get() else [info for info in infos if is_public(info[4][0])]
        if not good:
            raise Blocked(", ".join(info[4][0] for info in infos))
        return [
            {"hostname": host, "host": address[0], "port": port, "family": family, "proto": protocol,
             "flags": socket.AI_NUMERICHOST}
            for family, _, protocol, _, address in good
        ]  # fmt: skip

    def _looked_up(self, host: str, family: int) -> asyncio.Future:
        now = time.monotonic()
        until, answer = self.known.get((host, family), (0.0, None))
        if answer is None or (answer.done() and (now > until or can_pass(answer.exception()))):
            if len(self.known) >= NAMES:
                self.known = {name: kept for name, kept in self.known.items() if not kept[1].done()}
            loop = asyncio.get_running_loop()
            if is_below(host, LOCAL):
                answer = loop.create_future()
                answer.set_result(look_up("127.0.0.1", family))
            else:
                answer = loop.run_in_executor(self.threads, look_up, host, family)
                answer.add_done_callback(lambda done: done.exception())  # who asked may be gone
            self.known[host, family] = now + KEPT, answer
        return answer

    async def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)


def look_up(host: str, family: int) -> list[tuple[Any, ...]]:
    """What the machine's resolver says of a name. Raises `gaierror`."""
    try:
        return socket.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a part of it is empty, or longer than 63 letters
        raise socket.gaierror(socket.EAI_NONAME, f"no name can be so: {error}") from None


def can_pass(error: BaseException | None) -> bool:
    """Whether a name that was not found may be found in a moment."""
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
