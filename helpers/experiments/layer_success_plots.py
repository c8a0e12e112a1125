"""In how many prompts is the subject legible, layer by layer?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from .. import ROOT, InputError
from ..words.components import COMPONENTS, into
from ..words.methods import AMPLIFIED, METHODS
from ..words.plans import Plan
from ..words.prompts import read_prompts
from ..words.settings import THRESHOLD, Cosine, FilePaths, Form, StoredSettings, setting
from ._evaluated import FILES, folder_of
from ._publish import publish
from ._sentences import best_of

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLACE, WHEN = 30, "default"
QUESTION = "in how many prompts is the subject legible, layer by layer?"
PAPER = "Figure 3"
TABLE = ""
NEEDS = FILES

REFERENCE, REFERENCE_NAME = "data/reference/llama-2-13b-chat.csv", "Llama-2-13b-chat (paper)"
OTHERS = "data/prompts.csv"  # against which the readings of a single prompt are scored
GRID = [
    "component", "target layer", "target prompt", "seed", "source prompt", "position", "layer", "amplification value",
]  # fmt: skip


def _check_component(parameter: str, value: object) -> str:
    if value not in COMPONENTS:
        raise InputError(parameter, value, f"expected one of {', '.join(COMPONENTS)}")
    return value


class Settings(StoredSettings):
    """The parameters of the notebook."""

    results: FilePaths = setting(
        (), "CSVs to read, relative to the repository; empty is every evaluation in out_dir"
    )
    component: Annotated[str, Form(_check_component)] = setting(
        "mlp_output", "what was inspected, for CSVs without a column `component`"
    )
    threshold: Cosine = THRESHOLD


def plans(settings: Settings) -> list[Plan]:
    """Ask a model for nothing: the evaluations' readings are counted."""
    return []


def gold(settings: Settings) -> dict[str, str]:
    """Judge nothing by descriptions."""
    return {}


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        label: whose readings they are, for the figure; models: as their JSONs name them.
        per_layer, overall: of `judging.success_counts`.
    """

    label: str
    models: list[str]
    per_layer: pd.DataFrame
    overall: pd.DataFrame


def read(settings: Settings) -> pd.DataFrame:
    """Read the evaluations, or any CSVs in the same form: also the authors' own, as they published them."""
    from ..runs.results import evaluations, read_results

    return read_results(settings.results or evaluations(folder_of(settings)), settings.component)


def check_grid(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find gaps and repeats of a table of rows, per component: what is missing of prompt × layer × amplifier.

    Returns:
        gaps: grid points without a row; repeats: grid points with more than one, and how many.
    """
    import pandas as pd

    keys = [column for column in GRID if column in rows]
    counted = rows.groupby(keys, dropna=False, sort=False).size().rename("rows").reset_index()
    gaps = []
    axes = ["source prompt", "layer", "amplification value"]
    for (component, _), part in rows.assign(patched=rows["amplification value"] != 1).groupby(
        ["component", "patched"], sort=False
    ):  # α = 1 may stand in a file, and on layers, of its own
        full = pd.MultiIndex.from_product([part[axis].unique() for axis in axes], names=axes)
        missing = full.difference(pd.MultiIndex.from_frame(part[axes]), sort=False)
        gaps.append(missing.to_frame(index=False).assign(component=component))
    return pd.concat(gaps, ignore_index=True), counted[counted["rows"] > 1].reset_index(drop=True)


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Count the interpreted prompts per layer, beside chance."""
    from ..judging.counts import success_counts
    from ..judging.judge import Judge

    models = rows.attrs["models"]
    counts = success_counts(rows, Judge(settings.judge, settings.threshold), others=read_prompts(OTHERS))
    return Found(", ".join(models) or settings.model, models, *counts)


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say, per component, what the counts say: each method beside its own chance."""
    return [f"**{component}.** {_verdict(found, component)}" for component in found.per_layer["component"].unique()]


def _verdict(found: Found, component: str) -> str:
    per_layer, overall = (table[table["component"] == component] for table in (found.per_layer, found.overall))
    parts = []
    for row in overall.itertuples():
        tries = per_layer.loc[per_layer["method"] == row.method, "tries"]
        counted = f"{row.interpreted}, by chance {row.null_mean:.0f} ({row.null_low} to {row.null_high})"
        parts.append(f"{row.method} ({best_of(tries)}) {counted}")
    sentence = f"Over all layers, of {overall['pairs'].iloc[0]} (prompt, layer) pairs: {'; '.join(parts)}."
    amplified = overall[overall["method"] == AMPLIFIED.name]
    if len(amplified) and (amplified["interpreted"] <= amplified["null_high"]).all():
        sentence += f" Amplification shows no effect here: {AMPLIFIED.name} is within chance."
    return sentence


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    return (
        f"{found.label}, {found.per_layer['prompts'].iloc[0]} prompts. Interpreted: a reading's similarity to its prompt is "
        f"above {settings.threshold:g}. Bars: 95 % intervals. Grey, chance: the same readings scored against other prompts "
        "(all rotations); more readings succeed more often by chance, so compare each method with its own."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw Figure 3, a panel per component; the paper's own counts lightly beside it, for scale."""
    import textwrap

    import matplotlib.pyplot as plt
    import pandas as pd

    from ..figures import panels
    from ..figures.style import STYLE

    reference, components = pd.read_csv(ROOT / REFERENCE), found.per_layer["component"].unique()
    width = 1.0 + 4.5 * len(components)  # inches
    with plt.rc_context(STYLE):
        drawn, (row,) = plt.subplots(
            1, len(components), figsize=(width, 5.2), sharey=True, squeeze=False, layout="constrained"
        )
        for axes, component in zip(row, components, strict=True):
            counts = found.per_layer[found.per_layer["component"] == component]
            panels.layer_counts(axes, counts)
            _draw_reference(axes, reference[reference["component"] == component], counts["prompts"].iloc[0])
            prompts, target = counts[["prompts", "target"]].iloc[0]
            singular = COMPONENTS[component].singular if component in COMPONENTS else component
            title = f"{singular}, patched {into(target)}" if target else singular
            axes.set(title=title[0].upper() + title[1:], xlabel="source layer (from 0)", ylim=(0, prompts * 1.02))
            panels.whole_numbers(axes.xaxis)
            axes.set_xmargin(0.06)
            note = {"va": "top", "fontsize": 8.5, "linespacing": 1.4, "transform": axes.transAxes}
            axes.text(0, -0.19, textwrap.fill(_verdict(found, component), 66), **note)
        row[0].set_ylabel(f"interpreted prompts (of {prompts})")
        panels.legend_below(
            drawn, *row, columns=min(3, 1 + len(components)), size=8.5, place="outside lower left",
            order=lambda label: ("," in label, label.startswith("chance")),  # methods first
        )  # fmt: skip
        return panels.finish(drawn, caption(settings, found), int(14 * width))


def _draw_reference(axes: Axes, reference: pd.DataFrame, prompts: int) -> None:
    """Draw another model's counts lightly, scaled to this number of prompts."""
    for name, rows in reference.groupby("method"):
        scaled = "" if (rows["prompts"] == prompts).all() else ", scaled"
        axes.plot(
            rows["layer"], rows["interpreted"] * prompts / rows["prompts"], color=METHODS[name].colour, alpha=0.35, lw=1.2,
            ls=":", marker=METHODS[name].marker, ms=4, mfc="white", zorder=2,
            label=f"{name}, {REFERENCE_NAME}{scaled}",
        )  # fmt: skip


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the counts."""
    about = {"models": found.models, "threshold": settings.threshold, "overall": found.overall.to_dict("records")}
    publish(folder, {"layer_success": drawn}, found.per_layer, "layer_success.csv", about)
