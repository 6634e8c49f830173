"""Fetches or copies each image's bytes unchanged, and measures them.

A URL is asked once. The result is kept, and judged again when limits or opt-outs change. Only images that were left out
because of them, and whose bytes were not kept, are asked for again.
"""

import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import imagehash
import numpy as np
from PIL import Image

from pipelines.dedup.fine_hash import fine_hash
from pipelines.engine.ledger import Ledger
from pipelines.engine.manifest import FEWEST, sizes_of
from pipelines.engine.partition_stage import Before, PartitionStage, Rejected
from pipelines.engine.payload import read_payload
from pipelines.engine.root import Root
from pipelines.fetching.bodies import Bodies, FetchRequest, FetchResult
from pipelines.fetching.opt_out import OptOuts, read_opt_outs, refusal
from pipelines.sources import Sources, open_sources
from pipelines.sources.files import TooLarge, Unreadable
from pipelines.stages.moved_images import MOVED, find_moved, read_moved
from pipelines.stages.takedown_list import TakedownList, stamp_of_list, takedowns_at
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.image_boxes import is_cut
from schemas.image_kinds import UnsafeImage, kind_of
from schemas.images import OF_BYTES, OF_SERVERS, RETRYABLE, STAGE, FetchConfig, ImagesConfig
from schemas.pictures import MODES, open_image, upright, upright_grey
from schemas.takedown import REASON

ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND", b"GIF8": b";"}  # how files of a format begin and end
BEGINS = (*ENDS, b"RIFF", b"BM", b"II*\0", b"MM\0*")
MEASURES = ("format", "width", "height", "phash", "phash256", "sha256", "robots_tag")  # whatever the limits are
FINAL = OF_BYTES.keys() | OF_SERVERS.keys()  # reasons that no setting changes

# How a request is sent, and lists whose content counts, not their names
SENDING = ("contact", "in_flight", "per_host", "connect_seconds", "read_seconds", "deadline", "tries", "opt_out")

NOBODY = OptOuts()
AT_ONCE = 16  # partitions of usual size that a worker fetches at once
UNSAVED = 500  # images of a worker that are not stored yet, and as many that are on the way

decoding = threading.Lock()  # partitions wait for servers at the same time, but a worker decodes on one core


def inspect(data: bytes, config: ImagesConfig) -> Row:
    """Format, upright width and height, and perceptual hashes of an image that decodes; else raises `Rejected`."""
    check_size(len(data), config)
    try:
        image = open_image(data, config.max_pixels)
    except UnsafeImage as unsafe:
        raise Rejected(unsafe.reason, unsafe.detail) from unsafe
    except Exception as error:  # decoders can raise any exception on untrusted bytes
        raise undecodable(data, f"starts with {data[:16]!r}") from error
    format = "JPEG" if image.format == "MPO" else image.format
    check_sides(*image.size, config)
    if image.mode not in MODES:
        raise Rejected("unsupported_mode", image.mode)
    try:
        if is_animated(image):
            raise Rejected("animated", f"{image.info['frames']} frames")
        if image.format == "JPEG" and image.mode == "RGB":
            image.draft("L", image.size)  # everything is read, but colours are not computed: hashes seldom need them
        grey = upright_grey(image)
        hashes = {"phash": str(imagehash.phash(grey)), "phash256": fine_hash(grey, lambda: mean_colour(image, data))}
    except Rejected:
        raise
    except Exception as error:
        raise undecodable(data, str(error)) from error
    return {"format": format, "width": grey.width, "height": grey.height, **hashes}


def is_animated(image: Image.Image) -> bool:
    """Whether an image is more than one frame or page. An MPO is a JPEG with previews behind it; a HEIC can hold
    several pictures, of which one is the primary one."""
    several = getattr(image, "is_animated", False) and image.format not in ("MPO", "HEIC")
    return several or image.info["frames"] > 1


def mean_colour(image: Image.Image, data: bytes) -> tuple[float, float, float]:
    """The mean Y, Cb and Cr of an image's pixels, as far as 256 x 256 of them show it."""
    if image.format == "JPEG" and image.mode == "L":  # perhaps decoded without colours
        image = open_image(data)
        image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
    small = upright(image.resize((256, 256), Image.Resampling.NEAREST)).convert("YCbCr")
    y, blue, red = np.asarray(small).reshape(-1, 3).sum(axis=0, dtype=np.int64) / (256 * 256)
    return float(y), float(blue), float(red)


def check_size(size: int, config: ImagesConfig) -> None:
    if size > config.max_bytes:
        raise Rejected("too_large", f"{size} bytes")


def check_sides(width: int, height: int, config: ImagesConfig) -> None:
    if width * height > config.max_pixels:
        raise Rejected("too_many_pixels", f"{width}x{height}")
    if min(width, height) < config.min_side:
        raise Rejected("too_small", f"{width}x{height}")
    if max(width, height) > config.max_aspect_ratio * min(width, height):
        raise Rejected("extreme_aspect_ratio", f"{width}x{height}")


def check_hash(data: bytes, checksum: str | None) -> None:
    """Raises `Rejected` if a checksum, such as `md5:…`, does not match."""
    kind, _, expected = (checksum or "").partition(":")
    if kind and (actual := hashlib.new(kind, data, usedforsecurity=False).hexdigest()) != expected:
        raise Rejected("hash_mismatch", f"{kind} {actual}, not {expected}")


def undecodable(data: bytes, detail: str) -> Rejected:
    """Why bytes do not decode."""
    kind = kind_of(data)
    if kind is None and not data.startswith(BEGINS):
        return Rejected("not_an_image", detail)
    if kind in ("AVIF", "HEIC", "JXL"):
        boxed = data[:2] != b"\xff\x0a"  # JPEG XL can do without boxes; nothing tells where it should end
        return Rejected("truncated" if boxed and is_cut(data) else "unreadable", detail)
    end = next((end for begin, end in ENDS.items() if data.startswith(begin)), b"")
    short = data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data)
    return Rejected("truncated" if short or end not in data[-32:] or "truncated" in detail else "unreadable", detail)


@dataclass(frozen=True)
class CopyImages(PartitionStage):
    sources: Sources
    config: ImagesConfig
    fetch: FetchConfig | None = None
    opt_outs: OptOuts = NOBODY
    taken: str | None = None  # the stamp of the list of what was taken down; None if it has to be looked at
    moved: bool = False  # whether rows have other keys now than those under which their URLs were asked
    rows_per_partition: int = FEWEST  # about, of the source that has most

    info = STAGE
    version = 4
    retryable = frozenset(RETRYABLE)
    finds = {"rows": ("file", "member", "byte_offset", "size", "host")}
    places = frozenset({"byte_offset"})
    payload = decodes = True
    measures = "fetches"

    @property
    def at_once(self) -> int:
        """A slow server holds up the partitions that have a row of it, but no others; two partitions are enough where
        they are large."""
        return max(2, AT_ONCE * FEWEST // max(FEWEST, self.rows_per_partition)) if self.fetch else 1

    @property
    def chunk_rows(self) -> int | None:
        """With what is on the way, a kill loses no more than a thousand images of all that a worker makes at once."""
        return max(1, UNSAVED // self.at_once) if self.fetch else None

    def is_costly(self, measured: list[Row]) -> bool:
        """Whether a server answered. A row without an answer may only show that this machine is offline."""
        return any(one["status"] for one in measured)

    def _taken(self, root: Root) -> TakedownList:
        """What was taken down, which a worker reads once."""
        return takedowns_at(Root(root.url), stamp_of_list(root) if self.taken is None else self.taken)

    def taken_over(self, rows: Iterable[Row], root: Root) -> list[Row]:
        rows = [*rows]
        taken = self._taken(root) if rows else TakedownList()
        return [row for row in rows if not taken.has_image(row["sha256"])]

    def settings(self) -> dict[str, Any]:
        """Limits, and whose wishes count. How many servers are asked, for how long and how often changes no image."""
        if not self.fetch:
            return self.config.recorded()
        wishes = self.fetch.recorded(exclude=SENDING)
        return self.config.recorded() | {"fetch": wishes | {"opt_out": self.opt_outs.digest}}

    def ready(self, root: Root, ledger: Ledger) -> Self:
        """The stage with the partitions of each source, and images whose rows have other keys now."""
        settled = sizes_of(root)
        sizes = [
            getattr(source.config, "rows_per_partition", None) or settled.get(name, FEWEST)
            for name, source in self.sources.by_name.items()
        ]
        sources, moved = self.sources.settled(root), find_moved(root)
        taken = stamp_of_list(root)
        return replace(self, sources=sources, taken=taken, moved=moved, rows_per_partition=max(sizes))

    def finish(self, root: Root) -> None:
        root.remove(MOVED)

    def among(self, workers: int) -> Self:
        if not self.fetch:
            return self
        share = {"per_host": max(1, self.fetch.per_host // workers)}
        return replace(self, fetch=self.fetch.model_copy(update=share))

    def make(self, rows: Iterable[Row], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        rows = list(rows)
        taken = self._taken(root)
        if self.moved and rows:
            moved = read_moved(root, rows[0]["rows"]["partition"])
            rows = [row | {"before": row["before"] or moved.get(row["rows"]["key"])} for row in rows]
        with tempfile.TemporaryFile(dir=root.temporary(self.name).parent) as file:
            bodies = Bodies(file.fileno(), self.config.max_bytes)
            loaded, fetched = self._loaded(rows, bodies), set[str]()
            for key, answer, image in self._fetched(rows, bodies):
                fetched.add(key)
                yield key, self._allowed(image, taken, lambda answer=answer: bodies.read(answer))
            for row in rows:
                key = row["rows"]["key"]
                if key in fetched:
                    continue
                try:
                    image = self._copied(row, root, lambda row=row: self._bytes(row["rows"], loaded, bodies))
                except Rejected as rejected:
                    image = rejected
                yield key, self._allowed(image, taken)

    def _allowed(
        self, image: Row | Rejected, taken: TakedownList, read: Callable[[], bytes] | None = None
    ) -> Row | Rejected:
        """An image that was not taken down, with the function that reads its bytes where they are not at hand."""
        if isinstance(image, Rejected):
            return image
        if taken.has_image(image.get("sha256")):
            return Rejected(REASON, measured=image.get("measured"))
        return image | ({"bytes": read} if read else {})

    def _loaded(self, rows: list[Row], bodies: Bodies) -> dict[str, FetchResult | Exception]:
        """By key, the bytes of rows of which a file has to be read in its own order: they wait for their turn in the
        file of bodies."""
        wanted, loaded = [row["rows"] for row in rows if row["rows"]["file"] and not is_kept(row)], {}
        for row, data in self.sources.loads(wanted, self.config.max_bytes):
            if isinstance(data, bytes):
                loaded[row["key"]] = body = FetchResult()
                bodies.write(body, data)
            else:
                loaded[row["key"]] = data
        return loaded

    def _bytes(self, row: Row, loaded: dict[str, FetchResult | Exception], bodies: Bodies) -> bytes:
        """The bytes of a row. Raises what `Source.load` does."""
        body = loaded.get(row["key"])
        if isinstance(body, Exception):
            raise body
        return bodies.read(body) if body else self.sources.load(row, self.config.max_bytes)

    def _fetched(self, rows: list[Row], bodies: Bodies) -> Iterator[tuple[str, FetchResult, Row | Rejected]]:
        """(key, answer, row or rejection) of rows whose URL was asked, or must not be used, as they are answered."""
        asked = [row for row in rows if self._is_asked(row)]
        asks = [FetchRequest(row["rows"]["url"], at_hand=is_kept(row)) for row in asked]
        if self.fetch is None or not asks:
            return
        from pipelines.fetching.fetch import (
            fetcher,
        )  # takes as long to import as everything else, and most runs fetch nothing

        for answers in fetcher(self.fetch).fetch(asks, bodies, self.opt_outs, ahead=self.chunk_rows):
            for index, answer in answers:
                row = asked[index]["rows"]
                if not asks[index].at_hand:
                    with decoding:
                        image = self._judged(row, answer, bodies)
                    yield row["key"], answer, image
                elif answer.reason == "opt_out":
                    yield row["key"], answer, Rejected(answer.reason, answer.detail)

    def _is_asked(self, row: Row) -> bool:
        """Whether a row's bytes can come from its URL alone, and its URL has not been asked, or wishes have changed."""
        source = row["rows"]
        only_url = source["url"] and source["file"] is None and source["member"] is None
        only_older = is_kept(row) and row["before"].only_older(self)  # its owner's wishes were checked when it was kept
        return bool(self.fetch and only_url) and not only_older and not self._stands(row["before"])

    def _stands(self, before: Before | None) -> bool:
        """Whether an image was left out before for a reason that still holds, so that its URL is not asked again."""
        if before is None or not before.row["reason"]:
            return False
        return before.row["reason"] in FINAL or before.only_older(self)

    def _judged(self, row: Row, answer: FetchResult, bodies: Bodies) -> Row | Rejected:
        """The image in an answer."""
        measured = {"host": row["host"], "status": answer.status, "tries": answer.tries, "bytes": answer.size}
        measured["milliseconds"] = round(answer.milliseconds)
        try:
            if answer.reason:
                raise Rejected(answer.reason, answer.detail)
            image = self._measured(row, bodies.read(answer))
        except Rejected as rejected:
            return Rejected(rejected.reason, rejected.detail, measured)
        return image | {"robots_tag": answer.robots_tag, "measured": measured}

    def _measured(self, row: Row, data: bytes) -> Row:
        if self.fetch is None or self.fetch.check_hash:
            check_hash(data, row["checksum"])
        return inspect(data, self.config) | {"sha256": hashlib.sha256(data).hexdigest()}

    def _copied(self, row: Row, root: Root, load: Callable[[], bytes]) -> Row:
        """The image that needs no request: as it was kept before, or from the source."""
        source, before = row["rows"], row["before"]
        if is_kept(row):
            return self._kept(source, before, root)
        if source["file"] is None and source["member"] is None:
            if not source["url"]:
                return {}  # a conversation without an image
            if self._stands(before):
                raise Rejected(before.row["reason"], before.row["detail"])
            raise Rejected("not_fetched", source["url"])
        try:
            data = load()
        except TooLarge as error:
            raise Rejected("too_large", str(error)) from error
        except (FileNotFoundError, EOFError, Unreadable) as error:
            raise Rejected("missing_in_source", str(error)) from error
        sha256 = hashlib.sha256(data).hexdigest()
        if source["sha256"] and sha256 != source["sha256"]:
            raise Rejected("changed_in_source", f"its SHA-256 was {source['sha256'][:16]}…, is {sha256[:16]}…")
        with decoding:
            return self._measured(source, data) | {"bytes": data}

    def _kept(self, source: Row, before: Before, root: Root) -> Row:
        """An image that was kept before, if today's settings keep it; measured again if an older version did."""
        kept = before.row
        check_size(kept["size"], self.config)
        check_sides(kept["width"], kept["height"], self.config)
        tag = kept["robots_tag"]
        if tag and self.fetch and self.fetch.honour_robots_tag and (word := refusal(tag.splitlines())):
            raise Rejected("opt_out", f"X-Robots-Tag: {word}")
        data = read_payload(root, self.name, kept)
        if before.version != self.version:
            with decoding:
                return self._measured(source, data) | {"robots_tag": tag, "bytes": data}
        if self.fetch is None or self.fetch.check_hash:
            check_hash(data, source["checksum"])
        return {name: kept[name] for name in MEASURES} | {"bytes": data}


def is_kept(row: Row) -> bool:
    """Whether the bytes of a row were kept before, and are still those of the source."""
    kept = row["before"].row if row["before"] else {}
    return bool(kept.get("size")) and kept["sha256"] == (row["rows"]["sha256"] or kept["sha256"])


def open_stage(config: Config) -> CopyImages:
    """Raises `UserError` for a list of opt-outs that cannot be read."""
    opt_outs = read_opt_outs(config.fetch.opt_out if config.fetch else ())
    return CopyImages(open_sources(config.source), config.images, config.fetch, opt_outs)
