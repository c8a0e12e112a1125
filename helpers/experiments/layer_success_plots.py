"""In how many prompts is the subject legible, layer by layer?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, NamedTuple

from .. import ROOT, InputError
from ..judging.rules import RULES
from ..words.components import COMPONENTS, into, plural
from ..words.methods import AMPLIFIED, BLIND, CHOICES, METHODS, PLAIN, Method
from ..words.prompts import read_categories, read_prompts
from ..words.settings import PROMPTS, THRESHOLD, Choice, Cosine, FilePath, FilePaths, Form, StoredSettings, setting
from ._evaluated import FILES, chosen_blind, fitted_folders, folder_of, with_confidence
from ._publish import publish
from ._sentences import best_of, interpreted
from ._usual import ask_for_nothing, described

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

REFERENCE_MODEL = "llama-2-13b-chat"  # the paper's
REFERENCE, REFERENCE_NAME = f"data/{REFERENCE_MODEL}/layer_success.csv", "Llama-2-13b-chat (paper)"
OTHERS = "data/prompts.csv"  # against which the readings of a single prompt are scored
GRID = [
    "component", "target layer", "target prompt", "seed", "source prompt", "position", "layer", "amplification value",
]  # fmt: skip


def _check_component(parameter: str, value: object) -> str:
    if value not in COMPONENTS:
        raise InputError(parameter, value, f"expected one of {', '.join(COMPONENTS)}")
    return value


BLIND_BY = {  # criterion -> how the blind reading is found, for the caption
    "confidence": "the one that is most likely right by what the model itself tells of it (confidence)",
    "agreement_contrast": "the one that agrees most with the token's readings in other layers, less with other tokens' "
    "(agreement_contrast)",
    "agreement": "the one that agrees most with the token's readings in other layers (agreement)",
    "agreement_amplifiers": "the one that agrees most with those of other amplifiers (agreement_amplifiers)",
    "": "the only one",
}


class Settings(StoredSettings):
    """The parameters of the notebook."""

    choice: Choice = setting(
        "blind", 'which reading of a vector counts: "blind", chosen without the prompt; or "similarity", the paper\'s: the '
        "best amplified one, chosen by similarity to the prompt, or to what judges",
    )  # fmt: skip
    results: FilePaths = setting(
        (), "CSVs to read, relative to the repository; empty is every evaluation in out_dir"
    )
    prompts: FilePath = PROMPTS
    component: Annotated[str, Form(_check_component)] = setting(
        "mlp_output", "what was inspected, for CSVs without a column `component`"
    )
    threshold: Cosine = THRESHOLD


plans, gold = ask_for_nothing, described


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        label: whose readings they are, for the figure; models: as their JSONs name them.
        rules: by what readings are judged, the leading rule first.
        criteria: component -> by what its blind reading is chosen; see BLIND_BY.
        per_layer, overall: of `judging.success_counts`, under each rule (column `judged by`), of all methods, also of
            those that `choice` doesn't draw.
    """

    label: str
    models: list[str]
    rules: list[str]
    criteria: dict[str, str]
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
    """Count the interpreted prompts per layer under each rule, beside chance: plain, the best, and the one chosen blind."""
    from ..judging.counts import counts_by_rule
    from ..judging.judge import Judge

    models, judge = rows.attrs["models"], Judge(settings.judge, settings.threshold)
    rows, criteria = chosen_blind(with_confidence(rows, *fitted_folders(settings)), judge)
    others, categories, methods = read_prompts(OTHERS), read_categories(settings.prompts), (*METHODS.values(), BLIND)
    counts = counts_by_rule(rows, judge, gold(settings), others, categories, methods)
    return Found(", ".join(models) or settings.model, models, list(counts[0]["judged by"].unique()), criteria, *counts)


def drawn_methods(settings: Settings) -> list[Method]:
    """Return the methods that the figure shows: the plain reading, and the choice."""
    return [PLAIN, CHOICES[settings.choice][0]]


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say, per rule and component, what the counts say: each method beside its chance."""
    return [
        f"**{component}, {RULES[rule].label}.** {_verdict(settings, found, component, rule)}"
        for rule in found.rules
        for component in found.per_layer["component"].unique()
    ]


def _verdict(settings: Settings, found: Found, component: str, rule: str) -> str:
    names = [method.name for method in drawn_methods(settings)]
    per_layer, overall = (
        table[(table["component"] == component) & (table["judged by"] == rule) & table["method"].isin(names)]
        for table in (found.per_layer, found.overall)
    )
    parts = []
    for row in overall.to_dict("records"):
        tries = per_layer.loc[per_layer["method"] == row["method"], "tries"]
        counted = f"{row['interpreted']}, by chance {row['null_mean']:.0f} ({row['null_low']:.0f} to {row['null_high']:.0f})"
        if row.get("same_mean", math.nan) == row.get("same_mean"):
            counted += f", by chance of the category {row['same_mean']:.0f}"
        parts.append(f"{row['method']} ({best_of(tries)}) {counted}")
    sentence = f"Over all layers, of {overall['pairs'].iloc[0]} (prompt, layer) pairs: {'; '.join(parts)}."
    chosen = overall[overall["method"] == names[-1]]
    if len(chosen) and (chosen["interpreted"] <= chosen["null_high"]).all():
        what = "Amplification shows no effect here: " if names[-1] == AMPLIFIED.name else ""
        sentence += f" {what}{names[-1]} is within chance."
    return sentence


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    same = "; dots: its mean by others of the category" if "same_mean" in found.per_layer else ""
    method, in_words = CHOICES[settings.choice]
    if method is BLIND:
        by = {component: BLIND_BY[criterion] for component, criterion in found.criteria.items()}
        ways = list(dict.fromkeys(by.values()))
        said = ways[0] if len(ways) == 1 else "; ".join(f"{plural(component)}, {way}" for component, way in by.items())
        choice = f"One reading of each vector, {in_words}: {said}. It has one try, and so has its chance."
    else:
        choice = (
            f"The best amplified reading, {in_words} or to what judges: it looks at the answer. More readings succeed more "
            "often by chance, so compare each method with its own."
        )
    return (
        f"{found.label}, {found.per_layer['prompts'].iloc[0]} prompts. {choice} "
        f"{interpreted(settings.threshold, found.rules)} Bars: 95 % intervals. Grey, chance: the same readings judged by "
        f"other prompts (95 % of all rotations){same}. Scales differ between components."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw Figure 3: a row per rule, a panel per component; the paper's model lightly beside it, for scale."""
    import textwrap

    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import STYLE

    shown = [method.name for method in drawn_methods(settings)]
    reference, components = _papers_counts(found), found.per_layer["component"].unique()
    with plt.rc_context(STYLE):
        drawn, placed = panels.rows_by_components(len(found.rules), len(components), 4.5, 4.4, margin=0.9)
        for of_rule, rule in zip(placed[:, :, 0], found.rules, strict=True):
            for axes, component in zip(of_rule, components, strict=True):
                here = [
                    table[(table["component"] == component) & (table["judged by"] == rule) & table["method"].isin(shown)]
                    for table in (found.per_layer, reference)
                ]
                panels.layer_counts(axes, here[0])
                prompts, target = here[0][["prompts", "target"]].iloc[0]
                _draw_reference(axes, here[1], prompts)
                singular = COMPONENTS[component].singular if component in COMPONENTS else component
                title = f"{singular}, patched {into(target)}" if target else singular
                axes.set(title=title[0].upper() + title[1:], xlabel="source layer (from 0)")
                panels.whole_numbers(axes.xaxis, axes.yaxis)
                axes.set_xmargin(0.06)
                note = {"va": "top", "fontsize": 8.5, "linespacing": 1.4, "transform": axes.transAxes}
                axes.text(0, -0.2, textwrap.fill(_verdict(settings, found, component, rule), 66), **note)
            of_rule[0].set_ylabel(f"{RULES[rule].label}:\ninterpreted prompts (of {prompts})")
        panels.same_scale(placed[:, :, 0], most=prompts)
        panels.legend_below(
            drawn, *placed.flat, columns=max(1, round(drawn.get_figwidth() / 3.5)), size=8.5, place="outside lower left",
            order=lambda label: (REFERENCE_NAME in label, label.startswith("chance")),  # methods first
        )  # fmt: skip
        return panels.finish(drawn, caption(settings, found), int(14 * drawn.get_figwidth()))


def _papers_counts(found: Found) -> pd.DataFrame:
    """Return the counts of the paper's model; none beside themselves."""
    import pandas as pd

    counts = pd.read_csv(ROOT / REFERENCE)
    return counts[:0] if REFERENCE_MODEL in found.label else counts


def _draw_reference(axes: Axes, reference: pd.DataFrame, prompts: int) -> None:
    """Draw another model's counts lightly, scaled to this number of prompts."""
    looks = METHODS | {BLIND.name: BLIND}
    for name, rows in reference.groupby("method"):
        scaled = "" if (rows["prompts"] == prompts).all() else ", scaled"
        axes.plot(
            rows["layer"], rows["interpreted"] * prompts / rows["prompts"], color=looks[name].colour, alpha=0.35, lw=1.2,
            ls=":", marker=looks[name].marker, ms=4, mfc="white", zorder=2,
            label=f"{name}, {REFERENCE_NAME}{scaled}",
        )  # fmt: skip


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the counts."""
    about = {
        "models": found.models, "threshold": settings.threshold, "chosen blind by": found.criteria,
        "overall": found.overall.to_dict("records"),
    }  # fmt: skip
    name = "layer_success" if settings.choice == "blind" else f"layer_success_{settings.choice}"
    publish(folder, {name: drawn}, found.per_layer, "layer_success.csv", about)
