"""The client of all models: what it tries again, what is one row's matter, and what stops a run."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from support.clients import QUICK, ask, client, reasons
from support.scripted_server import Scripted

from pipelines.models.chat import ChatClient, client_of
from pipelines.models.endpoints import CallFailed, message, open_endpoint
from pipelines.models.model_stage import each
from schemas.config.endpoints import EndpointConfig


def test_each_question_has_its_answer_whatever_comes_first(scripted):
    found, stopped = ask(client(scripted.url), 100)
    assert stopped is None
    assert [*sorted(found)] == [*range(100)]
    assert len({answer.text for answer in found.values()}) > 90
    again, _ = ask(client(scripted.url), 100)
    assert {n: a.text for n, a in again.items()} == {n: a.text for n, a in found.items()}


def test_no_more_are_in_flight_than_is_said():
    with Scripted(latency=0.05) as server:
        ask(client(server.url, concurrency=7), 40)
        assert server.says()["most"] == 7


def test_partitions_that_ask_at_the_same_moment_share_bounds_and_budget(scripted):
    endpoint = open_endpoint("shared", EndpointConfig(model="scripted", url=scripted.url, **QUICK))
    together = Barrier(4)

    def one(_: int) -> ChatClient:
        together.wait()
        return client_of(endpoint)

    with ThreadPoolExecutor(4) as threads:
        assert len(set(map(id, threads.map(one, range(4))))) == 1


def test_tokens_and_tries_are_measured(scripted):
    scripted.does(fail=[{"how": "500", "times": 2}])
    found, _ = ask(client(scripted.url), 3)
    for answer in found.values():
        assert answer.measured["tries"] == 3
        assert answer.measured["tokens_in"] == 2
        assert answer.measured["tokens_out"] == len(answer.text.split())
        assert answer.measured["waited"] >= 500, "two pauses"


@pytest.mark.parametrize(
    ("how", "reason", "tries"),
    [
        ("400", "too_long", 1), ("429", "http_429", 3), ("500", "http_5xx", 3), ("503", "http_5xx", 3),
        ("reset", "connection", 3), ("half", "connection", 3), ("half-json", "bad_answer", 3),
        ("html", "bad_answer", 3), ("no-choice", "bad_answer", 3), ("null-text", "bad_answer", 3),
        ("empty", "empty_answer", 1), ("filtered", "filtered", 1),
    ],
)  # fmt: skip
def test_a_question_that_fails_for_good_stops_no_other(scripted, how, reason, tries):
    scripted.does(fail=[{"how": how, "match": "picture 1"}])
    before = len(scripted.asked())
    found, stopped = ask(client(scripted.url), 20)
    assert stopped is None
    failed = {1, *range(10, 20)}
    assert {n: reason if n in failed else None for n in range(20)} == {
        n: one.reason if isinstance(one, CallFailed) else None for n, one in found.items()
    }
    asked = Counter(one["text"] for one in scripted.asked()[before:])
    assert asked["picture 1"] == tries
    assert asked["picture 2"] == 1


@pytest.mark.parametrize("how", ["429", "500", "reset", "half", "half-json", "no-choice"])
def test_what_passes_leaves_no_trace_in_the_answers(scripted, how):
    clean, _ = ask(client(scripted.url), 30)
    scripted.does(fail=[{"how": how, "share": 0.4, "times": 2}])
    rough, stopped = ask(client(scripted.url, concurrency=4, tries=5), 30)
    assert stopped is None
    assert {n: a.text for n, a in rough.items()} == {n: a.text for n, a in clean.items()}


def test_a_server_that_hangs_is_not_waited_for_longer_than_said(scripted):
    scripted.does(fail=[{"how": "hang", "match": "picture 3"}])
    started = time.monotonic()
    found, _ = ask(client(scripted.url, timeout=0.3, tries=2), 8)
    assert reasons(found.values()) == {"answered": 7, "timeout": 1}
    assert 0.6 < time.monotonic() - started < 5


def test_retry_after_is_honoured(scripted):
    with Scripted(fail=[{"how": "429-after", "times": 1}]) as server:
        started = time.monotonic()
        found, _ = ask(client(server.url), 5)
        assert reasons(found.values()) == {"answered": 5}
        assert 1.0 < time.monotonic() - started < 4


# What is refused with a status that often means all requests


@pytest.mark.parametrize("status", ["401", "403", "404"])
@pytest.mark.parametrize("match", ["picture 0", "picture 3", "picture 1"])  # the first one, one, and eleven of them
def test_a_request_that_is_refused_while_others_pass_is_one_row(scripted, status, match):
    scripted.does(fail=[{"how": status, "match": match}])
    of = client(scripted.url, concurrency=4)
    found, stopped = ask(of, 20)
    refused = {number for number in range(20) if match in f"picture {number}"}
    assert stopped is None
    assert {number for number, made in found.items() if isinstance(made, CallFailed)} == refused
    for number in refused:
        assert (found[number].reason, found[number].measured["tries"]) == ("http_4xx", 1)
        assert found[number].detail.startswith(f"Error code: {status} - ")
    assert of.calls <= 20 + len(refused)  # at most one greeting for each
    assert len([one for one in scripted.asked()[-of.calls :] if "hello" in one["text"]]) >= 1


def test_a_greeting_sends_what_the_server_takes(scripted):
    scripted.does(fail=[{"how": "403", "match": "picture"}], refuse=["max_tokens", "temperature"])
    of = client(scripted.url, omit=["temperature"], max_tokens_name="max_completion_tokens")
    found, stopped = ask(of, 2)
    assert stopped is None and reasons(found.values()) == {"http_4xx": 2}
    greeting = next(one for one in reversed(scripted.asked()) if "hello" in one["text"])
    assert set(greeting["sent"]) == {"max_completion_tokens", "messages", "model"}


def test_where_a_greeting_finds_no_answer_now_the_request_is_tried_again(scripted):
    scripted.does(fail=[{"how": "403", "match": "picture", "times": 1}, {"how": "500", "match": "hello", "times": 1}])
    found, stopped = ask(client(scripted.url), 1)
    assert stopped is None and reasons(found.values()) == {"answered": 1}
    assert found[0].measured["tries"] == 2


def test_many_refused_requests_in_a_row_stop_the_run_though_a_greeting_is_answered(scripted):
    scripted.does(fail=[{"how": "404", "match": "picture"}])
    _, stopped = ask(client(scripted.url), 100)
    assert "32 requests in a row have failed" in str(stopped) and "image input" in str(stopped)


# What stops a run


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"keys": ["a"]}, "refuses requests without a key"),
        ({"keys": ["a"]}, "; set api_key_env to the name of the environment variable that holds its key"),
        ({"models": ["another"]}, "does not know the model 'scripted'"),
        ({"fail": [{"how": "quota"}]}, "the account is used up"),
        ({"fail": [{"how": "500"}]}, "32 requests in a row have failed, the last one: http_5xx"),
        ({"fail": [{"how": "400"}]}, "32 requests in a row have failed, the last one: too_long"),
        ({"fail": [{"how": "reset"}]}, "32 requests in a row have failed, the last one: connection"),
        ({"fail": [{"how": "500"}]}, "look at the server's log; run again later, or lower `concurrency`"),
        ({"fail": [{"how": "503"}]}, "look at the server's log; run again later, or lower `concurrency`"),
        ({"fail": [{"how": "429"}]}, "run again later, or lower `concurrency`"),
        ({"refuse": ["seed"]}, 'set omit = ["seed"] to leave it out'),
    ],
)
def test_what_is_wrong_with_all_of_them_stops_the_run_and_gives_no_row_a_reason(scripted, plan, said):
    scripted.does(**plan)
    found, stopped = ask(client(scripted.url, tries=2), 200)
    assert not found
    assert said in str(stopped)
    assert "\n" not in str(stopped)


def test_a_few_failures_at_first_are_rows_like_others(scripted):
    scripted.does(fail=[{"how": "400"}])
    found, stopped = ask(client(scripted.url), 10)
    assert stopped is None
    assert reasons(found.values()) == {"too_long": 10}


def test_a_server_that_was_never_there_is_given_up_soon():
    started = time.monotonic()
    found, stopped = ask(client("http://127.0.0.1:9/v1"), 10)
    assert (found, str(stopped)[3:]) == ({}, str(stopped)[3:])
    assert "no answer from http://127.0.0.1:9/v1" in str(stopped)
    assert time.monotonic() - started < 15


def test_a_server_that_dies_stops_the_run_and_no_row_is_blamed():
    with Scripted(latency=0.02, die_after=30) as server:
        found, stopped = ask(client(server.url, patience=2, concurrency=8), 100)
    assert "no answer from" in str(stopped)
    assert reasons(found.values()).keys() == {"answered"}
    assert 20 <= len(found) < 30


def test_a_server_that_comes_back_is_asked_again():
    with Scripted(latency=0.02, die_after=30) as server:
        port, of = server.port, client(server.url, patience=30, concurrency=8)
        answered = []

        async def one(number: int):
            return await of.ask(message(f"picture {number}"), f"{number:08x}", seed=number)

        second = None
        for number, made in each(range(60), one, of.slots()):
            answered.append((number, made))
            if len(answered) == 20:
                server.process.wait(10)
                second = Scripted(port).__enter__()
        second.__exit__()
    assert reasons(made for _, made in answered) == {"answered": 60}


def test_of_several_servers_a_dead_one_is_left_aside(scripted):
    with Scripted(latency=0.01, die_after=10) as dying:
        found, stopped = ask(client(scripted.url, dying.url, concurrency=4), 80)
    assert stopped is None
    assert reasons(found.values()) == {"answered": 80}


def test_requests_about_one_image_go_to_one_server():
    with Scripted() as one, Scripted() as other:
        of = client(one.url, other.url, concurrency=50)

        async def say(number: int):
            return await of.ask(message(f"{number}"), f"{number % 10:08x}")

        assert len(list(each(range(40), say, 20))) == 40
        seen = [{int(asked["text"]) % 10 for asked in server.asked()} for server in (one, other)]
    assert seen == [{0, 2, 4, 6, 8}, {1, 3, 5, 7, 9}]


# Budgets


@pytest.mark.slow
def test_a_budget_of_calls_is_spent_to_the_last_and_no_further(scripted):
    before = len(scripted.asked())
    found, stopped = ask(client(scripted.url, max_calls=25, concurrency=8), 100)
    assert "max_calls = 25 is reached; run again to continue" in str(stopped)
    assert reasons(found.values()) == {"answered": 25}, "all that was paid for comes out"
    assert len(scripted.asked()) - before == 25


@pytest.mark.slow
def test_a_budget_of_tokens_ends_with_what_is_in_flight(scripted):
    found, stopped = ask(client(scripted.url, max_tokens=200, concurrency=4), 100)
    assert "max_tokens = 200 is reached" in str(stopped)
    spent = [a.measured["tokens_in"] + a.measured["tokens_out"] for a in found.values()]
    assert 200 <= sum(spent) <= 200 + 4 * max(spent)
