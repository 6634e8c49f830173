"""One HTTP request to an untrusted server, with bounds on its time and on the size of the body."""

import errno
import resource
import socket
import ssl
import zlib
from asyncio import timeout
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy
from yarl import URL

from pipelines.fetching.addresses import Blocked, Resolver, can_pass, checked_socket, exempt, is_below
from pipelines.fetching.hosts import FetchFailed
from pipelines.fetching.urls import host_in
from schemas.images import FetchConfig

KEPT_OPEN = 2.0  # seconds for which a connection waits for the next URL of its host
FILES = 10_000  # files that a worker may have open, connections included
OURS = {
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.ENOSPC, errno.EDQUOT,
    errno.EFBIG, errno.EIO, errno.EROFS,
}  # fmt: skip  # faults of this machine, not of a server
OFFLINE = {errno.ENETUNREACH, errno.ENETDOWN}

Headers = CIMultiDictProxy[str]


class HttpClient:
    """An HTTP client without cookies, credentials or proxy, which connects only to public addresses."""

    def __init__(self, config: FetchConfig):
        """Create and use it in a running event loop."""
        self.allowed = frozenset(name.lower() for name in config.allow_hosts)
        allow_many_files()
        connector = aiohttp.TCPConnector(
            resolver=Resolver(config.in_flight),  # pyright: ignore[reportArgumentType]  one in all but name
            use_dns_cache=False, socket_factory=checked_socket, limit=0, keepalive_timeout=KEPT_OPEN,
        )  # fmt: skip
        agent = f"Mozilla/5.0 (compatible; Shardmill/{version('shardmill')}; +{config.contact})"
        self.session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False,
            headers={"User-Agent": agent, "Accept": "image/*,*/*;q=0.1", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, connect=config.connect_seconds, sock_read=config.read_seconds),
        )  # fmt: skip

    async def get(
        self, url: URL, seconds: float, limit: int, wanted: Callable[[int, Headers], bool],
        write: Callable[[bytes], object], cut: bool = False,
    ) -> tuple[int, Headers]:  # fmt: skip
        """Returns status and headers, and writes the body piece by piece if it is `wanted`. A body longer than `limit`
        bytes, packed or unpacked, is an error, unless `cut`: then its beginning is written. Raises `FetchFailed`."""
        exempt.set(is_below(host_in(url).rstrip("."), self.allowed) is not None)
        with failures():
            async with timeout(seconds), self.session.get(url, allow_redirects=False) as response:
                if wanted(response.status, response.headers):
                    size, packed, unpack = 0, 0, unpacker(response.headers)
                    if (response.content_length or 0) > limit and not cut:
                        raise too_large(limit)
                    most = limit if cut else limit + 1
                    while size < most and packed < most and (piece := await response.content.readany()):
                        packed += len(piece)
                        piece = unpack.decompress(piece, most - size) if unpack else piece[: most - size]
                        size += len(piece)
                        if size > limit:
                            raise too_large(limit)
                        write(piece)
                    if packed > limit and not cut:
                        raise too_large(limit)
                    response.release() if response.content.at_eof() else response.close()
                else:
                    response.close()
                return response.status, response.headers


def too_large(limit: int) -> FetchFailed:
    return FetchFailed("too_large", f"more than {limit} bytes")


def unpacker(headers: Headers):
    """A decompressor for a body that is compressed although that was not asked for; None for an uncompressed body."""
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32)
    raise FetchFailed("bad_answer", f"Content-Encoding: {encoding}, which was not asked for")


@contextmanager
def failures() -> Iterator[None]:
    """Turns errors into `FetchFailed` with a reason of the stage. Faults of this machine are raised as they are."""
    try:
        yield
    except FetchFailed:
        raise
    except TimeoutError as error:
        raise FetchFailed("timeout", str(error) or "the whole response took too long", again=True) from None
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise FetchFailed("tls", str(error)) from None
    except aiohttp.ClientConnectorError as error:
        if error.os_error.errno in OURS and not isinstance(error.os_error, socket.gaierror):
            raise
        raise unreachable(error.os_error) from None
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError) as error:
        raise FetchFailed("connection", str(error) or "closed", again=True) from None
    except OSError as error:
        if error.errno in OURS:
            raise
        raise FetchFailed("connection", str(error), again=True) from None
    except aiohttp.InvalidURL as error:
        raise FetchFailed("bad_url", str(error)) from None
    except (aiohttp.ClientError, HttpProcessingError, ValueError, zlib.error) as error:
        raise FetchFailed("bad_answer", f"{type(error).__name__}: {error}") from None


def unreachable(error: OSError) -> FetchFailed:
    """Why no connection could be made."""
    if isinstance(error, Blocked):
        return FetchFailed("blocked_address", str(error.strerror))
    if isinstance(error, socket.gaierror):
        return FetchFailed("dns", str(error.strerror), again=can_pass(error), offline=can_pass(error))
    return FetchFailed("connection", str(error), again=True, offline=error.errno in OFFLINE)


def allow_many_files() -> None:
    """Raises this process's limit of open files, which is 256 on some machines, as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
