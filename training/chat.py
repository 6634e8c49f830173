"""Reads requests for chat completions, in time and memory of their own length, for `training.serve`."""

import base64
import binascii
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, Protocol

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.image_kinds import UnsafeImage
from schemas.pictures import is_sized_by_header, open_image, size_of, upright
from training.generate import Generated, GenerationRequest
from training.layout import SampleRejected, Turn

ROLES = ("system", "user", "assistant")
HARMLESS = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}  # change no answer
PARTS = {"text": ("type", "text"), "image_url": ("type", "image_url")}  # kind of a part -> its fields
DETAILS = (None, "auto", "high")  # that ask for an image as it is shown here; "low" would ask for one without slices
NORMALISED = 4  # times shorter that normalisation makes a text at most: Hangul, 9 bytes to 3, and full-width letters
IMAGE_TOKENS = 8  # that an image has at least

MANY_PIXELS = 4_000_000  # of a request

# Large images are decoded by one thread, and are in memory one at a time: each thread keeps what it has freed
large, small = ThreadPoolExecutor(1, "large images"), ThreadPoolExecutor(4, "small images")


class Talks(Protocol):
    """The model that is served: `training.generate.Generator`, or `training.gguf.generator.GgufGenerator`."""

    @property
    def room(self) -> int: ...  # tokens of prompt and answer
    @property
    def vocabulary(self) -> int: ...  # tokens that there are
    def picture(self, name: str, image: Any) -> Any: ...
    def prompt(self, turns: Sequence[Turn], images: Any) -> Any: ...
    def answer(self, requests: Sequence[GenerationRequest]) -> list[Generated]: ...


class Message(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[dict[str, Any]] | None = None


class Asked(BaseModel):
    """A request. A field of it, of a message or of a part that could change an answer is refused, never ignored."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _nulls(cls, given: Any) -> Any:
        """A field that is null is one that is not given, as in OpenAI's API."""
        return {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given

    model: str
    messages: list[Message] = Field(min_length=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    n: int = Field(default=1, ge=1, le=128)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    response_format: dict[Literal["type"], Literal["text"]] | None = None


class Refused(Exception):
    """A mistake of the client, in one line."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


class Gone(Exception):
    """The client has closed its connection."""


def check(asked: Asked) -> None:
    """Raises `Refused` for a request that this server does not support."""
    check_fields("", asked.model_extra or {}, HARMLESS)
    for number, message in enumerate(asked.messages):
        check_fields(f"messages.{number}.", message.model_extra or {})
    if asked.top_logprobs and not asked.logprobs:
        raise Refused("top_logprobs: set logprobs too", "top_logprobs")


def check_fields(where: str, given: Mapping[str, Any], known: Collection[str] = ()) -> None:
    """Raises `Refused` for a field that is not known; null, false, 0 and empty values request nothing."""
    for name, value in given.items():
        if value and name not in known:
            place = f"{where}{name[:200]}"
            raise Refused(f"{place}: this server does not support it", place)


class Encoded(NamedTuple):
    """An image that is not decoded yet."""

    data: bytes
    size: tuple[int, int]  # upright, as its header says
    where: str  # in the request


class Pictures(Mapping[str, Image.Image]):
    """The images of a request by name, each decoded when it is used, and not kept."""

    def __init__(self, gone: Callable[[], bool], max_pixels: int):
        self.encoded: dict[str, Encoded] = {}
        self.gone, self.left, self.pixels = gone, max_pixels, 0

    def add(self, data: bytes, where: str) -> tuple[str, Encoded]:
        """Raises `Refused` for an image that cannot be read, or is too large."""
        try:
            alone = small if is_sized_by_header(data) else large
            size = alone.submit(size_of, data, self.left).result()
        except UnsafeImage as unsafe:
            raise Refused(f"{where}: {unsafe}", where) from None
        except Exception as error:  # decoders raise errors of any kind
            raise Refused(f"{where}: no image can be read of it: {error}", where) from None
        self.left -= size[0] * size[1]
        self.pixels += size[0] * size[1]
        self.encoded[name := str(len(self.encoded))] = Encoded(data, size, where)
        return name, self.encoded[name]

    def __getitem__(self, name: str) -> Image.Image:
        data, _, where = self.encoded[name]
        if self.gone():
            raise Gone
        try:
            return upright(open_image(data))
        except Exception as error:
            raise Refused(f"{where}: no image can be read of it: {error}", where) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.encoded)

    def __len__(self) -> int:
        return len(self.encoded)


def read(
    generator: Talks, messages: Sequence[Message], most_bytes: int, max_pixels: int, gone: Callable[[], bool]
) -> Any:
    """The prompt of these messages. `most_bytes` is the length of the longest text that could fit, in UTF-8.

    Raises `Refused`, and `Gone` as soon as the client is gone.
    """
    pictures, turns, length = Pictures(gone, max_pixels), [], 0
    if len(messages) > generator.room:
        raise _too_long(f"{len(messages)} messages, for {generator.room} tokens")
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        if message.role not in ROLES:
            raise Refused(
                f"{where}.role: unknown role {message.role[:80]!r}; choose from {', '.join(ROLES)}", f"{where}.role"
            )
        content = [{"type": "text", "text": message.content}] if isinstance(message.content, str) else message.content
        if not content:
            raise Refused(f"{where}.content: is missing or empty; give a text", f"{where}.content")
        parts: list[Any] = []
        for place, part in enumerate(content):
            place_of_part = f"{where}.content.{place}"
            kind = part.get("type")
            if isinstance(kind, str) and kind in PARTS:
                check_fields(f"{place_of_part}.", part, PARTS[kind])
            if kind == "text" and isinstance(text := part.get("text"), str):
                if (length := length + _bytes_of(text, place_of_part)) > most_bytes:
                    raise _too_long(f"{length} bytes of text do not fit into {generator.room} tokens")
                parts.append(text)
                continue
            if message.role != "user" and kind == "image_url":
                raise Refused(f"{place_of_part}: an image of {message.role}; the model knows them of users alone",
                              place_of_part)  # fmt: skip
            if (len(pictures) + 1) * IMAGE_TOKENS > generator.room:
                raise _too_long(f"{len(pictures) + 1} images, for {generator.room} tokens")
            name, encoded = pictures.add(_data_of(part, place_of_part), place_of_part)
            try:
                parts.append(generator.picture(name, encoded))
            except ValueError as error:
                raise Refused(f"{place_of_part}: {error}", place_of_part) from None
        turns.append(Turn(message.role, parts))
    if gone():
        raise Gone
    try:
        return (large if pictures.pixels > MANY_PIXELS else small).submit(generator.prompt, turns, pictures).result()
    except SampleRejected as error:
        code = "context_length_exceeded" if error.reason == "too_long" else error.reason
        raise Refused(str(error), "messages", code=code) from None
    except ValueError as error:
        raise Refused(f"messages: {error}", "messages") from None


def _too_long(detail: str) -> Refused:
    return Refused(f"too_long: {detail}", "messages", code="context_length_exceeded")


def _bytes_of(text: str, where: str) -> int:
    """The length of a text in UTF-8. Raises `Refused` for half a surrogate pair, which UTF-8 cannot hold."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise Refused(f"{where}: holds half a surrogate pair at character {error.start}", where) from None


def _data_of(part: dict[str, Any], where: str) -> bytes:
    """The bytes of the image of a content part. Raises `Refused`."""
    url = part.get("image_url") if part.get("type") == "image_url" else None
    if isinstance(url, dict):
        check_fields(f"{where}.image_url.", url, ("url", "detail"))
        if (detail := url.get("detail")) not in DETAILS:
            said = "shows each image as the model was trained" if detail == "low" else f"does not know {detail!r:.80}"
            raise Refused(f"{where}.image_url.detail: this server {said}; give auto or high, or leave it out",
                          f"{where}.image_url.detail")  # fmt: skip
        url = url.get("url")
    if not isinstance(url, str):
        raise Refused(f"{where}: is neither a text nor an image_url", where)
    head, comma, data = url.partition(",")
    if not (url.startswith("data:") and comma and head.endswith(";base64")):
        raise Refused(f"{where}: give the image as data:image/png;base64,…; nothing is fetched from elsewhere", where)
    try:
        return base64.b64decode(data.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(f"{where}: is not base64: {error}", where) from None


def longest_text(generator: Talks, piece: Callable[[int], bytes]) -> int:
    """The bytes of the longest text that a prompt could hold: each token has at most so many."""
    longest = max((len(piece(token)) for token in range(generator.vocabulary)), default=1)
    return generator.room * max(1, longest) * NORMALISED
