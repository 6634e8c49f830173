"""A server that says the key again, in any way, at any offset and with any status: nothing of it is kept or shown."""

import json
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.corpora import build, picture, say, shardmill
from support.leaks import AROUND, WAYS, leaks
from support.scripted_server import say as scripted_answer

from pipelines.catalog.catalog import query
from pipelines.engine import secrets
from pipelines.engine.worker import Stopped

KEY = "sk-Zq7Xv2Lm9Kt4Rw8Yp3Bn6Hd1Gc5Jf0"  # like no words, so that each part of it is a leak
STATUSES = (200, 200, 200, 200, 400, 422, 413, 429, 500, 503)


class Gateway(ThreadingHTTPServer):
    """Answers three requests of four as a model would; the others say the key again. `all_fail`: each with a status."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.all_fail, self.asked = None, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.say(200, {"object": "list", "data": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Authorization"].split()[1]
        self.server.asked += 1
        draws = random.Random(f"{self.server.asked}{body['messages']}")
        before, after = draws.choice(AROUND)
        text = f"{'.' * draws.randrange(520)} {before}{draws.choice(list(WAYS.values()))(key, draws)}{after}"
        said = scripted_answer(body)
        choice = {"index": 0, "message": {"role": "assistant", "content": said["text"]}, "finish_reason": "stop"}
        if "tokens" in said:
            top = [{"token": token, "logprob": -2.0, "bytes": None} for token in said["tokens"]]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        status = self.server.all_fail or draws.choice(STATUSES)
        if status != 200:
            self.say(status, {"error": {"message": text, "code": draws.choice([None, text])}})
            return
        kind = draws.randrange(8)
        if kind == 0:
            choice["message"]["content"] = text
        elif kind == 1:
            choice["message"]["content"] = f"Question: What is it?\nAnswer: A house. {text}"
        elif kind == 2:
            usage["prompt_tokens"] = text
        elif kind == 3 and "logprobs" in choice:
            choice["logprobs"]["content"][0]["top_logprobs"] = [{"token": text, "logprob": -0.1, "bytes": None}]
        elif kind == 4 and "logprobs" in choice:
            choice["logprobs"]["content"][0]["top_logprobs"][0]["logprob"] = text
        if kind == 5:
            self.say(200, text)
        else:
            self.say(
                200,
                {
                    "id": text,
                    "object": "chat.completion",
                    "created": 1,
                    "model": text,
                    "choices": [choice],
                    "usage": usage,
                },
            )

    def say(self, status: int, body) -> None:
        data = json.dumps(body).encode() if not isinstance(body, str) else body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words) -> None:
        pass


@pytest.fixture
def gateway(monkeypatch):
    monkeypatch.setattr(secrets, "remembered", set())
    monkeypatch.setenv("LABELER_KEY", KEY)
    monkeypatch.setattr("pipelines.models.chat.SLOWEST", 0.01)
    monkeypatch.setattr("pipelines.models.chat.MANY", 10_000)
    server = Gateway()
    yield server
    server.shutdown()


@pytest.fixture
def configured(configure, tmp_path, gateway):
    def write(count: int = 24) -> Path:
        (tmp_path / "data").mkdir(exist_ok=True)
        lines = []
        for number in range(count):
            (tmp_path / f"data/{number}.png").write_bytes(picture(number)[0])
            lines.append(json.dumps({"image_path": f"{number}.png", "question": "Describe the picture."}))
        (tmp_path / "data/instructions.jsonl").write_text("\n".join(lines))
        return configure(
            f'[source]\nkind = "instructions"\npath = "data"\n[endpoints.m]\nmodel = "scripted"\ntries = 2\n'
            f'url = "{gateway.url}"\napi_key_env = "LABELER_KEY"\n'
            '[captions]\nendpoint = "m"\nrewrite = "all"\nimage = true\n'
            '[responses]\nendpoint = "m"\ndraws = 2\n[claims]\nendpoint = "m"\n[verdicts]\nlabelers = ["m"]\n'
        )

    return write


def check(root: Path, *shown: str) -> None:
    """Nothing of the key is in any file below a folder, or was shown."""
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        text = path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            cells = {str(cell) for column in pq.read_table(path).columns for cell in column.to_pylist()}
            for cell in cells:
                assert not leaks(cell, KEY), (path, cell)
        elif path.suffix in (".json", ".html", ".log", ".txt", ".toml"):
            for line in text.splitlines():
                assert not leaks(line, KEY), (path, line)
        parts = [KEY[n : n + 5].lower() for n in range(len(KEY) - 4)]
        assert not [part for part in parts if part in text.lower() and len(set(part)) > 3], path
    for text in shown:
        for line in text.splitlines():
            assert not leaks(line, KEY), line


@pytest.mark.slow
def test_nothing_of_a_key_is_in_rows_the_ledger_the_report_or_the_terminal(configured, gateway, tmp_path):
    config = configured()
    root = build(config)
    checks = say("check-endpoint", config)
    tried = say("try", "captions", config)
    shown = [say("stats", config), say("sql", config, "from captions"), say("sql", config, "from verdicts")]
    check(tmp_path / "corpus", *(text for one in (checks, tried, *shown) for text in (one.out, one.err)))
    details = query(root, "select count(*) n from captions where detail like '%***%'").to_pylist()[0]["n"]
    answers = {row["answer"] for row in query(root, "select distinct answer from captions").to_pylist()}
    assert ("says_key" in answers and "***" in str(query(root, "select detail from verdicts").to_pylist())) or details
    assert gateway.asked > 100


@pytest.mark.parametrize("status", [401, 403, 404, 429, 400])
def test_a_run_that_stops_says_nothing_of_it(configured, gateway, tmp_path, monkeypatch, status):
    monkeypatch.setattr("pipelines.models.chat.MANY", 4)
    gateway.all_fail = status
    with pytest.raises(Stopped) as stopped:
        build(configured(6))
    assert not leaks(str(stopped.value), KEY)
    check(tmp_path / "corpus")


@pytest.mark.slow
def test_the_log_of_a_server_that_a_command_starts_says_nothing_of_it(tmp_path, monkeypatch):
    """Not even if the key comes sign by sign, in pieces, or over several lines."""
    from pipelines.engine.root import Root
    from pipelines.models.endpoints import open_endpoint
    from pipelines.models.servers import serve
    from schemas.config.endpoints import EndpointConfig

    monkeypatch.setenv("LABELER_KEY", KEY)
    draws = random.Random(0)
    said = [before + way(KEY, draws) + after for before, after in AROUND for way in WAYS.values()]
    script = tmp_path / "server.py"
    script.write_text(
        "import sys, time\n"
        f"for text in {said!r}:\n"
        "    for n in range(0, len(text), 3):\n"
        "        sys.stdout.write(text[n : n + 3]); sys.stdout.flush()\n"
        "    print(flush=True)\n"
        f"for sign in {KEY!r}:\n"
        "    sys.stdout.write(sign); sys.stdout.flush(); time.sleep(0.01)\n"
        f"print(flush=True); print({KEY!r} * 10_000); print('this is the end of', {KEY!r}); sys.exit(3)\n"
    )
    config = EndpointConfig(model="m", command=f"{sys.executable} {script} {{port}}", api_key_env="LABELER_KEY")
    with pytest.raises(Stopped, match="this is the end of") as stopped:
        serve(open_endpoint("m", config), Root(str(tmp_path / "corpus")), "run")
    assert not leaks(str(stopped.value), KEY)
    log = (tmp_path / "corpus/runs/run/server-m.log").read_text("latin-1")
    parts = {KEY[n : n + 5].lower() for n in range(len(KEY) - 4)}
    assert not [part for part in parts if part in log.lower()] and "this is the end of ***" in log


@pytest.mark.slow
def test_nothing_of_it_reaches_prefect_or_the_terminal_of_a_whole_run(configured, gateway, tmp_path):
    """Its database holds logs, states and artifacts."""
    config = configured()
    for status in (None, 401, 400):
        gateway.all_fail = status
        ran = shardmill("run", config, cwd=tmp_path, PREFECT_HOME=str(tmp_path / "prefect"), LABELER_KEY=KEY)
        check(tmp_path / "corpus", ran.stdout, ran.stderr)
        config.write_text(config.read_text().replace("[captions]", "[captions]\nmax_words = 149"))
    databases = b"".join(path.read_bytes() for path in (tmp_path / "prefect").rglob("*") if path.is_file())
    assert b"make_stage" in databases
    text = databases.decode("latin-1").lower()
    assert not [KEY[n : n + 8] for n in range(len(KEY) - 7) if KEY[n : n + 8].lower() in text]
