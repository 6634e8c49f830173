"""URLs as they are requested: path and query as their author wrote them.

A signature covers the very spelling of a URL, and a proxy tells `%2F` from `/`. So nothing is decoded, folded or
dropped: only what a request line cannot hold is escaped.
"""

import re
from urllib.parse import unquote

from yarl import URL

from pipelines.fetching.hosts import FetchFailed

LONGEST = 16_384  # characters; servers refuse longer ones
ENDS = "".join(map(chr, range(33)))  # blanks and control characters around a URL are not part of it
PARTS = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(\?[^#]*)?", re.S)


def host_in(url: URL) -> str:
    """The host of a URL that `url_of` made, each of which has one."""
    return url.raw_host or ""


def url_of(text: str, base: URL | None = None) -> URL:
    """A URL as it is requested: without user, password and fragment. `base` is the URL that redirects to it.

    What is checked is what is asked: the whole of its path and query is in `raw_path_qs`. Raises `FetchFailed` if it
    is not http(s).
    """
    written = re.sub(r"[\t\r\n]", "", text.strip().strip(ENDS))  # as browsers read it
    if len(written) > LONGEST:
        raise FetchFailed("bad_url", f"{len(written):,} characters, more than servers take: {written[:100]!r}…")
    scheme, authority, path, query = next(PARTS.finditer(written)).groups(default="")
    try:
        if base is not None and not scheme:
            scheme, authority, path, query = _joined(base, authority, path, query)
        if scheme.lower() in ("http", "https") and authority:
            origin = URL(f"{scheme}://{authority}/")
            if origin.raw_host:
                place = URL.build(scheme=origin.scheme, host=origin.raw_host, port=origin.explicit_port)
                target = escaped(f"{'' if path.startswith('/') else '/'}{path}", lone="%25") + escaped(query)
                # As a path alone, so that nothing parses it again: an empty query keeps its `?`.
                return URL.build(scheme=place.scheme, authority=place.raw_authority, path=target, encoded=True)
    except ValueError as error:
        raise FetchFailed("bad_url", f"{text!r}: {error}") from None
    raise FetchFailed("bad_url", f"{text!r} is not an http or https URL")


def _joined(base: URL, authority: str, path: str, query: str) -> tuple[str, str, str, str]:
    """Scheme, authority, path and query of a reference without a scheme. (RFC 3986, section 5.2.2)"""
    if authority:
        return base.scheme, authority, path, query
    before, mark, old_query = base.raw_path_qs.partition("?")
    if not path:
        path, query = before, query or mark + old_query
    elif not path.startswith("/"):
        path = folded(before[: before.rfind("/") + 1] + path)
    return base.scheme, base.raw_authority, path, query


def escaped(text: str, lone: str = "%") -> str:
    """A path or query with what a request line cannot hold in percent form: blanks, control characters, other than
    ASCII. `lone` replaces a `%` that begins no escape: servers refuse it in a path, and take it in a query."""
    text = re.sub(r"%(?![0-9A-Fa-f]{2})", lone, text)
    return re.sub(rb"[^!-~]", lambda byte: b"%%%02X" % ord(byte[0]), text.encode("utf-8", "surrogateescape")).decode()


def folded(path: str) -> str:
    """A path without `.` and `..`, as servers resolve them. (RFC 3986, section 5.2.4)"""
    parts: list[str] = []
    for part in path.split("/")[1:]:
        if part == "..":
            del parts[-1:]
        elif part != ".":
            parts.append(part)
    if path.endswith(("/.", "/..")):
        parts.append("")
    return "/" + "/".join(parts)


def meanings(url: URL) -> tuple[str, ...]:
    """Path and query of a URL, decoded, as rules of owners are matched with them: as written, and, if that differs,
    as a server resolves it."""
    path, mark, query = url.raw_path_qs.partition("?")
    written = unquote(url.raw_path_qs)
    resolved = folded(unquote(path)) + mark + unquote(query) if "." in unquote(path) else written
    return (written,) if resolved == written else (written, resolved)
