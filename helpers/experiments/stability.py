"""Do the findings survive another target prompt and another seed?"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Annotated, NamedTuple

from .. import InputError
from ..judging.rules import RULES, rules_for
from ..words.components import EVALUATED, GRIDS, title
from ..words.decoding import PAPERS_SAMPLING
from ..words.grammar import check_whole, read_number
from ..words.plans import Plan, make_plan
from ..words.prompts import read_categories, read_prompts
from ..words.settings import (
    NUM_PROMPTS,
    PROMPTS,
    THRESHOLD,
    Cosine,
    Count,
    FilePath,
    Form,
    Layers,
    Positive,
    ReadSettings,
    setting,
)
from ..words.target import TARGET_PROMPTS
from ._publish import publish
from ._sentences import BARS, chance, in_runs, interpreted, percent, what_counts
from ._usual import described

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

PLACE, WHEN = 110, "paper"
QUESTION = "does it survive another target prompt, another seed?"
PAPER = "–"
TABLE = "stability.csv.gz"
NEEDS = ()

TargetPrompts = Annotated[int, Form(partial(check_whole, least=1, most=len(TARGET_PROMPTS)), read_number)]


class Settings(ReadSettings):
    """The parameters of the notebook."""

    prompts: FilePath = PROMPTS
    num_prompts: Count = NUM_PROMPTS
    every: Positive = setting(4, "a sample: 4 takes every fourth of them, 1 takes all")
    layers: Layers = setting("2,5", "source layers from 0")
    target_prompts: TargetPrompts = setting(
        3, f"how many target prompts, 1 to {len(TARGET_PROMPTS)}; the first is the paper's"
    )
    seeds: Positive = setting(3, f"sampled runs with each, at {PAPERS_SAMPLING}, like the paper's")
    threshold: Cosine = THRESHOLD


def plans(settings: Settings) -> list[Plan]:
    """Ask for the two evaluations with several target prompts and seeds.

    Raises:
        InputError: `every` leaves a single prompt, of which no chance can be made.
    """
    prompts = read_prompts(settings.prompts, settings.num_prompts)[:: settings.every]
    if len(prompts) < 2:
        raise InputError("every", settings.every, f"leaves {len(prompts)} of the prompts; chance needs two")
    return [
        make_plan(
            prompts, component, settings.layers, GRIDS[component], target_layer=target, target_prompt=target_prompt,
            max_new_tokens=settings.max_new_tokens, decoding=PAPERS_SAMPLING, seed=seed,
        )
        for component, target in EVALUATED.items()
        for target_prompt in TARGET_PROMPTS[: settings.target_prompts]
        for seed in range(settings.seeds)
    ]  # fmt: skip


gold = described


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        prompts: how many; layers: which.
        tries: method -> readings of which the best counts.
        rules: by what readings are judged, the leading rule first.
        effects: the effect of each run: judged by, component, method, target prompt, seed and `effects.effect`.
    """

    model: str
    prompts: int
    layers: str
    tries: dict[str, int]
    rules: list[str]
    effects: pd.DataFrame


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Compare each run with chance."""
    import pandas as pd

    from ..judging.effects import by_method, judge_rows
    from ..judging.judge import Judge

    judge, categories, lines, tries = Judge(settings.judge, settings.threshold), read_categories(settings.prompts), [], {}
    rules, runs = rules_for(rows["source prompt"].unique(), gold(settings)), ["component", "target prompt", "seed"]
    for (rule, truths), (run, part) in product(rules.items(), rows.groupby(runs, sort=False)):
        judged = judge_rows(part, judge, truths, categories=categories)
        tries |= {method: judged.number_of_tries(method) for method in judged.methods}
        about = {"judged by": rule} | dict(zip(runs, run, strict=True))
        for method, numbers in by_method(judged).items():
            lines.append(about | {"seed": int(about["seed"]), "method": method} | numbers)
    prompts, layers = rows["source prompt"].nunique(), in_runs(rows["layer"])
    return Found(rows.attrs["model"]["name"], prompts, layers, tries, list(rules), pd.DataFrame(lines))


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say how far each method's effect spreads over the runs."""
    return [
        f"{title(component)}, {method}, {RULES[rule].label}: {percent(runs['effect'].mean())} above chance on average, from "
        f"{percent(runs['effect'].min())} to {percent(runs['effect'].max())} (SD {percent(runs['effect'].std())}); the "
        f"interval is above chance in {(runs['low'] > 0).sum()} of {len(runs)} runs{_stricter(runs)}."
        for (rule, component, method), runs in found.effects.groupby(["judged by", "component", "method"], sort=False)
    ]


def _stricter(runs: pd.DataFrame) -> str:
    if "low same" not in runs:
        return ""
    return f", above chance of the category in {(runs['low same'] > 0).sum()} (on average {percent(runs['effect same'].mean())})"


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    return (
        f"{found.model}, {found.prompts} prompts, source layers {found.layers}, sampled ({PAPERS_SAMPLING}). "
        f"Above chance, with as many tries. {interpreted(settings.threshold, found.rules, '(prompt, layer) pairs')} "
        f"{what_counts(found.tries)} {BARS}, over prompts. {chance(found.effects)} Scales differ."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw the effect of each run by target prompt and seed, a panel per component, a row per rule."""
    import matplotlib.pyplot as plt
    import numpy as np

    from ..figures import panels
    from ..figures.style import STYLE

    components = found.effects["component"].unique()
    prompts = list(dict.fromkeys(found.effects["target prompt"]))
    with plt.rc_context(STYLE):
        drawn, rows = plt.subplots(
            len(found.rules), len(components), figsize=(11, 1.2 + 3.5 * len(found.rules)), layout="constrained",
            squeeze=False,
        )  # fmt: skip
        for (rule, row), (column, component) in product(zip(found.rules, rows, strict=True), enumerate(components)):
            axes, of_component = row[column], found.effects[found.effects["component"] == component]
            of_component = of_component[of_component["judged by"] == rule]
            methods = panels.methods_in(of_component)
            for method, shift in zip(methods, panels.offsets(len(methods), 0.36), strict=True):
                runs = of_component[of_component["method"] == method.name]
                seed = runs.groupby("target prompt", sort=False).cumcount()
                x = runs["target prompt"].map(prompts.index) + shift + 0.09 * (seed - seed.max() / 2)
                panels.chance_bars(axes, x, runs, over_chance=True, width=5)
                panels.interval_dots(axes, x, runs, method, over_chance=True)
            panels.zero_line(axes)
            axes.set_xticks(np.arange(len(prompts)), prompts)
            seeds = of_component["seed"].nunique()
            axes.set(title=title(component), xlabel=f"target prompt ({seeds} {'seed' if seeds == 1 else 'seeds'} each)")
            panels.percent(axes.yaxis)
        for rule, row in zip(found.rules, rows, strict=True):
            row[0].set_ylabel(f"{RULES[rule].label}:\ninterpreted, above chance")
        panels.same_scale(rows, least=None)
        panels.legend_below(drawn, rows[0, 0])
        return panels.finish(drawn, caption(settings, found), 140)


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the effects."""
    about = {"model": found.model, "threshold": settings.threshold, "verdict": sentences(settings, found)}
    publish(folder, {"stability": drawn}, found.effects, "stability_found.csv", about)
