"""Which way of amplifying a vector says most?"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from ..judging.rules import RULES, rules_for
from ..words import components
from ..words.components import EVALUATED, GRIDS, WAYS, into, plural, title
from ..words.decoding import Contrast
from ..words.methods import AMPLIFIED, PLAIN
from ..words.methods import BLIND as METHOD_BLIND
from ..words.plans import Plan, make_plan
from ..words.prompts import OUR_PROMPTS, read_categories, read_prompts
from ..words.settings import (
    NUM_PROMPTS,
    PROMPTS,
    THRESHOLD,
    Amplifiers,
    Cosine,
    Count,
    FilePath,
    Layers,
    ReadSettings,
    setting,
)
from ._evaluated import BLIND_FIRST
from ._publish import publish
from ._sentences import BARS, above_chance, chance, in_runs, interpreted, percent, points, with_interval
from ._usual import described

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..judging.effects import Judged
    from ..judging.judge import Judge

PLACE, WHEN = 106, "study"
QUESTION = "which way of amplifying says most?"
PAPER = "§3.5, §6"
TABLE = "ways_to_amplify.csv.gz"
NEEDS = ()
FOUND = "ways_to_amplify_found.csv"  # what `tables` has found

CONTRAST = "contrast"  # a decoding, so that it goes with any component and amplifier
COMPOSED = tuple(name for name in components.COMPOSED if WAYS[name].grid)  # with amplifiers that fit all layers
FORMULAS = {name: way.formula for name, way in WAYS.items() if name in ("plain", "guidance", *COMPOSED)} | {CONTRAST: "z + λ·(z − z_null)"}
ADDS = "guidance"  # the way that adds another vector of the source prompt: it says what that one says, too
FIXED, BLIND, BEST = "fixed", "blind", "best of all"  # how one of a way's settings is chosen


class Settings(ReadSettings):
    """The parameters of the notebook."""

    prompts: FilePath = PROMPTS
    num_prompts: Count = NUM_PROMPTS
    references: FilePath = setting(
        OUR_PROMPTS, "a CSV with the column `prompt`: whose mean vectors `centred` takes off, each prompt's without its own"
    )
    layers: Layers = setting("2,5,depth:0.3,0.5", "source layers from 0")
    weights: Amplifiers = setting((0.5, 1, 2), "λ of the contrast, each at α = 1 and at the least amplified α of the grid")
    threshold: Cosine = THRESHOLD


def plans(settings: Settings) -> list[Plan]:
    """Ask for each way with each of its settings, of MLP outputs and hidden states (§4.1, §4.2)."""
    return [plan for _, _, plan in _ways(settings)]


def _ways(settings: Settings) -> list[tuple[str, str, Plan]]:
    """Return the component, the way and the plan of each of the plans, in their order."""
    prompts, asked = read_prompts(settings.prompts, settings.num_prompts), []
    references = read_prompts(settings.references, parameter="references")
    for component, target in EVALUATED.items():

        def plan(name, amplifiers, target=target, **more) -> Plan:
            more |= {"target_layer": target, "max_new_tokens": settings.max_new_tokens}
            return make_plan(prompts, name, settings.layers, amplifiers, **more)

        asked.append((component, "plain", plan(component, GRIDS[component])))
        for way in COMPOSED:
            more = {"references": references} if way == "centred" else {}
            asked.append((component, way, plan(f"{way}[{component}]", WAYS[way].grid, **more)))
        if component == "mlp_output":  # what guidance scales
            asked.append((component, "guidance", plan("guidance", WAYS["guidance"].grid)))
        for weight in settings.weights:
            asked.append((component, CONTRAST, plan(component, GRIDS[component][:2], decoding=Contrast(weight))))
    return asked


gold = described


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        prompts: how many; layers: which.
        rules: by what readings are judged, the leading rule first.
        table: the effect of each way: judged by, component, way, choice (FIXED: the setting with the largest effect on
            half of the prompts, judged on the other half; BLIND: of each vector another one, by `blind`; BEST: any of
            its settings), setting (the one chosen most often), tries, and the columns of `effects.effect`. First, plain
            Patchscopes, whose setting isn't chosen.
        gains: of each other way and choice, over chance, beside the plain way: the columns of `effects.gain`.
        blind: the criterion that chooses one reading of a vector without its prompt; "" where there is none.
    """

    model: str
    prompts: int
    layers: str
    rules: list[str]
    table: pd.DataFrame
    gains: pd.DataFrame
    blind: str


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Compare each way with chance and with the plain one, under each rule."""
    import pandas as pd

    from ..judging.judge import Judge

    judge, categories = Judge(settings.judge, settings.threshold), read_categories(settings.prompts)
    rules, labelled = rules_for(rows["source prompt"].unique(), gold(settings)), _labelled(settings, rows)
    lines, gains, blind = [], [], _criterion(rows)
    for (rule, truths), (component, part) in product(rules.items(), labelled.groupby("read", sort=False)):
        about = {"judged by": rule, "component": component}
        effects, beside = _compared(part, judge, truths, categories, blind)
        lines += [about | line for line in effects]
        gains += [about | line for line in beside]
    model, prompts = rows.attrs["model"]["name"], rows["source prompt"].nunique()
    return Found(model, prompts, in_runs(rows["layer"]), list(rules), pd.DataFrame(lines), pd.DataFrame(gains), blind)


def _criterion(rows: pd.DataFrame) -> str:
    """Return the criterion that chooses blind here, the same for all ways: it needs nothing but the readings."""
    from ..judging.criteria import criteria_of

    return next((name for name in BLIND_FIRST if name in criteria_of(rows)), "")


def _labelled(settings: Settings, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the columns `read` (the component), `way`, and a contrast's λ in place of the seed.

    Rows stand in the plans' order, and a column for the decoding isn't among theirs.
    """
    import numpy as np
    import pandas as pd

    ways, layers = _ways(settings), rows["layer"].nunique()
    sizes = [len(plan.prompts) * len(plan.amplifiers) * layers for _, _, plan in ways]
    of = np.repeat(np.arange(len(ways)), sizes)
    weights = [plan.decoding.weight if plan.decoding else np.nan for _, _, plan in ways]
    columns = {
        "read": [component for component, _, _ in ways], "way": [way for _, way, _ in ways], "seed": weights
    }  # fmt: skip
    labels = pd.DataFrame(columns).iloc[of].set_index(rows.index)
    return rows.assign(**labels)


def _compared(
    rows: pd.DataFrame, judge: Judge, truths: Mapping[str, str] | None, categories: Mapping[str, str], blind: str
) -> tuple[list[dict], list[dict]]:
    """Return the lines of `table` and of `gains` of one component under one rule."""
    import numpy as np

    from ..judging.criteria import choose
    from ..judging.effects import chosen_on_half, effect, gain, judge_rows

    judged = {
        way: judge_rows(part, judge, truths, categories=categories) for way, part in rows.groupby("way", sort=False)
    }
    plain, successes, one = judged["plain"], {}, {}
    for way, part in rows.groupby("way", sort=False) if blind else ():
        chosen = choose(part, blind, judge).assign(**{"amplification value": 1.0, "seed": np.nan})  # a single try
        one[way] = judge_rows(chosen, judge, truths, categories=categories)
    lines = [
        {"way": PLAIN.name, "choice": FIXED, "setting": "α = 1", "tries": 1} | effect(plain, plain.successes(PLAIN))
    ]
    for way, table in judged.items():
        chosen, shares = chosen_on_half(table, None)
        successes[way] = {FIXED: chosen, BEST: table.successes()} | ({BLIND: one[way].successes()} if blind else {})
        number = int(shares.to_numpy().argmax())
        for choice, tries in ((FIXED, 1), (BLIND, 1), (BEST, table.number_of_tries(None))):
            if choice not in successes[way]:
                continue
            about = {"way": way, "choice": choice, "setting": _setting(way, table, number) if choice == FIXED else ""}
            lines.append(about | {"tries": tries} | effect(table, successes[way][choice]))
    gains = [
        {"way": way, "choice": choice} | gain(judged[way], successes[way][choice], successes["plain"][choice], plain)
        for choice in successes["plain"]
        for way in judged
        if way != "plain"
    ]
    return lines, gains


def _setting(way: str, judged: Judged, number: int) -> str:
    """Name a try of a way, as in "ρ = 1.5" or "α = 3, λ = 0.5"."""
    amplifier, weight = judged.tries.loc[number, ["amplification value", "seed"]]
    return f"{WAYS[way].symbol} = {amplifier:g}" if way in WAYS else f"α = {amplifier:g}, λ = {weight:g}"


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say, per rule and component, which way says most with a fixed setting, chosen blind, and with the best of all.

    Guidance is told apart: at w = 1 it is the hidden state.
    """
    return [
        f"{title(component)}, {RULES[rule].label}: {_fixed_sentence(part, gains)}{_blind_sentence(part, found.blind)} {_best_sentence(part)}"
        for rule, component, part, gains in _parts(found)
    ]


def _parts(found: Found):
    for (rule, component), part in found.table.groupby(["judged by", "component"], sort=False):
        gains = found.gains[(found.gains["judged by"] == rule) & (found.gains["component"] == component)]
        yield rule, component, part[part["way"] != PLAIN.name], gains[gains["choice"] == FIXED].set_index("way")


def _fixed_sentence(table: pd.DataFrame, gains: pd.DataFrame) -> str:
    of = table[table["choice"] == FIXED].set_index("way")
    plain, other = of.loc["plain"], of.drop(index=["plain", ADDS], errors="ignore")
    way, beside = other["effect"].idxmax(), gains.loc[other.index]
    most, less = other.loc[way], beside.index[beside["high"] < 0]
    more = beside.index[beside["low"] > 0]
    sentence = (
        f"one setting for all, chosen on other prompts: plain (mostly {plain['setting']}) {with_interval(plain)} above chance; of "
        f"the other {len(other)} ways most has {way} (mostly {most['setting']}), {above_chance(most)}, {points(gains.loc[way])} "
        f"than plain. Certainly more than plain: {', '.join(more) or 'none'}"
    )
    sentence += f"; certainly less: {', '.join(less) or 'none'}."
    if ADDS in of.index:
        sentence += f" Guidance, which adds h_PreMLP (mostly {of.loc[ADDS, 'setting']}; w = 1 is the hidden state): {with_interval(of.loc[ADDS])}."
    return sentence


def _blind_sentence(table: pd.DataFrame, criterion: str) -> str:
    of = table[(table["choice"] == BLIND) & (table["way"] != ADDS)].set_index("way")
    if not len(of):
        return ""
    way = of["effect"].idxmax()
    said = "" if way == "plain" else f"; most {way}, {with_interval(of.loc[way])}"
    return f" One reading of each vector, chosen blind ({criterion}): plain {with_interval(of.loc['plain'])}{said}."


def _best_sentence(table: pd.DataFrame) -> str:
    of = table[(table["choice"] == BEST) & (table["way"] != ADDS)].set_index("way")
    way, plain = of["effect"].idxmax(), of.loc["plain"]
    said = f"The best of all settings, which sees the answer: plain (best of {plain['tries']}) {percent(plain['effect'])}"
    if way == "plain":
        return f"{said}, more than the others."
    return f"{said}, most {way} (best of {of.loc[way, 'tries']}), {with_interval(of.loc[way])}."


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    targets = ", ".join(f"{plural(component)} {into(target)}" for component, target in EVALUATED.items())
    tries = found.table.loc[found.table["choice"] == BEST, "tries"]
    return (
        f"{found.model}, {found.prompts} prompts, source layers {found.layers}; {targets}. Above chance with as many "
        f"tries. {interpreted(settings.threshold, found.rules, '(prompt, layer) pairs')} Circles: one setting of each way, "
        f"the best on half of the prompts, judged on the other half; at the right, the one chosen most often. "
        f"{'Filled diamonds: of each vector one reading, chosen without the prompt, a description or a score. ' if found.blind else ''}Stars: the "
        f"best of all of a way's settings ({tries.min()} to {tries.max()}), which sees the answer, and so does its chance. "
        f"Guidance adds another vector: w = 1 is the hidden state. {BARS}, over prompts, of each way by itself. "
        f"{chance(found.table)} Scales differ."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw the effect of each way: a row per rule, a column per component."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import STYLE

    components = list(found.table["component"].unique())
    ways = list(dict.fromkeys(found.table["way"]))
    with plt.rc_context(STYLE):
        drawn, placed = panels.rows_by_components(len(found.rules), len(components), 5.4, 4.0, margin=1.4)
        for of_rule, rule in zip(placed[:, :, 0], found.rules, strict=True):
            for number, (axes, component) in enumerate(zip(of_rule, components, strict=True)):
                part = found.table[(found.table["judged by"] == rule) & (found.table["component"] == component)]
                _draw(axes, part, ways, named=not number)
                axes.set_title(f"{title(component)}, by the {rule}")
        panels.legend_below(drawn, placed[0, 0, 0], columns=5)
        return panels.finish(drawn, caption(settings, found), int(12.5 * drawn.get_figwidth()))


def _draw(axes: Axes, table: pd.DataFrame, ways: list[str], named: bool) -> None:
    """Draw a dot per way and choice; a way that a component lacks has none."""
    from ..figures import panels
    from ..figures.style import INK, LINE

    looks = {
        FIXED: {"color": AMPLIFIED.colour, "marker": AMPLIFIED.marker, "label": "one setting, chosen on other prompts"},
        BLIND: {"color": METHOD_BLIND.colour, "marker": METHOD_BLIND.marker, "label": "one reading, chosen blind"},
        BEST: {"color": INK, "marker": "*", "label": "the best of all of a way's settings"},
    }
    beside = {FIXED: -0.26, BLIND: 0.0, BEST: 0.26}
    plainly = {"color": PLAIN.colour, "marker": PLAIN.marker, "label": PLAIN.label}
    for row in table.to_dict("records"):
        alone = row["way"] == PLAIN.name
        at = [ways.index(row["way"]) + (0 if alone else beside[row["choice"]])]
        panels.chance_bars(axes, at, row, over_chance=True, horizontal=True, width=5)
        panels.interval_dots(axes, at, row, over_chance=True, horizontal=True, **(plainly if alone else looks[row["choice"]]))
        if row["setting"] and not alone:
            look = {"xycoords": axes.get_yaxis_transform(), "va": "center", "fontsize": 8, "color": INK}
            axes.annotate(row["setting"], (1.01, at[0]), **look)
    panels.zero_line(axes, vertical=True)
    for between in range(1, len(ways)):
        axes.axhline(between - 0.5, color=LINE, lw=0.6, zorder=0)
    names = [PLAIN.label if way == PLAIN.name else f"{way}: {FORMULAS[way]}" for way in ways]
    axes.set_yticks(range(len(ways)), names if named else [""] * len(ways), fontsize=9)
    axes.set_ylim(len(ways) - 0.5, -0.5)
    panels.above_chance(axes.xaxis)


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the numbers."""
    about = {
        "model": found.model,
        "threshold": settings.threshold,
        "prompts": found.prompts,
        "layers": found.layers,
        "blind": found.blind,
        "gains": found.gains.to_dict("records"),
        "verdict": sentences(settings, found),
    }
    publish(folder, {"ways_to_amplify": drawn}, found.table, FOUND, about)
