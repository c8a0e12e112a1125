"""Can one reading be chosen without seeing the answer, and how much of the best of many does it keep?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..judging.rules import RULES, rules_for
from ..words.components import title
from ..words.methods import AMPLIFIED, PLAIN
from ..words.plans import Plan
from ..words.prompts import read_categories, read_gold
from ..words.settings import PROMPTS, THRESHOLD, Cosine, FilePath, FilePaths, StoredSettings, setting
from ._evaluated import (
    BLIND_FIRST,
    FILES,
    OTHER_ENTITIES,
    SETS,
    folder_of,  # noqa: F401, the notebook asks where results go
    is_published,
    published,
    read_sets,
    stored_beside,
    with_confidence,
)
from ._publish import publish
from ._sentences import BARS, above_chance, chance, in_runs, interpreted, percent, points

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..judging.judge import Judge

PLACE, WHEN = 105, "paper"
QUESTION = "can one reading be chosen without seeing the answer?"
PAPER = "§6, the choice of the amplifier"
TABLE = ""
NEEDS = (*FILES, OTHER_ENTITIES)

FIXED, BEST = "fixed α", "best of all"
CHOICES = {  # what is chosen of the readings of a vector -> as the figure names it; the criteria stand between
    PLAIN.name: "plain, α = 1",
    FIXED: "one α, fixed on other prompts",
    "agreement_amplifiers": "blind: agreement over amplifiers",
    "agreement": "blind: agreement over layers",
    "agreement_contrast": "blind: agreement, less other tokens'",
    "entropy": "blind: least entropy",
    "log_prob": "blind: log-probability",
    "pmi": "blind: the same, less without a vector",
    "round_trip": "blind: round trip",
    "mean_rank": "blind: mean rank of these",
    "confidence": "blind: most likely right",
    BEST: "the best of all, which sees the answer",
}
ABOUT = ("set", "judged by", "component")  # columns that tell the lines of the tables apart


class Settings(StoredSettings):
    """The parameters of the notebook."""

    prompts: FilePath = PROMPTS
    entities: FilePath = setting(
        "data/entities.csv", "the same of the entities of `elsewhere`, a second set"
    )
    results: FilePaths = setting(
        (), "CSVs to read, relative to the repository; empty is the evaluations and `elsewhere` in out_dir; or readings that "
        "others have published",
    )  # fmt: skip
    threshold: Cosine = THRESHOLD


def plans(settings: Settings) -> list[Plan]:
    """Ask a model for nothing: one of the stored readings of each vector is chosen."""
    return []


def gold(settings: Settings) -> dict[str, str]:
    """Return the prompts' descriptions, where they are known."""
    return read_gold(settings.prompts)


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        sets: what was read -> how many prompts, and which layers.
        rules: by what readings are judged, the leading rule first.
        table: the effect of each choice: set, judged by, component, choice, tries, and the columns of `effect`.
        kept: of each set, rule and component, the blind choice beside the best of all: share (of its effect; NaN where
            that is none), gain, low, high, and the same over chance of the category.
        blind: the criterion that is compared with the best.
    """

    model: str
    sets: dict[str, tuple[int, str]]
    rules: list[str]
    table: pd.DataFrame
    kept: pd.DataFrame
    blind: str


def read(settings: Settings) -> dict[str, pd.DataFrame]:
    """Read the evaluations' rows, or published ones, and those of other entities, with what the model told of them.

    Returns:
        "prompts", "entities" -> rows; with the columns of `evidence.EVIDENCE` and `confidence` where `how_sure` was run.
    """
    return {"prompts": published(settings)} if is_published(settings) else _with_confidence(settings, read_sets(settings))


def _with_confidence(settings: Settings, rows: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return rows with their evidence and confidence, of regressions that never saw an entity of the same kind."""
    from ..judging.confidence import out_of_category
    from .how_sure import is_right

    told = {name: with_confidence(some, stored_beside(settings)) for name, some in rows.items()}
    some = told.get("entities")
    if some is not None and "confidence" in some:  # that fit has seen them
        kinds = some["source prompt"].map(read_categories(settings.entities))
        told["entities"] = some.assign(confidence=out_of_category(some, is_right(some, settings.threshold), kinds))
    return told


def tables(settings: Settings, rows: Mapping[str, pd.DataFrame]) -> Found:
    """Choose one reading of each vector in each way, and judge it beside the best of all."""
    import pandas as pd

    from ..judging.judge import Judge

    judge, lines, kept, rules, sets = Judge(settings.judge, settings.threshold), [], [], {}, {}
    for name, some in rows.items():
        file = getattr(settings, SETS[name])
        sets[name] = some["source prompt"].nunique(), in_runs(some["layer"])
        chosen = _chosen(some, judge)
        of_set = rules_for(some["source prompt"].unique(), read_gold(file))
        rules |= dict.fromkeys(of_set)
        for rule, truths in of_set.items():
            for component in some["component"].unique():
                about = dict(zip(ABOUT, (name, rule, component), strict=True))
                effects, beside = _effects(some, chosen, component, judge, truths, read_categories(file))
                lines += [about | line for line in effects]
                kept += [about | beside] if beside else []
    blind = next((name for name in BLIND_FIRST if any(line["choice"] == name for line in lines)), "")
    return Found(next(iter(rows.values())).attrs["model"]["name"], sets, list(rules), pd.DataFrame(lines), pd.DataFrame(kept), blind)


def _chosen(rows: pd.DataFrame, judge: Judge) -> dict[str, pd.DataFrame]:
    """Return, per criterion that can be told of these rows, the one row of each vector that it chooses."""
    from ..judging.criteria import choose, criteria_of

    return {criterion: choose(rows, criterion, judge) for criterion in CHOICES if criterion in criteria_of(rows)}


def _effects(
    rows: pd.DataFrame,
    chosen: Mapping[str, pd.DataFrame],
    component: str,
    judge: Judge,
    truths: Mapping[str, str] | None,
    categories: Mapping[str, str],
) -> tuple[list[dict], dict]:
    """Return the effect of each choice on a component's rows, and the blind one beside the best."""
    from ..judging.effects import chosen_on_half, effect, gain, judge_rows

    judged = judge_rows(rows[rows["component"] == component], judge, truths, categories=categories)
    successes = {PLAIN.name: judged.successes(PLAIN), FIXED: chosen_on_half(judged, None)[0]}
    tries, of = dict.fromkeys(successes, 1), dict.fromkeys(successes, judged)
    for criterion, some in chosen.items():
        one = some[some["component"] == component].assign(**{"amplification value": 1.0})  # a single try per layer
        of[criterion] = judge_rows(one, judge, truths, categories=categories)
        successes[criterion], tries[criterion] = of[criterion].successes(), 1
    successes[BEST], tries[BEST], of[BEST] = judged.successes(), judged.number_of_tries(None), judged
    table = [{"choice": name, "tries": tries[name]} | effect(of[name], successes[name]) for name in CHOICES if name in of]
    blind = next((name for name in BLIND_FIRST if name in chosen), None)
    if blind is None:
        return table, {}
    both = {line["choice"]: line["effect"] for line in table}
    share = both[blind] / both[BEST] if both[BEST] > 0 else float("nan")
    return table, {"share": round(share, 4)} | gain(of[blind], successes[blind], successes[BEST], judged)


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say, per set, rule and component, what the blind reading gives, beside one plain one and the best of all."""
    said = []
    for row in found.kept.to_dict("records"):
        of = found.table.set_index(list(ABOUT)).sort_index().loc[tuple(row[name] for name in ABOUT)]
        of = of.set_index("choice")
        share = f", {100 * row['share']:.0f} % of it" if row["share"] > 0 else ""
        said.append(
            f"{found.sets[row['set']][0]} {row['set']}, {title(row['component'])}, {RULES[row['judged by']].label}: one "
            f"reading chosen blind ({found.blind}) succeeds {above_chance(of.loc[found.blind])}; one plain reading "
            f"{percent(of.loc[PLAIN.name, 'effect'])}, one fixed α {percent(of.loc[FIXED, 'effect'])}. The best of "
            f"{of.loc[BEST, 'tries']}, which sees the answer, has {percent(of.loc[BEST, 'effect'])}: the blind one has "
            f"{points(row)}{share}."
        )
    if not found.blind:
        said.append("No reading can be chosen blind here: that needs several amplifiers, or several layers.")
    return said


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    sets = "; ".join(f"{count} {name}, source layers {layers}" for name, (count, layers) in found.sets.items())
    return (
        f"{found.model}. {sets}. Above chance with as many tries. "
        f"{interpreted(settings.threshold, found.rules, '(prompt, layer) pairs')} Blind: chosen without the "
        f"prompt, a description or a score, one try. The best of all is judged by its best reading, and so is its chance. {BARS}, over prompts. "
        f"{chance(found.table)} Scales differ."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw the effect of each choice: a row per set and rule, a column per component."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import STYLE

    rows = list(found.table[["set", "judged by"]].drop_duplicates().itertuples(index=False, name=None))
    components = list(found.table["component"].unique())
    with plt.rc_context(STYLE):
        drawn, placed = panels.rows_by_components(len(rows), len(components), 5.2, 2.3, margin=1.2)
        for of_row, (name, rule) in zip(placed[:, :, 0], rows, strict=True):
            for number, (axes, component) in enumerate(zip(of_row, components, strict=True)):
                part = found.table[(found.table["set"] == name) & (found.table["judged by"] == rule)]
                part = part[part["component"] == component].set_index("choice")
                _draw(axes, part, found.blind, named=not number)
                axes.set_title(f"{title(component)}, {found.sets[name][0]} {name}, by the {rule}", fontsize=10)
        return panels.finish(drawn, caption(settings, found), int(12.5 * drawn.get_figwidth()))


def _draw(axes: Axes, table: pd.DataFrame, blind: str, named: bool) -> None:
    """Draw one dot per choice."""
    from ..figures import panels
    from ..figures.style import INK

    names = [name for name in CHOICES if name in table.index]
    looks = {PLAIN.name: (PLAIN.colour, PLAIN.marker), FIXED: (AMPLIFIED.colour, "^"), BEST: (INK, "*")}
    for place, name in enumerate(names):
        row, (colour, marker) = table.loc[name], looks.get(name, (AMPLIFIED.colour, AMPLIFIED.marker))
        panels.chance_bars(axes, [place], row, over_chance=True, horizontal=True)
        look = {"color": colour, "marker": marker, "mfc": colour if name in (blind, PLAIN.name, BEST) else "white"}
        panels.interval_dots(axes, [place], row, over_chance=True, horizontal=True, **look)
    panels.zero_line(axes, vertical=True)
    axes.axvline(table.loc[BEST, "effect"], color=INK, lw=0.8, ls=":")
    axes.set_yticks(range(len(names)), [CHOICES[name] for name in names] if named else [""] * len(names), fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    panels.above_chance(axes.xaxis)


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the numbers."""
    about = {
        "model": found.model,
        "threshold": settings.threshold,
        "sets": {name: {"prompts": count, "layers": layers} for name, (count, layers) in found.sets.items()},
        "blind": found.blind,
        "kept": found.kept.to_dict("records"),
        "verdict": sentences(settings, found),
    }
    publish(folder, {"which_amplifier": drawn}, found.table, "which_amplifier.csv", about)
