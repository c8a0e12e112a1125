"""Which of a block's vectors can be read, patched into the same layer or into the first?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from .. import InputError
from ..judging.rules import RULES, rules_for
from ..words.components import COMPONENTS, EVALUATED, GRIDS, MLP_GRID, into, parse_component, plural, title
from ..words.grammar import check_strings, parse_layers, read_list
from ..words.plans import Plan, make_plan
from ..words.prompts import read_categories, read_prompts
from ..words.settings import (
    NUM_PROMPTS,
    PROMPTS,
    RESULTS,
    THRESHOLD,
    Cosine,
    Count,
    FilePath,
    FilePaths,
    Form,
    Layers,
    ReadSettings,
    setting,
)
from ._evaluated import FILES, evaluated_beside
from ._publish import publish
from ._sentences import amplified, interpreted, what_counts, with_interval
from ._usual import described

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

PLACE, WHEN = 60, "paper"
QUESTION = "Figure 3 for every vector, into both places"
PAPER = "§4, §6"
TABLE = "every_component.csv.gz"
NEEDS = FILES

ORDER = sorted(GRIDS, key=lambda name: GRIDS[name] != MLP_GRID)  # what adds to the residual stream, then the stream


def _check_sums(parameter: str, values: object) -> tuple[str, ...]:
    for name in (sums := check_strings(parameter, values)):
        if not _is_sum(name):
            raise InputError(parameter, name, "expected sums of MLP outputs over layers, like mlp_sum[1-3]")
    return sums


def _is_sum(name: str) -> bool:
    try:
        return parse_component(name).kind == "mlp_sum"
    except InputError:
        return False


Sums = Annotated[tuple[str, ...], Form(_check_sums, read_list)]


class Settings(ReadSettings):
    """The parameters of the notebook."""

    prompts: FilePath = PROMPTS
    num_prompts: Count = NUM_PROMPTS
    layers: Layers = setting("1-7", "source layers from 0")
    depths: Layers = setting("depth:0.3,0.5,0.7,0.9", "deeper layers, for the evaluations' own settings")
    sums: Sums = setting(("mlp_sum[1-3]", "mlp_sum[1-7]"), "ranges of layers whose MLP outputs are added up")
    results: FilePaths = RESULTS
    threshold: Cosine = THRESHOLD


def plans(settings: Settings) -> list[Plan]:
    """Ask for what the evaluations don't read: each vector into the same layer and into layer 0 (§4, §6).

    The evaluations' own settings go deeper, at relative depths; sums of MLP outputs go into layer 0.
    """
    prompts, shared = read_prompts(settings.prompts, settings.num_prompts), {"max_new_tokens": settings.max_new_tokens}
    asked = [
        make_plan(prompts, component, settings.layers, GRIDS[component], target_layer=target, **shared)
        for component in ORDER
        for target in ("same", 0)
        if EVALUATED.get(component) != target
    ]
    asked += [
        make_plan(prompts, component, settings.depths, GRIDS[component], target_layer=target, **shared)
        for component, target in EVALUATED.items()
    ]
    if settings.sums:
        asked.append(make_plan(prompts, settings.sums, 0, MLP_GRID, target_layer=0, **shared))
    return asked


gold = described


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        prompts: how many.
        tries: method -> readings of which the best counts.
        rules: by what readings are judged, the leading rule first; column `judged by` of the tables.
        counts: prompts interpreted per layer, of each component into each target (`judging.success_counts`).
        effects: the effect of each component into each target, with Holm's correction over all of a method's under a
            rule (p_holm).
    """

    model: str
    prompts: int
    tries: dict[str, int]
    rules: list[str]
    counts: pd.DataFrame
    effects: pd.DataFrame


def together(settings: Settings, rows: pd.DataFrame, num_layers: int) -> pd.DataFrame:
    """Put the evaluations' rows and these together, on the grids of amplifiers, with a column `into`.

    Args:
        num_layers: of the model; sums of MLP outputs keep their own layers.
    """
    import pandas as pd

    from ..judging.effects import on_grid

    evaluated = evaluated_beside(settings, rows, set(rows["source prompt"]))
    every = pd.concat([evaluated, rows], ignore_index=True).drop_duplicates("id")  # a depth may be one of the layers
    sums, layers = every["component"].str.startswith("mlp_sum"), parse_layers(settings.layers, num_layers)
    grids = pd.concat([every[sums]] + [on_grid(every, component, layers) for component in ORDER])
    same, first = grids["target layer"] == grids["layer"], grids["target layer"] == 0
    same &= ~grids["component"].str.startswith("mlp_sum")
    both = pd.concat([grids[same].assign(into="same"), grids[first].assign(into="0")])
    order = {name: place for place, name in enumerate([*ORDER, *sorted(every.loc[sums, "component"].unique())])}
    return both.sort_values("component", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Count and compare each component into each target with chance."""
    import pandas as pd
    from statsmodels.stats.multitest import multipletests

    from ..judging.counts import success_counts
    from ..judging.effects import by_method, judge_rows
    from ..judging.judge import Judge

    model, judge = rows.attrs["model"], Judge(settings.judge, settings.threshold)
    counts, lines, tries = [], [], {}
    every, categories = together(settings, rows, model["layers"]), read_categories(settings.prompts)
    rules = rules_for(rows["source prompt"].unique(), gold(settings))
    for rule, truths in rules.items():
        for (component, target), part in every.groupby(["component", "into"], sort=False):
            about = {"judged by": rule, "target": target}
            if component in COMPONENTS:
                counts.append(success_counts(part, judge, truths, categories=categories)[0].assign(**about))
            judged = judge_rows(part, judge, truths, categories=categories)
            tries |= {method: judged.number_of_tries(method) for method in judged.methods}
            for method, numbers in by_method(judged).items():
                lines.append({"component": component} | about | {"method": method} | numbers)
    effects = pd.DataFrame(lines)
    for _, part in effects.groupby(["judged by", "method"]):
        effects.loc[part.index, "p_holm"] = multipletests(part["p_value"], method="holm")[1].round(4)
    prompts = rows["source prompt"].nunique()
    return Found(model["name"], prompts, tries, list(rules), pd.concat(counts, ignore_index=True), effects)


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say which components are read above chance, by each method, under each rule."""
    said = []
    for (rule, method), rows in found.effects.groupby(["judged by", "method"], sort=False):
        above = rows[(rows["p_holm"] < 0.05) & (rows["low"] > 0)]
        above = above.sort_values("effect", ascending=False, kind="stable")
        named = "; ".join(
            f"{plural(row['component'])} {into(row['target'])} {with_interval(row)}" for row in above.to_dict("records")
        )
        sentence = f"{method}, {RULES[rule].label}: above chance in {len(above)} of {len(rows)} (Holm): {named or 'none'}."
        if "low same" in rows:
            stricter = above[(above["low same"] > 0) & (above["p_value same"] < 0.05)]
            names = [f"{plural(row['component'])} {into(row['target'])}" for row in stricter.to_dict("records")]
            sentence += f" Above chance of the category, too: {', '.join(names) or 'none'}."
        said.append(sentence)
    return said


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    ranges: dict[str, list[str]] = {}
    for name in GRIDS:
        ranges.setdefault(amplified(name), []).append(plural(name))
    same = "; dots: its mean by others of the category" if "same_mean" in found.counts else ""
    amplifiers = "; ".join(f"{numbers} for {' and '.join(names)}" for numbers, names in ranges.items())
    return (
        f"{found.model}, {found.prompts} prompts. {interpreted(settings.threshold, found.rules)} "
        f"{what_counts(found.tries)} Amplifiers: {amplifiers}. Bars: 95 % intervals. Grey, chance: the same readings judged "
        f"by other prompts (95 % of all rotations){same}. Scales differ between components."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw Figure 3 for each vector, a column per component, a row per rule and target."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import STYLE

    with plt.rc_context(STYLE):
        places = [(rule, target) for rule in found.rules for target in ("same", "0")]
        size = (14, 1 + 3 * len(places))
        drawn, rows = plt.subplots(len(places), len(COMPONENTS), figsize=size, layout="constrained", sharex=True)
        for row, (rule, target) in zip(rows, places, strict=True):
            at = found.counts[(found.counts["judged by"] == rule) & (found.counts["target"] == target)]
            for axes, component in zip(row, COMPONENTS, strict=True):
                panels.layer_counts(axes, at[at["component"] == component])
                panels.whole_numbers(axes.xaxis, axes.yaxis)
            row[0].set_ylabel(f"{RULES[rule].label},\n{into(target)}: prompts (of {found.prompts})")
        for axes, component in zip(rows[0], COMPONENTS, strict=True):
            axes.set_title(title(component))
        panels.same_scale(rows, most=found.prompts)
        for axes in rows[-1]:
            axes.set_xlabel("source layer (from 0)")
        panels.legend_below(drawn, rows[0, 0], columns=4, order=lambda label: label.startswith("chance"))
        return panels.finish(drawn, caption(settings, found), 185)


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the effects."""
    about = {"model": found.model, "threshold": settings.threshold, "verdict": sentences(settings, found)}
    publish(folder, {"every_component": drawn}, found.effects, "every_component_found.csv", about)
