"""What Prefect shows is sent in the background, and never holds up a run."""

import contextvars
import threading
import time

from flows.background import Sender


def test_the_newest_of_each_key_is_sent_in_the_context_of_its_sender():
    sender, sent, gate = Sender(), [], threading.Event()
    name = contextvars.ContextVar("name")
    name.set("run")
    sender.send("first", gate.wait)
    for number in range(5):
        sender.send("a", lambda number=number: sent.append((name.get(), number)))
        sender.send("b", lambda number=number: sent.append(("b", number)))
    gate.set()
    assert sender.flush(10)
    assert sent == [("run", 4), ("b", 4)]
    sender.end()


def test_a_server_that_is_slow_or_gone_holds_up_nothing():
    sender, gate = Sender(), threading.Event()
    before = time.monotonic()
    sender.send("slow", gate.wait)
    assert not sender.flush(0.1)
    gate.set()
    assert sender.flush(10)
    sender.send("gone", lambda: 1 / 0)
    sender.flush(10)
    assert not sender.flush(60)  # at once: the last thing failed
    assert time.monotonic() - before < 15
    sender.send("back", lambda: None)
    time.sleep(0.2)
    assert sender.flush(10)
    sender.end()
