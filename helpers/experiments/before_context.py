"""What is legible before the entity is there?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .. import InputError
from ..words.components import COMPONENTS, EVALUATED, FINE_GRID, MLP_GRID, plural
from ..words.methods import AMPLIFIED, METHODS, PLAIN
from ..words.plans import Plan, make_plan
from ..words.prompts import read_categories, read_gold
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
from ._sentences import BARS, in_runs, is_certain

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
        InputError: as `read_prompts`; or the file has no descriptions, or but one, of which no chance can be made.
    """
    found = read_gold(settings.prompts, settings.num_prompts)
    if not found:
        raise InputError("prompts", settings.prompts, "no column 'gold', by which readings are judged")
    if len({*found.values()}) < 2:
        given = f"{len(found)} of {settings.prompts}"
        raise InputError("num_prompts", given, "chance needs at least two different descriptions")
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
            LAST_LAYER) and layers (how many layers earlier, on average), each null -> `effects.beside_chance`; n, the
            prompts that have a layer before ℓ_c; counts, prompts per number of layers earlier. {} if too few have one.
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
    context = contextualized(rows, judge)
    claims = claims_before_context(
        every[every["source prompt"].isin(described)], described, read_categories(settings.prompts), context, judge
    )
    by_chance = contextualized_by_chance(rows[rows["source prompt"].isin(described)], described, judge)
    return Found(rows.attrs["model"]["name"], every, context, by_chance, claims)


def contextualized_by_chance(
    rows: pd.DataFrame, described: dict[str, str], judge: Judge
) -> tuple[float, float, float]:
    """Return how many prompts would have an ℓ_c if others' descriptions judged them: the mean, and 95 % of rotations."""
    import numpy as np

    from ..judging.chance import band, by_chance, rotation_means
    from ..judging.effects import judge_rows

    into_first = rows[(rows["component"] == "hidden_state") & (rows["target layer"] == 0)]
    plain = judge_rows(into_first[PLAIN.choose(into_first)], judge, described, echoes=False)
    found = _first_of_two(plain.successes(PLAIN), np.array(plain.layers)) != NEVER  # (n, n)
    n, others = len(found), plain.others()
    low, high = band(n * rotation_means(found, others))
    return float(n * by_chance(found, others).mean()), float(low), float(high)


def claims_before_context(
    rows: pd.DataFrame, described: dict[str, str], categories: dict[str, str], context: pd.Series, judge: Judge
) -> dict[str, dict[str, dict]]:
    """Return what is legible before ℓ_c, beside three kinds of chance; see `Found.earlier`.

    Each prompt keeps its ℓ_c, and the layers before it, whoever judges its readings. If ℓ_c were found anew for every
    judge, mostly judges of the same kind would find one, and information about the kind would count as chance.

    Args:
        rows: of prompts with a description: these readings and the evaluations'.
        context: ℓ_c of each prompt.
    """
    earlier = {}
    if (context[list(described)] > 0).sum() < 2:
        return earlier
    for component, target in EVALUATED.items():
        judged = _before(rows, component, target, judge, described, categories)
        layers = context[list(judged.prompts)].to_numpy()
        earlier[component] = {method: _earlier(judged, method, layers) for method in judged.methods}
    return earlier


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


def _first_of_two(legible: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Return the first layer at which, and at the next one, a reading of (n, layers, …) is legible, (n, …); or NEVER."""
    import numpy as np

    both = legible[:, :-1] & legible[:, 1:]
    return np.where(both.any(1), layers[both.argmax(1)], NEVER)


def _before(
    rows: pd.DataFrame, component: str, target: object, judge: Judge, described: dict[str, str], categories: dict[str, str]
) -> Judged:
    """Judge an evaluation's readings, in the layers that count, by the descriptions, without echoes."""
    from ..judging.effects import judge_rows

    grid = _grid(rows, component, target)
    return judge_rows(grid, judge, described, echoes=False, categories=categories)


def _grid(rows: pd.DataFrame, component: str, target: object) -> pd.DataFrame:
    """Take an evaluation's readings, in the layers up to LAST_LAYER that it has amplified readings of all prompts in."""
    grid = rows[(rows["component"] == component) & rows["amplification value"].isin(GRIDS[component])]
    grid = grid[grid["target layer"] == (grid["layer"] if target == "same" else target)]
    prompts = grid[~PLAIN.choose(grid)].groupby("layer")["source prompt"].nunique()  # plain ones are of every layer
    layers = prompts.index[prompts == grid["source prompt"].nunique()]
    return grid[grid["layer"].isin(layers[layers <= LAST_LAYER])]


def _earlier(judged: Judged, method: str, context: np.ndarray) -> dict[str, object]:
    """Return how often, and how many layers before ℓ_c, a method's readings are legible; see `Found.earlier`.

    Args:
        context: (n,) ℓ_c of each of the judged prompts.
    """
    import numpy as np

    from ..judging.chance import NULLS
    from ..judging.effects import beside_chance

    layers, readers = layers_earlier(judged, method, context), context > 0
    groups = {"same": judged.groups} if judged.categories else {}
    nulls = [null for null in NULLS if null == "any" or judged.categories]
    numbers = {
        name: {null: beside_chance(table, judged.others(null), groups.get(null), readers) for null in nulls}
        for name, table in (("legible", (layers > 0).astype(float)), ("layers", layers.astype(float)))
    }
    counts = zip(*np.unique(layers.diagonal()[readers], return_counts=True), strict=True)
    return numbers | {"n": int(readers.sum()), "counts": {int(layer): int(count) for layer, count in counts}}


def layers_earlier(judged: Judged, method: str, context: np.ndarray) -> np.ndarray:
    """Return how many layers before its ℓ_c prompt i is legible, as prompt j judges it, (n, n); 0 for no earlier layer.

    Args:
        judged: of one component, by gold descriptions, without echoes.
        context: (n,) ℓ_c of each prompt, the same whoever judges.
    """
    import numpy as np

    before = np.maximum(context[:, None] - np.array(judged.layers), 0)  # (n, layers)
    return (judged.successes(method) * before[..., None]).max(1)


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
    """Say when entities appear, and what each method's readings say before that, at which level."""
    context, (mean, low, high) = found.context[list(descriptions(settings))], found.chance
    said = [
        f"Of {len(context)} prompts, {(context != NEVER).sum()} are contextualized (ℓ_c exists; by chance {mean:.1f}, "
        f"{low:.0f} to {high:.0f}), {(context == 0).sum()} of them from layer 0 on; {(context == NEVER).sum()} never are."
    ]
    if not found.earlier:
        return [*said, "Too few have a layer before ℓ_c for anything to be compared."]
    return said + [
        _claim(component, method, numbers)
        for component, methods in found.earlier.items()
        for method, numbers in methods.items()
    ]


def _claim(component: str, method: str, numbers: dict) -> str:
    from ..judging.chance import NULLS

    n, legible, layers = numbers["n"], numbers["legible"], numbers["layers"]
    kind = f"{METHODS[method].adjective} {COMPONENTS[component].singular}"
    by_chance = ", ".join(
        f"{legible[null]['null'] * n:.1f} judged by {NULLS[null]}{_of(legible[null], n)}" for null in NULLS if null in legible
    )
    return (
        f"{'An' if kind[0] in 'aeiou' else 'A'} {kind} says what the entity is before ℓ_c for "
        f"{legible['any']['rate'] * n:.0f} of {n} prompts with an earlier layer; by chance, in the same layers: {by_chance}. "
        f"{_level(legible)} {layers['any']['rate']:.1f} layers earlier on average (by chance "
        f"{layers['any']['null']:.1f})."
    )


def _of(numbers: dict[str, float], n: int) -> str:
    """Say where fewer prompts than all have such others."""
    return f" ({numbers['rate'] * numbers['prompts']:.0f} of the {numbers['prompts']} that have any)" if numbers["prompts"] < n else ""


def _level(legible: dict[str, dict]) -> str:
    """Say what is legible: the entity itself, what kind of thing it is, or nothing that is more than chance."""
    if not is_certain(legible["any"]):
        return "That is within chance."
    if "same" not in legible:
        return "That is above chance."
    if is_certain(legible["same"]):
        return "That is above chance of its category, too: something of the entity itself is legible."
    return "That is above chance, but not above that of its category: what kind of thing it is is legible, not which."


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    rows = found.rows[found.rows["source prompt"].isin(descriptions(settings))]
    layers = {name: in_runs(_grid(rows, name, target)["layer"]) for name, target in EVALUATED.items()}
    read = [f"{of} ({plural(name)})" for name, of in layers.items()] if len({*layers.values()}) > 1 else [*layers.values()][:1]
    where = f"up to layer {LAST_LAYER}" if read == [f"0–{LAST_LAYER}"] else f"in layers {', '.join(read)}"
    return (
        f"{found.model}. ℓ_c: the first layer whose plain hidden state (into layer 0), and the next one's, is similar to "
        f"the entity's description (above {settings.threshold:g}, not an echo). n: prompts with a layer before ℓ_c, read "
        f"{where}. {BARS}. Grey, chance: the same readings, in the same layers, judged by any other prompt's "
        "description (95 % of all rotations); diamonds: its mean by others of the category."
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
                {"component": component, "method": method} | numbers[name]["any"]
                | {"null same": numbers[name].get("same", {}).get("null", np.nan)}
                for component, methods in found.earlier.items()
                for method, numbers in methods.items()
            ]  # fmt: skip
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
    n = next(iter(found.earlier[component].values()))["n"]
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
