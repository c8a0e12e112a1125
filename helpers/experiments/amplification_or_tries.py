"""Is it amplification, or more tries?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..words.components import EVALUATED, GRIDS, into, title
from ..words.decoding import PAPERS_SAMPLING
from ..words.methods import AMPLIFIED, PLAIN
from ..words.plans import Plan, make_plan
from ..words.prompts import read_gold, read_prompts
from ..words.settings import (
    NUM_PROMPTS,
    PROMPTS,
    RESULTS,
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
from ._evaluated import FILES, evaluated_beside
from ._publish import publish
from ._sentences import BARS, OTHERS, in_runs, interpreted, points

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    results: FilePaths = RESULTS
    threshold: Cosine = THRESHOLD


def plans(settings: Settings) -> list[Plan]:
    """Ask for as many plain readings as there are amplified ones, random vectors, and single amplifiers (§4.1)."""
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


def gold(settings: Settings) -> dict[str, str]:
    """Return the prompts' descriptions, where they are known."""
    return read_gold(settings.prompts, settings.num_prompts)


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        prompts: how many; layers: which.
        nothing: what the model writes of zeros, and with nothing patched.
        single: per amplifier, of the vectors and of random ones, one try each.
        several: the best of k tries of each way to read a vector again.
        tests: McNemar's per layer, the amplified readings against as many plain ones with other target prompts.
        gains: of each component, over chance (`effects.gain`): `total` of the best amplified readings over one plain
            one, `beyond` as many plain ones of the stronger `rival` way, `alone` of one amplified reading whose
            amplifier was chosen on other prompts, mostly `amplifier`, and how many `tries`.
    """

    model: str
    prompts: int
    layers: str
    nothing: pd.DataFrame
    single: pd.DataFrame
    several: pd.DataFrame
    tests: pd.DataFrame
    gains: dict[str, dict]


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Compare, per component, the ways to read a vector several times with chance and with each other."""
    import pandas as pd

    from ..judging.judge import Judge

    judge = Judge(settings.judge, settings.threshold)
    evaluated = evaluated_beside(settings, rows, set(rows["source prompt"]))
    parts = [_of_component(component, evaluated, rows, judge) for component in EVALUATED]
    single, several, tests = (pd.concat(tables, ignore_index=True) for tables in list(zip(*parts, strict=True))[:3])
    nothing = rows[rows["component"].isin(("zero", "none"))].drop_duplicates(["component", "target layer"])
    return Found(
        rows.attrs["model"]["name"], rows["source prompt"].nunique(), in_runs(rows["layer"]),
        nothing[["component", "target layer", "result"]], single, several, tests,
        {component: part[3] for component, part in zip(EVALUATED, parts, strict=True)},
    )  # fmt: skip


def _of_component(component: str, evaluated: pd.DataFrame, rows: pd.DataFrame, judge) -> tuple:
    """Return `single`, `several`, `tests` and `gains` of one component, on the layers of `rows`."""
    import pandas as pd

    from ..judging.effects import chosen_on_half, effect, gain, judge_rows, on_grid, tests_by_layer

    own = rows[rows["component"] == component]
    layers = sorted(own["layer"].unique().tolist())
    plain = own[PLAIN.choose(own)]
    evaluation = evaluated[(evaluated["component"] == component) & evaluated["layer"].isin(layers)]
    grid = on_grid(evaluation, component)
    every = pd.concat([evaluation, own[AMPLIFIED.choose(own)]])
    ways = {
        "amplifiers": judge_rows(grid, judge),
        "target prompts": judge_rows(pd.concat([grid[PLAIN.choose(grid)], plain[plain["seed"].isna()]]), judge),
        "samples": judge_rows(plain[plain["seed"].notna()], judge),
        "random vectors": judge_rows(rows[rows["component"] == f"random[{component}]"], judge),
    }
    tries = {way: judged.number_of_tries(WAYS[way][1]) for way, judged in ways.items()}
    single = pd.DataFrame(
        {"component": component, "vector": vector, "amplifier": amplifier}
        | effect(judged, judged.successes(judged.tries["amplification value"] == amplifier))
        for vector, judged in (("own", judge_rows(every, judge)), ("random", ways["random vectors"]))
        for amplifier in judged.tries["amplification value"]
    )
    several = pd.DataFrame(
        {"component": component, "way": way, "tries": k} | effect(judged, judged.best_of(k, WAYS[way][1]))
        for way, judged in ways.items()
        for k in range(1, tries[way] + 1)
    )

    amplified, most = ways["amplifiers"], tries["amplifiers"]
    best = {way: judged.best_of(min(most, tries[way]), WAYS[way][1]) for way, judged in ways.items()}
    rivals = several[several["way"].isin(RIVALS) & (several["tries"] <= most)]
    rival = rivals.loc[rivals.groupby("way")["tries"].idxmax()].sort_values("effect")["way"].iloc[-1]
    one = amplified.successes(PLAIN)
    chosen, shares = chosen_on_half(amplified, AMPLIFIED)
    gains = {
        "tries": most,
        "total": gain(amplified, best["amplifiers"], one),
        "rival": rival,
        "beyond": gain(amplified, best["amplifiers"], best[rival], ways[rival]),
        "alone": gain(amplified, chosen, one),
        "amplifier": float(shares.idxmax()),
    }
    tests = tests_by_layer(layers, best["amplifiers"] > 0, best["target prompts"] > 0).assign(component=component)
    return single, several, tests, gains


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say how much of the gain of amplified readings is amplification, and how much is more tries."""
    return [_gain_sentence(component, gains) for component, gains in found.gains.items()]


def _gain_sentence(component: str, gains: dict) -> str:
    total, beyond, alone = gains["total"], gains["beyond"], gains["alone"]
    sentence = (
        f"{title(component)}: the best of {gains['tries']} amplified readings beside one plain reading, in (prompt, "
        f"layer) pairs above chance: {points(total)}"
    )
    many = f"{gains['tries']} plain readings ({gains['rival']}, the better of two kinds here)"
    if total["low"] <= 0:
        sentence += ", no gain that is certain."
    elif beyond["low"] > 0:
        share = beyond["gain"] / total["gain"]
        all_of_it = "all of the gain" if share >= 1 else f"about {100 * share:.0f} % of the gain"
        sentence += f"; beside {many}, {points(beyond)}: {all_of_it} is amplification."
    else:
        sentence += f"; beside {many}, {points(beyond)}: none of the gain is certain to be amplification."
    differs = "more" if alone["low"] > 0 else "fewer" if alone["high"] < 0 else "no certain difference"
    return (
        f"{sentence} One amplified reading (α chosen on other prompts, mostly {gains['amplifier']:g}) beside one plain: "
        f"{points(alone)}, {differs}."
    )


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    return (
        f"{found.model}, {found.prompts} prompts, source layers {found.layers}. {interpreted(settings.threshold)}. "
        f"Above: each amplifier alone. Below: the best of k tries, less what chance gives with as many ({OTHERS}; "
        f"samples: {PAPERS_SAMPLING}). {BARS}, over prompts; grey: 95 % of all rotations. Scales differ."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw success at each single amplifier, and of the best of k tries of each way, a column per component."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import STYLE

    with plt.rc_context(STYLE):
        drawn, (above, below) = plt.subplots(2, len(EVALUATED), figsize=(11, 8), layout="constrained", squeeze=False)
        for single, several, (component, target) in zip(above, below, EVALUATED.items(), strict=True):
            _draw_single(single, found.single[found.single["component"] == component])
            single.set_title(f"{title(component)}, {into(target)}")
            _draw_several(several, found.several[found.several["component"] == component])
        above[0].set_ylabel("interpreted, one try each")
        below[0].set_ylabel("interpreted, above chance\nwith as many tries")
        for axes in (above[0], below[0]):
            panels.headroom(axes, 1.45)
            axes.legend(fontsize=8.5, loc="upper left")
        return panels.finish(drawn, caption(settings, found), 145)


def _draw_single(axes: Axes, single: pd.DataFrame) -> None:
    """Draw success as a function of the amplifier, one try each."""
    from ..figures import panels
    from ..figures.style import NULL_COLOUR

    own, random = (single[single["vector"] == vector].sort_values("amplifier") for vector in ("own", "random"))
    panels.chance_band(axes, own["amplifier"], own, label="by chance (95 %): judged by other prompts")
    axes.plot(own["amplifier"], own["null"], color=NULL_COLOUR, lw=1)
    label = "random vectors of the same norm"
    axes.plot(random["amplifier"], random["rate"], color=NULL_COLOUR, ls="--", marker="x", ms=5, label=label)
    plain = own[own["amplifier"] == 1]
    for method, part, line, label in (
        (AMPLIFIED, own, "-", f"amplified, one try ({AMPLIFIED.name})"), (PLAIN, plain, "none", PLAIN.label)
    ):  # fmt: skip
        look = {"color": method.colour, "marker": method.marker, "ls": line, "label": label}
        panels.interval_line(axes, part["amplifier"], part, **look)
    axes.set(xscale="log", xlabel="amplifier α")
    panels.ticks_at(axes.xaxis, own["amplifier"].tolist())
    panels.percent(axes.yaxis)


def _draw_several(axes: Axes, several: pd.DataFrame) -> None:
    """Draw the best of k tries of each way, above chance."""
    from ..figures import panels
    from ..figures.style import NULL_COLOUR

    own = several[several["way"] == "amplifiers"].sort_values("tries")
    panels.chance_band(axes, own["tries"], own, over_chance=True, label="by chance (95 %), amplifiers")
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
