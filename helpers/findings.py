"""From rows to what they say: the tables behind each figure, and a sentence or two that follow from them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from statsmodels.stats.multitest import multipletests

from . import ROOT, InputError
from .catalogue import CATALOGUE
from .components import IN_WORDS, title
from .effects import Judged, chosen_on_half, effect, gain, judge, tests_by_layer
from .experiments import GRIDS, TARGETS
from .plans import TargetPrompt, parse_layers
from .results import json_of, read_results
from .scoring import THRESHOLD, is_echo, success_counts

METHODS = ("Patchscopes", "Superscopes")
SCORED = {  # a name -> first item only, by the description, with echoes
    "whole, by the prompt (the paper's way)": (False, False, True),
    "whole, by the prompt, no echoes": (False, False, False),
    "first item, by the prompt": (True, False, True),
    "first item, by the prompt, no echoes": (True, False, False),
    "whole, by the description": (False, True, True),
    "whole, by the description, no echoes": (False, True, False),
    "first item, by the description, no echoes": (True, True, False),
}


def on_grid(rows: pd.DataFrame, component: str, layers: Sequence[int] | None = None) -> pd.DataFrame:
    """The rows of a component on its grid of one plain and five amplified readings (`experiments.GRIDS`).

    Raises:
        InputError: an amplifier of the grid wasn't read.
    """
    mine = rows[(rows["component"] == component) & (rows["layer"].isin(layers) if layers is not None else True)]
    if missing := set(GRIDS[component]) - set(mine["amplification value"]):
        why = f"the readings of {component} lack {sorted(missing)}; methods are compared on {GRIDS[component]}"
        raise InputError("amplifiers", sorted(set(mine["amplification value"])), why)
    return mine[mine["amplification value"].isin(GRIDS[component])]


def by_method(judged: Judged, threshold: float = THRESHOLD) -> dict[str, dict[str, float]]:
    """`effects.effect` of the plain reading and of the best of the amplified ones."""
    of = {"Patchscopes": judged.plain, "Superscopes": ~judged.plain}
    return {method: effect(judged, judged.successes(which, threshold)) for method, which in of.items()}


def tries_tables(
    evaluation: pd.DataFrame, tries: pd.DataFrame, component: str, threshold: float = THRESHOLD
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict]:
    """Is it amplification, or more tries? For one component, on the layers of `tries`.

    Args:
        evaluation: rows of the component's evaluation; tries: of `experiments.amplification_or_tries`.

    Returns:
        single: per amplifier, of the vectors and of random ones, one try each; several: the best of k tries of each
        way to read a vector again; tests: McNemar's per layer, five amplified readings against five plain ones;
        gains over chance (`effects.gain`): `total` of the best amplified readings over one plain one, `beyond` as many
        plain ones of the stronger `rival` way, `alone` of one amplified reading whose amplifier was chosen on other
        prompts, mostly `amplifier`, and how many `tries`.
    """
    mine = tries[tries["component"] == component]
    layers = sorted(mine["layer"].unique().tolist())
    plain = mine[mine["amplification value"] == 1]
    grid = on_grid(evaluation, component, layers)
    paper = grid[grid["amplification value"] == 1]
    every = pd.concat([evaluation[evaluation["layer"].isin(layers)], mine[mine["amplification value"] != 1]])
    ways = {
        "amplifiers": judge(grid),
        "target prompts": judge(pd.concat([paper, plain[plain["seed"].isna()]])),
        "samples": judge(plain[plain["seed"].notna()]),
        "random vectors": judge(tries[tries["component"] == f"random[{component}]"]),
    }
    amplifies = ("amplifiers", "random vectors")
    drawn = {way: ~judged.plain if way in amplifies else judged.plain for way, judged in ways.items()}
    single = [
        {"component": component, "vector": vector, "amplifier": amplifier}
        | effect(judged, judged.successes(judged.tries["amplification value"] == amplifier, threshold))
        for vector, judged in (("own", judge(every)), ("random", ways["random vectors"]))
        for amplifier in judged.tries["amplification value"]
    ]
    several = pd.DataFrame(
        {"component": component, "way": way, "tries": k} | effect(judged, judged.best_of(k, drawn[way], threshold))
        for way, judged in ways.items()
        for k in range(1, int(drawn[way].sum()) + 1)
    )

    amplified, most = ways["amplifiers"], int(drawn["amplifiers"].sum())
    best = {
        way: judged.best_of(min(most, int(drawn[way].sum())), drawn[way], threshold) for way, judged in ways.items()
    }
    rivals = several[several["way"].isin(("target prompts", "samples")) & (several["tries"] <= most)]
    rival = rivals.loc[rivals.groupby("way")["tries"].idxmax()].sort_values("effect")["way"].iloc[-1]
    one = amplified.successes(amplified.plain, threshold)
    chosen, shares = chosen_on_half(amplified, drawn["amplifiers"], threshold)
    gains = {
        "tries": most,
        "total": gain(amplified, best["amplifiers"], one),
        "rival": rival,
        "beyond": gain(amplified, best["amplifiers"], best[rival], ways[rival]),
        "alone": gain(amplified, chosen, one),
        "amplifier": float(shares.idxmax()),
    }
    tests = tests_by_layer(layers, best["amplifiers"] > 0, best["target prompts"] > 0).assign(component=component)
    return pd.DataFrame(single), several, tests, gains


def gain_sentence(component: str, gains: Mapping) -> str:
    """How much of the gain of amplified readings is amplification, and how much more tries."""
    total, beyond, alone = gains["total"], gains["beyond"], gains["alone"]
    sentence = (
        f"{title(component)}: the best of {gains['tries']} amplified readings beside one plain reading, in (prompt, "
        f"layer) pairs above chance: {_points(total)}"
    )
    many = f"{gains['tries']} plain readings ({gains['rival']}, the better of two kinds here)"
    if total["low"] <= 0:
        sentence += ", no gain that is certain."
    elif beyond["low"] > 0:
        share = beyond["gain"] / total["gain"]
        all_of_it = "all of the gain" if share >= 1 else f"about {100 * share:.0f} % of the gain"
        sentence += f"; beside {many}, {_points(beyond)}: {all_of_it} is amplification."
    else:
        sentence += f"; beside {many}, {_points(beyond)}: none of the gain is certain to be amplification."
    differs = "more" if alone["low"] > 0 else "fewer" if alone["high"] < 0 else "no certain difference"
    return (
        f"{sentence} One amplified reading (α chosen on other prompts, mostly {gains['amplifier']:g}) beside one plain: "
        f"{_points(alone)}, {differs}."
    )


def scoring_variants(
    evaluation: pd.DataFrame, component: str, gold: Mapping[str, str], threshold: float = THRESHOLD
) -> pd.DataFrame:
    """The effect of each method under each way to score a reading (SCORED), and the share of echoes in its successes."""
    grid = on_grid(evaluation, component)
    lines = []
    for scored, (first_item, by_gold, echoes) in SCORED.items():
        judged = judge(grid, gold if by_gold else None, first_item, echoes)
        for method, one in by_method(judged, threshold).items():
            lines.append({"component": component, "method": method, "scored": scored} | one)
    return pd.DataFrame(lines)


def echo_shares(evaluation: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Per component and method: successful readings, and how many of them are echoes of the prompt."""
    items = [TargetPrompt().first_item(text) for text in evaluation["result"]]
    echo = [is_echo(item, prompt) for item, prompt in zip(items, evaluation["source prompt"], strict=True)]
    rows = evaluation.assign(
        method=evaluation["amplification value"].eq(1).map({True: "Patchscopes", False: "Superscopes"}),
        success=evaluation["score"] > threshold,
        echo=echo,
    )
    rows["echoes"] = rows["echo"] & rows["success"]
    return rows.groupby(["component", "method"], sort=False)[["success", "echoes"]].sum().reset_index()


def category_effects(
    rows: pd.DataFrame, component: str, categories: Mapping[str, str], threshold: float = THRESHOLD
) -> pd.DataFrame:
    """The effect per category, chance being other entities of it; and over all, by both kinds of chance."""
    grid = on_grid(rows, component)
    within = judge(grid, categories=categories)
    tables = [("all, by others of the category", within), ("all, by any other", judge(grid))]
    for name in dict.fromkeys(within.categories):
        members = [i for i, one in enumerate(within.categories) if one == name]
        tables.append((name, within.of_prompts(members)))
    return pd.DataFrame(
        {"component": component, "method": method, "category": name, "prompts": len(judged.prompts)} | one
        for name, judged in tables
        for method, one in by_method(judged, threshold).items()
    )


def stability_effects(rows: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """The effect of each run: component, method, target prompt, seed."""
    return pd.DataFrame(
        {"component": component, "method": method, "target prompt": prompt, "seed": int(seed)} | one
        for (component, prompt, seed), part in rows.groupby(["component", "target prompt", "seed"], sort=False)
        for method, one in by_method(judge(part), threshold).items()
    )


def stability_sentences(table: pd.DataFrame) -> list[str]:
    """The spread of each method's effect over the runs."""
    return [
        f"{title(component)}, {method}: {_percent(runs['effect'].mean())} above chance on average, from "
        f"{_percent(runs['effect'].min())} to {_percent(runs['effect'].max())} (SD {_percent(runs['effect'].std())}); the interval "
        f"is above chance in {(runs['low'] > 0).sum()} of {len(runs)} runs."
        for (component, method), runs in table.groupby(["component", "method"], sort=False)
    ]


def category_sentences(table: pd.DataFrame) -> list[str]:
    """Each method over all entities, by both kinds of chance, and in how many categories it is above its own."""
    sentences = []
    for (component, method), rows in table.groupby(["component", "method"], sort=False):
        at = rows.set_index("category")
        within, any_other = at.loc["all, by others of the category"], at.loc["all, by any other"]
        each = at.drop(index=["all, by others of the category", "all, by any other"])
        above = ((multipletests(each["p_value"], method="holm")[1] < 0.05) & (each["low"] > 0)).sum()
        sentences.append(
            f"{title(component)}, {method}: {_percent(within['rate'])} of (entity, layer) pairs interpreted; "
            f"{_percent(any_other['effect'])} more than by chance of any other entity, {_with_interval(within)} more than by "
            f"chance of others of the category; above the latter in {above} of {len(each)} categories (Holm)."
        )
    return sentences


def components_together(own: pd.DataFrame, evaluated: pd.DataFrame, layers: str, num_layers: int) -> pd.DataFrame:
    """Rows of the evaluations and of `experiments.every_component` on the grids of five, with a column `into`.

    Args:
        layers: which layers are compared; sums of MLP outputs keep their own.
    """
    rows = pd.concat([evaluated, own], ignore_index=True).drop_duplicates("id")  # a depth may be one of the layers
    sums = rows["component"].str.startswith("mlp_sum")
    grids = pd.concat(
        [rows[sums]] + [on_grid(rows, component, parse_layers(layers, num_layers)) for component in GRIDS]
    )
    same, first = grids["target layer"] == grids["layer"], grids["target layer"] == 0
    together = pd.concat(
        [grids[same & ~grids["component"].str.startswith("mlp_sum")].assign(into="same"), grids[first].assign(into="0")]
    )
    order = {name: place for place, name in enumerate([*GRIDS, *sorted(rows.loc[sums, "component"].unique())])}
    return together.sort_values("component", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def component_counts(rows: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """`scoring.success_counts` per layer, of each component into each place (`components_together`)."""
    tables = []
    for (component, into), part in rows.groupby(["component", "into"], sort=False):
        if component in GRIDS:
            tables.append(success_counts(part, threshold)[0].assign(target=into))
    return pd.concat(tables, ignore_index=True)


def component_effects(rows: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """The effect of each component into each place, with Holm's correction over all of a method's (column p_holm)."""
    table = pd.DataFrame(
        {"component": component, "target": into, "method": method} | one
        for (component, into), part in rows.groupby(["component", "into"], sort=False)
        for method, one in by_method(judge(part), threshold).items()
    )
    for method in METHODS:
        here = table["method"] == method
        table.loc[here, "p_holm"] = multipletests(table.loc[here, "p_value"], method="holm")[1].round(4)
    return table


def component_sentences(table: pd.DataFrame) -> list[str]:
    """Which components are read above chance, and where the best of five amplified ones adds to the plain one."""
    sentences = []
    for method in METHODS:
        rows = table[(table["method"] == method)].sort_values("effect", ascending=False, kind="stable")
        above = rows[(rows["p_holm"] < 0.05) & (rows["low"] > 0)]
        named = "; ".join(
            f"{IN_WORDS.get(row.component, row.component)} {'into the same layer' if row.target == 'same' else 'into layer 0'} "
            f"{_percent(row.effect)} ({_percent(row.low)} to {_percent(row.high)})"
            for row in above.itertuples()
        )
        sentences.append(f"{method}, above chance in {len(above)} of {len(rows)} (Holm): {named or 'none'}.")
    return sentences


def effect_sentences(
    variants: pd.DataFrame, echoes: pd.DataFrame, curves: Mapping[str, Mapping[str, pd.DataFrame]]
) -> list[str]:
    """Per component: the effect the paper's way, its range over the other ways to score, the area, and the echoes."""
    sentences = []
    for (component, method), rows in variants.groupby(["component", "method"], sort=False):
        papers = rows.iloc[0]
        above = ((rows["low"] > 0) & (rows["p_value"] < 0.05)).sum()
        mine = echoes[(echoes["component"] == component) & (echoes["method"] == method)].iloc[0]
        sentences.append(
            f"{title(component)}, {method}: {_with_interval(papers)} above chance the paper's way; from "
            f"{_percent(rows['effect'].min())} to {_percent(rows['effect'].max())} over {len(rows)} ways to score, above chance in "
            f"{above}. Area between method and chance over all thresholds {curves[component][method].attrs['area']:.3f}. "
            f"{mine['echoes']} of {mine['success']} successful readings are echoes."
        )
    return sentences


def effects_of_sizes(folders: Sequence[str] = (), threshold: float = THRESHOLD) -> pd.DataFrame:
    """The effect per layer and relative depth of several models, on the grids of five (columns of `effects.effect`).

    Args:
        folders: of results; those of the catalogue's models that are there if left out.

    Raises:
        InputError: none has the evaluations and `every_component`.
    """
    files = ("mlp_output.csv", "hidden_state.csv", "every_component.csv.gz")
    candidates = [ROOT / Path(folder).expanduser() for folder in folders] or [
        ROOT / "data" / name for name in CATALOGUE
    ]
    found = [folder for folder in candidates if all((folder / file).is_file() for file in files)]
    if not found:
        raise InputError("folders", [str(one) for one in folders], f"none has {', '.join(files)}")
    tables = []
    for folder in found:
        about = json.loads(json_of(folder / files[0]).read_text(encoding="utf-8"))["model"]
        rows = read_results([folder / file for file in files])
        into = {component: rows["layer"] if target == "same" else target for component, target in TARGETS.items()}
        rows = pd.concat([rows[(rows["component"] == c) & (rows["target layer"] == into[c])] for c in TARGETS])
        rows = rows.drop_duplicates("id")  # a depth may be one of the layers 1–7
        tables.append(
            size_effects(rows, about["layers"], threshold).assign(
                model=about["name"],
                parameters=about["parameters"],
                dtype=about["dtype"],
                prompts=rows["source prompt"].nunique(),
            )
        )
    return pd.concat(tables, ignore_index=True)


def size_effects(rows: pd.DataFrame, num_layers: int, threshold: float = THRESHOLD) -> pd.DataFrame:
    """One model's effect per layer and relative depth, and over layers 1–7 together, of both evaluations' settings."""
    lines = []
    for component in TARGETS:
        judged = judge(on_grid(rows, component))
        early = [layer for layer in judged.layers if 1 <= layer <= 7]
        parts = [(layer, round(layer / (num_layers - 1), 4), [layer]) for layer in judged.layers] + [
            ("1-7", None, early)
        ]
        for layer, depth, layers in parts:
            for method, one in by_method(judged.at_layers(layers), threshold).items():
                lines.append({"component": component, "method": method, "layer": layer, "depth": depth} | one)
    return pd.DataFrame(lines)


def reference_effects(counts: pd.DataFrame, num_layers: int = 40) -> pd.DataFrame:
    """The paper's counts (of Llama-2-13b-chat, 40 layers) as effects over chance, by relative depth.

    Returns:
        Columns method, layer, depth, effect, half (from chance to its 97.5 % point).
    """
    table = pd.DataFrame(
        {
            "method": counts["method"],
            "layer": counts["layer"],
            "depth": counts["layer"] / (num_layers - 1),
            "effect": (counts["interpreted"] - counts["null_mean"]) / counts["prompts"],
            "half": (counts["null_high"] - counts["null_mean"]) / counts["prompts"],
        }
    )
    table.attrs["name"] = "Llama-2-13b-chat"
    return table


def size_sentences(table: pd.DataFrame, reference: pd.DataFrame) -> list[str]:
    """What the models of several sizes show, together: the effect over source layers 1–7, small to large."""
    whole = table[table["layer"] == "1-7"].sort_values("parameters")
    models = whole["model"].unique()
    sentences = []
    for component in TARGETS:
        said, steady = [], {}
        for method in METHODS[::-1]:
            rows = whole[(whole["component"] == component) & (whole["method"] == method)]
            effects = rows["effect"].tolist()
            steady[method] = effects == sorted(effects)
            named = ", ".join(
                f"{_percent(row.effect)} ({_percent(row.low)} to {_percent(row.high)})" for row in rows.itertuples()
            )
            above = ((rows["low"] > 0) & (rows["p_value"] < 0.05)).sum()
            said.append(
                f"{'best of five amplified' if method == 'Superscopes' else 'one plain'} {named}; above chance in {above} of {len(rows)}"
            )
        papers = ""
        if component == "mlp_output":
            means = reference.groupby("method")["effect"].mean()
            papers = f" The paper's 13 B model: {_percent(means['Superscopes'])} and {_percent(means['Patchscopes'])}."
        grows = "rises" if steady["Superscopes"] else "does not rise"
        sentences.append(
            f"{title(component)}, interpreted above chance in source layers 1–7, on {', '.join(models)}: "
            f"{'. '.join(one[0].upper() + one[1:] for one in said)}.{papers} Among ours the amplified effect {grows} with every "
            f"step of size (by point estimates; layers 1–7 reach different depths)."
        )
    return sentences


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _with_interval(one: Mapping[str, float]) -> str:
    return f"{_percent(one['effect'])} ({_percent(one['low'])} to {_percent(one['high'])})"


def _points(one: Mapping[str, float]) -> str:
    """A gain in percentage points, with its interval."""
    return f"{100 * one['gain']:+.1f} points ({100 * one['low']:.1f} to {100 * one['high']:.1f})"
