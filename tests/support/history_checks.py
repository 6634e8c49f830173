"""What a root must hold after a history: duplicates by the rule, and the files of another root of the same source."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.corpora import data_files
from support.forked import Place, made_and_cleaned

from pipelines.dedup.fine_hash import NEAR, bits_apart
from pipelines.engine.releases import release_of
from pipelines.stages.takedown_list import TAKEDOWN_FILE


class Held:
    """Holds a corpus against the rule of duplicates and against other roots; `wrong` has what differs."""

    place: Place
    settings: dict[str, Any]
    wrong: list[str]
    damaged: bool
    kept: dict[str, tuple]  # partition and key -> bytes and look of the images that were kept
    near: int  # the distance of the last run
    compare: str  # what told copies in the last run

    def look_at_duplicates(self, rows: list[dict]) -> None:
        """Holds duplicates against the rule: kept images are not near each other, others are near a kept one, and
        what was kept stays."""
        if "duplicates" not in self.settings or self.damaged:
            self.kept = {}
            return
        near, compare = self.settings["duplicates"].get("near", 3), self.settings["duplicates"].get("compare", "hashes")
        kept = {(r["partition"], r["key"]): (r["sha256"], r["phash"]) for r in rows if not r["reason"] and r["alone"]}
        fine = {(r["partition"], r["key"]): r["phash256"] for r in rows}
        by_key: dict[str, list] = {}
        for (_, key), look in kept.items():
            by_key.setdefault(key, []).append(look)
        every = [*kept.items()]
        for n, (one, look) in enumerate(every):
            for other, of in every[:n]:
                near_too = bits_apart(fine[one], fine[other]) <= NEAR
                by_hashes = compare == "hashes" and apart(look, of) <= near and near_too
                if by_hashes or look[0] == of[0]:
                    self.wrong.append(f"duplicates: {one} and {other} are kept, though {apart(look, of)} apart")
        for row in rows:
            if row["reason"] in ("exact_duplicate", "near_duplicate"):
                look = row["sha256"], row["phash"]
                if row["distance"] not in [apart(look, of) for of in by_key.get(row["of"], ())]:
                    self.wrong.append(f"duplicates: {row} is not near a kept one")
        said = {(row["partition"], row["key"]): row for row in rows}
        for name, look in self.kept.items():
            row = said.get(name)
            same = (
                row
                and (row["sha256"], row["phash"]) == look
                and near <= self.near
                and row["alone"]
                and compare == self.compare
            )
            if same and row["reason"] not in (None, "benchmark_overlap", "upstream"):
                self.wrong.append(f"duplicates: {row} was kept, and is evicted")
        self.kept, self.near, self.compare = kept, near, compare

    def remove_sets_that_are_gone(self) -> None:
        """Removes the cards of sets that the configuration has no more, which stay published."""
        for path in self.place.corpus.glob("shards/*.json"):
            if path.stem.partition("@")[0] not in self.settings["sets"]:
                path.unlink()

    def fresh(self, name: str, compared: str = "", prepare: Callable[[Path], None] = lambda corpus: None) -> list:
        """Makes another root in one run of the same source and configuration, and compares the files of both."""
        place = Place(self.place.folder / name, self.place.answers, self.place.group)
        place.folder.mkdir()
        for path in ("source", "keep-out"):
            shutil.copytree(self.place.folder / path, place.folder / path)
        for path in ("keep-out.txt", "mine.py", "my.toml"):
            shutil.copy2(self.place.folder / path, place.folder / path)
        prepare(place.corpus)
        said = place.child(made_and_cleaned)
        ours, theirs = data_files(self.place.corpus), data_files(place.corpus)
        if compared and ours != theirs:
            self.wrong.append(f"other files than those of a {name} root: {differing(ours, theirs)}")
        return said

    def remember(self, corpus: Path) -> None:
        """Puts what a root remembers by design into another."""
        (corpus / "shards").mkdir(parents=True)
        settled = json.loads((self.place.corpus / "root.json").read_text())
        settled["files"] = [file | {"split": None} for file in settled["files"]]
        (corpus / "root.json").write_text(json.dumps(settled))
        with suppress(FileNotFoundError):
            shutil.copy(self.place.corpus / TAKEDOWN_FILE, corpus / TAKEDOWN_FILE)
        if "duplicates" in self.settings:
            shutil.copytree(self.place.corpus / "duplicates", corpus / "duplicates")
            (corpus / "duplicates/step.json").unlink()
        for path in self.place.corpus.glob("shards/[!@]*.json"):
            if "@" in path.name:
                continue
            card = json.loads(path.read_text())
            card |= {"shards": [], "samples": 0, "bytes": 0, "release": release_of([])}
            card["groups"] = [group | {"inputs": ""} for group in card["groups"] if group["settled"]]
            (corpus / "shards" / path.name).write_text(json.dumps(card))

    def compare_by_key(self, ours: list[list[dict]], theirs: list[list[dict]]) -> None:
        """Holds rows against those of an empty root, whatever their partitions are."""
        keys = [row["key"] for row in theirs[0]]
        if len(set(keys)) < len(keys):  # which of two rows of one key comes first is a matter of numbers
            return
        for our, their in zip(ours, theirs, strict=True):
            if wrong := [row for row in (*our, *their) if (row in our) != (row in their)]:
                self.wrong.append(f"other rows than those of an empty root: {wrong[:4]}")


def apart(one: tuple, other: tuple) -> int:
    """How many bits two looks differ by; 0 for equal bytes."""
    return 0 if one[0] == other[0] else (int(one[1], 16) ^ int(other[1], 16)).bit_count()


def differing(ours: dict[str, str], theirs: dict[str, str]) -> dict[str, str]:
    """name -> how it differs."""
    found = {name: "gone" for name in theirs.keys() - ours.keys()} | {n: "more" for n in ours.keys() - theirs.keys()}
    return found | {name: "other" for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}
