"""Keys, ways to write them, and what can be read in a text: for tests that no secret leaves."""

import base64
import codecs
import html
import json
import random
import re
import unicodedata
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


def twice(first):
    """Something, and then in base64."""
    return lambda key, draws: base64.b64encode(first(key, draws).encode()).decode()


def between(*gaps: str):
    return lambda key, draws: "".join(sign + draws.choice(gaps) for sign in key)


def shifted(start: int):
    """Letters and digits as other characters that look like them, in the order of Unicode from `start` on."""
    return lambda key, draws: "".join(chr(start + ord(c) - 33) if "!" <= c <= "~" else c for c in key)


def bold(key: str, draws: random.Random) -> str:
    upper, lower = (
        {chr(ord(first) + n): chr(bold + n) for n in range(26)} for first, bold in (("A", 0x1D400), ("a", 0x1D41A))
    )
    letters = upper | lower
    return "".join(letters.get(sign, sign) for sign in key)


def in_utf_16(key: str, draws: random.Random) -> bytes:
    return key.encode(draws.choice(("utf-16-le", "utf-16-be", "utf-16")))


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
    "JSON, long": each_sign("\\U{:08x}"),
    "braces": each_sign("\\u{{{:x}}}"),
    "octal": each_sign("\\{:03o}"),
    "octal of echo": each_sign("\\0{:03o}"),
    "octal in braces": each_sign("\\o{{{:o}}}"),
    "braces with zeros": each_sign("\\u{{{:06x}}}"),
    "HTML in hex with zeros": each_sign("&#x{:05x};"),
    "escaped signs": lambda key, draws: re.sub(r"([^A-Za-z0-9])", r"\\\1", key),
    "HTML in percent": lambda key, draws: quote("".join(f"&#{ord(sign)};" for sign in key), safe=""),
    "HTML in percent, twice": lambda key, draws: quote(WAYS["HTML in percent"](key, draws), safe=""),
    "HTML without its end": lambda key, draws: "".join(f"&#{ord(sign)}" for sign in key),
    "HTML in hex without its end": lambda key, draws: "".join(f"&#x{ord(sign):x}" for sign in key),
    "HTML by name": lambda key, draws: html.escape(key).replace("_", "&lowbar;").replace("+", "&plus;"),
    "wide": shifted(0xFF01),
    "bold": bold,
    "with marks": between("\u0301", "\u0336", ""),
    "colours": between("\x1b[31m", "\x1b[0m", "\x1b[38;5;196m", "\x9b1m", ""),
    "colours, spelled": between("\\x1b[31m", "\\u001b[0m", "\\033[1m", "\\e[0m"),
    "titles": between("\x1b]0;title\x07", "\x1b]8;;http://a.com\x1b\\"),
    "base64 twice": twice(in_base64),
    "base64 twice, with more": lambda key, draws: twice(in_base64)("user:" + key, draws),
    "hex in base64": twice(lambda key, draws: key.encode().hex()),
    "HEX in base64": twice(lambda key, draws: key.encode().hex().upper()),
    "base64 in hex": lambda key, draws: in_base64(key, draws).encode().hex(),
    "hex in hex": lambda key, draws: key.encode().hex().encode().hex(),
    "UTF-16": lambda key, draws: in_utf_16(key, draws).decode("latin-1"),
    "UTF-16 as JSON": lambda key, draws: json.dumps(in_utf_16(key, draws).decode("latin-1")),
    "UTF-16 in base64": lambda key, draws: base64.b64encode(in_utf_16(key, draws)).decode(),
    "UTF-16 in hex": lambda key, draws: in_utf_16(key, draws).hex(),
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
            one = re.sub(r"\x1b\[[\d;]*m|\x9b[\d;]*m|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)", "", one)
            letters = unicodedata.normalize("NFKD", one)
            found |= {re.sub(r"[\s\u200b\0]|\\n|<br>", "", one), unquote(one), html.unescape(one),
                      "".join(sign for sign in letters if not unicodedata.combining(sign))}  # fmt: skip
            plain = re.sub(r"\\e", r"\\x1b", re.sub(r"\\[uo]\{(\w+)\}", _braced, one))
            plain = re.sub(r"\\0(?=[01]\d\d)", r"\\", plain)
            plain = re.sub(r"\\(?![uUx0-7])", "", plain).encode("latin-1", "replace")
            found.add(codecs.decode(plain, "unicode_escape", "replace"))
            found.add(re.sub(r"&#(x?)([0-9a-f]{2,3})", lambda m: chr(int(m[2], 16 if m[1] else 10) % 0x110000), one))
    for _ in range(2):
        for one in list(found):
            found |= _unpacked(one)
    return {re.sub("[\0\x80-\xff]", "", one).lower() for one in found} | {one.lower() for one in found}


def _braced(found: re.Match) -> str:
    return chr(int(found[1], 8 if found[0][1] == "o" else 16))


def _unpacked(text: str) -> set[str]:
    """What stands in a text in base64 or in hex."""
    found = set()
    for run in re.findall(r"[A-Za-z0-9+/_-]{7,}", text):
        for skip in range(4):
            part = run[skip:].replace("-", "+").replace("_", "/")
            part = part[: len(part) - (len(part) % 4 == 1)]
            found.add(base64.b64decode(part + "=" * (-len(part) % 4)).decode("latin-1"))
    for run in re.findall(r"[0-9a-fA-F]{10,}", re.sub(r"0x|[^0-9a-fA-F*]", "", text)):
        found |= {bytes.fromhex(run[skip:][: len(run[skip:]) // 2 * 2]).decode("latin-1") for skip in (0, 1)}
    return found


def leaks(text: str, key: str, shown: int = SHOWN) -> set[str]:
    """Parts of a key, longer than may be shown, that can be read in a text."""
    parts = {key.lower()[n : n + shown + 1] for n in range(len(key) - shown)}
    return {part for reading in readings(text) for part in parts if part in reading}
