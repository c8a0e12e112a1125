"""Can this model speak? What it describes by name, what it writes of nothing, and where its vectors are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .. import InputError
from ..words.components import COMPONENTS, FINE_GRID, MLP_GRID, into, title
from ..words.methods import AMPLIFIED, PLAIN
from ..words.plans import Plan, make_plan
from ..words.prompts import read_gold
from ..words.settings import THRESHOLD, Cosine, FilePath, Layers, ReadSettings, TargetText, setting
from ..words.target import TargetPrompt
from ._publish import publish
from ._sentences import in_runs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..models.load import LanguageModel

PLACE, WHEN = 130, "check"
QUESTION = "a page about a new model"
PAPER = "–"
TABLE = "can_it_speak.csv"
NEEDS = ()
LOADS_MODEL = True  # it asks the model for more than a plan does

PAPER_ROWS = 48 * 7 * (len(MLP_GRID) + len(FINE_GRID))  # readings of the paper's two evaluations
NULL_NAMES = {"none": "nothing patched", "zero": "zeros", "random": "a random vector"}


class Settings(ReadSettings):
    """The parameters of the notebook."""

    prompts: FilePath = setting(
        "data/known_entities.csv", "a CSV with columns `prompt` and `gold`, relative to the repository"
    )
    layers: Layers = setting("all", 'source layers from 0: "all", "1-7", "1-3,9", "depth:0.1,0.5"')
    target_prompt: TargetText = setting("", "a few-shot prompt that ends in its placeholder; empty is the paper's")
    threshold: Cosine = THRESHOLD


def plans(settings: Settings) -> list[Plan]:
    """Ask for plain readings (α = 1, into layer 0) of the entities' hidden states.

    Raises:
        InputError: entities without descriptions, or a target prompt that goes on after its placeholder.
    """
    target = TargetPrompt.of_text(settings.target_prompt)
    if target.mark and target.text[target.mark[-1][1] :].strip():
        raise InputError("target_prompt", settings.target_prompt, "expected to end in its placeholder")
    return [
        make_plan(
            list(gold(settings)), "hidden_state", settings.layers, 1, target_layer=0, target_prompt=target,
            max_new_tokens=settings.max_new_tokens,
        )
    ]  # fmt: skip


def gold(settings: Settings) -> dict[str, str]:
    """Return the entities' descriptions, by which everything is judged.

    Raises:
        InputError: there are none, or all are the same.
    """
    if not (descriptions := read_gold(settings.prompts)):
        raise InputError("prompts", settings.prompts, "no column 'gold', by which readings are judged")
    if len(set(descriptions.values())) < 2:
        raise InputError("prompts", settings.prompts, "chance needs two entities with different descriptions")
    return descriptions


class Found(NamedTuple):
    """What the model says and what its vectors are like.

    Attributes:
        model: its name.
        rows: the readings.
        named: what it writes of each entity in plain text: entity, gold, text (first item), similarity, described;
            and after its name alone: continuation, continuation described; see `_speech.judge_named`.
        norms: medians per layer: hidden_state, mlp_output, placeholder.
        rho: ρ of typical vectors per component, target, layer and amplifier.
        nulls: (component, text) of nothing, zeros and random vectors.
        counts: entities read per layer (`judging.success_counts`).
        costs: rows per second, GiB at most.
    """

    model: str
    rows: pd.DataFrame
    named: pd.DataFrame
    norms: pd.DataFrame
    rho: pd.DataFrame
    nulls: list[tuple[str, str]]
    counts: pd.DataFrame
    costs: dict[str, float]


def tables(settings: Settings, rows: pd.DataFrame, lm: LanguageModel) -> Found:
    """Ask the model, measure its vectors, and judge its readings."""
    from ..judging.judge import Judge
    from . import _speech

    judge, entities = Judge(settings.judge, settings.threshold), gold(settings)
    target = TargetPrompt.of_text(settings.target_prompt).located(lm)
    written = _speech.describe_named(lm, list(entities), target, settings.max_new_tokens)
    followed = _speech.write_after(lm, list(entities), settings.max_new_tokens)
    norms = _speech.norms_by_layer(lm, list(entities), target)
    return Found(
        lm.slug,
        rows,
        _speech.judge_named(entities, written, target, judge, followed),
        norms,
        _speech.rho_by_layer(norms),
        _speech.null_readings(lm, norms["hidden_state"].iloc[len(norms) // 3], target, settings.max_new_tokens),
        _speech.judge_readings(rows, entities, judge),
        _speech.cost(lm, len(rows), rows.attrs["seconds"]["run"]),
    )


def layers_above_chance(counts: pd.DataFrame) -> str:
    """Return the layers in which more entities are read than by chance in any layer, as "1–7, 9", or "".

    The limit is the largest of all layers' 97.5 % points: of many layers tested one by one, some would pass by luck.
    """
    return in_runs(counts.loc[counts["interpreted"] > counts["null_high"].max(), "layer"])


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say what the page says, the conclusion first."""
    n, described, chance = len(found.named), int(found.named["described"].sum()), found.named.attrs["by_chance"]
    counts, costs, above = found.counts, found.costs, layers_above_chance(found.counts)
    read = counts.set_index("layer")["interpreted"]
    in_two = (read + read.shift(-1)).where(read.index.diff(-1) == -1) / 2  # neighbouring layers: one may be an accident
    usually = read.max() if in_two.isna().all() else in_two.max()
    best = counts.loc[counts["interpreted"].idxmax()]
    where = f"layer{'' if above.isdigit() else 's'} {above}" if above else "no layer"
    minutes = PAPER_ROWS / costs["rows per second"] / 60
    middle = found.norms.iloc[len(found.norms) // 2]
    if described <= max(chance["high"], n / 2):
        head = "It can hardly speak: named in plain text, too few entities are described for readings to mean much."
    elif not above:
        head = "It can speak, but plain readings of its hidden states are within chance: a long sweep is a gamble."
    elif usually < described / 2:
        head = "It can speak, but little of what it could say is read from its hidden states: expect small counts."
    else:
        head = "It can speak, and its hidden states can be read: worth a sweep."
    return [
        head,
        (
            f"Named in plain text, it describes {described} of {n} entities (by chance {chance['mean']:.1f}, at most "
            f"{chance['high']}){_continued(found.named)}."
        ),
        (
            f"Plain Patchscopes (α = 1, into layer 0) reads more hidden states than by chance (at most "
            f"{counts['null_high'].max():g}, in any layer) in {where}; most in layer "
            f"{best['layer']}: {best['interpreted']} of {n} (by chance {best['null_mean']:.1f} on average)."
        ),
        (
            f"In the middle, layer {middle['layer']:.0f}, an MLP output is {middle['mlp_output'] / middle['placeholder']:.2g} "
            f"times as long as the placeholder's own hidden state there, a hidden state "
            f"{middle['hidden_state'] / middle['placeholder']:.2g} times."
        ),
        (
            f"The paper's two evaluations ({PAPER_ROWS:,} readings) would take about {max(1, round(minutes))} min here, at "
            f"{round(costs['rows per second'], 1):g} a second, and {round(costs['GiB at most'], 2):g} GiB of memory."
        ),
    ]


def _continued(named: pd.DataFrame) -> str:
    """Say how many entities are described by what follows their names by themselves, without any target prompt."""
    if "continuation" not in named:
        return ""
    count, chance = int(named["continuation described"].sum()), named.attrs["continuation_by_chance"]
    return f"; what follows their names by themselves describes {count} (by chance {chance['mean']:.1f}, at most {chance['high']})"


def caption(settings: Settings, found: Found) -> str:
    """Say what the marks on the page mean."""
    return f"✓ similar to its true description (above {settings.threshold:g}), and not an echo"


def figure(settings: Settings, found: Found) -> Figure:
    """Draw one page: the verdict, the texts and layers behind it, and norms to choose amplifiers by."""
    import textwrap

    import matplotlib.pyplot as plt

    from ..figures.style import STYLE

    said = sentences(settings, found)
    with plt.rc_context(STYLE):
        drawn = plt.figure(figsize=(10, 13.2), layout="constrained")
        grid = drawn.add_gridspec(4, 2, height_ratios=[1.75, 4.3, 3.1, 2.9])
        head, asked, unasked = (drawn.add_subplot(grid[place]) for place in ((0, slice(None)), (1, 0), (1, 1)))
        for axes in (head, asked, unasked):
            axes.set_axis_off()
        head.text(0, 0.96, f"{found.model}: can it speak?", fontsize=17, weight="bold", va="top")
        look = {"fontsize": 11.5, "weight": "bold", "va": "top", "color": AMPLIFIED.colour, "in_layout": False}
        head.text(0, 0.76, said[0], **look)
        rest = "\n".join(textwrap.fill(f"· {line}", 135, subsequent_indent="  ") for line in said[1:])
        head.text(0, 0.58, rest, fontsize=9.5, va="top", linespacing=1.45, in_layout=False)
        _write_named(asked, found.named, caption(settings, found))
        _write_nulls(unasked, found.nulls)
        _draw_norms(unasked.inset_axes([0.1, 0.07, 0.9, 0.47]), found.norms)
        _draw_readable(drawn.add_subplot(grid[2, :]), found.counts, len(found.named), settings.threshold)
        first = None
        for column, ((component, target), lines) in enumerate(found.rho.groupby(["component", "target"], sort=False)):
            first = drawn.add_subplot(grid[3, column], sharey=first)
            _draw_rho(first, lines)
            first.set(title=f"{title(component)}, {into(target)}", xlabel="source layer (from 0)", yscale="log")
            if not column:
                first.set_ylabel("ρ: length beside what it replaces")
                first.legend(ncols=2, fontsize=8)
    return drawn


def _write_named(axes: Axes, named: pd.DataFrame, note: str) -> None:
    from ..figures.style import NULL_COLOUR, one_line

    axes.set_title("What it writes of entities named in plain text")
    axes.text(0, -0.01, note, fontsize=8, color=NULL_COLOUR, transform=axes.transAxes, in_layout=False)
    step = 1 / (len(named) + 1)
    for line, row in enumerate(named.itertuples(), start=1):
        style = {"y": 1 - line * step, "fontsize": 8.5, "transform": axes.transAxes, "in_layout": False}
        colour = AMPLIFIED.colour if row.described else NULL_COLOUR
        axes.text(0, s=row.entity, **style)
        axes.text(0.36, s=("✓  " if row.described else "–  ") + one_line(row.text, 44), color=colour, **style)


def _write_nulls(axes: Axes, nulls: Sequence[tuple[str, str]]) -> None:
    from ..figures.style import NULL_COLOUR, one_line

    axes.set_title("What it writes of nothing in particular")
    for line, (component, text) in enumerate(nulls):
        style = {"y": 0.95 - 0.062 * line, "fontsize": 8.5, "transform": axes.transAxes, "va": "top"}
        style |= {"in_layout": False}
        axes.text(0, s=NULL_NAMES[component], **style)
        axes.text(0.3, s=one_line(text, 44), color=NULL_COLOUR, **style)


def _draw_norms(axes: Axes, norms: pd.DataFrame) -> None:
    from matplotlib.ticker import NullFormatter

    from ..figures import panels
    from ..figures.style import NULL_COLOUR

    lines = {
        "hidden_state": (COMPONENTS["hidden_state"].singular, "#000000", "-"),
        "mlp_output": (COMPONENTS["mlp_output"].singular, "#009E73", "-"),
        "placeholder": ("placeholder's own hidden state", NULL_COLOUR, "--"),
    }
    for name, (label, colour, style) in lines.items():
        axes.plot(norms["layer"], norms[name], color=colour, ls=style, label=label)
    axes.set(yscale="log", xlabel="layer (from 0)", ylabel="norm (median)")
    axes.set_title("How long its vectors are")
    axes.yaxis.set_minor_formatter(NullFormatter())
    panels.whole_numbers(axes.xaxis)
    axes.legend(fontsize=8)


def _draw_readable(axes: Axes, counts: pd.DataFrame, entities: int, threshold: float) -> None:
    """Draw the entities read per layer by plain Patchscopes, over the band of chance."""
    from ..figures import panels
    from ..figures.style import NULL_COLOUR

    panels.chance_band(axes, counts["layer"], counts, label="by chance (95 %): judged by other entities' descriptions")
    axes.plot(counts["layer"], counts["null_mean"], color=NULL_COLOUR, lw=1)
    most = counts["null_high"].max()
    axes.axhline(most, color=NULL_COLOUR, lw=1, ls="--", label="at most by chance in any layer")
    axes.errorbar(
        counts["layer"], counts["interpreted"],
        yerr=[counts["interpreted"] - counts["low"], counts["high"] - counts["interpreted"]],
        color=PLAIN.colour, marker=PLAIN.marker, ms=5, lw=2, elinewidth=1, capsize=2, clip_on=False,
        label=f"read: similarity to the entity's description above {threshold:g}, and not an echo (bars: 95 %)",
    )  # fmt: skip
    axes.set(title="Hidden states read by plain Patchscopes (α = 1, into layer 0)", xlabel="source layer (from 0)",
             ylabel=f"entities (of {entities})", ylim=(0, entities * 1.38))  # fmt: skip
    axes.set_yticks(range(0, entities + 1, max(1, entities // 4)))  # the legend has the room above them
    panels.whole_numbers(axes.xaxis)
    axes.legend(fontsize=8.5, loc="upper right")


def _draw_rho(axes: Axes, rho: pd.DataFrame) -> None:
    import matplotlib.pyplot as plt
    import numpy as np

    from ..figures import panels
    from ..figures.style import NULL_COLOUR

    amplifiers = rho["amplifier"].unique()
    shades = plt.get_cmap("Blues")(np.linspace(0.35, 0.95, len(amplifiers)))
    for (amplifier, line), shade in zip(rho.groupby("amplifier"), shades, strict=True):
        axes.plot(line["layer"], line["rho"], color=shade, label=f"α = {amplifier:g}")
    axes.axhline(1, color=NULL_COLOUR, lw=1, ls="--")
    panels.whole_numbers(axes.xaxis)


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the page, and beside the readings everything that it says."""
    frames = {"named": found.named, "counts": found.counts, "norms": found.norms.round(3), "rho": found.rho.round(3)}
    about = found.rows.attrs | {name: frame.to_dict("records") for name, frame in frames.items()}
    about |= found.named.attrs | {"nulls": found.nulls, "verdict": sentences(settings, found)}
    publish(folder, {"can_it_speak": drawn}, found.rows, TABLE, about)
