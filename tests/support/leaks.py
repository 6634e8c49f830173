"""Keys, ways to write them, and what can be read in a text: for tests that no secret leaves."""

import base64
import codecs
import html
import json
import random
import re
from urllib.parse import quote, unquote

SHOWN = 4  # characters of a key that may be shown

KEYS = [
    "sk-ThisIsTheSecretKey-0123456789abcdef", "sk-proj-" + "aB3xQ9zLm2Kp7Rt5Vw8Y" * 3, "hf_abcDEFghiJKLmnoPQRstuVWXyz",
    "0f3a9c77b1d24e558899aabbccddeeff", "gsk_Zk/+a=b~c.d_e-f", "correct-horse-battery-staple", "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "sesame-1234",
]  # fmt: skip


def each_sign(form: str):
    return lambda key, draws: "".join(form.format(ord(sign)) for sign in key)


def broken(key: str, draws: random.Random) -> str:
    gaps = ["\n", "\r\n", " ", "\t", "\\n", "\u200b", "<br>", " \n  "]
    return "".join(sign + (draws.choice(gaps) if draws.random() < 0.3 else "") for sign in key)


def in_base64(key: str, draws: random.Random) -> str:
    return base64.b64encode(
        draws.randbytes(draws.randrange(4)) + key.encode() + draws.randbytes(draws.randrange(4))
    ).decode()


WAYS = {
    "as it is": lambda key, draws: key,
    "upper case": lambda key, draws: key.upper(),
    "lower case": lambda key, draws: key.lower(),
    "broken": broken,
    "a line break": lambda key, draws: (at := draws.randrange(1, len(key))) and key[:at] + "\n" + key[at:],
    "spaces": lambda key, draws: " ".join(key),
    "percent": lambda key, draws: quote(key, safe=""),
    "percent everywhere": each_sign("%{:02x}"),
    "percent twice": each_sign("%25{:02X}"),
    "percent of some": lambda key, draws: "".join(f"%{ord(c):02X}" if draws.random() < 0.5 else c for c in key),
    "base64": in_base64,
    "base64 for URLs": lambda key, draws: base64.urlsafe_b64encode(b"user:" + key.encode()).decode(),
    "base64 in lines": lambda key, draws: base64.encodebytes(draws.randbytes(50) + key.encode()).decode(),
    "base64, escaped": lambda key, draws: quote(in_base64(key, draws)),
    "hex": lambda key, draws: key.encode().hex(),
    "HEX": lambda key, draws: key.encode().hex().upper(),
    "hex with colons": lambda key, draws: key.encode().hex(":"),
    "bytes": each_sign("\\x{:02x}"),
    "numbers": each_sign("0x{:02x}, "),
    "JSON": each_sign("\\u{:04x}"),
    "JSON in JSON": lambda key, draws: json.dumps(json.dumps({"key": key})),
    "HTML": each_sign("&#{};"),
    "HTML in hex": each_sign("&#x{:x};"),
    "repr": lambda key, draws: repr({"headers": {"Authorization": f"Bearer {key}"}}),
    "its beginning": lambda key, draws: key[: draws.randrange(5, len(key))],
    "its end": lambda key, draws: key[draws.randrange(len(key) - 5) :],
    "twice": lambda key, draws: key + key,
}
AROUND = [
    ("Incorrect API key provided: ", "."), ('{"error": {"message": "', '"}}'), ("<html><b>", "</b></html>"), ("", ""),
    ("Error code: 400 - {'error': {'message': 'Authorization: Bearer ", "'}}"), ("http://user:", "@example.com/v1"),
    ("https://example.com/v1?api_key=", "&a=b"), ("curl -H 'x-api-key: ", "' https://example.com"), ("a", "b"),
    ("%", "\\"),
]  # fmt: skip


def readings(text: str) -> set[str]:
    """What somebody can read in a text, by other means than the code's."""
    found = {text}
    for _ in range(3):
        for one in list(found):
            found |= {re.sub(r"[\s\u200b]|\\n|<br>", "", one), unquote(one), html.unescape(one)}
            found.add(
                codecs.decode(re.sub(r"\\(?![ux])", "", one).encode("latin-1", "replace"), "unicode_escape", "replace")
            )
    for one in list(found):
        for run in re.findall(r"[A-Za-z0-9+/_-]{7,}", one):
            for skip in range(4):
                part = run[skip:].replace("-", "+").replace("_", "/")
                part = part[: len(part) - (len(part) % 4 == 1)]
                found.add(base64.b64decode(part + "=" * (-len(part) % 4)).decode("latin-1"))
        numbers = re.sub(r"0x|[^0-9a-fA-F*]", "", one)
        for run in re.findall(r"[0-9a-fA-F]{10,}", numbers):
            found |= {bytes.fromhex(run[skip:][: len(run[skip:]) // 2 * 2]).decode("latin-1") for skip in (0, 1)}
    return {one.lower() for one in found}


def leaks(text: str, key: str, shown: int = SHOWN) -> set[str]:
    """Parts of a key, longer than may be shown, that can be read in a text."""
    parts = {key.lower()[n : n + shown + 1] for n in range(len(key) - shown)}
    return {part for reading in readings(text) for part in parts if part in reading}
