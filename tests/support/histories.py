"""Histories of a corpus: edits, changed settings, kills, damage and takedowns between runs, drawn from a seed.

Whatever comes, the last run must leave the files of one run over the last source and configuration, of which nothing
was there before. What a root remembers by design is put into that other root first, and compared like all else:

- `root.json`: how many partitions a file was given when it was first seen, and their numbers;
- `takedown.parquet`: what was taken down, and never comes back;
- `duplicates/`: which images were kept, as new rows never evict old ones (and that those files are right is held
  against a plain reading of the rule, row by row);
- of cards, how many shards a group of partitions has that was full once.

A third of all histories, `plain`, does nothing of which any of that would tell, and is compared with an empty root.
Where nothing but numbers is remembered, rows are also compared by key with those of an empty root.

Not compared: the ledger, caches, catalog and report, and cards of older releases, which `clean` removes first, with the
files of stages and sets that the configuration has no more.

Each run is a process of its own, which is killed before or after its nth renaming or removal of a file: so at all the
moments at which the file system changes, not only at named points. Real workers are killed in `kills.py`.
"""

import random
import re
import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from support.corpora import data_files
from support.edits import EDITS, OF_FILES, PICTURES, another_caption, bytes_of, configured, drawn_source, write
from support.forked import (
    KILLED,
    Place,
    asked,
    cleaned,
    left,
    made,
    made_and_seen,
    made_in_full,
    planned_and_verified,
    retried,
    taken_down,
    verified,
)
from support.history_checks import Held, differing
from support.knobs import set_anew, switch, toml

from pipelines.catalog.gates import GateFailed
from pipelines.engine.commit_cache import is_partition
from pipelines.engine.parquet import Corrupt
from pipelines.maintain.takedown import Line
from pipelines.stages.takedown_list import TAKEDOWN_FILE, hashed, url_values

KINDS = ("webdataset", "folder", "tables", "laion", "conversations")
OWN = {"short": {"callable": "mine.py:short", "reads": ("rows.text", "images.width"), "columns": {"letters": "int"},
                 "reasons": ("long",)}}  # fmt: skip
MINE = """
def short(row):
    return "long" if len(row["text"] or "") > 18 else {"letters": len(row["text"] or "") + row["width"]}


def shorter(row):
    return "long" if len(row["text"] or "") > 14 else {"letters": len(row["text"] or "")}
"""
FULL_GROUP = 4  # partitions of a group of shards, so that small corpora have full ones
HARMLESS = {"root.json", "lock.json", TAKEDOWN_FILE}  # not damaged: nothing else knows what they say


@dataclass
class History(Held):
    """A corpus and what happens to it. `url` is that of a scripted model, if there is one."""

    seed: int
    place: Place
    url: str | None = None
    said: list[str] = field(default_factory=list)  # what happened, step by step
    did: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    current: bool = False  # whether the last run was whole, and nothing was touched since
    damaged: bool = False

    def __post_init__(self):
        draws = self.draws = random.Random(self.seed)
        self.plain = self.seed % 3 == 0
        self.source = drawn_source(KINDS[self.seed // 3 % len(KINDS)], draws)
        rows = 1000 if self.plain else draws.choice((3, 5, 1000))
        self.settings = {
            "root": "corpus", "source": configured(self.source.kind, rows), "images": {},
            "sets": {"train": {"samples_per_shard": draws.choice((3, 5, 1000))}},
            "gates": {"empty_sets": False, "lost_share": False},  # edits may take every sample away
        }  # fmt: skip
        self.optional: dict[str, dict] = {"ocr": {}, "stages": OWN} | ({} if self.plain else {"duplicates": {}})
        if self.url:
            self.settings["endpoints"] = {"model": {"model": "scripted", "url": self.url}}
            self.settings |= {"instructions": {"questions": ("What is it?",)}, "pairs": {}}
            self.optional["captions"] = {"endpoint": "model"}
            self.optional["responses"] = {"endpoint": "model", "draws": 2}
        for name in self.optional:
            if draws.random() < 0.6:
                self.settings[name] = deepcopy(self.optional[name])
        if "responses" in self.settings:
            self.settings["sets"]["pairs"] = {"task": "preference", "samples_per_shard": 5}
        self.kept_out = draws.sample(range(PICTURES), 2)
        self.kept: dict[str, tuple] = {}  # partition and key -> bytes and look of the images that were kept
        self.near, self.compare = -1, "hashes"

    # Steps

    def live(self) -> list[str]:
        """All of it; what is wrong at its end."""
        try:
            self.write()
            self.begin()
            for _ in range(self.draws.randint(3, 8)):
                self.step()
            self.end()
        except Exception as error:
            self.wrong.append("".join(traceback.format_exception(error))[-6000:])
        return self.wrong

    def begin(self) -> None:
        self.run(self.draws.choice(("whole", "whole", KILLED, "until")))

    def step(self) -> None:
        draws = self.draws
        if self.current and draws.random() < 0.25:
            return self.one_caption()
        if draws.random() < 0.25:
            return self.there_and_back()
        self.change_some()
        self.run(draws.choice(("whole", "whole", "whole", KILLED, KILLED, "until", "none")))
        if draws.random() < 0.45:
            names = ("damage", "damage", "clean", "retry", "gate", *(() if self.plain else ("takedown",)))
            getattr(self, draws.choice(names))()

    def there_and_back(self) -> None:
        """Changes at which a run is killed or not, and which are taken back: files are as old as they were."""
        before, folder = deepcopy((self.source, self.settings, self.kept_out)), self.place.folder
        shutil.copytree(folder / "source", folder / "before")
        self.say("there")
        self.change_some()
        self.run(self.draws.choice((KILLED, KILLED, "whole", "until")))
        shutil.rmtree(folder / "source")
        (folder / "before").rename(folder / "source")
        self.source, self.settings, self.kept_out = before
        self.write()
        self.say("and back")
        self.run(self.draws.choice(("whole", "whole", KILLED, "none")))

    def change_some(self) -> None:
        for _ in range(self.draws.choice((1, 1, 2, 3))):
            self.change()
        self.write()

    def change(self) -> None:
        draws, what = self.draws, self.draws.random()
        if what < 0.55:
            edit = draws.choice(EDITS if self.plain else (*EDITS, *OF_FILES, *OF_FILES))
            self.source = edit(self.source, draws)
            self.say(edit.__name__)
        elif what < 0.85:
            set_anew(self.settings, draws)
            self.say("settings")
        elif what < 0.95:
            switch(self.settings, draws, self.optional)
            self.say("stages")
        else:
            self.kept_out = draws.sample(range(PICTURES), 2)
            self.say("kept out")

    def write(self) -> None:
        """Puts source, lists and configuration in place."""
        folder, self.current = self.place.folder, False
        write(self.source, folder / "source")
        (folder / "keep-out").mkdir(exist_ok=True)
        for path in (folder / "keep-out").iterdir():
            path.unlink()
        for number in self.kept_out:
            (folder / f"keep-out/{number}.png").write_bytes(bytes_of(number, "png"))
        lines = [sha256(bytes_of(number, "jpg")).hexdigest() for number in self.kept_out]
        (folder / "keep-out.txt").write_text("\n".join([*lines, f"{self.kept_out[0]:016x}"]))
        (folder / "mine.py").write_text(MINE)
        judged = {"verdicts": {"labelers": ("model",)}} if "responses" in self.settings else {}
        self.place.config.write_text(toml(self.settings | judged))

    def run(self, how: str) -> dict[str, int] | None:
        """Runs: wholly, until a stage, killed and perhaps run again, or not at all."""
        if how == "none":
            return None
        if how == "until":
            stages = ["rows", "images", *(name for name in self.settings if name in self.optional), "selection"]
            own = {"stages": "short"}
            stage = self.draws.choice([own.get(name, name) for name in stages if name != "responses"])
            self.say(f"until {stage}")
            self.forgiving(made, stage)
            self.forget_vanished()
            self.kept = {}  # a run that nobody looked at may have left out what was kept, and kept another
            return None
        while how == KILLED:
            self.kill(made)
            how = self.draws.choice((KILLED, "whole", "none"))
        if how == "none":
            return None
        self.say("run")
        done = self.forgiving(made_and_seen)
        if done is None:
            return None
        self.current = not self.damaged
        self.look_at_duplicates(done[1])
        return done[0]

    def kill(self, work: Callable, *args: Any) -> bool:
        """Does something in a process that is killed at some moment, if it lives so long; whether it was."""
        moment = int(2 ** self.draws.uniform(0, 9.5))
        killed = self.forgiving(work, *args, moment=moment) == KILLED
        self.say(f"killed at {moment}" if killed else f"not killed at {moment}")
        self.current = False
        self.forget_vanished()
        self.kept = {}
        return killed

    def forget_vanished(self) -> None:
        """What was kept of a file that vanished counts no more, even if the file comes back before the next whole run:
        its rows are new again."""
        there = {int(path.stem) for path in (self.place.corpus / "duplicates").glob("[0-9]*.parquet")}
        self.kept = {name: look for name, look in self.kept.items() if name[0] in there}

    def forgiving(self, work: Callable, *args: Any, moment: int = 0) -> Any:
        """What something gives; None if it stops because of damage that was done."""
        try:
            return self.place.child(work, *args, moment=moment)
        except Corrupt as error:
            if not self.damaged:
                raise
            self.say(f"stopped: {error}")

    def one_caption(self) -> None:
        """A caption changes, and so no image is made, and none read."""
        if self.source.kind in ("tables", "laion"):  # where a caption is part of a row's name
            return
        if any(one.text is None for some in self.source.files.values() for one in some):  # a turn that was missing
            return
        before, self.source = self.source, another_caption(self.source, self.draws)
        self.write()
        self.say("one caption")
        done = self.run("whole")
        touched = {name: done[name] for name in ("images", "ocr") if done.get(name)}
        if touched or (before != self.source and not done["rows"]):
            self.wrong.append(f"one caption: made {done}")

    # What befalls a root between runs

    def damage(self) -> None:
        """Removes, cuts or changes a file, or a few."""
        for _ in range(self.draws.choice((1, 1, 3))):
            root = self.place.corpus
            names = [name for name in data_and_caches(root) if name not in HARMLESS]
            if not names:
                return
            name, how = self.draws.choice(names), self.draws.choice(("remove", "remove", "cut", "flip"))
            if how == "flip" and is_partition(name.rpartition("/")[2]):
                how = "cut"  # a bit that is read by nobody stays as it is, see `test_verify`
            data = bytearray((root / name).read_bytes())
            if how == "remove" or not data:
                (root / name).unlink()
            elif how == "cut":
                (root / name).write_bytes(data[: self.draws.randrange(len(data))])
            else:
                data[self.draws.randrange(len(data))] ^= 1 << self.draws.randrange(8)
                (root / name).write_bytes(data)
            self.damaged, self.current = True, False
            self.say(f"{how} {name}")

    def clean(self) -> None:
        keep = self.draws.choice((1, 2))
        self.say(f"clean {keep}")
        if self.draws.random() < 0.3:
            self.kill(cleaned, keep)
        else:
            self.forgiving(cleaned, keep)

    def retry(self) -> None:
        self.say("retry")
        self.forgiving(retried, None)
        self.current = False

    def gate(self) -> None:
        """A run that a gate holds back, after another edit."""
        self.change()
        self.settings["gates"]["never"] = "rows < 0"
        self.write()
        self.say("gate")
        try:
            if self.forgiving(made) is not None:
                self.wrong.append("a gate that does not hold let a run pass")
        except GateFailed:
            pass
        del self.settings["gates"]["never"]
        self.write()

    def takedown(self) -> None:
        """Some rows by their key, URL, host or bytes; perhaps killed, and then done again, perhaps after an edit."""
        said = self.forgiving(asked, "SELECT key, url, host, sha256 FROM rows ORDER BY ALL")
        lines = []
        for row in self.draws.sample(said or [], min(len(said or []), self.draws.choice((1, 1, 2)))):
            kind = self.draws.choice(["key", *(name for name in ("url", "host", "sha256") if row[name])])
            value = {"url": url_values, "sha256": lambda text: {hashed(text)}}.get(kind, lambda text: {text})(row[kind])
            lines.append(Line(row[kind], "image" if kind == "sha256" else kind, frozenset(value)))
        if not lines:
            return
        self.say(f"takedown {[line.text for line in lines]}")
        while self.draws.random() < 0.4 and self.kill(taken_down, lines):
            if self.draws.random() < 0.5:
                self.change()
                self.write()
        self.forgiving(taken_down, lines)
        self.current = False

    def say(self, what: str) -> None:
        self.said.append(what)
        self.did[re.sub(r" .*", "", what)] += 1

    # What must hold

    def end(self) -> None:
        self.say("end")
        self.repair()
        self.wrong += self.place.child(planned_and_verified)
        before = data_files(self.place.corpus)
        again = self.place.child(made_in_full)
        if any(again.values()) or before != data_files(self.place.corpus):
            self.wrong.append(f"a run after a run made {again}, {differing(before, data_files(self.place.corpus))}")
        self.remove_sets_that_are_gone()
        ours = self.place.child(left)
        if self.plain:
            self.fresh("empty", "files")
            return
        self.fresh("seeded", "files", self.remember)
        by_key = self.source.kind != "conversations"  # whose further images have keys of their partition
        if by_key and "duplicates" not in self.settings and not (self.place.corpus / TAKEDOWN_FILE).exists():
            self.compare_by_key(ours, self.fresh("empty"))

    def repair(self) -> None:
        """Runs, and does what `verify` says, until it says nothing; without damage once is enough."""
        for _ in range(6 if self.damaged else 1):
            self.run("whole")
            if not self.damaged:
                return
            problems = self.place.child(verified)
            if not problems:
                self.damaged = False
                return
            for problem in problems:
                self.advised(problem)
        self.wrong.append(f"not mended by what verify says: {problems}")

    def advised(self, problem: str) -> None:
        """Removes the file that `verify` says to remove, or takes down again what was taken down."""
        if "; remove " in problem:
            fix = problem.split("; remove ")[1].split(",")[0]
            self.say(f"as verify says: {problem}")
            (self.place.corpus / (problem.split(":")[0] if fix == "it" else fix)).unlink(missing_ok=True)
        elif problem.endswith("run `shardmill takedown` again"):
            self.forgiving(taken_down, [])


def history_of(seed: int, folder: Path, answers: Path, url: str) -> History:
    """A history in a new folder. One in five has models; one in three has small groups of shards, which are full."""
    folder.mkdir()
    return History(seed, Place(folder, answers, FULL_GROUP if seed % 3 == 2 else 64), url if seed % 5 == 4 else None)


def data_and_caches(root: Path) -> list[str]:
    """Every file under a root but for those of the ledger."""
    every = (str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file())
    return [name for name in every if not name.startswith("runs/")]
