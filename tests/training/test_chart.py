"""The chart of a run, and its rows for TensorBoard."""

import math
from xml.etree import ElementTree

import pytest
from support.recipes import DPO, SFT, make, recipe

from schemas.errors import UserError
from training.chart import CHART, PANELS, decades, draw, svg, thinned, ticks
from training.tensorboard import TensorBoard
from training.train import World, train

NAME = "{http://www.w3.org/2000/svg}"


def row(step: int, stage: str = "sft", **values) -> dict:
    columns = {column: None for panel in PANELS for column in panel.series}
    return {"stage": stage, "step": step, "total": step, "tokens": 10, "fill": 0.9, "seconds": 1.0, **columns,
            "rate": 1e-3, "norm": 1.0 + step % 3, "loss": 3.0 / (1 + step), **values}  # fmt: skip


def texts(drawing: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(drawing).iter(f"{NAME}text")]


def test_a_chart_has_a_panel_for_what_there_is():
    plain = texts(svg([row(1), row(2)]))
    assert {"loss", "learning rate", "norm of the gradient"} <= {*plain} and "margin of pairs" not in plain
    pairs = texts(svg([row(1, "dpo", margin=-0.1, won=0.4), row(2, "dpo", margin=0.3, won=0.9, held_out_margin=0.1)]))
    assert {"margin of pairs", "pairs won"} <= {*pairs} and {"trained 90%", "held out 0.1"} <= {*pairs}


@pytest.mark.parametrize("rows", [
    [row(1)], [row(1, loss=None)], [row(0, loss=None, rate=0.0, norm=0.0, held_out_loss=3.0)],
    [row(n, loss=1.0, norm=0.0) for n in range(1, 5)], [row(1, loss=1e-30), row(2, loss=1e30)],
    [row(1, margin=-5.0, won=0.0), row(2, margin=-5.0, won=0.0)], [row(1, loss=math.inf), row(2, loss=math.nan)],
])  # fmt: skip
def test_any_rows_can_be_drawn_inside_the_chart(rows):
    root = ElementTree.fromstring(svg(rows))
    height = float(root.get("height"))
    for line in root.iter(f"{NAME}polyline"):
        for point in line.get("points").split():
            x, y = map(float, point.split(","))
            assert 60 < x < 960 and 0 < y < height


def test_a_higher_loss_is_higher_and_a_later_step_is_to_the_right():
    line = next(
        ElementTree.fromstring(svg([row(1, loss=4.0), row(5, loss=2.0), row(9, loss=1.0)])).iter(f"{NAME}polyline")
    )
    points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    (x, y), (middle, half), (end, low) = points
    assert x < middle < end and middle - x == pytest.approx(end - middle, abs=0.2)
    assert y < half < low and half - y == pytest.approx(low - half, abs=0.2)  # halved twice, on a logarithmic axis


def test_no_peak_is_lost_in_a_long_run():
    line = [(step, 1.0) for step in range(50_000)]
    line[31_337] = (31_337, 99.0)
    drawn = thinned(line)
    assert len(drawn) < 2_000 and (31_337, 99.0) in drawn and drawn == sorted(drawn)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 7), (-3.2, 0.01), (1e-9, 3e-9), (0, 123_456), (99.5, 100)])
def test_ticks_are_round_and_few(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 7 and all(low - 1e-9 <= value <= high + 1e-9 for value in found)


@pytest.mark.parametrize(("low", "high"), [(1, 2), (0.9, 1.1), (1e-3, 1e6), (3, 3.1), (1e-30, 1e30)])
def test_marks_of_a_logarithmic_axis_are_few_and_inside(low, high):
    found = decades(low, high)
    assert 2 <= len(found) <= 7 and all(low * 0.99 <= value <= high * 1.01 for value in found)


def test_the_chart_of_a_run_loads_nothing_and_names_its_stages(tmp_path):
    folder = make(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/loss.svg").write_text("of version 0.1")
    train(recipe(folder, {**SFT, "steps": 2}, {**DPO, "steps": 2}), tmp_path / "run", World())
    drawing = (tmp_path / "run" / CHART).read_text()
    assert {"sft", "dpo", "margin of pairs"} <= {*texts(drawing)}
    assert "href" not in drawing and "url(" not in drawing and drawing.count("http") == 1  # the name of SVG
    assert (tmp_path / "run/loss.svg").exists(), "it may be the user's: only a run of 0.1 that goes on removes it"


def test_names_of_stages_are_escaped():
    assert "<b>" not in svg([row(1, "<b>&")]) and "<b>&" in texts(svg([row(1, "<b>&")]))


def test_nothing_is_drawn_of_no_rows(tmp_path):
    draw(tmp_path, [])
    assert not [*tmp_path.iterdir()]


def test_tensorboard_has_the_rows(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = make(tmp_path)
    made = recipe(folder, {**SFT, "steps": 3, "held_out": {"set": "others", "every": 1}})
    train(made, tmp_path / "run", World(), stop=2, tensorboard=True)
    train(made, tmp_path / "run", World(), tensorboard=True)
    found = events.EventAccumulator(str(tmp_path / "run/tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("loss")] == [1, 2, 3]
    assert [event.step for event in found.Scalars("held_out_loss")] == [0, 1, 2, 3]
    assert {"rate", "norm", "tokens_a_second"} <= {*found.Tags()["scalars"]} and "margin" not in found.Tags()["scalars"]


def test_without_the_package_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"^tensorboard is not installed; run: .*\[tensorboard\]"):
        TensorBoard(tmp_path)
