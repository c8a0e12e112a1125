"""Do the findings hold for other entities, and is it the entity that is read, or only what kind of thing it is?"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from .. import InputError
from ..words.components import EVALUATED, GRIDS, title
from ..words.plans import Plan, make_plan
from ..words.prompts import read_categories, read_gold, read_prompts
from ..words.settings import NUM_PROMPTS, THRESHOLD, Cosine, Count, FilePath, Layers, ReadSettings, setting
from ._publish import publish
from ._sentences import BARS, in_runs, interpreted, percent, what_counts, with_interval

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

PLACE, WHEN = 100, "paper"
QUESTION = "does it hold for 250 other entities?"
PAPER = "–"
TABLE = "elsewhere.csv.gz"
NEEDS = ()

WITHIN, ANY_OTHER = "all, by others of the category", "all, by any other"


class Settings(ReadSettings):
    """The parameters of the notebook."""

    prompts: FilePath = setting(
        "data/entities.csv", "a CSV with the columns `prompt`, `category` and `gold`, relative to the repository"
    )
    num_prompts: Count = NUM_PROMPTS
    layers: Layers = setting("2,5", "source layers from 0")
    threshold: Cosine = THRESHOLD


def plans(settings: Settings) -> list[Plan]:
    """Ask for the two evaluations on other entities.

    Raises:
        InputError: a category of which there is a single entity, so that chance can't be made of others of it.
    """
    prompts, category_of = read_prompts(settings.prompts, settings.num_prompts), read_categories(settings.prompts)
    entities = Counter(category_of[prompt] for prompt in prompts)
    if alone := [category for category, count in entities.items() if count < 2]:
        raise InputError("prompts", settings.prompts, f"chance within a category needs two entities of {alone[0]!r}")
    return [
        make_plan(
            prompts, component, settings.layers, GRIDS[component], target_layer=target,
            max_new_tokens=settings.max_new_tokens,
        )
        for component, target in EVALUATED.items()
    ]  # fmt: skip


def gold(settings: Settings) -> dict[str, str]:
    """Return the entities' descriptions, where they are known."""
    return read_gold(settings.prompts, settings.num_prompts)


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        entities: how many; layers: which.
        tries: method -> readings of which the best counts.
        effects: per component and method, over all entities by both kinds of chance (WITHIN, ANY_OTHER), then per
            category: component, method, category, prompts and `effects.effect`.
    """

    model: str
    entities: int
    layers: str
    tries: dict[str, int]
    effects: pd.DataFrame


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Compare each category with chance, which is other entities of the category."""
    import pandas as pd

    from ..judging.effects import by_method, judge_rows, on_grid
    from ..judging.judge import Judge

    judge, categories = Judge(settings.judge, settings.threshold), read_categories(settings.prompts)
    lines, tries = [], {}
    for component in EVALUATED:
        grid = on_grid(rows, component)
        within = judge_rows(grid, judge, categories=categories)
        parts = {WITHIN: within, ANY_OTHER: judge_rows(grid, judge)}
        for name in dict.fromkeys(within.categories):
            parts[name] = within.of_prompts([i for i, category in enumerate(within.categories) if category == name])
        for name, judged in parts.items():
            tries |= {method: judged.number_of_tries(method) for method in judged.methods}
            for method, numbers in by_method(judged).items():
                about = {"component": component, "method": method, "category": name, "prompts": len(judged.prompts)}
                lines.append(about | numbers)
    entities, layers = rows["source prompt"].nunique(), in_runs(rows["layer"])
    return Found(rows.attrs["model"]["name"], entities, layers, tries, pd.DataFrame(lines))


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say each method's effect by both kinds of chance, and in how many categories it is above its own."""
    from statsmodels.stats.multitest import multipletests

    said = []
    for (component, method), rows in found.effects.groupby(["component", "method"], sort=False):
        at = rows.set_index("category")
        each = at.drop(index=[WITHIN, ANY_OTHER])
        above = ((multipletests(each["p_value"], method="holm")[1] < 0.05) & (each["low"] > 0)).sum()
        said.append(
            f"{title(component)}, {method}: {percent(at.loc[WITHIN, 'rate'])} of (entity, layer) pairs interpreted; "
            f"{percent(at.loc[ANY_OTHER, 'effect'])} more than by chance of any other entity, "
            f"{with_interval(at.loc[WITHIN])} more than by chance of others of the category; above the latter in {above} "
            f"of {len(each)} categories (Holm)."
        )
    return said


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    return (
        f"{found.model}, {found.entities} entities, source layers {found.layers}. "
        f"{interpreted(settings.threshold, 'in a share of (entity, layer) pairs')}. {what_counts(found.tries)} {BARS}, "
        "over entities. Grey, chance: the same readings, judged by others of the category (95 % of all rotations)."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw the success per category, a panel per component, methods beside each other."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import LINE, STYLE

    order = list(dict.fromkeys(found.effects["category"]))
    with plt.rc_context(STYLE):
        drawn, (row,) = plt.subplots(
            1, len(EVALUATED), figsize=(11, 5.4), layout="constrained", sharey=True, squeeze=False
        )
        for axes, component in zip(row, EVALUATED, strict=True):
            effects = found.effects[found.effects["component"] == component]
            panels.method_dots(axes, effects, "category", order, horizontal=True, gap=0.34)
            axes.set_yticks(range(len(order)), order)
            axes.set(title=title(component), xlabel="interpreted")
            axes.locator_params(axis="x", nbins=6)
            panels.percent(axes.xaxis)
            axes.axhline(1.5, color=LINE, lw=1)
        row[0].invert_yaxis()
        panels.legend_below(drawn, row[0])
        return panels.finish(drawn, caption(settings, found), 145)


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the effects."""
    about = {"model": found.model, "threshold": settings.threshold, "verdict": sentences(settings, found)}
    publish(folder, {"elsewhere": drawn}, found.effects, "elsewhere_found.csv", about)
