"""No secret leaves: however it is written, wherever it stands, and wherever a text is cut."""

import base64
import random
import string
import time

import pytest
from support.leaks import AROUND, KEYS, WAYS, leaks

from pipelines.engine import secrets
from pipelines.engine.secrets import HIDDEN, Secrets, hidden, hide, hiding, remember, told


def test_the_finder_of_leaks_finds_them():
    draws = random.Random(0)
    for name, way in WAYS.items():
        assert leaks(f"x {way(KEYS[0], draws)} y", KEYS[0]), name


@pytest.mark.parametrize("name", WAYS)
def test_no_way_to_write_a_key_gets_through(name):
    draws = random.Random(name)
    for key in KEYS:
        known = Secrets([key, "another-secret-of-ours"])
        for before, after in AROUND:
            text = before + WAYS[name](key, draws) + after
            assert not leaks(known.hidden(text), key), (key, text, known.hidden(text))


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setattr(secrets, "remembered", set())
    for key in KEYS:
        remember(key)
    return KEYS


def checked(count: int, seed: int) -> None:
    draws, letters = random.Random(seed), string.ascii_letters + string.digits + "-_"
    ways = list(WAYS.values())
    for number in range(count):
        key = draws.choice(KEYS) if number % 2 else "sk-" + "".join(draws.choices(letters, k=draws.randrange(16, 60)))
        remember(key)
        before, after = draws.choice(AROUND)
        said = before + draws.choice(ways)(key, draws) + after
        text = "." * draws.randrange(520) + said + " " * draws.randrange(3) + "!" * draws.randrange(600)
        for told_text in (told(ValueError(text)), hidden(text), hidden(text)[: draws.randrange(1, 600)]):
            assert not leaks(told_text, key), (key, text, told_text)
        secrets.remembered -= {key} - set(KEYS)


@pytest.mark.slow
def test_random_errors_say_nothing_at_any_offset(keys):
    checked(250, 1)


@pytest.mark.slow
def test_ten_thousand_random_errors_say_nothing_at_any_offset(keys):
    checked(10_000, 2)


def test_every_offset_of_a_message_that_is_cut(keys):
    key = KEYS[0]
    for offset in range(440, 520):
        message = told("." * offset + key + " is the key")
        assert not leaks(message, key) and len(message) <= 500


WHOLE = {  # what is a secret only as a whole, or is known by what stands behind it
    "a short key": ("sesame", "open sesame street"),
    "a password in a URL": ("correct-horse", "at http://user:correct-horse@example.com/a"),
    "a name in a URL": ("correct-horse", "at s3://correct-horse@example.com/a"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_message_is_cut_after_its_secrets_are_hidden(kind, monkeypatch):
    secret, text = WHOLE[kind]
    monkeypatch.setattr(secrets, "remembered", {"sesame"})
    for offset in range(440, 520):
        message = told("." * offset + " " + text)
        assert not any(secret[:size] in message for size in range(4, len(secret) + 1)), (offset, message)


def test_what_holds_no_secret_stays_as_it_is(keys):
    for text in (
        "", "A red house stands in a garden.", "status 404", "http://a.com/a%2Cb.jpg?w=300&u=https%3A%2F%2Fb.com",
        "cut at max_tokens: - the sign says \\u00e9", "starts with b'\\x89PNG\\r\\n\\x1a\\n'", "sk-", "0123",
    ):  # fmt: skip
        assert hidden(text) == text
        assert not secrets.known().said(text)


def test_an_answer_that_says_a_key_is_told_from_one_that_shares_words_with_it(keys):
    known, draws = secrets.known(), random.Random(3)
    for key in KEYS[:8]:
        for name in set(WAYS) - {"its beginning", "its end"}:
            assert known.said(f"The sign says {WAYS[name](key, draws)} in red."), (key, name)
    for text in ("The secret key of a horse", "a correct horse; this is the battery", "Example: token-ring",
                 "SK-II bottle", "a staple and a battery"):  # fmt: skip
        assert not known.said(text), text


@pytest.mark.parametrize("key", ["sk-Zq7Xv2Lm9Kt4Rw8Yp3Bn6Hd1Gc5Jf0", "hf_QwErTyUiOpAs", "Bq_dzzkw-Tpvvm.Rwwx"])
def test_five_characters_that_are_no_word_are_seen_in_an_answer(key):
    known = Secrets([key])
    begins = [key[n : n + 5] for n in range(len(key) - 4)]
    seen = [part for part in begins if known.said(f"The sign says {part}.")]
    assert key[:5] in seen and len(seen) > len(begins) / 2
    assert not known.said("The sign says hf_ and Bq, and zzkw.")


def test_short_keys_are_words_and_are_hidden_as_a_whole():
    known = Secrets(["EMPTY", "none", "sesame"])
    assert (
        known.hidden("key EMPTY, none, open sesame street; Empty") == f"key {HIDDEN}, none, open {HIDDEN} street; Empty"
    )
    assert not known.said("AN EMPTY STREET")


URLS = {
    "http://user:word@example.com/a": "http://***@example.com/a",
    "s3://id:secret@bucket/key": "s3://***@bucket/key",
    "https://user:p@ss@example.com/a": "https://***@example.com/a",
    "at https://user:p/ss#?w@example.com:80/a?b=c now": "at https://***@example.com:80/a?b=c now",
    "'https://user:a@b/c@d@example.com'": "'https://***@example.com'",
    "https://example.com:443/@user/a@b.jpg": "https://example.com:443/@user/a@b.jpg",
    "https://example.com/a@b and me@example.com": "https://example.com/a@b and me@example.com",
    "https://b.s3.amazonaws.com/a.jpg?X-Amz-Credential=AK%2F1&X-Amz-Signature=0f&X-Amz-Date=1":
        "https://b.s3.amazonaws.com/a.jpg?X-Amz-Credential=***&X-Amz-Signature=***&X-Amz-Date=1",
    "http://cdn.example/a.jpg?Expires=1&Signature=aa-bb~&w=3": "http://cdn.example/a.jpg?Expires=1&Signature=***&w=3",
    "http://a.example/?sv=2&sig=a%2Bb%3D": "http://a.example/?sv=2&sig=***",
    "http://a.example/?token=x&amp;access_token=y": "http://a.example/?token=***&amp;access_token=***",
    "http://a.example/?keyword=cats&page=2": "http://a.example/?keyword=cats&page=2",
    "Authorization: Bearer abcdefgh12345": "Authorization: Bearer ***",
    "<Error><AWSAccessKeyId>AKIA123</AWSAccessKeyId>": "<Error><AWSAccessKeyId>***</AWSAccessKeyId>",
    "mail me@example.com": "mail me@example.com",
}  # fmt: skip


def test_what_looks_like_a_secret_is_hidden_without_being_known():
    assert {text: hidden(text) for text in URLS} == URLS


def test_credentials_of_the_environment_are_secrets(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[7])
    monkeypatch.setenv("HTTPS_PROXY", "http://me:proxy-word-99@proxy:3128")
    assert hidden(f"{KEYS[7]} and proxy-word-99") == "*** and ***"


def test_errors_are_told_without_their_secrets(keys):
    try:
        with hiding():
            try:
                raise OSError(5, f"refused: {KEYS[0]}", f"s3://{KEYS[2]}/a")
            except OSError as cause:
                raise ValueError(f"no answer with {KEYS[1]}", 3) from cause
    except ValueError as error:
        assert error.args == ("no answer with ***", 3)
        assert (error.__cause__.strerror, error.__cause__.filename) == ("refused: ***", "s3://***/a")
    loop = ValueError(KEYS[0])
    loop.__cause__ = loop
    hide(loop)
    assert str(loop) == "***"


def test_a_long_message_takes_no_time(keys):
    for text in ("a" * 5_000_000, KEYS[0] * 100_000, "%25" * 1_000_000, "\\u0041" * 1_000_000, "http://" + "a" * 10**6):
        began = time.process_time()
        told(text)
        assert time.process_time() - began < 3


def test_a_key_in_base64_for_urls_is_hidden_wherever_it_has_other_signs():
    key = "sk-??>~~?>o~?~>?o>~?>>~"
    written = base64.urlsafe_b64encode(b"user:" + key.encode()).decode()
    assert len(set(written) & set("-_")) == 2
    for text in (written, base64.b64encode(key.encode()).decode()):
        assert not leaks(Secrets([key]).hidden(f"at {text}, it says"), key)
