"""Shows samples as the model gets them: `python -m training.look RECIPE --stage sft -n 5`.

The terminal and an HTML file show the text with its marks, what of it is learned, and how images are cut into views.
Samples are drawn from the stage's sets; nothing is planned or trained.
"""

import os
import sys
from io import TextIOWrapper
from pathlib import Path

from rich.console import Console
from rich.text import Text

from schemas.errors import UserError, one_line
from schemas.printable import printable, printable_line
from schemas.shards import Damaged
from training.begin import check_instructions, encoder_of, parts_of
from training.loader import Lost
from training.look_page import caption, page, summary
from training.options import at_least, program
from training.recipe import Recipe, TrainingStage, read_recipe
from training.shown import Piece, Shown, draw
from training.tokenizer import Tokenizer
from training.whole_files import replace

STYLES = {"view": "cyan", "mark": "magenta"}


def look(recipe: Recipe, stage: TrainingStage, count: int, seed: int = 0) -> tuple[list[Shown], list[Lost], int]:
    """Some samples of a stage, those that were left out on the way, and the embeddings of a view."""
    shape, tokenizer = recipe.model_shape(), Tokenizer(recipe.tokenizer)
    tokenizer.check_room(shape.language.vocab)
    check_instructions(recipe, tokenizer)
    encoder = encoder_of(recipe, stage, tokenizer, shape)
    sets = {name: part.opened() for name, part in zip(stage.sets, parts_of(recipe, stage), strict=True)}
    drawn = [*draw(sets, stage, encoder, count, seed)]
    lost = [one for one in drawn if isinstance(one, Lost)]
    return [one for one in drawn if isinstance(one, Shown)], lost, shape.queries


def about(recipe: Recipe, stage: TrainingStage) -> str:
    """What a stage does with its samples, in a line."""
    limit = min(stage.length, recipe.model_shape().language.context)
    what = f"of {', '.join(stage.sets)}; at most {limit:,} tokens a sample; images cut as by {stage.plan}"
    if stage.beta:
        return f"Pairs {what}. The chosen answer is made more likely, the rejected answer less likely."
    if not stage.answers:
        return f"Samples {what}. The stage has answers = 0: it learns the truth of pictures, and no text."
    return f"Samples {what}."


def text_of(piece: Piece, view: int, rejected: bool = False) -> Text:
    """A piece for the terminal. Learned text is in brackets, so that it can be seen without colours too."""
    if piece.kind == "view":
        return Text(f"[view {view}: {piece.tokens}]", style=STYLES["view"])
    shown = printable(piece.text)
    if piece.learned:
        return Text(f"⟦{shown}⟧", style="bold red" if rejected else "bold green")
    return Text(shown, style=STYLES.get(piece.kind, ""))


def print_sample(sample: Shown, console: Console) -> None:
    console.print(Text(printable_line(sample.name), style="bold"))
    console.print(Text(printable_line(summary(sample)), style="dim"))
    for image in sample.images:
        console.print(Text(printable_line(caption(image)), style="dim"))
    view = 0
    for part in sample.parts:
        line = Text(f"{part.title}: " if part.title else "", style="")
        for piece in joined(part.pieces):
            view += piece.kind == "view"
            line.append_text(text_of(piece, view, part.title == "rejected"))
        console.print(line)
    console.print()


def joined(pieces: list[Piece]) -> list[Piece]:
    """Pieces that are learned one after another as one, so that one pair of brackets holds them."""
    whole: list[Piece] = []
    for piece in pieces:
        if whole and piece.learned and whole[-1].learned:
            last = whole.pop()
            piece = Piece("text", last.text + piece.text, last.tokens + piece.tokens, True)
        whole.append(piece)
    return whole


def the_stage(recipe: Recipe, path: str, name: str | None) -> TrainingStage:
    """The stage of a name; of a recipe with one stage, that one."""
    names = [stage.name for stage in recipe.stages]
    if name is None and len(names) > 1:
        raise UserError(f"{path}: has several stages; name one with --stage: {', '.join(names)}")
    for stage in recipe.stages:
        if name in (None, stage.name):
            return stage
    raise UserError(f"--stage: {path} has no stage {name!r}; choose from {', '.join(names)}")


def main() -> None:
    parser = program("training.look", str(__doc__).split(":")[0] + ".")
    parser.add_argument("recipe", help="a TOML file, see training.recipe")
    parser.add_argument("--stage", help="name of the stage; needed if the recipe has several")
    parser.add_argument("-n", "--number", type=at_least(1), default=5, help="number of samples")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other samples")
    parser.add_argument("--out", type=Path, help="the HTML file to write; look-STAGE.html if not given")
    options = parser.parse_args()
    try:
        recipe = read_recipe(options.recipe)
        stage = the_stage(recipe, options.recipe, options.stage)
        samples, lost, queries = look(recipe, stage, options.number, options.seed)
        out = options.out or Path(f"look-{stage.name}.html")
        if out.is_dir():
            raise UserError(f"--out: {out} is a folder; name a file")
        html = page(f"{Path(options.recipe).name}, stage {stage.name}", about(recipe, stage), samples, lost, queries)
        replace(out, html)
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal without the characters of a text
        console = Console(highlight=False, soft_wrap=True, markup=False)
        for sample in samples:
            print_sample(sample, console)
        for one in lost:
            print(printable_line(f"left out: {one.sample} of {one.tar}: {one.reason}: {one.detail}"))
        if not samples:
            raise UserError(f"stages.{stage.name}: no sample that was drawn is trained; see the reasons above")
        if len(samples) < options.number:
            print(f"no more than {len(samples)} of {options.number} samples: the sets have no others that are trained")
        print(f"⟦learned⟧; all else is read only; \\<image> is text that spells a mark. The page: {out}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (UserError, Damaged, OSError) as error:
        print(printable_line(one_line(error)), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
