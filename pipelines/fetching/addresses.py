"""Checks the addresses of connections: only the public internet, and hosts that the configuration names.

Each address is checked where the socket to it is opened. So it makes no difference if a name resolves to another
address a moment later, or if a URL is redirected.
"""

import asyncio
import errno
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

KEPT = 300.0  # seconds for which the addresses of a name are kept
NAMES = 20_000  # names whose addresses are kept
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
UNICAST = ip_network("2000::/3")  # the part of IPv6 from which addresses are assigned
NAT64 = ip_network("64:ff9b::/96")

exempt: ContextVar[bool] = ContextVar("exempt", default=False)  # whether the configuration names this host


class Blocked(OSError):
    """An address that is not on the public internet."""

    def __init__(self, address: str):
        super().__init__(errno.EACCES, f"{address} is not a public address")


def is_public(address: str) -> bool:
    """Whether an address is on the public internet; an IPv6 address that embeds an IPv4 address is judged by that."""
    ip = ip_address(address.split("%")[0])
    if isinstance(ip, IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None)
        if embedded:
            return is_public(str(embedded))
        if ip not in UNICAST:
            return False
    return not any(ip in block for block in SPECIAL)


def is_below(host: str, names: frozenset[str]) -> str | None:
    """The name among `names` that is the host, or a domain above it; None if no name is."""
    parts = host.split(".")
    return next((name for n in range(len(parts)) if (name := ".".join(parts[n:])) in names), None)


def checked_socket(info: tuple) -> socket.socket:
    """The socket for a new connection. Raises `Blocked` if its address may not be connected to."""
    family, kind, protocol, _, address = info
    if not exempt.get() and not is_public(address[0]):
        raise Blocked(address[0])
    return socket.socket(family, kind, protocol)


class Resolver:
    """Looks names up in threads, and keeps each result for a while, so that many requests need one lookup.

    Names under `localhost` are this machine's, without a lookup (RFC 6761). It is an `AbstractResolver` of aiohttp in
    all but name: a process that fetches nothing does not import aiohttp.
    """

    def __init__(self, threads: int):
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="dns")
        self.known: dict[tuple, tuple[float, asyncio.Future]] = {}

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[dict[str, Any]]:
        """The addresses that may be connected to. Raises `Blocked` if a name has only others, and `gaierror`."""
        infos = await asyncio.shield(self._looked_up(host.rstrip(".").lower(), family))
        allowed = infos if exempt.get() else [info for info in infos if is_public(info[4][0])]
        if not allowed:
            raise Blocked(", ".join(info[4][0] for info in infos))
        return [
            {"hostname": host, "host": address[0], "port": port, "family": family, "proto": protocol,
             "flags": socket.AI_NUMERICHOST}
            for family, _, protocol, _, address in allowed
        ]  # fmt: skip

    def _looked_up(self, host: str, family: int) -> asyncio.Future:
        now = time.monotonic()
        until, lookup = self.known.get((host, family), (0.0, None))
        if lookup is None or (lookup.done() and (now > until or can_pass(lookup.exception()))):
            if len(self.known) >= NAMES:
                self.known = {name: kept for name, kept in self.known.items() if not kept[1].done()}
            loop = asyncio.get_running_loop()
            if is_below(host, LOCAL):
                lookup = loop.create_future()
                lookup.set_result(look_up("127.0.0.1", family))
            else:
                lookup = loop.run_in_executor(self.threads, look_up, host, family)
                lookup.add_done_callback(lambda done: done.exception())  # no caller may be waiting for it any more
            self.known[host, family] = now + KEPT, lookup
        return lookup

    async def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)


def look_up(host: str, family: int) -> list[tuple[Any, ...]]:
    """The addresses of a name, from the machine's resolver. Raises `gaierror`."""
    try:
        return socket.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a part of it is empty, or longer than 63 letters
        raise socket.gaierror(socket.EAI_NONAME, f"not a valid host name: {error}") from None


def can_pass(error: BaseException | None) -> bool:
    """Whether a failed lookup may succeed in a moment."""
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
