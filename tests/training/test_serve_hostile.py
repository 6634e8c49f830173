"""`training.serve` and requests that would keep it busy: each is refused in time and memory of its own length."""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.images import encoded, jpeg_of_scans, png
from support.talking import ask, noise, question, serving

from training.generate import Generated, GenerationRequest
from training.guard import Guard, Limits
from training.serve import make_app, open_model

LIMITS = Limits(body=200_000, pixels=1_000_000)


@pytest.fixture(scope="module")
def speaker(checkpoint):
    return open_model(checkpoint)[0]


@pytest.fixture(scope="module")
def client(checkpoint):
    with serving(make_app(*open_model(checkpoint)[:2], "tiny", "0123", limits=LIMITS, hosts=["gpu-box"])) as client:
        yield client


def port_of(client) -> int:
    return urlsplit(str(client.base_url)).port


def post(client, body: bytes, **headers: str) -> tuple[int, dict]:
    """The status and the error of a request of any bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(client), timeout=400)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()).get("error")
    finally:
        connection.close()


def asked(content, **more) -> bytes:
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": "tiny", "temperature": 0, "max_tokens": 2, "messages": messages, **more}).encode()


def shown(data: bytes) -> dict:
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + b64encode(data).decode()}}


# Bodies


def test_a_body_beyond_the_limit_is_refused(client):
    status, error = post(client, asked("a" * 300_000))
    assert status == 413 and "200000 bytes" in error["message"]
    assert post(client, asked("Hello."))[0] == 200


def test_a_body_without_a_length_is_counted_as_it_comes(client):
    connection = http.client.HTTPConnection("127.0.0.1", port_of(client), timeout=60)
    parts = (b"a" * 50_000 for _ in range(100))
    try:
        connection.request("POST", "/v1/chat/completions", parts, {"Content-Type": "application/json"},
                           encode_chunked=True)  # fmt: skip
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # it closed the connection before all was sent
    finally:
        connection.close()
    assert post(client, asked("Hello."))[0] == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b"null", b"\xff\xfe", b'{"model": 1e999}', b'{"messages": {}}', b'"' * 9],
    ids=["nothing", "cut", "deep", "null", "no UTF-8", "infinite", "no list", "quotes"],
)  # fmt: skip
def test_a_body_that_is_no_request_is_a_400(client, body):
    status, error = post(client, body)
    assert status == 400 and error["message"]


@pytest.mark.parametrize("name", ["x" * 9_000, "[" * 9_000, "\u00fc" * 5_000])
def test_the_name_of_an_unknown_field_is_cut(client, name):
    status, error = post(client, asked("Hello.", **{name: 1}))
    assert status == 400 and len(error["message"]) < 500 and len(error["param"]) <= 200


def test_bodies_that_are_held_are_counted():
    guard = Guard(None, Limits(body=10), ())
    guard.held = 35
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"123456", "more_body": True}

    async def send(message):
        sent.append(message)

    import asyncio

    asyncio.run(guard({"type": "http", "headers": [(b"host", b"localhost")]}, receive, send))
    assert sent[0]["status"] == 503 and guard.held == 35


# Texts


@pytest.mark.parametrize(
    "content",
    ["a " * 90_000, "ü" * 80_000, [{"type": "text", "text": "word " * 9_000}] * 4, "\n" * 180_000],
    ids=["words", "umlauts", "parts", "line breaks"],
)
def test_a_text_that_can_never_fit_is_not_tokenized(checkpoint, content):
    speaker, piece, revision = open_model(checkpoint)
    app = make_app(speaker, piece, "tiny", revision)
    object.__setattr__(speaker.layout, "encode", lambda text: pytest.fail("it is tokenized"))
    with serving(app) as client:
        status, error = post(client, asked(content))
    assert status == 400 and error["code"] == "context_length_exceeded" and "bytes of text" in error["message"]


def test_many_messages_and_many_images_never_fit(client):
    small = shown(encoded(noise(1, 4, 4)))
    status, error = post(client, asked([small] * 600))
    assert status == 400 and error["code"] == "context_length_exceeded"
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": ""}] * 4_000}).encode()
    status, error = post(client, body)
    assert status == 400 and error["code"] == "context_length_exceeded"


HALF = "\ud800"


@pytest.mark.parametrize(
    "body",
    [
        asked(HALF),
        asked([{"type": "text", "text": "a" + HALF}]),
        asked([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + HALF}}]),
        asked([{"type": HALF}]),
        asked("Hello.", **{HALF: 1}),
        asked("Hello.", model=HALF),
        json.dumps({"model": "tiny", "messages": [{"role": HALF, "content": "x"}]}).encode(),
    ],
    ids=["text", "part", "URL", "kind", "field", "model", "role"],
)
def test_half_a_surrogate_pair_is_what_the_client_did_wrong(client, body):
    status, error = post(client, body)
    assert status in (400, 404) and error["message"] and "\n" not in error["message"]


# Images


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(1_001, 1_000), "too_many_pixels"),
        (png(30_000, 30_000, pixels=b""), "too_many_pixels"),
        (jpeg_of_scans(300), "too_many_scans"),
    ],
    ids=["pixels", "claimed", "scans"],
)
def test_an_image_is_looked_at_before_it_is_decoded(client, monkeypatch, data, reason):
    monkeypatch.setattr("training.chat.upright", lambda image: pytest.fail("it is decoded"))
    status, error = post(client, asked([shown(data)]))
    assert status == 400 and reason in error["message"] and error["param"] == "messages.0.content.0"


def test_the_images_of_a_request_share_one_limit(client):
    half = shown(png(800, 800))
    assert post(client, asked([half]))[0] in (200, 400)
    status, error = post(client, asked([half, half]))
    assert status == 400 and "too_many_pixels" in error["message"]


def test_a_prompt_that_does_not_fit_decodes_no_image(client, monkeypatch):
    monkeypatch.setattr("training.chat.upright", lambda image: pytest.fail("it is decoded"))
    status, error = post(client, asked([shown(encoded(noise(1))), {"type": "text", "text": "word " * 600}]))
    assert status == 400 and error["code"] == "context_length_exceeded"


def test_few_images_are_decoded_at_a_time_and_large_ones_one_by_one(client, monkeypatch):
    from training import chat

    real, inside, most = chat.upright, [], []

    def slow(image):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return real(image)

    def answered() -> int:
        most.clear()
        with ThreadPoolExecutor(8) as pool:
            assert all(answer.choices for answer in pool.map(lambda n: ask(client, question(noise(n))), range(8)))
        assert len(most) == 8
        return max(most)

    monkeypatch.setattr(chat, "upright", slow)
    assert 1 < answered() <= 4
    monkeypatch.setattr(chat, "MANY_PIXELS", 1)
    assert answered() == 1


# Names of the server


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("LOCALHOST.:80", True),
        ("model.localhost:8000", True),
        ("[::1]:8000", True),
        ("10.0.0.7:8000", True),
        ("gpu-box:8000", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("gpu-box.evil.example", False),
        ("", False),
    ],
)
def test_only_its_own_names_are_answered(client, host, own):
    status, error = post(client, asked("Hello."), Host=host)
    assert (status == 200) if own else (status == 403 and "--allow-host" in error["message"])


def test_any_name_can_be_allowed():
    assert Guard(None, hosts=["*"]).is_own("whatever.example")
    assert not Guard(None).is_own("whatever.example")


# Clients that go away


class Slow:
    """Answers a token every few milliseconds, as long as somebody waits."""

    room, vocabulary = 1000, 300

    def __init__(self):
        self.told: list[tuple[int, int]] = []  # seed and tokens of each answer
        self.begun = threading.Event()

    def picture(self, name, image):
        raise ValueError("no images")

    def prompt(self, turns, images):
        return type("Prompt", (), {"ids": [1, 2]})

    def answer(self, requests):
        self.begun.set()
        answers = []
        for request in requests:
            answers.append(answer := Generated(finished=True))
            while len(answer.ids) < min(request.limit, 5_000) and not request.cancelled():
                time.sleep(0.002)
                answer.ids.append(1)
                answer.log_probabilities.append(0.0)
            self.told.append((request.seed, len(answer.ids)))
        return answers


def test_a_request_whose_client_is_gone_is_not_begun_and_ends_at_the_next_token():
    slow = Slow()
    with serving(make_app(slow, lambda token: b"a", "tiny", "0", at_once=1)) as client:
        body = asked("Tell.", max_tokens=4_000, n=3, seed=7)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        gone = [socket.create_connection(("127.0.0.1", port_of(client))) for _ in range(3)]
        for connection in gone:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert slow.begun.wait(60)
        time.sleep(0.4)  # the other requests come
        for connection in gone:
            connection.close()
        begun = time.monotonic()
        assert post(client, asked("Hello.", max_tokens=2, seed=1))[0] == 200
        assert time.monotonic() - begun < 5
    others = [tokens for seed, tokens in slow.told if seed == 7]
    assert len(others) <= 3 and sum(others) < 2_000, "of nine, each client's first at most"
    assert (1, 2) in slow.told


def test_an_answer_of_the_model_ends_when_nobody_waits(speaker):
    prompt, calls = speaker.about(noise(1), "What is it?"), []
    request = GenerationRequest(
        prompt, 50, temperature=1.5, seed=2, cancelled=lambda: bool(calls.append(1) or len(calls) > 3)
    )
    other = GenerationRequest(prompt, 12, temperature=1.5, seed=3)
    cut, whole = speaker.answer([request, other])
    assert len(cut.ids) <= 4
    assert whole.ids == speaker.answer([other])[0].ids


# Checkpoints


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision": {"layers": 10**9}}, "vision.layers: is above"),
        ({"language": {"context": 10**15}}, "language.context: is above"),
        ({"language": {"vocab": 1 << 23}}, "asks for"),
        ({"language": {"layers": 1000, "feed_forward": 1 << 20}}, "asks for"),
        ({"language": {"theta": float("nan")}}, "language.theta: nan"),
        ({"language": {"theta": float("inf")}}, "language.theta: is above"),
        ({"language": {"layers": 1.5}}, "language.layers: 1.5 is not a whole number"),
        ({"language": {"layers": "x" * 9999}}, "language.layers: 'xxx"),
        ({"vision": {"side": 14_000}}, "vision.side: 14000 pixels"),
        ({"queries": 1 << 22}, "asks for"),
    ],
)
def test_an_absurd_shape_is_refused_in_one_line(checkpoint, tmp_path, change, said):
    shape = json.loads((checkpoint / "shape.json").read_text())
    for name, value in change.items():
        shape[name] = {**shape[name], **value} if isinstance(value, dict) else value
    (tmp_path / "shape.json").write_text(json.dumps(shape))
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(checkpoint / name)
    refused(tmp_path, said)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(checkpoint, tmp_path, value):
    weights = {name: array.copy() for name, array in load_file(checkpoint / "model.safetensors").items()}
    name = sorted(weights)[3]
    weights[name].reshape(-1)[0] = value
    save_file(weights, tmp_path / "model.safetensors")
    for other in ("shape.json", "tokenizer.json"):
        (tmp_path / other).symlink_to(checkpoint / other)
    refused(tmp_path, f"{name} holds numbers that are not finite")


def refused(folder, said: str) -> None:
    from schemas.errors import UserError

    with pytest.raises(UserError) as error:
        open_model(folder)
    assert str(error.value).startswith(str(folder)) and said in str(error.value) and "\n" not in str(error.value)


# Memory


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


@pytest.mark.slow
def test_eight_pictures_of_100_megapixels_at_once_stay_below_a_gigabyte(checkpoint):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "training.serve", str(checkpoint), "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            process.stdout.readline()
            client = type("Client", (), {"base_url": f"http://127.0.0.1:{port}"})
            for _ in range(100):
                try:
                    assert post(client, asked([shown(encoded(noise(1)))]))[0] == 200
                    break
                except ConnectionRefusedError:
                    time.sleep(0.2)
            idle, body = peak(process.pid), asked([shown(png(10_000, 10_000, channels=4))])
            told: list[int] = []
            several = [threading.Thread(target=lambda: told.append(post(client, body)[0])) for _ in range(8)]
            for one in several:
                one.start()
            for one in several:
                one.join()
            assert len(told) == 8 and set(told) <= {200, 400}
            assert post(client, asked("Hello."))[0] == 200
            assert peak(process.pid) - idle < 1_000_000_000
        finally:
            process.terminate()
