"""Do the findings hold for other entities, and is it the entity that is read, or only what kind of thing it is?"""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from .. import InputError
from ..judging.rules import RULES, rules_for
from ..words.components import EVALUATED, GRIDS, title
from ..words.plans import Plan, make_plan
from ..words.prompts import read_categories, read_prompts
from ..words.settings import NUM_PROMPTS, THRESHOLD, Cosine, Count, FilePath, Layers, ReadSettings, setting
from ._publish import publish
from ._sentences import BARS, above_chance, chance, in_runs, interpreted, percent, what_counts
from ._usual import described

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

PLACE, WHEN = 100, "paper"
QUESTION = "does it hold for 250 other entities?"
PAPER = "–"
TABLE = "elsewhere.csv.gz"
NEEDS = ()

ALL = "all"  # categories together


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
    if not category_of:
        raise InputError("prompts", settings.prompts, "no column 'category', by which chance is made")
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


gold = described


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        entities: how many; layers: which.
        tries: method -> readings of which the best counts.
        rules: by what readings are judged, the leading rule first.
        effects: per rule, component and method, over all entities (ALL), then per category: judged by, component,
            method, category, prompts and `effects.effect`, by any other entity and by others of the category.
    """

    model: str
    entities: int
    layers: str
    tries: dict[str, int]
    rules: list[str]
    effects: pd.DataFrame


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Compare all entities, and each category, with chance: any other entity, and others of the category."""
    import numpy as np
    import pandas as pd

    from ..judging.effects import effect, judge_rows, on_grid
    from ..judging.judge import Judge

    judge, categories = Judge(settings.judge, settings.threshold), read_categories(settings.prompts)
    lines, tries = [], {}
    rules = rules_for(rows["source prompt"].unique(), gold(settings))
    for (rule, truths), component in product(rules.items(), EVALUATED):
        judged = judge_rows(on_grid(rows, component), judge, truths, categories=categories)
        tries |= {method: judged.number_of_tries(method) for method in judged.methods}
        names = list(dict.fromkeys(judged.categories))
        for method in judged.methods:
            successes = judged.successes(method)
            for name in (ALL, *names):
                readers = np.array([name in (ALL, category) for category in judged.categories])
                about = {"judged by": rule, "component": component, "method": method, "category": name}
                lines.append(about | effect(judged, successes, readers))
    entities, layers = rows["source prompt"].nunique(), in_runs(rows["layer"])
    return Found(rows.attrs["model"]["name"], entities, layers, tries, list(rules), pd.DataFrame(lines))


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say each method's effect by both kinds of chance, and in how many categories it is above the category's."""
    from statsmodels.stats.multitest import multipletests

    said = []
    for (rule, component, method), rows in found.effects.groupby(["judged by", "component", "method"], sort=False):
        at = rows.set_index("category")
        each, whole = at.drop(index=ALL), at.loc[ALL]
        known = each[each["p_value same"].notna()]  # a category with a single description has no others
        stricter = ""
        if len(known):
            above = ((multipletests(known["p_value same"], method="holm")[1] < 0.05) & (known["low same"] > 0)).sum()
            stricter = f"; above the latter in {above} of {len(known)} categories (Holm)"
        said.append(
            f"{title(component)}, {method}, {RULES[rule].label}: {percent(whole['rate'])} of (entity, layer) pairs "
            f"interpreted; {above_chance(whole)}{stricter}."
        )
    return said


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    return (
        f"{found.model}, {found.entities} entities, source layers {found.layers}. "
        f"{interpreted(settings.threshold, found.rules, '(entity, layer) pairs')} {what_counts(found.tries)} {BARS}, over "
        f"entities. {chance(found.effects)}"
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw the success per category, a row per rule, a panel per component, methods beside each other."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import LINE, STYLE

    order = list(dict.fromkeys(found.effects["category"]))
    with plt.rc_context(STYLE):
        size = (11, 1 + 4.2 * len(found.rules))
        drawn, rows = plt.subplots(
            len(found.rules), len(EVALUATED), figsize=size, layout="constrained", sharey=True, squeeze=False
        )
        for (row, rule), (column, component) in product(zip(rows, found.rules, strict=True), enumerate(EVALUATED)):
            axes, effects = row[column], found.effects
            effects = effects[(effects["component"] == component) & (effects["judged by"] == rule)]
            panels.method_dots(axes, effects, "category", order, horizontal=True, gap=0.34)
            axes.set_yticks(range(len(order)), order)
            axes.set(title=f"{title(component)}, {RULES[rule].label}", xlabel="interpreted")
            axes.locator_params(axis="x", nbins=6)
            panels.percent(axes.xaxis)
            axes.axhline(0.5, color=LINE, lw=1)
        rows[0, 0].invert_yaxis()
        panels.legend_below(drawn, rows[0, 0])
        return panels.finish(drawn, caption(settings, found), 145)


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the effects."""
    about = {"model": found.model, "threshold": settings.threshold, "verdict": sentences(settings, found)}
    publish(folder, {"elsewhere": drawn}, found.effects, "elsewhere_found.csv", about)
