"""The parts that figures are made of: dots with intervals, chance beneath them, axes, captions, legends.

A table is a DataFrame, a row a point, or a mapping with the numbers of one point. Its columns are those of one of

    judging.effects.effect          rate, null, null_low, null_high, effect, low, high; null same
    judging.counts.success_counts   interpreted, low, high, null_mean, null_low, null_high; same_mean

and every function here takes both. `over_chance` draws the distance to chance, which is then around 0. Methods are
drawn in the colours and markers of `words.methods`, and only those that a table has. As in

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(11, 5), layout="constrained")
        method_dots(axes, table, "category", categories, horizontal=True)
        percent(axes.xaxis)
        legend_below(figure, axes)
        return finish(figure, caption)
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from ..words.methods import BLIND, METHODS, PLAIN, Method
from .style import NULL_COLOUR

CHANCE = "by chance (95 %)"
SAME = "by chance of the category (mean)"
CAPTION_CHARACTERS = 13.2  # of a caption, per inch of a figure's width
FILLED, HATCHED = {"fc": NULL_COLOUR, "alpha": 0.22}, {"fc": "none", "ec": NULL_COLOUR, "hatch": "////"}

Table = pd.DataFrame | pd.Series | Mapping[str, float]


class Intervals(NamedTuple):
    """Values and how far their 95 % intervals reach: each (points,) float."""

    value: np.ndarray
    below: np.ndarray
    above: np.ndarray


class Chance(NamedTuple):
    """The mean of chance and the ends of its 95 %: each (points,) float."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def intervals(table: Table, over_chance: bool = False) -> Intervals:
    """Return the values of a table, rates or counts, with their intervals.

    The interval of `judging.effects.effect` is that of the distance to chance, also around a rate.
    """
    if "interpreted" in table:
        centre, low, high = _columns(table, "interpreted", "low", "high")
        value = centre - chance(table).mean if over_chance else centre
    else:
        centre, low, high, rate = _columns(table, "effect", "low", "high", "rate")
        value = centre if over_chance else rate
    return Intervals(value, centre - low, high - centre)


def chance(table: Table, over_chance: bool = False) -> Chance:
    """Return a table's chance; `over_chance`, as the distance from its mean."""
    mean, low, high = _columns(table, "null" if "null" in table else "null_mean", "null_low", "null_high")
    zero = mean if over_chance else 0
    return Chance(mean - zero, low - zero, high - zero)


def _columns(table: Table, *names: str) -> list[np.ndarray]:
    return [np.atleast_1d(np.asarray(table[name], float)) for name in names]


# Figures


def rows_by_components(
    rows: int, components: int, width: float, height: float, deep: int = 1, margin: float = 1
) -> tuple[Figure, np.ndarray]:
    """Lay out panels in rows (one per rule, say) and a column per component; of a single component, side by side.

    Args:
        rows, components: how many.
        width, height: of a panel, in inches.
        deep: panels under each other for each row and component.
        margin: beside and above all panels, in inches.

    Returns:
        The figure and its Axes (rows, components, deep).
    """
    lines, columns = (rows, components) if components > 1 else (1, rows)
    size = (margin + width * columns, margin + height * deep * lines)
    figure, axes = plt.subplots(lines * deep, columns, figsize=size, squeeze=False, layout="constrained")
    placed = axes.reshape(lines, deep, columns).swapaxes(1, 2)  # (lines, columns, deep)
    return figure, placed.reshape(rows, components, deep)


def finish(figure: Figure, caption: str, width: int | None = None) -> Figure:
    """Set the caption over a figure, and return the figure.

    Args:
        width: of a line, in characters; by default as many as the figure has room for.
    """
    width = width or round(CAPTION_CHARACTERS * figure.get_figwidth())
    figure.suptitle(textwrap.fill(caption, width), x=0.01, ha="left", fontsize=9.5)
    return figure


def legend_below(
    figure: Figure,
    *axes: Axes,
    columns: int = 3,
    order: Callable[[str], object] | None = None,
    place: str = "outside lower center",
    size: float = 9,
) -> None:
    """Set one legend for some panels below a figure, each label once.

    Args:
        columns: at most so many labels stand side by side.
        order: key that sorts the labels; by default chance stands last, the others as they were drawn.
        place: as matplotlib names it.
        size: of the font.
    """
    handles = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = sorted(handles, key=order or (lambda label: label.startswith(("by chance", "chance"))))
    in_order, columns = [handles[label] for label in labels], max(1, min(columns, len(labels)))
    figure.legend(in_order, labels, loc=place, ncols=columns, fontsize=size)


# Axes


def percent(*axes: Axis) -> None:
    """Label an axis of shares (`axes.xaxis` or `axes.yaxis`) in percent."""
    for axis in axes:
        axis.set_major_formatter(lambda share, _: f"{round(100 * share, 6):g}%".replace("-", "−"))


def whole_numbers(*axes: Axis) -> None:
    """Label an axis of layers or counts at whole numbers only."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True))


def ticks_at(axis: Axis, ticks: Sequence[float], apart: float = 1.2) -> None:
    """Label a logarithmic axis at given values, ascending, but for those that would touch the one before.

    Args:
        apart: the least ratio of two labelled values.
    """
    kept = []
    for tick in ticks:
        if not kept or tick >= apart * kept[-1]:
            kept.append(tick)
    axis.set_major_locator(FixedLocator(kept))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def headroom(axes: Axes, factor: float) -> None:
    """Make so many times the room on the vertical axis, above what is drawn, for a legend."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, low + (high - low) * factor)


def same_scale(rows: np.ndarray, least: float | None = 0, most: float = np.inf) -> None:
    """Give the panels of each column the same vertical scale, which fits what is drawn in them.

    Args:
        rows: (rows, columns) of Axes.
        least: the lower end; what is drawn decides, if None.
        most: the upper end is at most so much, and a little.
    """
    for column in rows.T:
        limits = [axes.get_ylim() for axes in column]
        low = min(low for low, _ in limits) if least is None else least
        high = min(max(high for _, high in limits), 1.02 * most)
        for axes in column:
            axes.set_ylim(low, high)


def zero_line(axes: Axes, vertical: bool = False) -> None:
    """Draw the line of no effect."""
    (axes.axvline if vertical else axes.axhline)(0, color=NULL_COLOUR, lw=1)


def above_chance(axis: Axis) -> None:
    """Label a horizontal axis of distances from chance."""
    axis.set_label_text("interpreted, above chance")
    axis.axes.locator_params(axis="x", nbins=6)
    percent(axis)


# Methods


def methods_in(table: pd.DataFrame) -> list[Method]:
    """Return the methods that a table has (column method), in the order in which all figures draw them."""
    return [method for method in (*METHODS.values(), BLIND) if (table["method"] == method.name).any()]


def offsets(number: int, gap: float) -> np.ndarray:
    """Return where so many things stand side by side around 0, so far apart."""
    return gap * (np.arange(number) - (number - 1) / 2)


# Dots with intervals, and chance


def interval_dots(
    axes: Axes,
    at: Sequence[float],
    table: Table,
    method: Method | None = None,
    over_chance: bool = False,
    horizontal: bool = False,
    **look,
) -> None:
    """Draw values as dots with their 95 % intervals.

    Args:
        at: (points,) where they stand: x, or y if horizontal.
        table: a row per point.
        method: whose colour, marker and label they have.
        over_chance: draw the distance to chance.
        look: of `Axes.errorbar`, instead of the method's or of the defaults: color, marker, label …
    """
    values = intervals(table, over_chance)
    look = {"ls": "none", "lw": 1.8, "ms": 5.5, "elinewidth": 1.2, "capsize": 2.5, "zorder": 3} | look
    if method:
        look = {"color": method.colour, "marker": method.marker, "label": method.label} | look
    at, errors = np.atleast_1d(np.asarray(at, float)), [values.below, values.above]
    if horizontal:
        axes.errorbar(values.value, at, xerr=errors, **look)
    else:
        axes.errorbar(at, values.value, yerr=errors, **look)


def interval_line(axes: Axes, x: Sequence[float], table: Table, over_chance: bool = False, **look) -> None:
    """Draw values over x as a line of dots with their 95 % intervals; arguments are those of `interval_dots`."""
    interval_dots(axes, x, table, over_chance=over_chance, **({"ls": "-", "elinewidth": 1, "capsize": 2} | look))


def chance_bars(
    axes: Axes,
    at: Sequence[float],
    table: Table,
    over_chance: bool = False,
    horizontal: bool = False,
    label: str = CHANCE,
    width: float = 7,
) -> None:
    """Draw chance beneath single dots: a bar from its low to its high end, with a notch at its mean.

    Args:
        at: (points,) where they stand: x, or y if horizontal.
        width: of the bars, in points.
    """
    found, at = chance(table, over_chance), np.atleast_1d(np.asarray(at, float))
    look = {"color": NULL_COLOUR, "alpha": 0.3, "lw": width, "zorder": 1}
    (axes.hlines if horizontal else axes.vlines)(at, found.low, found.high, label=label, **look)
    if not over_chance:
        x, y, notch = (found.mean, at, "|") if horizontal else (at, found.mean, "_")
        axes.plot(x, y, notch, color=NULL_COLOUR, ms=width, mew=1.2, zorder=2)
    if "null same" in table:
        same = _columns(table, "null same")[0] - (_columns(table, "null")[0] if over_chance else 0)
        x, y = (same, at) if horizontal else (at, same)
        mark = {"color": NULL_COLOUR, "ms": 4.5, "mfc": "white", "zorder": 2.5}
        axes.plot(x, y, "D", label=SAME, **mark)


def chance_band(
    axes: Axes,
    x: Sequence[float],
    table: Table,
    over_chance: bool = False,
    hatched: bool = False,
    mean: bool = False,
    label: str = CHANCE,
    **look,
) -> None:
    """Draw chance beneath a line: a band from its low to its high end.

    Args:
        x: (points,) of the line.
        table: its columns of chance are enough, so that a table of `judging.effects.by_threshold` fits, too.
        hatched: hatch the band instead of filling it, so that two that overlap can be told apart.
        mean: draw the mean of chance as a thin line.
        look: of `Axes.fill_between`.
    """
    found = chance(table, over_chance)
    look = {"lw": 0, "zorder": 1, "label": label} | (HATCHED if hatched else FILLED) | look
    axes.fill_between(x, found.low, found.high, **look)
    if mean:
        axes.plot(x, found.mean, color=NULL_COLOUR, lw=1, ls="--" if hatched else "-", zorder=1)


def method_dots(
    axes: Axes,
    table: pd.DataFrame,
    column: str,
    places: Sequence[object],
    over_chance: bool = False,
    horizontal: bool = False,
    gap: float = 0.3,
    chance_label: str = CHANCE,
    **look,
) -> None:
    """Draw a dot per place and method, methods side by side, each over its chance.

    Args:
        table: columns method and `column`, a row per method and place.
        places: values of `column`, drawn at 0, 1, …; ticks are left to the caller. A place that a method lacks is left
            out.
        gap: between methods.
        chance_label: of the bars of chance, in the legend.
        look: as of `interval_dots`.
    """
    methods = methods_in(table)
    for method, offset in zip(methods, offsets(len(methods), gap), strict=True):
        rows = table[table["method"] == method.name].set_index(column)
        present = [(place, name) for place, name in enumerate(places) if name in rows.index]
        rows, at = rows.loc[[name for _, name in present]], np.array([place for place, _ in present]) + offset
        chance_bars(axes, at, rows, over_chance, horizontal, chance_label)
        interval_dots(axes, at, rows, method, over_chance, horizontal, **look)


def layer_counts(axes: Axes, table: pd.DataFrame, **look) -> None:
    """Draw interpreted prompts per source layer, a line per method, each over the band of its chance (Figure 3).

    Args:
        table: columns method, layer, and those of `success_counts` per layer or of `effect`.
        look: as of `interval_line`.
    """
    look = {"lw": 2, "ms": 5, "clip_on": False} | look
    methods = methods_in(table)
    for method, offset in zip(methods, offsets(len(methods), 0.1), strict=True):
        rows = table[table["method"] == method.name]
        interval_line(axes, rows["layer"] + offset, rows, method=method, **look)
        label = f"chance for {method.name} (95 %)"
        hatched = method.name == PLAIN.name
        chance_band(axes, rows["layer"], rows, hatched=hatched, mean=True, label=label)
        if "same_mean" in rows and rows["same_mean"].notna().any():
            face = "white" if hatched else NULL_COLOUR
            mark = {"color": NULL_COLOUR, "ls": "none", "marker": "o", "ms": 3.5, "mfc": face, "zorder": 2}
            axes.plot(rows["layer"], rows["same_mean"], **mark, label=f"chance of the category for {method.name} (mean)")
