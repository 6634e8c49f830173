"""The licences that sources state for their samples, as they are written, and as the Hub names them."""

import re

from schemas.arrow import Row

CREATIVE = re.compile(
    r"creativecommons\.org/(?:licenses/(?P<terms>by[a-z-]*)/(?P<version>\d\.\d)|publicdomain/zero/1\.0)"
)
OF_THE_HUB = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "unlicense", "odc-by", "odbl", "pddl", "gfdl", "cc0-1.0",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0",
}  # fmt: skip


def licence_of(document: Row) -> str | None:
    """The licence that the source of a sample states, from the sample's JSON; None if it states none."""
    extra = document.get("extra")
    for name, value in (extra if isinstance(extra, dict) else {}).items():
        if name.lower() in ("license", "licence") and isinstance(value, str) and value.strip():
            return " ".join(value.split())[:200]
    return None


def hub_licence(licence: str | None) -> str:
    """A licence by the Hub's name: `other` if it has none, `unknown` if no licence is stated."""
    if licence is None:
        return "unknown"
    if found := CREATIVE.search(licence):
        name = f"cc-{found['terms'].strip('-')}-{found['version']}" if found["terms"] else "cc0-1.0"
    else:
        name = re.sub(r"[\s_-]+", "-", licence.lower())
    name = {"cc0": "cc0-1.0"}.get(name, name)
    return name if name in OF_THE_HUB else "other"
