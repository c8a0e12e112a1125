"""Every figure, in one style, from finished tables: same colour = same method, the null always grey."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from PIL import Image

from .results import write_atomically
from .scoring import THRESHOLD

COLOURS = {"Patchscopes": "#D55E00", "Superscopes": "#0072B2"}  # told apart in every common colour blindness
NULL_COLOUR = "#8a8a8a"
NULL_NAMES = {"none": "nothing patched", "zero": "zeros", "random": "a random vector"}
LARGEST_PNG = 300 << 10  # bytes; a larger one gets a palette
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "pdf.fonttype": 42,
}


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
                _draw_method(axes, method, rows[rows["method"] == method])
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
            asked.text(0.36, s=("✓  " if row.described else "–  ") + _shown(row.text, 44), color=colour, **style)

        unasked.set_title("What it writes of nothing in particular")
        for line, (component, text) in enumerate(nulls):
            style = {"y": 0.95 - 0.062 * line, "fontsize": 8.5, "transform": unasked.transAxes, "va": "top"}
            style |= {"in_layout": False}
            unasked.text(0, s=NULL_NAMES[component], **style)
            unasked.text(0.3, s=_shown(text, 44), color=NULL_COLOUR, **style)
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


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write PNG and PDF beside each other; the same figure gives the same bytes."""
    path, png = Path(path), io.BytesIO()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    if png.tell() > LARGEST_PNG:
        palette = Image.open(png).convert("RGB").quantize(64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        png = io.BytesIO()
        palette.save(png, format="png", optimize=True)
    with write_atomically(path.with_suffix(".png"), "wb") as file:
        file.write(png.getvalue())
    with write_atomically(path.with_suffix(".pdf"), "wb") as file:
        figure.savefig(file, format="pdf", metadata={"CreationDate": None})


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


def _shown(text: str, length: int) -> str:
    """A text on one line, cut to a length; matplotlib takes no $ for mathematics."""
    text = text.replace("\n", "⏎").replace("$", r"\$")
    return text if len(text) <= length else text[: length - 1] + "…"


def _draw_method(axes: Axes, method: str, rows: pd.DataFrame) -> None:
    """A method's counts with 95 % intervals, over the band of its own null."""
    if rows.empty:
        return
    amplified = method == "Superscopes"
    axes.errorbar(
        rows["layer"] + (0.05 if amplified else -0.05),
        rows["interpreted"],
        yerr=[rows["interpreted"] - rows["low"], rows["high"] - rows["interpreted"]],
        color=COLOURS[method], marker="o" if amplified else "s", ms=5, lw=2, elinewidth=1, capsize=2, zorder=3,
        clip_on=False, label=f"{method} ({'best of the amplified' if amplified else 'α = 1'})",
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
            ls=":", marker="o" if method == "Superscopes" else "s", ms=4, mfc="white", zorder=2,
            label=f"{method}, {reference.attrs['name']}{scaled}",
        )  # fmt: skip
