"""The probe: what it is told of scenes, and that it learns it."""

from random import Random

import pytest
import torch

from schemas.scenes.scene import COLOURS, PLACES, SHAPES, SIZES, WORDS, Kinds, imagine
from training.layout import IGNORED
from training.probe import ACROSS, CELL, CHARACTERS, GROUND, PARTS, QUERIES, ROWS, Probe, truth_of

SCENES = [imagine(Random(number), kinds=Kinds(printed=0.8)) for number in range(24)]


def letters_of(scene):
    """Characters as wide as each other, over the whole picture."""
    if scene["printed"] is None:
        return []
    return [
        [(n / len(one["text"]), (n + 1) / len(one["text"])) for n in range(len(one["text"]))]
        for one in (scene["printed"], *scene.get("also", ()))
    ]


def test_the_labels_are_the_scene():
    truth = truth_of(SCENES, [letters_of(scene) for scene in SCENES])
    for n, scene in enumerate(SCENES):
        there = {place: truth.cells[n, at].tolist() for at, place in enumerate(PLACES) if truth.cells[n, at, 1] >= 0}
        assert there == {
            one["place"]: [SHAPES.index(one["shape"]), COLOURS.index(one["colour"]), SIZES.index(one["size"])]
            for one in scene["objects"]
        }
        printed, codes = scene["printed"], [code for code in truth.text[n].tolist() if code]
        assert "".join(CHARACTERS[code - 1] for code in codes) == (printed or {"text": ""})["text"].replace(" ", "")
        assert truth.ground[n, 2] == (1 + ROWS.index(printed["place"]) if printed else 0)
        for row, place in enumerate(ROWS):
            shown = truth.across[n, row]
            if not printed or printed["place"] != place:
                assert (shown == IGNORED).all()
                continue
            runs = [int(code) for code, before in zip(shown, [-1, *shown.tolist()], strict=False) if code != before]
            said = [1 + CHARACTERS.index(c) if c != " " else 0 for c in printed["text"]]
            assert runs == [code for code, before in zip(said, [-1, *said], strict=False) if code != before]


def test_of_two_texts_the_patches_tell_both_and_the_embeddings_neither():
    scene = imagine(Random(1), kinds=Kinds(printed=1, lines=2))
    truth = truth_of([scene], [letters_of(scene)])
    assert not truth.text.any() and (truth.ground[0, 2:] == IGNORED).all()
    assert [bool((row != IGNORED).all()) for row in truth.across[0]] == [
        place in (scene["printed"]["place"], scene["also"][0]["place"]) for place in ROWS
    ]


def test_scenes_without_places_of_characters_tell_the_rest():
    truth = truth_of(SCENES)
    assert (truth.across == IGNORED).all() and truth.text.any()


def states_that_tell(truth, rows: int, columns: int, padding: int) -> torch.Tensor:
    """States of patches from which linear readings can give exactly what is asked of each."""
    views, wide = len(truth.cells), CELL[0] + CELL[1] + PARTS * (1 + len(CHARACTERS))
    states = torch.zeros(views, rows * columns + padding, wide)
    for view in range(views):
        for at in range(rows * columns):
            row, column = divmod(at, columns)
            place = 3 * int((row + 0.5) * 3 / rows) + int((column + 0.5) * 3 / columns)
            shape, colour, _ = truth.cells[view, place].tolist()
            states[view, at, shape] = 1
            if colour != IGNORED:
                states[view, at, CELL[0] + colour] = 1
            for part in range(PARTS):
                middle = int((column + (part + 0.5) / PARTS) / columns * ACROSS)
                code = int(truth.across[view, int((row + 0.5) * 3 / rows), middle])
                if code != IGNORED:
                    states[view, at, CELL[0] + CELL[1] + part * (1 + len(CHARACTERS)) + code] = 1
    return states


@pytest.mark.parametrize("rows, columns", [(9, 9), (8, 8), (3, 6), (10, 7)])
def test_each_patch_is_asked_what_stands_where_it_is(rows, columns):
    """With states that tell just that, the loss is nil; with those of other pictures it is not."""
    truth = truth_of(SCENES, [letters_of(scene) for scene in SCENES])
    states = states_that_tell(truth, rows, columns, padding=5)
    probe = Probe(8, states.shape[2])
    with torch.no_grad():
        for reading, start in ((probe.patch, 0), (probe.part, CELL[0] + CELL[1])):
            reading.weight.zero_()
            reading.bias.zero_()
            reading.weight[:, start : start + len(reading.weight)] = 50 * torch.eye(len(reading.weight))
    grids = torch.tensor([[rows, columns]]).expand(len(SCENES), 2)
    assert probe.patch_loss(states, grids, truth) < 1e-4
    assert probe.patch_loss(states.roll(1, 0), grids, truth) > 1


def test_the_loss_falls_to_that_of_a_guess_that_knows():
    """Free embeddings and the probe together learn the labels of a few scenes."""
    torch.manual_seed(0)
    truth, probe = truth_of(SCENES[:6]), Probe(64, 8)
    seen = torch.nn.Parameter(torch.randn(6, QUERIES, 64))
    learner = torch.optim.Adam([seen, *probe.parameters()], 0.02)
    first = None
    for _ in range(150):
        loss = probe.loss(seen, truth)
        first = first or loss.item()
        learner.zero_grad()
        loss.backward()
        learner.step()
    cells, ground, _ = probe(seen)
    assert (probe.place(seen[:, : len(PLACES)]).argmax(-1) == torch.arange(len(PLACES))).all()
    assert first > 8 and loss < 0.5
    for n in range(len(CELL)):
        asked = truth.cells[..., n] != IGNORED
        assert (cells[n].argmax(-1) == truth.cells[..., n])[asked].all()
    for n in range(len(GROUND)):
        asked = truth.ground[:, n] != IGNORED
        assert (ground[n].argmax(-1) == truth.ground[:, n])[asked].all()


def test_every_character_that_can_be_printed_has_a_number():
    assert {c for words in WORDS.values() for word in words for c in word if c != " "} <= set(CHARACTERS)
