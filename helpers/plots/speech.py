"""The page about a new model: can it speak?"""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from ..scoring import THRESHOLD
from .style import COLOURS, NULL_COLOUR, STYLE, shown

NULL_NAMES = {"none": "nothing patched", "zero": "zeros", "random": "a random vector"}


def speech_page(
    model: str,
    sentences: Sequence[str],
    named: pd.DataFrame,
    nulls: Sequence[tuple[str, str]],
    counts: pd.DataFrame,
    norms: pd.DataFrame,
    rho: pd.DataFrame,
) -> Figure:
    """One page that says whether a model can speak: the verdict, texts and layers behind it, norms to choose α by.

    Args:
        sentences, named, nulls, counts, norms, rho: of `can_it_speak`.
    """
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(10, 13.2), layout="constrained")
        grid = figure.add_gridspec(4, 2, height_ratios=[1.75, 4.3, 3.1, 2.9])
        head, asked, unasked = (figure.add_subplot(grid[place]) for place in ((0, slice(None)), (1, 0), (1, 1)))
        for axes in (head, asked, unasked):
            axes.set_axis_off()
        head.text(0, 0.96, f"{model}: can it speak?", fontsize=17, weight="bold", va="top")
        head.text(
            0, 0.76, sentences[0], fontsize=11.5, weight="bold", va="top", color=COLOURS["Superscopes"], in_layout=False
        )
        rest = "\n".join(textwrap.fill(f"· {line}", 135, subsequent_indent="  ") for line in sentences[1:])
        head.text(0, 0.58, rest, fontsize=9.5, va="top", linespacing=1.45, in_layout=False)

        asked.set_title("What it writes of entities named in plain text")
        note = f"✓ similar to its true description (above {THRESHOLD:g}), and not an echo"
        asked.text(0, -0.01, note, fontsize=8, color=NULL_COLOUR, transform=asked.transAxes, in_layout=False)
        step = 1 / (len(named) + 1)
        for line, row in enumerate(named.itertuples(), start=1):
            style = {"y": 1 - line * step, "fontsize": 8.5, "transform": asked.transAxes, "in_layout": False}
            colour = COLOURS["Superscopes"] if row.described else NULL_COLOUR
            asked.text(0, s=row.entity, **style)
            asked.text(0.36, s=("✓  " if row.described else "–  ") + shown(row.text, 44), color=colour, **style)

        unasked.set_title("What it writes of nothing in particular")
        for line, (component, text) in enumerate(nulls):
            style = {"y": 0.95 - 0.062 * line, "fontsize": 8.5, "transform": unasked.transAxes, "va": "top"}
            style |= {"in_layout": False}
            unasked.text(0, s=NULL_NAMES[component], **style)
            unasked.text(0.3, s=shown(text, 44), color=NULL_COLOUR, **style)
        _draw_norms(unasked.inset_axes([0.1, 0.07, 0.9, 0.47]), norms)

        _draw_readable(figure.add_subplot(grid[2, :]), counts, len(named))
        first = None
        for column, ((component, target), lines) in enumerate(rho.groupby(["component", "target"], sort=False)):
            axes = first = figure.add_subplot(grid[3, column], sharey=first)
            amplifiers = lines["amplifier"].unique()
            shades = plt.get_cmap("Blues")(np.linspace(0.35, 0.95, len(amplifiers)))
            for (amplifier, line), shade in zip(lines.groupby("amplifier"), shades, strict=True):
                axes.plot(line["layer"], line["rho"], color=shade, label=f"α = {amplifier:g}")
            axes.axhline(1, color=NULL_COLOUR, lw=1, ls="--")
            what = component.replace("mlp", "MLP").replace("_", " ") + "s, into "
            what += "the same layer" if target == "same" else f"layer {target}"
            axes.set(title=what[0].upper() + what[1:], xlabel="source layer (from 0)", yscale="log")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if not column:
                axes.set_ylabel("ρ: length beside what it replaces")
                axes.legend(ncols=2, fontsize=8)
    return figure


def _draw_norms(axes: Axes, norms: pd.DataFrame) -> None:
    styles = {"hidden_state": ("#000000", "-"), "mlp_output": ("#009E73", "-"), "placeholder": (NULL_COLOUR, "--")}
    labels = {
        "hidden_state": "hidden state",
        "mlp_output": "MLP output",
        "placeholder": "placeholder's own hidden state",
    }
    for name, (colour, style) in styles.items():
        axes.plot(norms["layer"], norms[name], color=colour, ls=style, label=labels[name])
    axes.set(yscale="log", xlabel="layer (from 0)", ylabel="norm (median)")
    axes.set_title("How long its vectors are")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)


def _draw_readable(axes: Axes, counts: pd.DataFrame, entities: int) -> None:
    """Entities read per layer by plain Patchscopes, over the band of chance."""
    axes.fill_between(counts["layer"], counts["null_low"], counts["null_high"], color=NULL_COLOUR, alpha=0.22, lw=0,
                      label="by chance (95 %): judged by other entities' descriptions")  # fmt: skip
    axes.plot(counts["layer"], counts["null_mean"], color=NULL_COLOUR, lw=1)
    axes.axhline(counts["null_high"].max(), color=NULL_COLOUR, lw=1, ls="--", label="at most by chance in any layer")
    axes.errorbar(
        counts["layer"], counts["interpreted"],
        yerr=[counts["interpreted"] - counts["low"], counts["high"] - counts["interpreted"]],
        color=COLOURS["Patchscopes"], marker="s", ms=5, lw=2, elinewidth=1, capsize=2, clip_on=False,
        label=f"read: similarity to the entity's description above {THRESHOLD:g}, and not an echo (bars: 95 %)",
    )  # fmt: skip
    axes.set(title="Hidden states read by plain Patchscopes (α = 1, into layer 0)", xlabel="source layer (from 0)",
             ylabel=f"entities (of {entities})", ylim=(0, entities * 1.38))  # fmt: skip
    axes.set_yticks(range(0, entities + 1, max(1, entities // 4)))  # the legend has the room above them
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8.5, loc="upper right")
