"""How large is the effect, and does it hang on how it is scored?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..judging.rules import DESCRIPTION, rules_for
from ..words.components import title
from ..words.methods import AMPLIFIED, METHODS, PLAIN
from ..words.prompts import read_categories, read_prompts
from ..words.settings import PROMPTS, RESULTS, THRESHOLD, Cosine, FilePath, FilePaths, StoredSettings
from ._evaluated import FILES, folder_of
from ._publish import publish
from ._sentences import above_chance, chance, in_runs, is_certain, percent, what_counts, with_interval
from ._usual import ask_for_nothing, described

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..judging.effects import Judged

PLACE, WHEN = 90, "paper"
QUESTION = "does the effect hang on how it is scored?"
PAPER = "§4.1's score"
TABLE = ""
NEEDS = FILES


class Way(NamedTuple):
    """A way to score a reading: its first item only, by the description instead of the prompt, with echoes."""

    first_item: bool
    by_description: bool
    echoes: bool


PAPERS_WAY, NO_ECHOES = "whole, by the prompt (the paper's way)", "whole, by the prompt, no echoes"
BY_DESCRIPTION = "whole, by the description"
SCORED = {
    BY_DESCRIPTION: Way(False, True, True),
    "whole, by the description, no echoes": Way(False, True, False),
    "first item, by the description, no echoes": Way(True, True, False),
    PAPERS_WAY: Way(False, False, True),
    NO_ECHOES: Way(False, False, False),
    "first item, by the prompt": Way(True, False, True),
    "first item, by the prompt, no echoes": Way(True, False, False),
}


class Settings(StoredSettings):
    """The parameters of the notebook."""

    prompts: FilePath = PROMPTS
    results: FilePaths = RESULTS
    threshold: Cosine = THRESHOLD


plans, gold = ask_for_nothing, described


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        prompts: how many; layers: which.
        tries: method -> readings of which the best counts.
        variants: the effect of each method under each way to score a reading (SCORED).
        lead: the way that the curves and tests are of: by the description, or the paper's where there is none.
        echoes: per component and method, successful readings the paper's way, and how many of them are echoes.
        tests: McNemar's per layer, the best amplified reading against the plain one.
        curves: component -> method -> success and chance by threshold.
    """

    model: str
    prompts: int
    layers: str
    tries: dict[str, int]
    lead: str
    variants: pd.DataFrame
    echoes: pd.DataFrame
    tests: pd.DataFrame
    curves: dict[str, dict[str, pd.DataFrame]]


def read(settings: Settings) -> pd.DataFrame:
    """Read the evaluations' rows of the prompts."""
    from ..runs.results import evaluations, read_results

    rows = read_results(settings.results or evaluations(folder_of(settings)))
    return rows[rows["source prompt"].isin(read_prompts(settings.prompts))]


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Score the readings in each way, by descriptions only where they are known, and at each threshold."""
    import pandas as pd

    from ..judging.effects import by_method, by_threshold, judge_rows, on_grid, tests_by_layer
    from ..judging.judge import Judge

    judge, descriptions = Judge(settings.judge, settings.threshold), gold(settings)
    rules, categories = rules_for(rows["source prompt"].unique(), descriptions), read_categories(settings.prompts)
    ways = {scored: way for scored, way in SCORED.items() if DESCRIPTION.name in rules or not way.by_description}
    lead = next(iter(ways))
    variants, echoes, tests, curves, tries = [], [], [], {}, {}
    for component in rows["component"].unique():
        grid = on_grid(rows, component)
        judged = {
            scored: judge_rows(
                grid, judge, descriptions if way.by_description else None, way.first_item, way.echoes, categories
            )
            for scored, way in ways.items()
        }
        for scored, in_this_way in judged.items():
            for method, numbers in by_method(in_this_way).items():
                variants.append({"component": component, "method": method, "scored": scored} | numbers)
        papers = judged[PAPERS_WAY]
        for method in papers.methods:
            successes = _successful_readings(papers, method)
            numbers = {"success": successes, "echoes": successes - _successful_readings(judged[NO_ECHOES], method)}
            echoes.append({"component": component, "method": method} | numbers)
        tries |= {method: papers.number_of_tries(method) for method in papers.methods}
        leading = judged[lead]
        curves[component] = {method: by_threshold(leading, method) for method in leading.methods}
        more, less = leading.successes(AMPLIFIED), leading.successes(PLAIN)
        tests.append(tests_by_layer(papers.layers, more, less).assign(component=component))
    return Found(
        ", ".join(rows.attrs.get("models", ())) or settings.model, rows["source prompt"].nunique(),
        in_runs(rows["layer"]), tries, lead, pd.DataFrame(variants), pd.DataFrame(echoes),
        pd.concat(tests, ignore_index=True), curves,
    )  # fmt: skip


def _successful_readings(judged: Judged, method: str) -> int:
    """Count a method's readings that are above the threshold by their own prompt."""
    n = range(len(judged.prompts))
    return int(((judged.cosines[n, :, :, n] > judged.threshold) & judged.chosen[method]).sum())


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say, per component, the leading effect, the paper's, the range over all ways, the area, and the echoes."""
    said = []
    for (component, method), rows in found.variants.groupby(["component", "method"], sort=False):
        above, at = sum(map(is_certain, rows.to_dict("records"))), rows.set_index("scored")
        papers = f"; the paper's way {with_interval(at.loc[PAPERS_WAY])}" if found.lead != PAPERS_WAY else ""
        echoes = found.echoes.set_index(["component", "method"]).loc[(component, method)]
        said.append(
            f"{title(component)}, {method}, {found.lead}: {above_chance(at.loc[found.lead])}{papers}; from "
            f"{percent(rows['effect'].min())} to {percent(rows['effect'].max())} over {len(rows)} ways to score, above "
            f"chance in {above}. Area between method and chance over all thresholds "
            f"{found.curves[component][method].attrs['area']:.3f}. {echoes['echoes']} of {echoes['success']} readings that "
            "succeed the paper's way are echoes."
        )
    return said


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    return (
        f"{found.model}, {found.prompts} prompts, source layers {found.layers}. {what_counts(found.tries)} Left: "
        f"interpreted (prompt, layer) pairs as the threshold moves ({found.lead}), and chance. Right: interpreted above "
        f"chance at {settings.threshold:g}; bars: 95 % intervals over prompts. {chance(found.variants)}"
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw success by threshold, and the effect under each way to score, a row per component."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import STYLE

    with plt.rc_context(STYLE):
        drawn, rows = plt.subplots(
            len(found.curves), 2, figsize=(11, 3.7 * len(found.curves) + 0.9), layout="constrained", squeeze=False,
            width_ratios=[1, 1.15],
        )  # fmt: skip
        for (component, curves), (left, right) in zip(found.curves.items(), rows, strict=True):
            _draw_curves(left, curves, settings.threshold)
            left.set_title(title(component))
            _draw_forest(right, found.variants[found.variants["component"] == component])
            right.set_title(f"{title(component)}: effect by what is scored")
        panels.legend_below(drawn, right, left, columns=4)
        return panels.finish(drawn, caption(settings, found), 145)


def _draw_curves(axes: Axes, curves: dict[str, pd.DataFrame], threshold: float) -> None:
    from ..figures import panels
    from ..figures.style import NULL_COLOUR

    for number, (name, table) in enumerate(reversed(curves.items())):
        method, filled = METHODS[name], not number
        panels.chance_band(axes, table["threshold"], table, hatched=not filled, label=f"chance for {name} (95 %)")
        line = {"color": method.colour, "lw": 2, "ls": "-" if filled else "--"}
        axes.plot(table["threshold"], table["rate"], **line)
        area = {"color": method.colour, "ha": "right", "va": "top", "fontsize": 8.5, "transform": axes.transAxes}
        axes.text(1, 0.98 - 0.12 * number, f"{name}:\narea over chance {table.attrs['area']:.3f}", **area)
    axes.axvline(threshold, color=NULL_COLOUR, lw=1, ls=":")
    axes.set(xlabel=f"threshold of similarity (dotted: {threshold:g})", ylabel="interpreted", ylim=(0, 1.02))
    axes.set_xlim(table["threshold"].min(), table["threshold"].max())
    panels.percent(axes.yaxis)


def _draw_forest(axes: Axes, variants: pd.DataFrame) -> None:
    from ..figures import panels

    names = list(dict.fromkeys(variants["scored"]))
    look = {"over_chance": True, "horizontal": True, "gap": 0.26, "chance_label": "_nolegend_"}  # the caption says it
    panels.method_dots(axes, variants, "scored", names, **look)
    panels.zero_line(axes, vertical=True)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    panels.above_chance(axes.xaxis)


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the numbers."""
    about = {
        "model": found.model,
        "threshold": settings.threshold,
        "lead": found.lead,
        "echoes": found.echoes.to_dict("records"),
        "tests": found.tests.to_dict("records"),
        "verdict": sentences(settings, found),
    }
    publish(folder, {"effect_and_scoring": drawn}, found.variants, "effect_and_scoring.csv", about)
