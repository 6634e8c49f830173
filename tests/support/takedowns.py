"""A takedown of some lines in the corpus of a folder, in this process."""

from pathlib import Path

from support.corpora import in_this_process

from pipelines.build.corpus import open_corpus
from pipelines.maintain.takedown import Takedown, read_list, take_down


def take(here: Path, *lines: str) -> Takedown:
    (here / "list.txt").write_text("\n".join(lines))
    with in_this_process():
        return take_down(open_corpus(here / "my.toml"), read_list(here / "list.txt") if lines else [])
