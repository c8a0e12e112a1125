"""What is legible before the entity is there?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .. import InputError
from ..words.components import COMPONENTS, EVALUATED, FINE_GRID, MLP_GRID, plural
from ..words.methods import AMPLIFIED, METHODS, PLAIN
from ..words.plans import Plan, make_plan
from ..words.prompts import read_gold
from ..words.settings import (
    NUM_PROMPTS,
    PROMPTS,
    RESULTS,
    THRESHOLD,
    Amplifiers,
    Cosine,
    Count,
    FilePath,
    FilePaths,
    Layers,
    Pairs,
    ReadSettings,
    Strings,
    setting,
)
from ._evaluated import FILES, evaluated_beside
from ._publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from ..judging.effects import Judged
    from ..judging.judge import Judge

PLACE, WHEN = 50, "paper"
QUESTION = "what is legible before the entity is there?"
PAPER = "Tables 1–3, §4.2"
TABLE = "before_context.csv.gz"
NEEDS = FILES

NEVER = -1  # in place of ℓ_c: never contextualized
LAST_LAYER = 7  # the deepest layer before ℓ_c that counts, as in the evaluations
GRIDS = {"mlp_output": MLP_GRID, "hidden_state": FINE_GRID}  # the paper's, of each evaluation
RESAMPLES = 2000


class Settings(ReadSettings):
    """The parameters of the notebook."""

    prompts: FilePath = setting(PROMPTS.default, "a CSV with the columns `prompt` and `gold`: those of the evaluations")
    num_prompts: Count = NUM_PROMPTS
    mlp_walkthroughs: Strings = setting(
        ("Saturday Night Live", "Back to the Future", "Diana, Princess of Wales"), "of Tables 1–2"
    )
    hidden_walkthroughs: Strings = setting(
        ("Alexander the Great", "Red Hot Chili Peppers", "Florence and the Machine"), "of Table 3"
    )
    walkthrough_layers: Layers = setting("0-7", "of Table 3, from 0")
    fine_amplifiers: Amplifiers = setting("1.3,1.5,1.7,1.9,2:21:1", "of Table 3")
    more_gold: Pairs = setting(
        {"Florence and the Machine": "English indie rock band"}, "of walkthroughs that are not of the prompts"
    )
    results: FilePaths = RESULTS
    threshold: Cosine = THRESHOLD


def plans(settings: Settings) -> list[Plan]:
    """Ask for plain readings in every layer, for ℓ_c; layer 0, which the evaluations leave out; fine amplifiers."""
    prompts, walkthroughs = list(descriptions(settings)), hidden_walkthroughs(settings)
    shared = {"target_layer": 0, "max_new_tokens": settings.max_new_tokens}
    asked = [
        make_plan(list(dict.fromkeys([*prompts, *walkthroughs])), "hidden_state", "all", 1, **shared),
        make_plan(prompts, "mlp_output", 0, MLP_GRID, **shared),
    ]
    if others := [prompt for prompt in prompts if prompt not in walkthroughs]:
        asked.append(make_plan(others, "hidden_state", 0, FINE_GRID[1:], **shared))
    if walkthroughs:
        asked.append(make_plan(walkthroughs, "hidden_state", settings.walkthrough_layers, settings.fine_amplifiers, **shared))
    return asked


def descriptions(settings: Settings) -> dict[str, str]:
    """Return the descriptions of the evaluations' prompts.

    Raises:
        InputError: as `read_prompts`; or the file has no descriptions.
    """
    found = read_gold(settings.prompts, settings.num_prompts)
    if not found:
        raise InputError("prompts", settings.prompts, "no column 'gold', by which readings are judged")
    return found


def gold(settings: Settings) -> dict[str, str]:
    """Return the descriptions of all prompts that are read."""
    return descriptions(settings) | settings.more_gold


def hidden_walkthroughs(settings: Settings) -> list[str]:
    """Return the walkthroughs of Table 3 whose description is known."""
    return [prompt for prompt in settings.hidden_walkthroughs if prompt in gold(settings)]


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        rows: these readings and the evaluations'; those of the walkthroughs are scored by gold.
        context: ℓ_c of each prompt; NEVER where there is none.
        chance: how many prompts have an ℓ_c when other prompts' descriptions judge them: mean, low, high.
        earlier: component -> method -> legible (the share of prompts that are legible in any layer before ℓ_c, up to
            LAST_LAYER), layers (how many layers earlier, on average), counts (prompts per number of layers earlier);
            {} if too few prompts have a layer before ℓ_c.
    """

    model: str
    rows: pd.DataFrame
    context: pd.Series
    chance: tuple[float, float, float]
    earlier: dict[str, dict[str, dict]]


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Find ℓ_c of each prompt, and what is legible in the layers before it, beside chance with the same selection."""
    import pandas as pd

    from ..judging.judge import Judge
    from ..judging.score import score

    judge, described = Judge(settings.judge, settings.threshold), descriptions(settings)
    evaluated = evaluated_beside(settings, rows, described)
    shown = evaluated["source prompt"].isin([*settings.mlp_walkthroughs, *settings.hidden_walkthroughs])
    evaluated = pd.concat([score(evaluated[shown], judge, described), evaluated[~shown]]).sort_index()
    every = pd.concat([evaluated, rows]).drop_duplicates("id", ignore_index=True)
    claims = claims_before_context(every[every["source prompt"].isin(described)], described, judge)
    return Found(rows.attrs["model"]["name"], every, contextualized(rows, judge), *claims)


def claims_before_context(
    rows: pd.DataFrame, described: dict[str, str], judge: Judge
) -> tuple[tuple[float, float, float], dict[str, dict[str, dict]]]:
    """Return how many prompts have an ℓ_c by chance, and what is legible before ℓ_c; see `Found.chance` and `.earlier`.

    Args:
        rows: of prompts with a description: these readings and the evaluations'.
    """
    import numpy as np

    from ..judging.chance import band, rotated
    from ..judging.effects import judge_rows

    into_first = rows[(rows["component"] == "hidden_state") & (rows["target layer"] == 0)]
    plain = judge_rows(into_first[PLAIN.choose(into_first)], judge, described, echoes=False)
    context = context_by_judge(plain)
    n, by_chance = len(context), (rotated(context) != NEVER).sum(1)[1:]
    earlier = {}
    others = ~np.eye(n, dtype=bool)
    if (context.diagonal() > 0).sum() >= 2 and (context[others] > 0).sum() >= n:
        for component, target in EVALUATED.items():
            judged = _before(rows, component, target, judge, described)
            if judged.prompts != plain.prompts:
                raise InputError("results", component, "the evaluation is of other prompts")
            earlier[component] = {method: _earlier(judged, method, context) for method in judged.methods}
    return (float(np.mean(by_chance)), *band(by_chance)), earlier


def contextualized(rows: pd.DataFrame, judge: Judge) -> pd.Series:
    """Return ℓ_c of each prompt: the smallest ℓ such that the plain readings at ℓ and ℓ + 1 are legible; NEVER if none.

    Args:
        rows: scored by gold; plain readings (α = 1) of hidden_state into layer 0 are used, of all layers.
    """
    import pandas as pd

    from ..judging.effects import is_legible

    plain = rows[(rows["component"] == "hidden_state") & PLAIN.choose(rows) & (rows["target layer"] == 0)]
    legible = plain.assign(legible=is_legible(plain, judge)).pivot(
        index="source prompt", columns="layer", values="legible"
    )
    first = _first_of_two(legible.to_numpy(), legible.columns.to_numpy())
    return pd.Series(first, legible.index)[plain["source prompt"].unique()].rename("ℓ_c")


def context_by_judge(plain: Judged) -> np.ndarray:
    """Return ℓ_c of prompt i if prompt j's description judged its readings, (n, n); NEVER where there is none.

    Args:
        plain: readings of hidden_state into layer 0 at α = 1, in all layers, judged by gold without echoes.
    """
    import numpy as np

    return _first_of_two(plain.successes(PLAIN), np.array(plain.layers))


def _first_of_two(legible: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Return the first layer at which, and at the next one, a reading of (n, layers, …) is legible, (n, …); or NEVER."""
    import numpy as np

    both = legible[:, :-1] & legible[:, 1:]
    return np.where(both.any(1), layers[both.argmax(1)], NEVER)


def _before(rows: pd.DataFrame, component: str, target: object, judge: Judge, described: dict[str, str]) -> Judged:
    """Judge an evaluation's readings, in the layers that count, by the descriptions, without echoes."""
    from ..judging.effects import judge_rows

    own = rows[(rows["component"] == component) & rows["amplification value"].isin(GRIDS[component])]
    own = own[own["layer"] <= LAST_LAYER]
    at = own["layer"] if target == "same" else target
    return judge_rows(own[own["target layer"] == at], judge, described, echoes=False)


def _earlier(judged: Judged, method: str, context: np.ndarray) -> dict[str, object]:
    """Return how often, and how many layers before ℓ_c, a method's readings are legible."""
    import numpy as np

    layers = layers_earlier(judged, method, context)
    counted = layers.diagonal()[context.diagonal() > 0]
    counts = {int(k): int(v) for k, v in zip(*np.unique(counted, return_counts=True), strict=True)}
    numbers = {"legible": layers > 0, "layers": layers}
    return {name: among_contextualized(values, context) for name, values in numbers.items()} | {"counts": counts}


def layers_earlier(judged: Judged, method: str, context: np.ndarray) -> np.ndarray:
    """Return how many layers before ℓ_c(i, j) prompt i is legible, as judged by j, (n, n); 0 for no earlier layer.

    Args:
        judged: of one component, by gold descriptions, without echoes.
        context: (n, n), of `context_by_judge`.
    """
    import numpy as np

    before = context[:, None, :] - np.array(judged.layers)[:, None]  # (n, layers, n)
    return (judged.successes(method) * np.maximum(before, 0)).max(1)


def among_contextualized(values: np.ndarray, context: np.ndarray) -> dict[str, float]:
    """Compare the mean of a number over the prompts with a layer before ℓ_c with chance with the same selection.

    By chance: prompt i judged by prompt j's description throughout, ℓ_c(i, j) included, over the pairs i ≠ j for which
    there is a layer before ℓ_c(i, j). So chance has the same rule, the same readings and as many tries.

    Args:
        values: (n, n), of prompt i judged by j.
        context: (n, n), of `context_by_judge`.

    Returns:
        n (prompts counted), rate, null, null_low, null_high (95 % of all rotations), effect with its 95 % interval
        (low, high; bootstrap over prompts), p_value (share of the rotations, the real pairing included, with at least
        such a mean).
    """
    import numpy as np

    from ..judging.chance import band, rotated

    counted, size = context > 0, len(values)

    def difference(prompts: np.ndarray) -> float:
        part, kept = values[np.ix_(prompts, prompts)], counted[np.ix_(prompts, prompts)]
        same = prompts[:, None] == prompts
        own, others = kept.diagonal(), kept & ~same
        return part.diagonal()[own].mean() - part[others].mean() if own.any() and others.any() else np.nan

    means = [part[kept].mean() if kept.any() else np.nan for part, kept in zip(rotated(values), rotated(counted), strict=True)]
    by_rotation = np.array(means[1:])[~np.isnan(means[1:])]
    rng = np.random.default_rng(0)
    drawn = np.array([difference(rng.integers(size, size=size)) for _ in range(RESAMPLES)])
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    null_low, null_high = band(by_rotation)
    real = difference(np.arange(size))
    numbers = {
        "rate": means[0], "null": means[0] - real, "null_low": null_low, "null_high": null_high,
        "effect": real, "low": low, "high": high,
        "p_value": (1 + (by_rotation >= means[0] - 1e-12).sum()) / (1 + len(by_rotation)),
    }  # fmt: skip
    return {"n": int(counted.diagonal().sum())} | {name: round(float(value), 4) for name, value in numbers.items()}


def walkthrough(settings: Settings, found: Found, prompt: str, component: str) -> pd.DataFrame:
    """Return a prompt's readings before its ℓ_c, the original beside the best amplified one (Tables 1–3).

    Returns:
        Columns layer, plain, α, amplified, score gold, legible; the best is the one with the highest score by the
        gold description, as the paper's readers chose what they show.
    """
    import pandas as pd

    from ..judging.effects import is_legible
    from ..judging.judge import Judge

    rows, first = found.rows, found.context[prompt]
    before = LAST_LAYER + 1 if first == NEVER else first
    rows = rows[(rows["component"] == component) & (rows["source prompt"] == prompt) & (rows["layer"] < before)]
    rows = rows.assign(legible=is_legible(rows, Judge(settings.judge, settings.threshold)))
    lines = []
    for layer, part in rows.groupby("layer"):
        plain, amplified = part[PLAIN.choose(part)], part[AMPLIFIED.choose(part)]
        if amplified.empty:  # plain readings go deeper than amplified ones
            continue
        best = amplified.loc[amplified["score gold"].idxmax()]
        lines.append(
            {
                "layer": layer,
                "plain (α = 1)": plain["result"].iloc[0] if len(plain) else "",
                "α": best["amplification value"],
                "amplified": best["result"],
                "score gold": round(best["score gold"], 2),
                "legible": bool(best["legible"]),
            }
        )
    return pd.DataFrame(lines)


def walkthroughs(settings: Settings, found: Found, component: str) -> dict[str, pd.DataFrame]:
    """Return the walkthroughs of a component (Tables 1–2, Table 3): a title with the prompt and its ℓ_c -> its table."""
    asked = settings.mlp_walkthroughs if component == "mlp_output" else hidden_walkthroughs(settings)
    read = found.rows.loc[found.rows["component"] == component, "source prompt"].unique()
    return {
        f"**{prompt}**: ℓ_c = {found.context[prompt]}": walkthrough(settings, found, prompt, component)
        for prompt in asked
        if prompt in read
    }


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say when entities appear, and what each method's readings say before that, beside chance."""
    context = found.context[list(descriptions(settings))]
    n, (mean, low, high) = len(context), found.chance
    said = [
        f"Of {n} prompts, {(context != NEVER).sum()} are contextualized (ℓ_c exists; by chance {mean:.1f}, "
        f"{low} to {high}), {(context == 0).sum()} of them from layer 0 on; {(context == NEVER).sum()} never are."
    ]
    if not found.earlier:
        return [*said, "Too few have a layer before ℓ_c for anything to be compared."]
    for component, methods in found.earlier.items():
        for method, numbers in methods.items():
            legible, layers = numbers["legible"], numbers["layers"]
            certain = "above chance" if legible["low"] > 0 and legible["p_value"] < 0.05 else "within chance"
            one = METHODS[method].one
            some = sum(count for earlier, count in numbers["counts"].items() if earlier > 0)
            said.append(
                f"{'An' if one[0] in 'aeiou' else 'A'} {one} {COMPONENTS[component].singular} says what the entity is "
                f"before ℓ_c for {some} of {legible['n']} prompts with an earlier layer (by chance, with the same "
                f"selection, {legible['null'] * legible['n']:.1f}): {certain}; {layers['rate']:.1f} layers earlier on "
                f"average (by chance {layers['null']:.1f})."
            )
    return said


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    return (
        f"{found.model}. ℓ_c: the first layer whose plain hidden state (into layer 0), and the next one's, is similar to "
        f"the entity's description (above {settings.threshold:g}, not an echo). n: prompts with a layer before ℓ_c, read up "
        f"to layer {LAST_LAYER}. Bars: 95 % intervals of the distance to chance. Grey, chance: the same readings judged by "
        "other prompts' descriptions, ℓ_c included (95 % of all rotations)."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw Tables 1–3 as claims over all prompts: when entities appear, and in how many they are legible before."""
    import matplotlib.pyplot as plt
    import numpy as np
    import pandas as pd

    from ..figures import panels
    from ..figures.style import INK, NULL_COLOUR, STYLE

    context = found.context[list(descriptions(settings))]
    with plt.rc_context(STYLE):
        drawn, (when, many, how) = plt.subplots(
            1, 3, figsize=(11.5, 4.3), layout="constrained", width_ratios=[1.1, 1, 1]
        )
        when.bar(*np.unique(context[context >= 0], return_counts=True), color=INK, width=0.8)
        when.set(
            xlabel="ℓ_c, the first of two legible layers", ylabel="prompts", title="When entities appear, plainly read"
        )
        never = f"never contextualized: {(context < 0).sum()} of {len(context)}"
        when.text(0.98, 0.97, never, transform=when.transAxes, ha="right", va="top", fontsize=9, color=NULL_COLOUR)
        panels.whole_numbers(when.xaxis)
        panels.whole_numbers(when.yaxis)
        for axes, name, title, label in (
            (many, "legible", "Legible in a layer before ℓ_c", "share of prompts"),
            (how, "layers", "How many layers earlier", "layers, mean over prompts"),
        ):
            lines = [
                {"component": component, "method": method} | numbers[name]
                for component, methods in found.earlier.items()
                for method, numbers in methods.items()
            ]
            if lines:
                panels.method_dots(axes, pd.DataFrame(lines), "component", list(found.earlier), gap=0.32, ms=7)
            axes.set_xticks(range(len(found.earlier)), [_with_n(found, component) for component in found.earlier])
            axes.set_xlim(-0.5, max(len(found.earlier), 1) - 0.5)
            axes.set(title=title, ylabel=label)
            axes.set_ylim(0, None)
        many.set_ylim(0, 1.02)
        panels.percent(many.yaxis)
        if found.earlier:
            panels.legend_below(drawn, many)
        return panels.finish(drawn, caption(settings, found), 150)


def _with_n(found: Found, component: str) -> str:
    n = next(iter(found.earlier[component].values()))["legible"]["n"]
    return f"{plural(component)}\n(n = {n})"


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure, ℓ_c of each prompt, and the numbers."""
    table = found.context.rename("first context").rename_axis("source prompt").reset_index()
    about = {
        "model": found.model,
        "threshold": settings.threshold,
        "earlier": found.earlier,
        "verdict": sentences(settings, found),
    }
    publish(folder, {"before_context": drawn}, table, "before_context_found.csv", about)
