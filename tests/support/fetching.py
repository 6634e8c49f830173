"""What tests of the downloader share: asking for URLs without a corpus around it."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.fetching.bodies import Bodies, FetchRequest, FetchResult
from pipelines.fetching.fetch import Fetcher
from pipelines.fetching.opt_out import OptOuts
from schemas.images import FetchConfig

QUICK = {"connect_seconds": 1.0, "read_seconds": 0.5, "deadline": 2.0, "allow_hosts": ("localhost",)}
NOBODY = OptOuts()
CONTACT = "data@example.org"


@dataclass
class Fetched(FetchResult):
    data: bytes = b""


def fetch(urls: Sequence[str], limit: int = 1_000_000, opt_outs: OptOuts = NOBODY, **config) -> list[Fetched]:
    """What becomes of each URL, asked for by a fetcher of its own."""
    fetcher = Fetcher(FetchConfig(contact=CONTACT, **QUICK | config))
    try:
        with tempfile.TemporaryFile() as file:
            bodies, found = Bodies(file.fileno(), limit), {}
            for answers in fetcher.fetch([FetchRequest(url) for url in urls], bodies, opt_outs):
                found |= {index: Fetched(**vars(answer), data=bodies.read(answer)) for index, answer in answers}
    finally:
        fetcher.close()
    return [found[index] for index in range(len(urls))]
