"""Is it amplification, or more tries?"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from ..judging.rules import RULES, rules_for
from ..words.components import EVALUATED, GRIDS, into, title
from ..words.decoding import PAPERS_SAMPLING
from ..words.methods import AMPLIFIED, PLAIN
from ..words.plans import Plan, make_plan
from ..words.prompts import read_categories, read_prompts
from ..words.settings import (
    NUM_PROMPTS,
    PROMPTS,
    THRESHOLD,
    Cosine,
    Count,
    FilePath,
    FilePaths,
    Layers,
    MaybeAmplifiers,
    Positive,
    ReadSettings,
    setting,
)
from ..words.target import TARGET_PROMPTS
from ._evaluated import FILES, evaluated_beside, is_published, published
from ._publish import publish
from ._sentences import BARS, OTHERS, in_runs, interpreted, percent, points, within_category
from ._usual import described

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..judging.effects import Judged

PLACE, WHEN = 80, "paper"
QUESTION = "is it amplification, or more tries?"
PAPER = "§4.1's amplifiers, one by one"
TABLE = "amplification_or_tries.csv.gz"
NEEDS = FILES

WAYS = {  # to read a vector several times -> its label, the method whose readings it repeats, line and marker
    "amplifiers": (f"amplifiers ({AMPLIFIED.name})", AMPLIFIED, "-", AMPLIFIED.marker),
    "target prompts": (f"target prompts, α = 1 ({PLAIN.name})", PLAIN, "-", PLAIN.marker),
    "samples": (f"samples, α = 1 ({PLAIN.name})", PLAIN, "--", "D"),
    "random vectors": ("amplifiers, on random vectors", AMPLIFIED, "--", "x"),
}
RIVALS = ("target prompts", "samples")  # plain readings, as many as there are amplified ones


class Settings(ReadSettings):
    """The parameters of the notebook."""

    prompts: FilePath = PROMPTS
    num_prompts: Count = NUM_PROMPTS
    layers: Layers = setting("1,3,5,7", "source layers from 0, of those of the evaluations")
    seeds: Positive = setting(5, "sampled readings of each vector")
    mlp_amplifiers: MaybeAmplifiers = setting(
        (1.5, 2, 4.5, 20, 30), "besides the evaluations' own, for success as a function of α"
    )
    hidden_amplifiers: MaybeAmplifiers = setting((1.2, 2.5, 9, 15), "the same for hidden states")
    results: FilePaths = setting(
        (),
        "the two evaluations' CSVs, relative to the repository; empty is those in out_dir; or readings that others have "
        "published: nothing is read then",
    )
    threshold: Cosine = THRESHOLD


def plans(settings: Settings) -> list[Plan]:
    """Ask for as many plain readings as there are amplified ones, random vectors, and single amplifiers (§4.1).

    Of readings that others have published, there is no model to ask.
    """
    if is_published(settings):
        return []
    prompts, shared = read_prompts(settings.prompts, settings.num_prompts), {"max_new_tokens": settings.max_new_tokens}
    between = {"mlp_output": settings.mlp_amplifiers, "hidden_state": settings.hidden_amplifiers}
    asked = []
    for component, target in EVALUATED.items():
        same = {"layers": settings.layers, "target_layer": target} | shared
        asked += [
            make_plan(prompts, component, amplifiers=1, target_prompt=other, **same) for other in TARGET_PROMPTS[1:]
        ]
        asked += [
            make_plan(prompts, component, amplifiers=1, decoding=PAPERS_SAMPLING, seed=seed, **same)
            for seed in range(settings.seeds)
        ]
        asked.append(make_plan(prompts, f"random[{component}]", amplifiers=GRIDS[component], **same))
        if between[component]:
            asked.append(make_plan(prompts, component, amplifiers=between[component], **same))
    return [*asked, make_plan(prompts[:1], ("zero", "none"), settings.layers, 1, target_layer=["same", 0], **shared)]


gold = described


def read(settings: Settings) -> pd.DataFrame:
    """Read published readings of MLP outputs."""
    return published(settings)


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        prompts: how many; layers: which.
        rules: by what readings are judged, the leading rule first; column `judged by` of the tables.
        nothing: what the model writes of zeros, and with nothing patched.
        single: per amplifier, of the vectors and of random ones, one try each.
        several: the best of k tries of each way to read a vector again.
        tests: McNemar's per layer, the amplified readings against as many plain ones with other target prompts.
        gains: under each rule, of each component, over chance (`effects.gain`): `total` of the best amplified readings
            over one plain one, `beyond` as many plain ones of the stronger `rival` way, `alone` of one amplified
            reading whose amplifier was chosen on other prompts, mostly `amplifier`, and how many `tries`. Published
            readings have no rival.
    """

    model: str
    prompts: int
    layers: str
    rules: list[str]
    nothing: pd.DataFrame
    single: pd.DataFrame
    several: pd.DataFrame
    tests: pd.DataFrame
    gains: dict[str, dict[str, dict]]


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Compare, per rule and component, the ways to read a vector several times with chance and with each other."""
    import pandas as pd

    from ..judging.effects import judge_rows
    from ..judging.judge import Judge

    judge, categories = Judge(settings.judge, settings.threshold), read_categories(settings.prompts)
    prompts, published = set(rows["source prompt"]), is_published(settings)
    evaluated = rows if published else evaluated_beside(settings, rows, prompts)
    rules, parts = rules_for(rows["source prompt"].unique(), gold(settings)), {}
    for (rule, truths), component in product(rules.items(), EVALUATED):
        if (evaluated["component"] == component).any():
            judged = partial(judge_rows, judge=judge, by_gold=truths, categories=categories)
            parts[rule, component] = _compared(component, evaluated, rows[:0] if published else rows, judged)

    def together(number: int) -> pd.DataFrame:
        some = [part[number].assign(**{"judged by": rule, "component": name}) for (rule, name), part in parts.items()]
        return pd.concat([table for table in some if len(table)] or some, ignore_index=True)

    nothing = rows[rows["component"].isin(("zero", "none"))].drop_duplicates(["component", "target layer"])
    gains = {rule: {name: part[3] for (of, name), part in parts.items() if of == rule} for rule in rules}
    return Found(
        rows.attrs["model"]["name"], len(prompts), in_runs(rows["layer"]), list(rules),
        nothing.reindex(columns=["component", "target layer", "result"]), together(0), together(1), together(2), gains,
    )  # fmt: skip


def _compared(component: str, evaluated: pd.DataFrame, rows: pd.DataFrame, judged: Callable[..., Judged]) -> tuple:
    """Return `single`, `several`, `tests` and `gains` of one component, on the layers of `rows`.

    Args:
        evaluated: the evaluation's readings.
        rows: the other readings of the same vectors; none of published ones.
        judged: judges rows under a rule.
    """
    import pandas as pd

    from ..judging.effects import chosen_on_half, effect, gain, on_grid, tests_by_layer

    others = rows[rows["component"] == component]
    evaluation = evaluated[evaluated["component"] == component]
    if len(others):
        evaluation = evaluation[evaluation["layer"].isin(others["layer"])]
    plain, grid = others[PLAIN.choose(others)], on_grid(evaluation, component)
    ways = {"amplifiers": judged(grid)}
    every = {"vectors": judged(pd.concat([evaluation, others[AMPLIFIED.choose(others)]]))}
    if len(others):
        ways |= {
            "target prompts": judged(pd.concat([grid[PLAIN.choose(grid)], plain[plain["seed"].isna()]])),
            "samples": judged(plain[plain["seed"].notna()]),
            "random vectors": judged(rows[rows["component"] == f"random[{component}]"]),
        }
        every["random vectors"] = ways["random vectors"]
    tries = {way: table.number_of_tries(WAYS[way][1]) for way, table in ways.items()}
    single = pd.DataFrame(
        {"vector": vector, "amplifier": amplifier}
        | effect(table, table.successes(table.tries["amplification value"] == amplifier))
        for vector, table in every.items()
        for amplifier in table.tries["amplification value"]
    )
    several = pd.DataFrame(
        {"way": way, "tries": k} | effect(table, table.best_of(k, WAYS[way][1]))
        for way, table in ways.items()
        for k in range(1, tries[way] + 1)
    )

    amplified, most = ways["amplifiers"], tries["amplifiers"]
    best = {way: table.best_of(min(most, tries[way]), WAYS[way][1]) for way, table in ways.items()}
    plainly = amplified.successes(PLAIN)
    chosen, shares = chosen_on_half(amplified, AMPLIFIED)
    gains = {
        "tries": most,
        "total": gain(amplified, best["amplifiers"], plainly),
        "alone": gain(amplified, chosen, plainly),
        "amplifier": float(shares.idxmax()),
    }
    tests = pd.DataFrame()
    if len(others):
        able = [way for way in RIVALS if tries[way] >= most]  # to be compared with as many tries
        rivals = several[several["way"].isin(able) & (several["tries"] <= most)]
        rival = rivals.loc[rivals.groupby("way")["tries"].idxmax()].sort_values("effect")["way"].iloc[-1]
        gains |= {"rival": rival, "beyond": gain(amplified, best["amplifiers"], best[rival], ways[rival])}
        tests = tests_by_layer(amplified.layers, best["amplifiers"] > 0, best["target prompts"] > 0)
    return single, several, tests, gains


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say what one amplified reading gives, how much of the gain is amplification, and how much is more tries."""
    return [
        f"{title(component)}, {RULES[rule].label}: {_single_sentence(found, rule, component)} {_gain_sentence(gains)}"
        for rule, of_component in found.gains.items()
        for component, gains in of_component.items()
    ]


def _single_sentence(found: Found, rule: str, component: str) -> str:
    """Say the success of one plain try and of the best single amplifier, each beside its chance."""
    rows = found.single[(found.single["judged by"] == rule) & (found.single["component"] == component)]
    rows = rows[rows["vector"] == "vectors"]
    plain, amplified = rows[rows["amplifier"] == 1], rows[rows["amplifier"] != 1]
    best = amplified.loc[amplified["effect"].idxmax()]
    said = [f"α = {row['amplifier']:g} {percent(row['rate'])} (by chance {percent(row['null'])})" for row in (plain.iloc[0], best)]
    return f"one try each, {said[0]}; the best single amplifier, {said[1]}."


def _gain_sentence(gains: dict) -> str:
    total, alone = gains["total"], gains["alone"]
    sentence = f"Over chance, the best of {gains['tries']} amplified readings succeeds in {points(total)} than one plain reading"
    if "rival" not in gains:
        sentence += "."
    else:
        beyond = gains["beyond"]
        many = f"{points(beyond)} than {gains['tries']} plain readings ({gains['rival']}, the better of two kinds here)"
        if total["low"] <= 0:
            sentence += f", no gain that is certain; and in {many}."
        elif beyond["low"] > 0:
            share = beyond["gain"] / total["gain"]
            all_of_it = "all of the gain" if share >= 1 else f"about {100 * share:.0f} % of the gain"
            sentence += f", and in {many}: {all_of_it} is amplification."
        else:
            sentence += f", and in {many}: none of the gain is certain to be amplification."
    certain = "" if alone["low"] > 0 or alone["high"] < 0 else ", no certain difference"
    sentence = (
        f"{sentence} One amplified reading (α chosen on other prompts, mostly {gains['amplifier']:g}) succeeds in "
        f"{points(alone)} than one plain reading{certain}."
    )
    if within := within_category(alone):
        sentence += f" Over chance of the category: {points(within_category(total))} and {points(within)}."
    return sentence


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    samples = f" (samples: {PAPERS_SAMPLING})" if (found.several["way"] == "samples").any() else ""
    same = "; dotted: its mean by others of the category" if "null same" in found.single else ""
    return (
        f"{found.model}, {found.prompts} prompts, source layers {found.layers}. "
        f"{interpreted(settings.threshold, found.rules, '(prompt, layer) pairs')} Above: each amplifier alone. Below: the "
        f"best of k tries, less what chance gives with as many{samples}. {BARS}, over prompts. Grey, chance: {OTHERS} (95 % "
        f"of all rotations){same}. Scales differ."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw success at each single amplifier, and of the best of k tries, a column per component, two rows per rule."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import STYLE

    with plt.rc_context(STYLE):
        components = list(next(iter(found.gains.values())))
        drawn, placed = panels.rows_by_components(len(found.rules), len(components), 5, 3.5, deep=2)
        for of_rule, rule in zip(placed, found.rules, strict=True):
            parts = [table[table["judged by"] == rule] for table in (found.single, found.several)]
            for (above, below), component in zip(of_rule, components, strict=True):
                _draw_single(above, parts[0][parts[0]["component"] == component])
                above.set_title(f"{title(component)}, {into(EVALUATED[component])}, by the {rule}")
                _draw_several(below, parts[1][parts[1]["component"] == component])
            for axes, label in zip(of_rule[0], ("one try each", "above chance\nwith as many tries"), strict=True):
                axes.set_ylabel(f"interpreted, {label}")
                panels.headroom(axes, 1.45)
                axes.legend(fontsize=8.5, loc="upper left")
        return panels.finish(drawn, caption(settings, found), 145)


def _draw_single(axes: Axes, single: pd.DataFrame) -> None:
    """Draw success as a function of the amplifier, one try each."""
    from ..figures import panels
    from ..figures.style import NULL_COLOUR

    rows, random = (
        single[single["vector"] == vector].sort_values("amplifier") for vector in ("vectors", "random vectors")
    )
    panels.chance_band(axes, rows["amplifier"], rows, label="by chance (95 %): judged by other prompts")
    axes.plot(rows["amplifier"], rows["null"], color=NULL_COLOUR, lw=1)
    if "null same" in rows:
        axes.plot(rows["amplifier"], rows["null same"], color=NULL_COLOUR, lw=1.2, ls=":", label=panels.SAME)
    if len(random):
        look = {"color": NULL_COLOUR, "ls": "--", "marker": "x", "ms": 5, "label": "random vectors of the same norm"}
        axes.plot(random["amplifier"], random["rate"], **look)
    plain = rows[rows["amplifier"] == 1]
    for method, part, line, label in (
        (AMPLIFIED, rows, "-", f"amplified, one try ({AMPLIFIED.name})"), (PLAIN, plain, "none", PLAIN.label)
    ):  # fmt: skip
        look = {"color": method.colour, "marker": method.marker, "ls": line, "label": label}
        panels.interval_line(axes, part["amplifier"], part, **look)
    axes.set(xscale="log", xlabel="amplifier α")
    panels.ticks_at(axes.xaxis, rows["amplifier"].tolist())
    panels.percent(axes.yaxis)


def _draw_several(axes: Axes, several: pd.DataFrame) -> None:
    """Draw the best of k tries of each way, above chance."""
    from ..figures import panels
    from ..figures.style import NULL_COLOUR

    amplified = several[several["way"] == "amplifiers"].sort_values("tries")
    panels.chance_band(axes, amplified["tries"], amplified, over_chance=True, label="by chance (95 %), amplifiers")
    for (way, (label, method, line, marker)), shift in zip(WAYS.items(), panels.offsets(len(WAYS), 0.04), strict=True):
        part = several[several["way"] == way].sort_values("tries")
        if len(part):
            colour = NULL_COLOUR if way == "random vectors" else method.colour
            look = {"color": colour, "ls": line, "marker": marker, "label": label}
            panels.interval_line(axes, part["tries"] + shift, part, over_chance=True, **look)
    panels.zero_line(axes)
    axes.set(xlabel="best of so many tries")
    panels.whole_numbers(axes.xaxis)
    panels.percent(axes.yaxis)


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the numbers."""
    about = {
        "model": found.model,
        "threshold": settings.threshold,
        "gains": found.gains,
        "several": found.several.to_dict("records"),
        "tests": found.tests.to_dict("records"),
        "verdict": sentences(settings, found),
    }
    publish(folder, {"amplification_or_tries": drawn}, found.single, "amplification_or_tries_found.csv", about)
