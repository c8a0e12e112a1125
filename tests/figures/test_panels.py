"""The parts of figures: what is drawn stands where the numbers are."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers.figures import panels
from helpers.figures.style import STYLE
from helpers.words.methods import AMPLIFIED, BLIND, PLAIN

EFFECTS = pd.DataFrame(
    {
        "method": ["Superscopes", "Patchscopes", "Superscopes"],
        "kind": ["film", "film", "band"],
        "rate": [0.5, 0.3, 0.6], "null": [0.2, 0.1, 0.25], "null_low": [0.1, 0.05, 0.2], "null_high": [0.3, 0.2, 0.3],
        "effect": [0.3, 0.2, 0.35], "low": [0.2, 0.05, 0.3], "high": [0.45, 0.3, 0.4],
    }
)  # fmt: skip
COUNTS = pd.DataFrame(
    {
        "method": ["Patchscopes", "Patchscopes", "Superscopes", "Superscopes"], "layer": [1, 2, 1, 2],
        "interpreted": [10, 12, 20, 24], "low": [6.0, 8.0, 15.0, 18.0], "high": [15.0, 17.0, 26.0, 30.0],
        "null_mean": [5.5, 5.0, 9.0, 8.0], "null_low": [3, 2, 6, 5], "null_high": [8, 7, 13, 12],
    }
)  # fmt: skip


@pytest.fixture
def axes():
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    yield axes
    plt.close(figure)


def drawn(axes, horizontal=False):
    """Dots with intervals as they were drawn: label -> [(at, value, low, high)], rounded."""
    found = {}
    for container in axes.containers:
        x, y = (np.asarray(one, float) for one in container[0].get_data())
        at, value = (y, x) if horizontal else (x, y)
        ends = [np.sort(segment[:, 0 if horizontal else 1]) for segment in container[2][0].get_segments()]
        lines = zip(at, value, ends, strict=True)
        found[container.get_label()] = [tuple(np.round([a, v, *end], 4).tolist()) for a, v, end in lines]
    return found


def bars(axes, horizontal=False):
    """Bars of chance as they were drawn: [(at, low, high)], rounded."""
    found = []
    for collection in axes.collections:
        if collection.get_label() == panels.CHANCE:
            for (x, y), (x2, y2) in collection.get_segments():
                found.append(tuple(np.round((y, x, x2) if horizontal else (x, y, y2), 4).tolist()))
    return found


def test_an_effects_interval_is_that_of_the_distance_to_chance(axes):
    first = EFFECTS.iloc[0]
    panels.interval_dots(axes, [1], first, AMPLIFIED)
    assert drawn(axes) == {AMPLIFIED.label: [(1, 0.5, 0.4, 0.65)]}
    value, below, above = (number[0] for number in panels.intervals(first, over_chance=True))
    assert [value, value - below, value + above] == pytest.approx([0.3, 0.2, 0.45])
    assert [number[0] for number in panels.chance(first, over_chance=True)] == pytest.approx([0, -0.1, 0.1])


def test_counts_have_the_interval_of_their_own(axes):
    panels.layer_counts(axes, COUNTS)
    assert drawn(axes) == {
        PLAIN.label: [(0.95, 10, 6, 15), (1.95, 12, 8, 17)],
        AMPLIFIED.label: [(1.05, 20, 15, 26), (2.05, 24, 18, 30)],
    }
    assert panels.intervals(COUNTS, over_chance=True).value.tolist() == [4.5, 7, 11, 16]
    assert panels.chance(COUNTS, over_chance=True).high.tolist() == [2.5, 2, 4, 4]


def test_each_method_stands_over_its_own_chance(axes):
    panels.layer_counts(axes, COUNTS)
    bands = {band.get_label(): band for band in axes.collections if band.get_label().startswith("chance")}
    for name, low, high in (("Patchscopes", 2, 8), ("Superscopes", 5, 13)):
        corners = bands[f"chance for {name} (95 %)"].get_paths()[0].vertices
        assert (corners[:, 1].min(), corners[:, 1].max()) == (low, high)
    assert bands["chance for Patchscopes (95 %)"].get_hatch() and not bands["chance for Superscopes (95 %)"].get_hatch()


@pytest.mark.parametrize("horizontal", [False, True])
def test_methods_stand_side_by_side_at_each_place(axes, horizontal):
    """A place that a method lacks stays empty."""
    panels.method_dots(axes, EFFECTS, "kind", ["band", "film"], horizontal=horizontal, gap=0.3)
    assert drawn(axes, horizontal) == {
        PLAIN.label: [(0.85, 0.3, 0.15, 0.4)],
        AMPLIFIED.label: [(0.15, 0.6, 0.55, 0.65), (1.15, 0.5, 0.4, 0.65)],
    }
    assert bars(axes, horizontal) == [(0.85, 0.05, 0.2), (0.15, 0.2, 0.3), (1.15, 0.1, 0.3)]


def test_a_method_alone_stands_in_the_middle(axes):
    panels.method_dots(axes, EFFECTS[EFFECTS["method"] == "Superscopes"], "kind", ["film", "band"], over_chance=True)
    assert drawn(axes) == {AMPLIFIED.label: [(0, 0.3, 0.2, 0.45), (1, 0.35, 0.3, 0.4)]}
    assert panels.methods_in(EFFECTS) == [PLAIN, AMPLIFIED]
    assert panels.methods_in(pd.DataFrame({"method": [BLIND.name, PLAIN.name]})) == [PLAIN, BLIND]


def test_a_legend_has_each_label_once_and_chance_last():
    figure, grid = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
    for axes in grid.flat:
        panels.method_dots(axes, EFFECTS, "kind", ["film", "band"])
    panels.legend_below(figure, *grid.flat)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [PLAIN.label, AMPLIFIED.label, panels.CHANCE]
    plt.close(figure)


def test_a_caption_keeps_within_its_figure():
    for width in (5, 11, 14):
        figure, _ = plt.subplots(figsize=(width, 4), layout="constrained")
        assert panels.finish(figure, "interpreted above chance, " * 30) is figure
        figure.canvas.draw()
        box = figure.texts[0].get_window_extent()
        assert 0 <= box.x0 and 0.8 * figure.bbox.width < box.x1 <= figure.bbox.width
        plt.close(figure)


def test_a_curve_of_chance_needs_no_interval(axes):
    curve = EFFECTS[["null", "null_low", "null_high"]]
    panels.chance_band(axes, [0, 0.1, 0.2], curve, mean=True)
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (0.05, 0.3)
    assert axes.lines[0].get_ydata().tolist() == [0.2, 0.1, 0.25]


def test_amplifiers_are_labelled_where_there_is_room(axes):
    axes.set(xscale="log", xlim=(0.9, 20), ylim=(0, 2))
    panels.ticks_at(axes.xaxis, [1, 1.1, 3, 3.5, 15])
    axes.figure.canvas.draw()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "3", "15"]
    panels.headroom(axes, 1.5)
    assert axes.get_ylim() == (0, 3)


def test_axes_of_shares_and_of_layers(axes):
    axes.set(xlim=(0, 3), ylim=(0, 1), yticks=[0, 0.5])
    panels.percent(axes.yaxis)
    panels.whole_numbers(axes.xaxis)
    axes.figure.canvas.draw()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0%", "50%"]
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_panels_of_a_column_share_a_scale_that_fits_them():
    _, rows = plt.subplots(2, 2)
    for axes, top in zip(rows.flat, (1, 10, 2, 90), strict=True):
        axes.plot([0, 1], [0, top])
    panels.same_scale(rows, most=48)
    assert rows[0, 0].get_ylim() == rows[1, 0].get_ylim() and 2 < rows[0, 0].get_ylim()[1] < 3
    assert rows[0, 1].get_ylim() == (0, 1.02 * 48)


def test_chance_of_the_category_is_marked_where_it_is_known():
    table = pd.DataFrame({"method": ["Patchscopes"], "place": ["a"], "rate": 0.5, "effect": 0.4, "low": 0.2, "high": 0.6})
    table = table.assign(null=0.1, null_low=0.0, null_high=0.2)
    for known in (table, table.assign(**{"null same": 0.3})):
        _, axes = plt.subplots()
        panels.method_dots(axes, known, "place", ["a"], over_chance=True)
        marks = [line for line in axes.lines if line.get_label() == panels.SAME]
        assert len(marks) == int("null same" in known)
        assert not marks or marks[0].get_ydata() == pytest.approx([0.2])
