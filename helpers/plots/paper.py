"""The paper's pictures: the story of Figure 1, the ladder of Figure 2, what is legible before ℓ_c (Tables 1–3)."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..scoring import THRESHOLD
from .style import COLOURS, MARKERS, METHODS, NULL_COLOUR, STYLE, shown

INK = "#1f2933"
PAPER = "#f6f7f9"


def story_picture(
    story: Mapping[str, object], tokens: Sequence[str], model: str, gold: str, control: str, sentence: str = ""
) -> Figure:
    """Figure 1 of the paper, from a real run: h_PreMLP → mlp → amplified mlp → + → h, and what each says.

    Args:
        story: of `context.find_story`.
        tokens: of its prompt.
        gold: the description that "legible" is judged by.
        control: what chance does.
        sentence: last, in bold: that the story doesn't hold, or how often it does.
    """
    steps = story["steps"]
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(12, 5.4))
        axes = figure.add_axes([0, 0, 1, 1], xlim=(0, 12), ylim=(0, 5.4))
        axes.set_axis_off()
        axes.text(0.4, 5.0, "Amplify a vector until it can be read", fontsize=19, weight="bold", color=INK, va="center")
        about = f"{model} · source layer {story['layer']} (from 0) · into layer {story['target layer']}"
        axes.text(11.6, 5.0, about, fontsize=10.5, color=NULL_COLOUR, ha="right", va="center")

        x = 0.4
        for number, token in enumerate(tokens):
            text = token.strip() or "␣"
            wide = 0.26 + 0.105 * len(text)
            last = number == len(tokens) - 1
            colour = COLOURS["Superscopes"] if last else "#d5dae1"
            _box(axes, x, 4.12, wide, 0.42, fc=colour if last else PAPER, ec=colour, rounding=0.1)
            axes.text(x + wide / 2, 4.33, text, ha="center", va="center", fontsize=11.5, color="w" if last else INK)
            x += wide + 0.09
        axes.text(x + 0.12, 4.33, "← the vectors of this token", fontsize=10, color=NULL_COLOUR, va="center")

        blue = COLOURS["Superscopes"]
        amplified = f"{story['amplifier']:g} × MLP output"
        places = (
            ("pre_mlp_residual", "before the MLP", "residual h_PreMLP, α = 1", 0.4, 2.25, INK),
            ("mlp_output", "MLP output", "what the MLP adds, α = 1", 3.25, 2.25, INK),
            ("amplified", amplified, "the same vector, amplified", 6.1, 2.65, blue),
            ("hidden_state", "hidden state", "h_PreMLP + MLP output, α = 1", 9.35, 2.25, INK),
        )
        for name, title, what, left, wide, colour in places:
            strong = name == "amplified"
            _box(
                axes,
                left,
                1.5,
                wide,
                2.1,
                fc="#eaf3fa" if strong else "w",
                ec=colour if strong else "#c3cad3",
                lw=2.2 if strong else 1.2,
            )
            axes.text(left + 0.16, 3.36, title, fontsize=12.5, weight="bold", color=colour, va="center")
            axes.text(left + 0.16, 3.08, what, fontsize=8.8, color=NULL_COLOUR, va="center")
            reading = textwrap.fill("“" + shown(steps[name]["reading"] or " ", 60) + "”", 19 if not strong else 22)
            axes.text(left + 0.16, 2.87, reading, fontsize=12.5, color=INK, va="top", linespacing=1.2)
            legible = steps[name]["legible"]
            mark = f"{'✓ legible' if legible else '– not legible'}   {steps[name]['score gold']:.2f}"
            axes.text(left + 0.16, 1.69, mark, fontsize=10, color=blue if legible else NULL_COLOUR, va="center")
        for start, end, label in ((2.67, 3.23, "MLP"), (5.52, 6.08, f"× {story['amplifier']:g}"), (8.77, 9.33, "+")):
            axes.add_patch(
                FancyArrowPatch((start, 2.5), (end, 2.5), arrowstyle="-|>", mutation_scale=15, color=INK, lw=1.4)
            )
            axes.text((start + end) / 2 - 0.02, 2.72, label, ha="center", fontsize=11.5, color=INK)

        axes.plot([0.4, 11.6], [1.22, 1.22], color="#d5dae1", lw=1)
        asked = "Each vector takes the place of x in “Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: … , x”, and the model goes on writing."
        judged = f"Legible: similarity to “{gold}” above {THRESHOLD:g}, and not an echo. {control}"
        colour = INK if story["holds"] else COLOURS["Patchscopes"]
        axes.text(0.4, 0.93, asked, fontsize=9.6, color=INK, va="center")
        axes.text(0.4, 0.62, judged, fontsize=9.6, color=INK, va="center")
        axes.text(0.4, 0.29, sentence, fontsize=9.6, color=colour, va="center", weight="bold")
    return figure


def guidance_ladder(rows: pd.DataFrame, layer: int, model: str) -> Figure:
    """Figure 2 and §3.5 of the paper: readings of α·mlp and of h_PreMLP + w·mlp, scale by scale, and their scores.

    Args:
        rows: of `experiments.guidance`, scored by gold; column `legible`.
        layer: the one whose readings are written out; its neighbours are drawn lightly.
    """
    forms = {"mlp_output": ("α · MLP output", "α"), "guidance": ("h_PreMLP + w · MLP output (guidance)", "w")}
    prompt = rows["source prompt"].iloc[0]
    scales = sorted(rows.loc[rows["component"] == "guidance", "amplification value"].unique())
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(11.5, 2.6 + 0.27 * len(scales) + 2.2), layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=[0.27 * len(scales) + 0.6, 2.3])
        curves = None
        for column, (component, (title, symbol)) in enumerate(forms.items()):
            here = rows[(rows["component"] == component) & (rows["layer"] == layer)].sort_values("amplification value")
            ladder = figure.add_subplot(grid[0, column], xlim=(0, 10), ylim=(len(here) - 0.4, -1.2))
            ladder.set_axis_off()
            ladder.set_title(f"{title}, layer {layer}")
            for place, label, align in (
                (0.3, symbol, "right"),
                (1.0, "ρ", "right"),
                (1.3, "what the model writes", "left"),
                (9.9, "similarity", "right"),
            ):
                ladder.text(place, -0.9, label, fontsize=8.5, color=NULL_COLOUR, ha=align)
            for line, row in enumerate(here.itertuples()):
                rho, gold = row.rho, here["score gold"].iloc[line]
                colour = COLOURS["Superscopes"] if row.legible else NULL_COLOUR
                ladder.barh(line, 8.5 * max(gold, 0), left=1.2, height=0.86, color=colour, alpha=0.16, lw=0)
                ladder.text(
                    0.3, line, f"{here['amplification value'].iloc[line]:g}", ha="right", va="center", fontsize=9
                )
                ladder.text(1.0, line, f"{rho:.2g}", ha="right", va="center", fontsize=8, color=NULL_COLOUR)
                weight = "bold" if row.legible else "normal"
                ladder.text(
                    1.3,
                    line,
                    shown(row.result.strip(), 52),
                    va="center",
                    fontsize=9,
                    color=colour if row.legible else INK,
                    weight=weight,
                )
                ladder.text(9.9, line, f"{gold:.2f}", ha="right", va="center", fontsize=8.5, color=colour)
            curves = figure.add_subplot(grid[1, column], sharey=curves)
            for one, part in rows[rows["component"] == component].groupby("layer"):
                part = part.sort_values("amplification value")
                main = one == layer
                curves.plot(part["amplification value"], part["score gold"], color=COLOURS["Superscopes"], lw=2.2 if main else 1.1,
                            alpha=1 if main else 0.45, ls="-" if main else ":" if one < layer else "--", marker="o" if main else None, ms=4, label=f"layer {one}")  # fmt: skip
            for one, name, mark in ((0, "pre_mlp_residual", "v"), (1, "hidden_state", "D")):
                if component == "guidance":
                    plain = rows[(rows["component"] == name) & (rows["layer"] == layer)]["score gold"].iloc[0]
                    label = {"pre_mlp_residual": "h_PreMLP, plain", "hidden_state": "hidden state, plain"}[name]
                    curves.plot(
                        [one],
                        [plain],
                        mark,
                        ms=8,
                        mfc="none",
                        mec=COLOURS["Patchscopes"],
                        mew=1.6,
                        label=label,
                        ls="none",
                    )
            if component == "mlp_output":
                plain = rows[
                    (rows["component"] == "mlp_output") & (rows["layer"] == layer) & (rows["amplification value"] == 1)
                ]["score gold"].iloc[0]
                curves.plot(
                    [1],
                    [plain],
                    "s",
                    ms=8,
                    mfc="none",
                    mec=COLOURS["Patchscopes"],
                    mew=1.6,
                    label="plain (α = 1)",
                    ls="none",
                )
            curves.axhline(THRESHOLD, color=NULL_COLOUR, lw=1, ls="--")
            curves.set(xlabel=symbol, ylim=(-0.15, 1.0))
            if not column:
                curves.set_ylabel("similarity to\nthe description")
            curves.legend(fontsize=8, ncols=3, loc="upper right")
        heading = (
            f"{model}, “{prompt}”, last token, one reading a scale. Similarity: of the reading to the entity's description; blue: above "
            f"{THRESHOLD:g} and not an echo. ρ: length beside what it replaces."
        )
        figure.suptitle(textwrap.fill(heading, 150), x=0.01, ha="left", fontsize=9.5)
    return figure


def before_context_figure(context: pd.Series, earlier: Mapping[str, Mapping[str, Mapping]], model: str) -> Figure:
    """Tables 1–3 as claims over all prompts: when entities appear, and in how many they are legible before that.

    Args:
        context: ℓ_c per prompt.
        earlier: component -> method -> effect of `legible` (a rate over prompts), of `layers` (a mean): `context.among_contextualized`.
    """
    with plt.rc_context(STYLE):
        figure, (when, many, how) = plt.subplots(
            1, 3, figsize=(11.5, 4.3), layout="constrained", width_ratios=[1.1, 1, 1]
        )
        found = context[context >= 0]
        when.bar(*np.unique(found, return_counts=True), color=INK, width=0.8)
        when.set(
            xlabel="ℓ_c, the first of two legible layers", ylabel="prompts", title="When entities appear, plainly read"
        )
        never = f"never contextualized: {(context < 0).sum()} of {len(context)}"
        when.text(0.98, 0.97, never, transform=when.transAxes, ha="right", va="top", fontsize=9, color=NULL_COLOUR)
        when.xaxis.set_major_locator(MaxNLocator(integer=True))
        when.yaxis.set_major_locator(MaxNLocator(integer=True))
        for axes, what, title, label in (
            (many, "legible", "Legible in a layer before ℓ_c", "share of prompts"),
            (how, "layers", "How many layers earlier", "layers, mean over prompts"),
        ):
            _draw_pairs(
                axes,
                {
                    component: {method: one[what] for method, one in methods.items()}
                    for component, methods in earlier.items()
                },
            )
            counts = {component: next(iter(methods.values()))["legible"]["n"] for component, methods in earlier.items()}
            axes.set_xticks(
                range(len(counts)),
                [f"{'MLP outputs' if c == 'mlp_output' else 'hidden states'}\n(n = {n})" for c, n in counts.items()],
            )
            axes.set(title=title, ylabel=label)
            axes.set_ylim(0, None)
        many.set_ylim(0, 1.02)
        many.yaxis.set_major_formatter(PercentFormatter(1))
        handles, labels = many.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
        heading = (
            f"{model}. ℓ_c: the first layer whose plain hidden state (into layer 0), and the next one's, is similar to the "
            f"entity's description (above {THRESHOLD:g}, not an echo). n: prompts with a layer before ℓ_c, read up to layer "
            "7. Bars: 95 % intervals of the distance to chance. Grey, chance: the same readings judged by other prompts' "
            "descriptions, ℓ_c included (95 % of all rotations)."
        )
        figure.suptitle(textwrap.fill(heading, 150), x=0.01, ha="left", fontsize=9.5)
    return figure


def _draw_pairs(axes: Axes, effects: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Rates of both methods beside each other, each over its own chance."""
    for place, methods in enumerate(effects.values()):
        for offset, (method, one) in zip((-0.16, 0.16), methods.items(), strict=True):
            x = place + offset
            first = place == 0
            axes.fill_between([x - 0.13, x + 0.13], one["null_low"], one["null_high"], color=NULL_COLOUR, alpha=0.28, lw=0,
                              label="by chance (95 %)" if first and offset < 0 else None)  # fmt: skip
            axes.plot([x - 0.13, x + 0.13], [one["null"]] * 2, color=NULL_COLOUR, lw=1.2)
            error = [[one["effect"] - one["low"]], [one["high"] - one["effect"]]]
            axes.errorbar([x], [one["rate"]], yerr=error, color=COLOURS[method], marker=MARKERS[method],
                          ms=7, elinewidth=1.4, capsize=3, ls="none", label=METHODS[method] if first else None)  # fmt: skip
    axes.set_xlim(-0.5, len(effects) - 0.5)


def _box(axes: Axes, x: float, y: float, wide: float, high: float, rounding: float = 0.14, **look) -> None:
    axes.add_patch(FancyBboxPatch((x, y), wide, high, boxstyle=f"round,pad=0,rounding_size={rounding}", **look))
