"""What a reviewer asks: more tries or amplification, another judge, other entities, other vectors, seeds, sizes."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, PercentFormatter

from ..components import IN_WORDS, title
from .style import COLOURS, MARKERS, METHODS, NULL_COLOUR, STYLE

WAYS = {  # of reading a vector several times -> colour, line, marker
    "amplifiers": (COLOURS["Superscopes"], "-", "o"),
    "target prompts": (COLOURS["Patchscopes"], "-", "s"),
    "samples": (COLOURS["Patchscopes"], "--", "D"),
    "random vectors": (NULL_COLOUR, "--", "x"),
}
WAY_LABELS = {
    "amplifiers": "amplifiers (Superscopes)",
    "target prompts": "target prompts, α = 1 (Patchscopes)",
    "samples": "samples, α = 1 (Patchscopes)",
    "random vectors": "amplifiers, on random vectors",
}


def into(target: str) -> str:
    return "into the same layer" if target == "same" else f"into layer {target}"


def tries_figure(single: pd.DataFrame, several: pd.DataFrame, targets: Mapping[str, object], caption: str) -> Figure:
    """Success at each single amplifier, and of the best of k tries of each kind, a column per component.

    Args:
        single: columns component, vector ("own" or "random"), amplifier, and those of `effects.effect`.
        several: columns component, way (of WAYS), tries, and those of `effects.effect`.
        targets: component -> where it was patched.
    """
    components = list(targets)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            2, len(components), figsize=(11, 8), layout="constrained", sharey="row", squeeze=False
        )
        for column, component in enumerate(components):
            axes = panels[0, column]
            own = single[(single["component"] == component) & (single["vector"] == "own")].sort_values("amplifier")
            random = single[(single["component"] == component) & (single["vector"] == "random")].sort_values(
                "amplifier"
            )
            axes.fill_between(own["amplifier"], own["null_low"], own["null_high"], color=NULL_COLOUR, alpha=0.22, lw=0,
                              label="by chance (95 %): judged by other prompts")  # fmt: skip
            axes.plot(own["amplifier"], own["null"], color=NULL_COLOUR, lw=1)
            axes.plot(
                random["amplifier"],
                random["rate"],
                color=NULL_COLOUR,
                ls="--",
                marker="x",
                ms=5,
                label="random vectors of the same norm",
            )
            _points(axes, own["amplifier"], own, COLOURS["Superscopes"], "-", "o", "amplified, one try (Superscopes)")
            plain = own[own["amplifier"] == 1]
            _points(axes, plain["amplifier"], plain, COLOURS["Patchscopes"], "none", "s", "α = 1 (Patchscopes)")
            ticks = own["amplifier"].tolist()
            axes.set(
                xscale="log",
                xlabel="amplifier α",
                title=f"{title(component)}, {into(targets[component])}",
            )
            axes.xaxis.set_major_locator(FixedLocator(_apart(ticks)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes = panels[1, column]
            own = several[(several["component"] == component) & (several["way"] == "amplifiers")].sort_values("tries")
            axes.fill_between(own["tries"], own["null_low"] - own["null"], own["null_high"] - own["null"], color=NULL_COLOUR, alpha=0.22, lw=0,
                              label="by chance (95 %), amplifiers")  # fmt: skip
            for way, (colour, line, marker) in WAYS.items():
                here = several[(several["component"] == component) & (several["way"] == way)].sort_values("tries")
                if len(here):
                    _points(
                        axes,
                        here["tries"] + 0.04 * (list(WAYS).index(way) - 1),
                        here,
                        colour,
                        line,
                        marker,
                        WAY_LABELS[way],
                        over_chance=True,
                    )
            axes.axhline(0, color=NULL_COLOUR, lw=1)
            axes.set(xlabel="best of so many tries")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        panels[0, 0].set_ylabel("interpreted, one try each")
        panels[1, 0].set_ylabel("interpreted, above chance\nwith as many tries")
        for axes in panels[:, 0]:
            _headroom(axes, 1.45)
            axes.legend(fontsize=8.5, loc="upper left")
        figure.suptitle(textwrap.fill(caption, 145), x=0.01, ha="left", fontsize=9.5)
    return figure


def scoring_figure(
    thresholds: Mapping[str, Mapping[str, pd.DataFrame]], variants: pd.DataFrame, caption: str
) -> Figure:
    """Success as a function of the threshold, and the effect under each way to score, a row per component.

    Args:
        thresholds: component -> method -> `effects.by_threshold`.
        variants: columns component, method, scored (a name), and those of `effects.effect`.
    """
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(thresholds),
            2,
            figsize=(11, 3.7 * len(thresholds) + 0.9),
            layout="constrained",
            squeeze=False,
            width_ratios=[1, 1.15],
        )
        for (component, methods), (curve, forest) in zip(thresholds.items(), panels, strict=True):
            for method, table in methods.items():
                amplified = method == "Superscopes"
                band = (
                    {"fc": NULL_COLOUR, "alpha": 0.22}
                    if amplified
                    else {"fc": "none", "ec": NULL_COLOUR, "hatch": "////"}
                )
                curve.fill_between(
                    table["threshold"],
                    table["null_low"],
                    table["null_high"],
                    lw=0,
                    label=f"chance for {method} (95 %)",
                    **band,
                )
                curve.plot(
                    table["threshold"], table["rate"], color=COLOURS[method], lw=2, ls="-" if amplified else "--"
                )
                area = f"{method}: area over chance {table.attrs['area']:.3f}"
                y = 0.97 if amplified else 0.9
                curve.text(
                    0.98, y, area, transform=curve.transAxes, color=COLOURS[method], ha="right", va="top", fontsize=8.5
                )
            curve.axvline(0.3, color=NULL_COLOUR, lw=1, ls=":")
            curve.set(
                xlabel="threshold of similarity (the paper's: 0.3)",
                ylabel="interpreted",
                title=title(component),
                ylim=(0, 1.02),
                xlim=(0, 0.9),
            )
            curve.yaxis.set_major_formatter(PercentFormatter(1))
            here = variants[variants["component"] == component]
            names = list(dict.fromkeys(here["scored"]))
            for method, offset in (("Patchscopes", -0.13), ("Superscopes", 0.13)):
                rows = here[here["method"] == method].set_index("scored").loc[names]
                forest.hlines(np.arange(len(names)) + offset, rows["null_low"] - rows["null"], rows["null_high"] - rows["null"],
                              color=NULL_COLOUR, alpha=0.3, lw=7, label="by chance (95 %)" if offset > 0 else None)  # fmt: skip
                forest.errorbar(rows["effect"], np.arange(len(names)) + offset, xerr=[rows["effect"] - rows["low"], rows["high"] - rows["effect"]],
                                color=COLOURS[method], marker=MARKERS[method], ms=6, ls="none", capsize=2.5, elinewidth=1.3, label=method)  # fmt: skip
            forest.axvline(0, color=NULL_COLOUR, lw=1)
            forest.set_yticks(range(len(names)), names, fontsize=9)
            forest.invert_yaxis()
            forest.set(title=f"{title(component)}: effect by what is scored", xlabel="interpreted, above chance")
            forest.xaxis.set_major_formatter(PercentFormatter(1))
        handles, labels = (forest_part + curve_part for forest_part, curve_part in zip(
            forest.get_legend_handles_labels(), curve.get_legend_handles_labels(), strict=True))  # fmt: skip
        labels = ["chance, the method's (95 %)" if label == "by chance (95 %)" else label for label in labels]
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8.5)
        figure.suptitle(textwrap.fill(caption, 145), x=0.01, ha="left", fontsize=9.5)
    return figure


def categories_figure(table: pd.DataFrame, caption: str) -> Figure:
    """The effect per category of entities, a panel per component, methods beside each other.

    Args:
        table: columns component, method, category, prompts, and those of `effects.effect`.
    """
    components = table["component"].unique()
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, len(components), figsize=(11, 5.4), layout="constrained", sharey=True, squeeze=False
        )
        order = list(dict.fromkeys(table["category"]))
        for axes, component in zip(panels[0], components, strict=True):
            for method, offset in (("Patchscopes", -0.17), ("Superscopes", 0.17)):
                rows = (
                    table[(table["component"] == component) & (table["method"] == method)]
                    .set_index("category")
                    .loc[order]
                )
                y = np.arange(len(order)) + offset
                axes.hlines(
                    y,
                    rows["null_low"],
                    rows["null_high"],
                    color=NULL_COLOUR,
                    alpha=0.35,
                    lw=7,
                    label="by chance (95 %)" if offset < 0 else None,
                )
                axes.errorbar(rows["rate"], y, xerr=[rows["effect"] - rows["low"], rows["high"] - rows["effect"]], color=COLOURS[method],
                              marker=MARKERS[method], ms=6, ls="none", capsize=2.5, elinewidth=1.3,
                              label=METHODS[method])  # fmt: skip
            axes.set_yticks(range(len(order)), order)
            axes.set(title=title(component), xlabel="interpreted")
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            axes.axhline(1.5, color="#d5dae1", lw=1)
        panels[0, 0].invert_yaxis()
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
        figure.suptitle(textwrap.fill(caption, 145), x=0.01, ha="left", fontsize=9.5)
    return figure


def stability_figure(table: pd.DataFrame, caption: str) -> Figure:
    """The effect of each run, by target prompt and seed, a panel per component.

    Args:
        table: columns component, method, target prompt, seed, and those of `effects.effect`.
    """
    components, prompts = table["component"].unique(), list(dict.fromkeys(table["target prompt"]))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, len(components), figsize=(10.5, 4.4), layout="constrained", sharey=True, squeeze=False
        )
        for axes, component in zip(panels[0], components, strict=True):
            for method, shift in (("Patchscopes", -0.18), ("Superscopes", 0.18)):
                for place, prompt in enumerate(prompts):
                    rows = table[
                        (table["component"] == component)
                        & (table["method"] == method)
                        & (table["target prompt"] == prompt)
                    ]
                    x = place + shift + np.linspace(-0.1, 0.1, len(rows))
                    axes.vlines(x, rows["null_low"] - rows["null"], rows["null_high"] - rows["null"], color=NULL_COLOUR, alpha=0.3, lw=6,
                                label="by chance (95 %)" if not place and shift > 0 else None)  # fmt: skip
                    axes.errorbar(x, rows["effect"], yerr=[rows["effect"] - rows["low"], rows["high"] - rows["effect"]], color=COLOURS[method],
                                  marker=MARKERS[method], ms=5.5, ls="none", elinewidth=1, capsize=2, alpha=0.9,
                                  label=METHODS[method] if not place else None)  # fmt: skip
            axes.axhline(0, color=NULL_COLOUR, lw=1.2)
            axes.set_xticks(range(len(prompts)), prompts)
            axes.set(title=title(component), xlabel="target prompt (three seeds each)")
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        panels[0, 0].set_ylabel("interpreted, above chance")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
        figure.suptitle(textwrap.fill(caption, 140), x=0.01, ha="left", fontsize=9.5)
    return figure


def sizes_figure(table: pd.DataFrame, reference: pd.DataFrame, caption: str) -> Figure:
    """The effect over the null by relative depth, a column per model, small to large, a row per component.

    Args:
        table: columns model, parameters, component, method, depth, and those of `effects.effect`.
        reference: the paper's model: columns depth, method, effect; `.attrs["name"]` says whose.
    """
    models = table.sort_values("parameters")["model"].unique()
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            2, len(models) + 1, figsize=(14, 6.4), layout="constrained", sharey=True, sharex=True
        )
        for row, component in enumerate(("mlp_output", "hidden_state")):
            for axes, model in zip(panels[row], models, strict=False):
                for method in COLOURS:
                    here = table[
                        (table["component"] == component) & (table["model"] == model) & (table["method"] == method)
                    ].sort_values("depth")
                    axes.fill_between(here["depth"], here["low"], here["high"], color=COLOURS[method], alpha=0.16, lw=0)
                    axes.plot(here["depth"], here["effect"], color=COLOURS[method], lw=1.8, marker=MARKERS[method], ms=4.5,
                              label=f"{method} ({'α = 1' if method == 'Patchscopes' else 'best of five'})")  # fmt: skip
                    if method == "Superscopes":
                        axes.fill_between(
                            here["depth"],
                            here["null_low"] - here["null"],
                            here["null_high"] - here["null"],
                            color=NULL_COLOUR,
                            alpha=0.22,
                            lw=0,
                            label="chance (95 %), best of five",
                        )
                if not row:
                    axes.set_title(
                        f"{model}\n{_size(table.loc[table['model'] == model, 'parameters'].iloc[0])}", fontsize=10
                    )
            panels[row, 0].set_ylabel(f"{title(component)}\ninterpreted, above chance")
        last = panels[0, -1]
        for method in COLOURS:
            here = reference[reference["method"] == method]
            last.plot(
                here["depth"],
                here["effect"],
                color=COLOURS[method],
                lw=1.8,
                marker=MARKERS[method],
                ms=4.5,
                mfc="white",
            )
            if method == "Superscopes":
                last.fill_between(here["depth"], 0, here["half"], color=NULL_COLOUR, alpha=0.22, lw=0)
        last.set_title(f"{reference.attrs['name']}\n13 B (the paper's files)", fontsize=10)
        panels[1, -1].text(
            0.5,
            0.5,
            "the paper gives\nno counts here",
            transform=panels[1, -1].transAxes,
            ha="center",
            va="center",
            color=NULL_COLOUR,
        )
        for axes in panels.flat:
            axes.axhline(0, color=NULL_COLOUR, lw=1)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        for axes in panels[-1]:
            axes.set_xlabel("relative depth")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: labels[i])[::-1]
        figure.legend(
            [handles[i] for i in order], [labels[i] for i in order], loc="outside lower center", ncols=3, fontsize=9
        )
        figure.suptitle(textwrap.fill(caption, 185), x=0.01, ha="left", fontsize=9.5)
    return figure


def components_figure(per_layer: pd.DataFrame, caption: str) -> Figure:
    """Figure 3 for each vector, a column per component, a row per place that it is patched into.

    Args:
        per_layer: of `scoring.success_counts`, one table of all components and targets.
    """
    from .layers import draw_method

    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, len(IN_WORDS), figsize=(14, 7), layout="constrained", sharey=True, sharex=True)
        for row, target in enumerate(("same", "0")):
            for axes, component in zip(panels[row], IN_WORDS, strict=True):
                here = per_layer[(per_layer["component"] == component) & (per_layer["target"] == target)]
                for method in COLOURS:
                    draw_method(axes, method, here[here["method"] == method])
                if not row:
                    axes.set_title(title(component))
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            panels[row, 0].set_ylabel(f"{into(target)}\ninterpreted prompts (of {per_layer['prompts'].max()})")
        panels[0, 0].set_ylim(0, per_layer["prompts"].max() * 1.02)
        for axes in panels[-1]:
            axes.set_xlabel("source layer (from 0)")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: labels[i].startswith("chance"))
        figure.legend(
            [handles[i] for i in order], [labels[i] for i in order], loc="outside lower center", ncols=4, fontsize=9
        )
        figure.suptitle(textwrap.fill(caption, 185), x=0.01, ha="left", fontsize=9.5)
    return figure


def _points(
    axes: Axes,
    x: Sequence[float],
    rows: pd.DataFrame,
    colour: str,
    line: str,
    marker: str,
    label: str,
    over_chance: bool = False,
) -> None:
    """Rates (or rates above chance) with the interval of the effect."""
    axes.errorbar(
        x, rows["effect" if over_chance else "rate"], yerr=[rows["effect"] - rows["low"], rows["high"] - rows["effect"]],
        color=colour, ls=line, marker=marker, ms=5.5, lw=1.8, elinewidth=1, capsize=2, label=label, zorder=3,
    )  # fmt: skip


def _apart(ticks: Sequence[float], factor: float = 1.2) -> list[float]:
    """Ticks of a logarithmic axis that don't touch each other."""
    kept = []
    for tick in ticks:
        if not kept or tick >= factor * kept[-1]:
            kept.append(tick)
    return kept


def _headroom(axes: Axes, factor: float) -> None:
    """Room above the data, for the legend."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, low + (high - low) * factor)


def _size(parameters: float) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
