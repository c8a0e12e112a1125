"""The README's tables of results, made of data/: `python tests/readme_numbers.py` prints them, the tests compare them."""

import json

import pandas as pd

from helpers import ROOT
from helpers.catalogue import CATALOGUE
from helpers.reproduce import LEAD

NAMES = {"mlp_output": "MLP outputs", "hidden_state": "hidden states", "attention_output": "attention outputs"}


def about(model: str, name: str) -> dict:
    return json.loads((ROOT / "data" / model / f"{name}.json").read_text(encoding="utf-8"))


def counts_table() -> list[str]:
    """Figure 3 on each model: interpreted pairs, and what 95 % of the rotations give by chance; bold is above it."""
    lines = []
    for model in CATALOGUE:
        cells = [model]
        for row in about(model, "layer_success")["overall"]:
            said = f"{row['interpreted']} ({row['null_low']}–{row['null_high']})"
            cells.append(f"**{said}**" if row["interpreted"] > row["null_high"] else said)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def points(gain: dict) -> str:
    said = f"{100 * gain['gain']:.1f} ({100 * gain['low']:.1f} to {100 * gain['high']:.1f})"
    return f"**{said}**" if gain["low"] > 0 or gain["high"] < 0 else said


def gains_table() -> list[str]:
    """How much is amplification: gains over chance in percentage points; bold where the interval excludes zero."""
    return [
        f"| {model}, {NAMES[component]} | {points(gains['total'])} | {points(gains['beyond'])} | {points(gains['alone'])} |"
        for model in CATALOGUE
        for component, gains in about(model, "amplification_or_tries_found")["gains"].items()
    ]


def percent(one: dict) -> str:
    return f"{100 * one['effect']:.1f} % ({100 * one['low']:.1f} to {100 * one['high']:.1f})"


def items_table(model: str = LEAD) -> list[str]:
    """Each item of the paper: our number on the lead model, the paper's, and where it is."""
    story = about(model, "story_found")["story"]
    found = pd.read_csv(ROOT / "data" / model / "guidance_found.csv", keep_default_na=False)
    layer = about(model, "guidance_found")["layer"]
    forms = found[found["layer"] == layer].set_index("component")
    counted = {(row["component"], row["method"]): row for row in about(model, "layer_success")["overall"]}
    mlp, plain = counted["mlp_output", "Superscopes"], counted["mlp_output", "Patchscopes"]
    earlier = about(model, "before_context_found")["earlier"]
    effects = pd.read_csv(ROOT / "data" / model / "every_component_found.csv", dtype={"target": str})
    effects = effects[effects["method"] == "Superscopes"].set_index(["component", "target"])
    single = pd.read_csv(ROOT / "data" / model / "amplification_or_tries_found.csv")
    single = single[(single["vector"] == "own") & (single["component"] == "mlp_output")]
    best = single.loc[single["effect"].idxmax()]
    elsewhere = pd.read_csv(ROOT / "data" / model / "elsewhere_found.csv")
    elsewhere = elsewhere[
        (elsewhere["method"] == "Superscopes") & (elsewhere["category"] == "all, by others of the category")
    ]
    elsewhere = elsewhere.set_index("component")
    runs = pd.read_csv(ROOT / "data" / model / "stability_found.csv")
    runs = runs[(runs["method"] == "Superscopes") & (runs["component"] == "mlp_output")]["effect"]
    reading = story["steps"]["amplified"]["reading"]
    legible = {c: one["Superscopes"]["legible"] for c, one in earlier.items()}
    number = {c: one["Superscopes"]["n"] for c, one in earlier.items()}
    layers = earlier["hidden_state"]["Superscopes"]["layers"]
    scale = forms.loc["mlp_output"]
    lines = [
        (
            "Figure 1, “Wales”",
            f"{'holds' if story['holds'] else 'does not hold'}: layer {story['layer']}, α = {story['amplifier']:g} reads “{reading}”",
            "holds",
            "story",
        ),
        (
            "Figure 2, §3.5, guidance",
            f"layer {layer}: α · MLP output closest at {scale['best']:g}, “{scale['reading'].strip()}”; w at {forms.loc['guidance', 'best']:g}, "
            f"“{forms.loc['guidance', 'reading'].strip()}”",
            "α = 9 “Rock band”, 12 “Band from California”",
            "guidance",
        ),
        (
            "Figure 3, amplified (plain)",
            f"{mlp['interpreted']} of {mlp['pairs']}, by chance {mlp['null_mean']:.1f} ({plain['interpreted']}, by chance {plain['null_mean']:.1f})",
            "196 of 336, by chance 55.0 (29, by chance 6.1)",
            "layer_success_plots",
        ),
        (
            "Tables 1–2, legible in an MLP output before ℓ_c",
            f"{legible['mlp_output']['rate'] * number['mlp_output']:.0f} of {number['mlp_output']} prompts, by chance "
            f"{legible['mlp_output']['null'] * number['mlp_output']:.1f}",
            "three examples",
            "before_context",
        ),
        (
            "Table 3, §4.2, legible layers earlier",
            f"{layers['rate']:.1f} on average, by chance {layers['null']:.1f}",
            "three examples",
            "before_context",
        ),
        (
            "§4.1, the best single α",
            f"{best['amplifier']:g}: {percent(best)} above chance",
            "by hand",
            "amplification_or_tries",
        ),
        (
            "§6, attention outputs; MLP outputs 1–7 added up",
            f"{percent(effects.loc['attention_output', 'same'])}; {percent(effects.loc['mlp_sum[1-7]', '0'])} above chance",
            "proposed",
            "every_component",
        ),
        (
            "250 other entities, MLP outputs; hidden states",
            f"{percent(elsewhere.loc['mlp_output'])}; {percent(elsewhere.loc['hidden_state'])} above chance of their category",
            "–",
            "elsewhere",
        ),
        (
            "Three target prompts × three seeds, MLP outputs",
            f"{100 * runs.min():.1f} to {100 * runs.max():.1f} % above chance",
            "–",
            "stability",
        ),
    ]
    return [
        f"| {what} | {ours} | {papers} | [`{where}`](data/{model}/notebooks/{where}.ipynb) |".replace("\n", " ")
        for what, ours, papers, where in lines
    ]


if __name__ == "__main__":
    for table in (counts_table, gains_table, items_table):
        print("\n".join(table()), end="\n\n")
