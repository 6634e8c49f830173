"""How often a checkpoint judges claims rightly: claims of a policy about drawn scenes, against the truth.

    python tests/benchmarks/verdicts.py CHECKPOINT ROOT [--one-in 4]

ROOT is a corpus of scenes with responses, claims and verdicts, such as the folder `self` of the alignment benchmark.
Its claims are judged anew, about one of so many images; a claim counts as often as it was made. Prints a row for each
kind of claim: how many, the share of right verdicts, the share of true claims, of these that were accepted, of the
false ones that were rejected, and the probability that a true claim gets a higher score than a false one (AUC).
"""

import argparse
import io
import json
import sys
import tarfile
from collections import defaultdict
from math import exp
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from PIL import Image

from pipelines.catalog.catalog import query
from pipelines.engine.root import Root
from schemas.scenes.claims import check
from schemas.scenes.lessons import YES_OR_NO
from schemas.scenes.statements import SceneClaim
from training.checkpoint import load_model
from training.figures import about
from training.generate import GenerationRequest, Generator

CLAIMS = """
    select i.image, any_value(s.extra->'scene')::varchar as scene, (c.claims[v.number + 1]).question as question,
           (c.claims[v.number + 1]).claim as claim, any_value(v.denied) as denied, count(*) as times
    from verdicts v join claims c on c.key = v.response and c.partition = v.partition
    join instructions i on i.key = v.instruction and i.partition = v.partition
    join samples s on s.key = i.image and s.partition = i.partition
    where v.number is not null and hash(i.image) % {one_in} = 0
    group by i.image, c.claims[v.number + 1] order by i.image, question"""
AT_ONCE = 64
Judged = tuple[float, bool, int]  # the score of a claim, above 0 if it is accepted; whether it is true; how often made


def kind_of(claim: SceneClaim) -> str:
    words, kind = claim.of | claim.be, about(claim)
    if claim.negated:
        return "negation"
    if kind != "objects":
        return {"text": "print"}.get(kind, kind)
    if claim.relation or claim.least != 1 or claim.most is not None:
        return "relation" if claim.relation else "number"
    return next((kind for kind in ("place", "size", "colour") if kind in words), "shape")


def images_of(root: Path) -> dict[str, bytes]:
    kept = {}
    for path in (root / "images").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                kept[Path(member.name).stem] = file.read() if file else b""
    return kept


def judged(checkpoint: Path, root: Path, one_in: int) -> dict[str, list[Judged]]:
    generator, images = Generator(*load_model(checkpoint)), images_of(root)
    said = {
        word: [ids[0] for text in (word, word.title()) if len(ids := generator.tokenizer.encode(text)) == 1]
        for word in ("yes", "no")
    }
    rows: list[Any] = query(Root(str(root)), CLAIMS.format(one_in=one_in)).to_pylist()
    kinds = defaultdict(list)
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        shown = {row["image"]: Image.open(io.BytesIO(images[row["image"]])).convert("RGB") for row in part}
        answers = generator.answer(
            [
                GenerationRequest(generator.about(shown[row["image"]], row["question"] + YES_OR_NO), limit=1, top=20)
                for row in part
            ]
        )
        for row, answer in zip(part, answers, strict=True):
            likely = {token: exp(value) for token, value in answer.top[0]}
            yes, no = (sum(likely.get(token, 0.0) for token in said[word]) for word in ("yes", "no"))
            checked = check(row["claim"], json.loads(row["scene"]))
            claims = checked.true + checked.false
            if claims and not checked.unparsed:
                score = (yes - no) / max(yes + no, 1e-9) * (-1 if row["denied"] else 1)
                for kind in (kind_of(claims[0]), "all"):
                    kinds[kind].append((score, not checked.false, row["times"]))
    return kinds


def figures(claims: list[Judged]) -> list[float]:
    """Claims, and in per cent: right, true, true ones accepted, false ones rejected; AUC."""
    true, false = ([(score, times) for score, is_true, times in claims if is_true is side] for side in (True, False))
    of_true, of_false = (sum(times for _, times in side) for side in (true, false))
    accepted = sum(times for score, times in true if score > 0)
    rejected = sum(times for score, times in false if score <= 0)
    higher = sum(n * m * ((a > b) + (a == b) / 2) for a, n in true for b, m in false)
    shares = [(accepted + rejected, of_true + of_false), (of_true, of_true + of_false), (accepted, of_true)]
    shares += [(rejected, of_false), (higher, of_true * of_false)]
    return [of_true + of_false, *(100 * some / max(1, of) for some, of in shares)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("--one-in", type=int, default=4)
    options = parser.parse_args()
    print("| claims about | claims | right | true | of these accepted | of the false rejected | AUC |")
    print("| --- |" + " ---: |" * 6)
    for kind, claims in sorted(judged(options.checkpoint, options.root, options.one_in).items()):
        count, *shares = figures(claims)
        print(f"| {kind} | {count:,} | " + " | ".join(f"{share:.1f}" for share in shares) + " |")


if __name__ == "__main__":
    main()
