"""Can one reading be chosen without seeing the answer, and how much of the best of many does it keep?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .. import InputError
from ..judging.rules import RULES, rules_for
from ..words.components import title
from ..words.grammar import parse_layers
from ..words.methods import AMPLIFIED, PLAIN
from ..words.prompts import OUR_PROMPTS, read_categories, read_gold, read_prompts
from ..words.settings import PROMPTS, THRESHOLD, Cosine, FilePath, FilePaths, MaybeLayers, ReadSettings, setting
from . import ways_to_amplify
from ._evaluated import (
    BLIND_FIRST,
    FILES,
    OTHER_ENTITIES,
    SETS,
    asked_more,
    check_asked,
    fitted_folders,
    folder_of,  # noqa: F401, the notebook asks where results go
    is_published,
    published,
    read_sets,
    stored_beside,
    with_confidence,
    with_more_evidence,
)
from ._publish import publish
from ._sentences import BARS, above_chance, chance, in_runs, interpreted, is_certain, percent, points
from ._usual import ask_for_nothing, described

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..judging.judge import Judge
    from ..runs.readings import Readings

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
    "pmi_mean": "blind: the same, less under the mean vector",
    "specificity": "blind: the same, less under others' vectors",
    "round_trip": "blind: round trip",
    "consistency": "blind: said again, when sampled",
    "mean_rank": "blind: mean rank",  # RANKED, ALL_RANKED
    "mean_rank_all": "blind: mean rank, with what costs more",
    "confidence": "blind: most likely right",
    BEST: "the best of all, which sees the answer",
}
ASKED_MORE = " asked more"  # of a set's name: the part of which all witnesses were heard
ABOUT = ("set", "judged by", "component")  # columns that tell the lines of the tables apart


class Settings(ReadSettings):
    """The parameters of the notebook."""

    prompts: FilePath = PROMPTS
    entities: FilePath = setting(
        "data/entities.csv", "the same of the entities of `elsewhere`, a second set"
    )
    results: FilePaths = setting(
        (), "CSVs to read, relative to the repository; empty is the evaluations and `elsewhere` in out_dir; or readings that "
        "others have published",
    )  # fmt: skip
    witnesses: MaybeLayers = setting(
        "", 'source layers, like "2,5" or "all", of whose readings the model is asked what costs more, once; empty asks '
        "nothing, and takes what is stored",
    )  # fmt: skip
    references: FilePath = setting(OUR_PROMPTS, "other prompts, with whose vectors a reading's is compared then")
    threshold: Cosine = THRESHOLD


plans, gold = ask_for_nothing, described


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        sets: what was read, or a part of it (ASKED_MORE) -> how many prompts, and which layers.
        rules: by what readings are judged, the leading rule first.
        table: the effect of each choice: set, judged by, component, choice, tries, and the columns of `effect`.
        kept: of each set, rule and component, the blind choice beside the best of all: share (of its effect; NaN where
            that may be chance), gain, low, high, and the same over chance of the category.
        blind: the criterion that is compared with the best, of a component that has no other one.
        ways: what `ways_to_amplify` has found of other ways, where it was run: its table, with `.attrs` of its JSON.
    """

    model: str
    sets: dict[str, tuple[int, str]]
    rules: list[str]
    table: pd.DataFrame
    kept: pd.DataFrame
    blind: str
    ways: pd.DataFrame


def read(settings: Settings) -> dict[str, pd.DataFrame]:
    """Read the evaluations' rows, or published ones, and those of other entities, with what the model told of them.

    Returns:
        "prompts", "entities" -> rows; with the columns of `evidence.EVIDENCE` and `confidence` where `how_sure` was run,
        and those of `more_evidence.MORE_EVIDENCE` where they were gathered.
    """
    if is_published(settings):
        return {"prompts": published(settings)}
    folders = fitted_folders(settings)
    rows = {name: with_more_evidence(some, *folders) for name, some in read_sets(settings).items()}
    return _with_confidence(settings, rows)


def gather(readings: Readings) -> dict[str, pd.DataFrame]:
    """Ask the model what costs more of the stored readings of some layers, if any are asked for; then `read`.

    Raises:
        InputError: a layer that the model doesn't have; published readings; or as `check_asked` and
            `runs.evidence.evidence_for`.
    """
    import pandas as pd

    from ..runs.evidence import MORE, evidence_for

    settings = readings.settings
    if settings.witnesses:
        if is_published(settings):
            raise InputError("witnesses", settings.witnesses, "there is no model to ask about published readings")
        references = read_prompts(settings.references, parameter="references")
        layers = parse_layers(settings.witnesses, readings.card.num_layers, "witnesses")
        sets = read_sets(settings)
        check_asked(settings, sets.values(), readings.card.slug)
        rows = pd.concat(sets.values(), ignore_index=True)
        evidence_for(readings, rows[rows["layer"].isin(layers)], references, readings.bar, MORE)
    return read(settings)


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
    for name, (some, chosen) in _parts(rows, judge).items():
        file = getattr(settings, SETS[name.removesuffix(ASKED_MORE)])
        sets[name] = some["source prompt"].nunique(), in_runs(some["layer"])
        of_set = rules_for(some["source prompt"].unique(), read_gold(file))
        rules |= dict.fromkeys(of_set)
        for rule, truths in of_set.items():
            for component in some["component"].unique():
                about = dict(zip(ABOUT, (name, rule, component), strict=True))
                effects, beside = _effects(some, chosen, component, judge, truths, read_categories(file))
                lines += [about | line for line in effects]
                kept += [about | beside] if beside else []
    blind = _blind_of({line["choice"] for line in lines})
    model = next(iter(rows.values())).attrs["model"]["name"]
    return Found(model, sets, list(rules), pd.DataFrame(lines), pd.DataFrame(kept), blind, _ways_beside(settings))


def _ways_beside(settings: Settings) -> pd.DataFrame:
    """Return what `ways_to_amplify` has found of this model, beside the rows or before; nothing where it was not run."""
    import pandas as pd

    from ..runs.results import read_about

    files = [] if is_published(settings) else [folder / ways_to_amplify.FOUND for folder in fitted_folders(settings)]
    file = next((file for file in files if file.is_file()), None)
    if file is None or (about := read_about(file)).get("threshold") != settings.threshold:
        return pd.DataFrame(columns=["judged by", "component", "way", "choice"])
    found = pd.read_csv(file)
    found.attrs = about
    return found


def _parts(rows: Mapping[str, pd.DataFrame], judge: Judge) -> dict[str, tuple[pd.DataFrame, dict[str, pd.DataFrame]]]:
    """Return what is judged together: rows, and what each criterion chooses of them.

    What costs more may be known of a part of a set: that part is judged once more by itself, with all criteria.
    """
    from ..judging.criteria import CRITERIA
    from ..judging.more_evidence import MORE_EVIDENCE

    parts = {}
    for name, some in rows.items():
        chosen, more = _chosen(some, judge), asked_more(some)
        costly = {criterion for criterion in chosen if not MORE_EVIDENCE.keys().isdisjoint(CRITERIA[criterion].needs)}
        usual = {criterion: one for criterion, one in chosen.items() if criterion not in costly}
        parts[name] = some, chosen if len(more) == len(some) else usual
        if 0 < len(more) < len(some):
            of_more = {criterion: one[one.index.isin(more.index)] for criterion, one in chosen.items()}
            parts[name + ASKED_MORE] = more, of_more
    return parts


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
    chosen = {criterion: some[some["component"] == component] for criterion, some in chosen.items()}
    chosen = {criterion: some for criterion, some in chosen.items() if some[criterion].notna().any()}  # others chose nothing
    for criterion, some in chosen.items():
        one = some.assign(**{"amplification value": 1.0})  # a single try per layer
        of[criterion] = judge_rows(one, judge, truths, categories=categories)
        successes[criterion], tries[criterion] = of[criterion].successes(), 1
    successes[BEST], tries[BEST], of[BEST] = judged.successes(), judged.number_of_tries(None), judged
    table = [{"choice": name, "tries": tries[name]} | effect(of[name], successes[name]) for name in CHOICES if name in of]
    if not (blind := _blind_of(chosen)):
        return table, {}
    both = {line["choice"]: line for line in table}
    share = both[blind]["effect"] / both[BEST]["effect"] if is_certain(both[BEST]) else float("nan")
    return table, {"share": round(share, 4)} | gain(of[blind], successes[blind], successes[BEST], judged)


def _blind_of(choices: Collection[str]) -> str:
    """Return the criterion that is compared with the best of all; "" if none of some choices is blind."""
    return next((name for name in BLIND_FIRST if name in choices), "")


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say, per set, rule and component, what the blind reading gives, beside one plain one and the best of all."""
    said = []
    for row in found.kept.to_dict("records"):
        of = found.table.set_index(list(ABOUT)).sort_index().loc[tuple(row[name] for name in ABOUT)]
        of = of.set_index("choice")
        blind = _blind_of(of.index)
        share = f", {100 * row['share']:.0f} % of it" if row["share"] > 0 else ""
        said.append(
            f"{found.sets[row['set']][0]} {row['set']}, {title(row['component'])}, {RULES[row['judged by']].label}: one "
            f"reading chosen blind ({blind}) succeeds {above_chance(of.loc[blind])}; one plain reading "
            f"{percent(of.loc[PLAIN.name, 'effect'])}, one fixed α {percent(of.loc[FIXED, 'effect'])}. The best of "
            f"{of.loc[BEST, 'tries']}, which sees the answer, has {percent(of.loc[BEST, 'effect'])}: the blind one has "
            f"{points(row)}{share}."
        )
    said += _sentences_of_ways(found)
    if not found.blind:
        said.append("No reading can be chosen blind here: that needs several amplifiers, or several layers.")
    return said


def _of_ways(found: Found) -> pd.DataFrame:
    """Return what was found of other ways by the leading rule, where one reading was chosen blind."""
    of = found.ways[(found.ways["judged by"] == found.rules[0]) & (found.ways["way"] != PLAIN.name)]
    return of if (of["choice"] == ways_to_amplify.BLIND).any() else of[:0]


def _sentences_of_ways(found: Found) -> list[str]:
    """Say, per component, what one blind reading gives in each way, beside one fixed setting and the best of all."""
    said = []
    for component, part in _of_ways(found).groupby("component", sort=False):
        of = part.pivot(index="way", columns="choice", values="effect").loc[list(dict.fromkeys(part["way"]))]
        each = "; ".join(
            f"{way} {percent(row[ways_to_amplify.BLIND])} (fixed {percent(row[ways_to_amplify.FIXED])}, best "
            f"{percent(row[ways_to_amplify.BEST])})" for way, row in of.iterrows()
        )  # fmt: skip
        about = found.ways.attrs
        said.append(
            f"Other ways to amplify, {about['prompts']} prompts, {title(component)}, layers {about['layers']}, "
            f"{RULES[found.rules[0]].label}, above chance, one reading chosen blind ({about['blind']}): {each}."
        )
    return said


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    sets = "; ".join(f"{count} {name}, source layers {layers}" for name, (count, layers) in found.sets.items())
    return (
        f"{found.model}. {sets}{'' if not _has_more(found) else '. Asked more: the part of which all criteria are known'}. "
        "Above chance with as many tries. "
        f"{interpreted(settings.threshold, found.rules, '(prompt, layer) pairs')} Blind: chosen without the "
        f"prompt, a description or a score, one try. The best of all is judged by its best reading, and so is its chance. {BARS}, over prompts. "
        f"{chance(found.table)} {'' if not len(_of_ways(found)) else WAYS_BELOW.format(**found.ways.attrs)}Scales differ."
    )


WAYS_BELOW = (
    "Below, {prompts} prompts, source layers {layers}, in each way to amplify: triangles, one setting, fixed on other "
    "prompts; circles, one reading chosen blind; stars, the best of all. "
)


def _has_more(found: Found) -> bool:
    return any(name.endswith(ASKED_MORE) for name in found.sets)


def figure(settings: Settings, found: Found) -> Figure:
    """Draw the effect of each choice: a row per set and rule, and one of other ways; a column per component."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import STYLE

    rows = list(found.table[["set", "judged by"]].drop_duplicates().itertuples(index=False, name=None))
    components, ways = list(found.table["component"].unique()), _of_ways(found)
    with plt.rc_context(STYLE):
        drawn, placed = panels.rows_by_components(len(rows) + (len(ways) > 0), len(components), 5.2, 2.5, margin=1.2)
        for number, component in enumerate(components if len(ways) else ()):
            axes, names = placed[-1, number, 0], list(dict.fromkeys(ways["way"]))
            _draw_ways(axes, ways[ways["component"] == component], names, named=not number)
            axes.set_title(f"{title(component)}, each way, by the {found.rules[0]}", fontsize=10)
        for of_row, (name, rule) in zip(placed[: len(rows), :, 0], rows, strict=True):
            part = found.table[(found.table["set"] == name) & (found.table["judged by"] == rule)]
            there = [component for component in components if (part["component"] == component).any()]
            choices = [name for name in CHOICES if (part["choice"] == name).any()]
            for axes in of_row[len(there) :]:
                axes.set_visible(False)
            for number, (axes, component) in enumerate(zip(of_row, there, strict=False)):
                _draw(axes, part[part["component"] == component].set_index("choice"), choices, named=not number)
                axes.set_title(f"{title(component)}, {found.sets[name][0]} {name}, by the {rule}", fontsize=10)
        return panels.finish(drawn, caption(settings, found), int(12.5 * drawn.get_figwidth()))


def _looks() -> dict[str, tuple[str, str]]:
    """Return the color and marker of the choices that are no criteria."""
    from ..figures.style import INK

    return {PLAIN.name: (PLAIN.colour, PLAIN.marker), FIXED: (AMPLIFIED.colour, "^"), BEST: (INK, "*")}


def _draw_ways(axes: Axes, table: pd.DataFrame, ways: list[str], named: bool) -> None:
    """Draw three dots per way: one fixed setting, one reading chosen blind, and the best of all."""
    from ..figures import panels

    looks = {ways_to_amplify.FIXED: (FIXED, -0.25), ways_to_amplify.BLIND: ("", 0), ways_to_amplify.BEST: (BEST, 0.25)}
    for row in table.to_dict("records"):
        choice, beside = looks[row["choice"]]
        colour, marker = _looks().get(choice, (AMPLIFIED.colour, AMPLIFIED.marker))
        at, look = [ways.index(row["way"]) + beside], {"mfc": "white" if choice == FIXED else colour, "ms": 4}
        panels.chance_bars(axes, at, row, over_chance=True, horizontal=True, width=3)
        panels.interval_dots(axes, at, row, over_chance=True, horizontal=True, color=colour, marker=marker, **look)
    panels.zero_line(axes, vertical=True)
    axes.set_yticks(range(len(ways)), [ways_to_amplify.FORMULAS[way] for way in ways] if named else [""] * len(ways), fontsize=9)
    axes.set_ylim(len(ways) - 0.5, -0.5)
    panels.above_chance(axes.xaxis)


def _draw(axes: Axes, table: pd.DataFrame, names: list[str], named: bool) -> None:
    """Draw one dot per choice; one that a component lacks has none."""
    from ..figures import panels
    from ..figures.style import INK

    looks, blind = _looks(), _blind_of(table.index)
    for place, name in enumerate(names):
        if name not in table.index:
            continue
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
