"""Figure 3: interpreted prompts per source layer, beside their null."""

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import COLOURS, MARKERS, METHODS, NULL_COLOUR, STYLE


def layer_success(
    per_layer: pd.DataFrame, overall: pd.DataFrame, model: str, threshold: float, reference: pd.DataFrame | None = None
) -> Figure:
    """Figure 3 of the paper, a panel per component: interpreted prompts per source layer, beside their null.

    Args:
        per_layer, overall: of `scoring.success_counts`.
        model: whose results they are.
        reference: columns component, method, layer, prompts, interpreted: another model's counts, drawn lightly
            and scaled to this number of prompts; `.attrs["name"]` says whose.
    """
    components = per_layer["component"].unique()
    width = 1.0 + 4.5 * len(components)  # inches
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, len(components), figsize=(width, 5.2), sharey=True, squeeze=False, layout="constrained"
        )
        handles = {}
        for axes, component in zip(panels[0], components, strict=True):
            rows = per_layer[per_layer["component"] == component]
            for method in COLOURS:
                draw_method(axes, method, rows[rows["method"] == method])
            if reference is not None:
                _draw_reference(axes, reference[reference["component"] == component], rows)
            prompts, target = rows[["prompts", "target"]].iloc[0]
            into = {"": "", "same": ", patched into the same layer"}.get(target, f", patched into layer {target}")
            title = component.replace("mlp", "MLP").replace("_", " ") + into
            axes.set(title=title[0].upper() + title[1:], xlabel="source layer (from 0)", ylim=(0, prompts * 1.02))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xmargin(0.06)
            note = textwrap.fill(verdict(rows, overall[overall["component"] == component]), 66)
            axes.text(0, -0.19, note, transform=axes.transAxes, va="top", fontsize=8.5, linespacing=1.4)
            handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        panels[0, 0].set_ylabel(f"interpreted prompts (of {prompts})")
        heading = (
            f"{model}, {prompts} prompts. Interpreted: a reading's similarity to its prompt is above {threshold:g}. "
            "Bars: 95 % intervals. Grey, chance: the same readings scored against other prompts (all rotations); "
            "more readings succeed more often by chance, so compare each method with its own."
        )
        figure.suptitle(textwrap.fill(heading, int(14 * width)), x=0.01, ha="left", fontsize=9.5)
        labels = sorted(handles, key=lambda label: ("," in label, label.startswith("chance")))  # methods first
        figure.legend(
            [handles[label] for label in labels],
            labels,
            loc="outside lower left",
            ncols=min(3, 1 + len(components)),
            fontsize=8.5,
        )
    return figure


def verdict(per_layer: pd.DataFrame, overall: pd.DataFrame) -> str:
    """What one component's counts say, in a sentence or two: each method beside its own null."""
    parts = []
    for row in overall.itertuples():
        tries = per_layer.loc[per_layer["method"] == row.method, "tries"]
        best_of = f"{tries.min()}" if tries.min() == tries.max() else f"{tries.min()} to {tries.max()}"
        readings = "one reading" if best_of == "1" else f"best of {best_of}"
        parts.append(
            f"{row.method} ({readings}) {row.interpreted}, by chance {row.null_mean:.0f} "
            f"({row.null_low} to {row.null_high})"
        )
    sentence = f"Over all layers, of {overall['pairs'].iloc[0]} (prompt, layer) pairs: {'; '.join(parts)}."
    amplified = overall[overall["method"] == "Superscopes"]
    if len(amplified) and (amplified["interpreted"] <= amplified["null_high"]).all():
        sentence += " Amplification shows no effect here: Superscopes is within chance."
    return sentence


def draw_method(axes: Axes, method: str, rows: pd.DataFrame) -> None:
    """A method's counts with 95 % intervals, over the band of its own null."""
    if rows.empty:
        return
    amplified = method == "Superscopes"
    axes.errorbar(
        rows["layer"] + (0.05 if amplified else -0.05),
        rows["interpreted"],
        yerr=[rows["interpreted"] - rows["low"], rows["high"] - rows["interpreted"]],
        color=COLOURS[method], marker=MARKERS[method], ms=5, lw=2, elinewidth=1, capsize=2, zorder=3,
        clip_on=False, label=METHODS[method],
    )  # fmt: skip
    band = {"fc": NULL_COLOUR, "alpha": 0.22} if amplified else {"fc": "none", "ec": NULL_COLOUR, "hatch": "////"}
    axes.fill_between(
        rows["layer"], rows["null_low"], rows["null_high"], lw=0, zorder=1, **band, label=f"chance for {method} (95 %)"
    )
    axes.plot(rows["layer"], rows["null_mean"], color=NULL_COLOUR, lw=1, ls="-" if amplified else "--", zorder=1)


def _draw_reference(axes: Axes, reference: pd.DataFrame, rows: pd.DataFrame) -> None:
    prompts = rows["prompts"].iloc[0]
    for method, part in reference.groupby("method"):
        scaled = "" if (part["prompts"] == prompts).all() else ", scaled"
        axes.plot(
            part["layer"], part["interpreted"] * prompts / part["prompts"], color=COLOURS[method], alpha=0.35, lw=1.2,
            ls=":", marker=MARKERS[method], ms=4, mfc="white", zorder=2,
            label=f"{method}, {reference.attrs['name']}{scaled}",
        )  # fmt: skip
