"""Endpoints: what is sent of what is configured, and what decides the answers."""

import pytest
from support.clients import ask, client, reasons

from pipelines.engine.worker import Stopped
from pipelines.models.chat import ChatClient
from pipelines.models.check_endpoint import check_endpoint
from pipelines.models.endpoints import CallFailed, endpoint_of, image_part, message, open_endpoint, weights_of
from pipelines.models.model_stage import each
from pipelines.stages.verdicts import open_stage as open_judge
from schemas.config.endpoints import EndpointConfig
from schemas.config.model import Config
from schemas.errors import UserError


def test_the_first_tokens_candidates_come_with_the_answer(scripted):
    found, _ = ask(client(scripted.url), 1, logprobs=True, top_logprobs=20, max_tokens=1)
    tokens = dict(found[0].top)
    assert {*tokens} == {"Yes", "yes", "No", "no", "The"}
    assert all(logprob <= 0 for logprob in tokens.values())


@pytest.mark.parametrize("how", ["null-text", "empty"])
def test_a_blank_token_has_candidates_like_any_other(scripted, how):
    scripted.does(fail=[{"how": how}])
    found, _ = ask(client(scripted.url), 1, logprobs=True, top_logprobs=20, max_tokens=1)
    assert len(found[0].top) == 5


@pytest.mark.parametrize("how", ["no-logprobs", "nan", "above-one", "no-tokens"])
def test_odd_log_probabilities_are_no_answer(scripted, how):
    scripted.does(fail=[{"how": how, "match": "picture 3"}])
    found, _ = ask(client(scripted.url, tries=2), 6, logprobs=True, top_logprobs=20)
    assert {n for n, one in found.items() if isinstance(one, CallFailed)} == {3}
    assert found[3].reason == "bad_answer"


# Parameters


def test_a_parameter_that_a_server_refuses_is_left_out_or_renamed(scripted):
    options = {"temperature": 0, "top_p": 1, "max_tokens": 20}
    for config, sent in (
        ({}, {"max_tokens", "seed", "temperature", "top_p"}),
        ({"omit": ["seed"]}, {"max_tokens", "temperature", "top_p"}),
        ({"max_tokens_name": "max_completion_tokens"}, {"max_completion_tokens", "seed", "temperature", "top_p"}),
        ({"omit": ["max_tokens", "top_p"], "max_tokens_name": "max_completion_tokens"}, {"seed", "temperature"}),
    ):
        refused = {"max_tokens", "max_completion_tokens", "seed", "temperature", "top_p"} - sent
        scripted.does(refuse=[*refused])
        found, stopped = ask(client(scripted.url, **config), 2, **options)
        assert stopped is None and reasons(found.values()) == {"answered": 2}
        assert set(scripted.asked()[-1]["sent"]) == {"messages", "model", *sent}


def test_what_is_left_out_decides_answers_and_a_name_does_not():
    def identity(**config):
        return open_endpoint("m", EndpointConfig(model="m", url="http://a/v1", **config)).identity()

    assert identity() == {"model": "m"} == identity(max_tokens_name="max_completion_tokens", omit=[])
    assert (
        identity(omit=["seed", "top_p"])
        == identity(omit=["top_p", "seed"])
        == {"model": "m", "omit": ["seed", "top_p"]}
    )


def test_a_server_without_schemas_is_asked_for_bullets_at_once(scripted):
    assert client(scripted.url, omit=["response_format"]).takes_schemas is False


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"refuse": ["seed"]}, r'http_4xx: .*seed; set omit = \["seed"\] to leave it out$'),
        ({"refuse": ["max_tokens"]}, "http_4xx: .*max_tokens; set max_tokens_name to its name on the server"),
        ({"schema": False}, r'http_4xx: .*; set omit = \["response_format"\] to leave it out$'),
        ({"fail": [{"how": "429"}]}, "http_429: .*; run again later, or lower `concurrency`$"),
        ({"fail": [{"how": "500"}]}, "http_5xx: .*; look at the server's log; run again later"),
        ({"fail": [{"how": "html"}]}, "bad_answer: .*; is the url right"),
        ({"fail": [{"how": "empty"}]}, "empty_answer: .*check-endpoint"),
    ],
)
def test_where_no_request_succeeds_a_harmless_one_decides_whose_fault_it_is(scripted, plan, said):
    async def doubt(of: ChatClient) -> None:
        await of.doubt()

    scripted.does(**plan)
    of = client(scripted.url, tries=2)
    ask(of, 3, max_tokens=9, response_format={"type": "json_object"})
    with pytest.raises(Stopped, match=f"every request failed, and so does a harmless one: {said}"):
        list(each([0], lambda _: doubt(of), 1))
    scripted.does(fail=[{"how": "400", "match": "picture"}])  # the fault of what is asked
    of = client(scripted.url)
    ask(of, 3)
    assert list(each([0], lambda _: doubt(of), 1)) == [(0, None)] and of.succeeded
    before = scripted.count()
    assert list(each([0], lambda _: doubt(of), 1)) == [(0, None)] and scripted.count() == before


PAGES = {
    "html": "<html>Bad gateway</html>", "page as JSON": "<html>Log in</html>", "text": "It works!",
    "other JSON": '{"detail": "welcome"}', "list": '[{"model": "a"}]', "null": "null", "number": "7",
}  # fmt: skip


@pytest.mark.parametrize("how", PAGES)
def test_an_answer_that_is_no_completion_is_shown_and_the_url_is_doubted(how, scripted):
    scripted.does(fail=[{"how": how}])
    found, _ = ask(client(scripted.url, tries=1), 1)
    detail = f"not a completion: {PAGES[how]!r}; is the url right? It often ends in /v1"
    assert (found[0].reason, found[0].detail) == ("bad_answer", detail)


@pytest.mark.parametrize("how", ["no-choice", "choices of text", "half-json", "null-text"])
def test_a_broken_completion_is_no_answer_and_no_python(how, scripted):
    scripted.does(fail=[{"how": how}])
    found, _ = ask(client(scripted.url, tries=1), 1)
    assert found[0].reason == "bad_answer"
    assert not any(word in found[0].detail for word in ("object", "attribute", "NoneType", "index"))


@pytest.mark.parametrize("sent", ["logprobs", "top_logprobs"])
def test_a_server_that_refuses_one_parameter_of_log_probabilities_gives_them_by_the_other(sent, scripted):
    (refused,) = {"logprobs", "top_logprobs"} - {sent}
    scripted.does(refuse=[refused])
    found, _ = ask(client(scripted.url, omit=[refused]), 1, logprobs=True, top_logprobs=20, max_tokens=1)
    assert len(found[0].top) == 5
    assert sent in scripted.asked()[-1]["sent"] and refused not in scripted.asked()[-1]["sent"]


def test_log_probabilities_of_another_name_are_sent_as_extra(scripted):
    scripted.does(refuse=["top_logprobs"])
    of = client(scripted.url, omit=["logprobs", "top_logprobs"], extra={"logprobs": 20})
    found, _ = ask(of, 1, logprobs=True, top_logprobs=20, max_tokens=1)
    assert len(found[0].top) == 5


@pytest.mark.parametrize(
    ("omit", "extra", "works"),
    [
        (["logprobs", "top_logprobs"], {}, False),
        (["seed", "top_logprobs", "logprobs"], {}, False),
        (["logprobs", "top_logprobs"], {"logprobs": 20}, True),
        (["logprobs"], {}, True),
        ([], {}, True),
    ],
)
def test_a_labeler_without_log_probabilities_is_refused(omit, extra, works):
    labeler = {"model": "m", "url": "http://a/v1", "omit": omit, "extra": extra}
    config = Config.model_validate(
        {"root": "r", "source": {"kind": "scenes"}, "endpoints": {"m": labeler}, "instructions": {"questions": ["a"]},
         "responses": {"endpoint": "m"}, "verdicts": {"labelers": ["m"]}}
    )  # fmt: skip
    if works:
        assert open_judge(config)
    else:
        with pytest.raises(UserError, match=r"^endpoints\.m\.omit: verdicts need log-probabilities"):
            open_judge(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("refused", "fix"),
    [
        ("temperature", 'set omit = ["temperature"] to leave it out'),
        ("max_tokens", "set max_tokens_name to its name on the server"),
        ("logprobs", 'set omit = ["logprobs"] to leave it out'),
    ],
)
def test_check_endpoint_names_the_parameter_and_goes_on_to_its_end(refused, fix, scripted):
    scripted.does(refuse=[refused])
    config = EndpointConfig(model="scripted", url=scripted.url, concurrency=40)
    checks = check_endpoint(open_endpoint(f"without-{refused}", config))
    results = {check: (passed, said) for check, passed, said in checks}
    assert [*results] == ["answers", "images", "log-probabilities", "JSON schema", "speed"]
    passed, said = results["log-probabilities"]
    assert not passed and fix in said
    passed, said = results["speed"]
    assert passed == (refused == "logprobs")
    if not passed:
        assert said.startswith("not measured: 32 requests in a row have failed") and fix in said


# Keys and names


def test_a_key_comes_from_the_environment_alone(scripted, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "of-somebody-else")
    ask(client(scripted.url), 1)
    monkeypatch.setenv("LABELER_KEY", "sesame")
    scripted.does(keys=["sesame"])
    _, stopped = ask(client(scripted.url, api_key_env="LABELER_KEY"), 1)
    assert stopped is None
    assert [asked["key"] for asked in scripted.asked()[-2:]] == ["none", "sesame"]
    monkeypatch.delenv("LABELER_KEY")
    with pytest.raises(UserError, match="the environment variable LABELER_KEY is not set"):
        open_endpoint("m", EndpointConfig(model="m", url=scripted.url, api_key_env="LABELER_KEY")).key()


def test_no_error_says_a_key_again(scripted, monkeypatch):
    monkeypatch.setenv("LABELER_KEY", "sesame-1234")
    scripted.does(keys=["another"], echo_key=True)
    _, stopped = ask(client(scripted.url, api_key_env="LABELER_KEY"), 1)
    assert "Incorrect API key provided: ***" in str(stopped)
    scripted.does(fail=[{"how": "500"}], echo_key=True)
    found, _ = ask(client(scripted.url, api_key_env="LABELER_KEY", tries=1), 1)
    assert "oops, ***" in found[0].detail


def test_what_decides_of_answers_is_the_model_and_not_where_it_is(tmp_path):
    def identity(**config):
        return open_endpoint("m", EndpointConfig(**config)).identity()

    assert identity(model="m", url="http://a/v1") == identity(model="m", url=["http://b/v1"], concurrency=1, timeout=1)
    assert identity(model="m", url="http://a/v1") != identity(model="m", url="http://a/v1", revision="2")
    assert identity(model="m", url="http://a/v1") != identity(model="m", url="http://a/v1", extra={"top_k": 1})
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    here, there = (str(tmp_path / name) for name in ("here", "there"))
    assert identity(model=here, url="http://a/v1") == identity(model=there, url="http://a/v1")
    (tmp_path / "there" / "model.safetensors").write_bytes(b"other weights")
    weights_of.cache_clear()
    assert identity(model=here, url="http://a/v1") != identity(model=there, url="http://a/v1")


def test_images_go_as_they_came():
    part = image_part(b"\xff\xd8bytes", "JPEG")
    assert part == {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9hieXRlcw=="}}
    assert message("what?", part)[0]["content"] == [part, {"type": "text", "text": "what?"}]


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ({"model": "m"}, "write either url or command"),
        ({"model": "m", "url": "http://a/v1", "command": "serve {port}"}, "write either url or command"),
        ({"model": "m", "command": "serve"}, "write {port} where the command takes its port"),
        ({"model": "m", "url": "http://me:word@a/v1"}, "without a user name and password"),
        ({"model": "m", "url": "http://a/v1", "api_key_env": "sk-12ab"}, "the name of the environment variable"),
        ({"model": "m", "url": "http://a/v1", "extra.api_key": "sk-12ab"}, "do not write a key here"),
        ({"model": "m", "url": "http://a/v1", "extra.Authorization": "sk-12ab"}, "do not write a key here"),
        ({"model": "m", "url": "http://a/v1", "omit": ["model"]}, "omit"),
        ({"model": "m", "url": "http://a/v1", "max_tokens_name": "limit"}, "max_tokens_name"),
    ],
)
def test_an_endpoint_that_cannot_work_is_refused_and_no_key_is_said_again(toml, said, tmp_path):
    from schemas.config.file import read_config

    lines = "".join(f"{name} = {value!r}\n" for name, value in toml.items())
    path = tmp_path / "my.toml"
    path.write_text(f'root = "r"\n[source]\nkind = "scenes"\n[endpoints.labeler]\n{lines}')
    with pytest.raises(UserError) as error:
        read_config(path)
    assert "endpoints.labeler" in str(error.value)
    assert said in str(error.value)
    assert "sk-12ab" not in str(error.value)
    assert "word@" not in str(error.value)


@pytest.mark.slow
def test_what_one_process_does_is_refused_with_workers_elsewhere():
    def config(**endpoint) -> Config:
        made = {"m": {"model": "m", **endpoint}}
        return Config(root="r", source={"kind": "scenes"}, endpoints=made, beam={"runner": "FlinkRunner"})

    with pytest.raises(UserError, match=r"endpoints.m.command: .* workers of FlinkRunner do not reach"):
        endpoint_of(config(command="serve {port}"), "captions.endpoint", "m")
    with pytest.raises(UserError, match=r"endpoints.m.max_calls: "):
        endpoint_of(config(url="http://a/v1", max_calls=1), "captions.endpoint", "m")
    assert endpoint_of(config(url="http://a/v1"), "captions.endpoint", "m").urls == ("http://a/v1",)
    with pytest.raises(UserError, match=r"unknown endpoint 'n'; add \[endpoints.n\], or choose from m$"):
        endpoint_of(config(url="http://a/v1"), "captions.endpoint", "n")
