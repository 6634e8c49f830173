"""A report read as a browser reads it, and a text that would spoil it."""

import re
from html.parser import HTMLParser

from pipelines.engine.root import Root
from pipelines.reports.report import REPORT

VOID = {"meta", "img", "br", "line", "rect"}
ANYTHING = """x" onload='1' <script>alert(1)</script> </title></style></svg> &lt; {{ 7 * 7 }} \x00\u202e"""


class Page(HTMLParser):
    """A report as a browser reads it. Raises if elements do not close."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []  # text outside of style and title
        self.feed(text)
        self.close()
        assert not self.open
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-2:] == ["polygon", "title"]:
            self.elements[-2][1]["said"] = data
        elif not {"style", "title"} & {*self.open}:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def ids(self) -> set[str]:
        return {attrs["id"] for _, attrs in self.elements if "id" in attrs}


def read(root: Root) -> Page:
    return Page(root.read(REPORT).decode())
