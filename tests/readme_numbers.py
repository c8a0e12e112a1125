"""The README's tables of results, made of data/: `python tests/readme_numbers.py` prints them, the tests compare them."""

import json

import pandas as pd

from helpers import ROOT
from helpers.catalogue import CATALOGUE
from helpers.reproduce import LEAD

CHUNK = 10  # seconds of a worker for one task and its answer (helpers/cluster.py)
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
    told = about(model, "story_found")
    story, best, over_all = told["story"], told["best"], told["over all"]
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
    alone = single.loc[single["effect"].idxmax()]
    elsewhere = pd.read_csv(ROOT / "data" / model / "elsewhere_found.csv")
    elsewhere = elsewhere[
        (elsewhere["method"] == "Superscopes") & (elsewhere["category"] == "all, by others of the category")
    ]
    elsewhere = elsewhere.set_index("component")
    runs = pd.read_csv(ROOT / "data" / model / "stability_found.csv")
    runs = runs[(runs["method"] == "Superscopes") & (runs["component"] == "mlp_output")]["effect"]
    reading = story["steps"]["amplified"]["reading"]
    legible = {c: one["Superscopes"]["legible"] for c, one in earlier.items()}
    number = {c: one["Superscopes"]["legible"]["n"] for c, one in earlier.items()}
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
            "Figure 1, over all prompts",
            f"holds for {over_all['holds']} of {over_all['prompts']}, by chance {over_all['null'] * over_all['prompts']:.1f}; clearest: "
            f"“{best['prompt']}”, layer {best['layer']}, α = {best['amplifier']:g} reads “{best['steps']['amplified']['reading']}”",
            "–",
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
            f"{alone['amplifier']:g}: {percent(alone)} above chance",
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


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else "none"


def lead_caption(model: str = LEAD) -> str:
    """What Superscopes.jpg shows."""
    told = about(model, "story_found")
    best, over_all = told["best"], told["over all"]
    steps = best["steps"]
    return (
        f"“{best['prompt']}” in {model}, layer {best['layer']}: what the MLP adds at the last token reads as "
        f"“{steps['mlp_output']['reading']}”, and {best['amplifier']:g} times as long as “{steps['amplified']['reading']}”. The clearest of "
        f"48 prompts, 7 layers and 5 amplifiers, found by the code; the story holds for {over_all['holds']} of "
        f"{over_all['prompts']} prompts, and by chance would for {over_all['null'] * over_all['prompts']:.1f} "
        f"({over_all['null_low'] * over_all['prompts']:.0f} to {over_all['null_high'] * over_all['prompts']:.0f})."
    )


def findings_text() -> str:
    """Where each component is read above chance."""
    above = {}
    for model in CATALOGUE:
        for row in about(model, "layer_success")["overall"]:
            if row["interpreted"] > row["null_high"]:
                above.setdefault((row["component"], row["method"]), []).append(model)
    return (
        f"Amplified MLP outputs are read above chance on {_listed(above.get(('mlp_output', 'Superscopes'), []))}, plain ones on "
        f"{_listed(above.get(('mlp_output', 'Patchscopes'), []))}. Plain hidden states are on "
        f"{_listed(above.get(('hidden_state', 'Patchscopes'), []))}, amplified ones on "
        f"{_listed(above.get(('hidden_state', 'Superscopes'), []))}."
    )


def tries_text() -> str:
    """What the table of gains says, in sentences."""
    gains = {(m, c): g for m in CATALOGUE for c, g in about(m, "amplification_or_tries_found")["gains"].items()}

    def where(component: str, name: str, sign: int) -> str:
        ends = {1: lambda one: one["low"] > 0, -1: lambda one: one["high"] < 0}
        return _listed([m for m in CATALOGUE if ends[sign](gains[m, component][name])])

    return (
        f"For MLP outputs, five amplified readings beat one plain one on {where('mlp_output', 'total', 1)}, and five plain ones on "
        f"{where('mlp_output', 'beyond', 1)}: there the gain is amplification and not only more tries. A single amplified reading beats "
        f"a single plain one on {where('mlp_output', 'alone', 1)}. For hidden states, five amplified readings beat one plain one on "
        f"{where('hidden_state', 'total', 1)}, five plain ones on {where('hidden_state', 'beyond', 1)}, and fall behind five plain ones on "
        f"{where('hidden_state', 'beyond', -1)}; a single amplified reading beats a single plain one on "
        f"{where('hidden_state', 'alone', 1)} and falls behind on {where('hidden_state', 'alone', -1)}."
    )


def drift_text() -> str:
    """What bfloat16 changes, on a sample."""
    table = pd.read_csv(ROOT / "benchmarks" / "results" / "drift.csv")
    same = table.groupby("model")[["same text", "readings"]].sum()
    shares = _listed([f"{row['same text']} of {row['readings']} ({model})" for model, row in same.iterrows()])
    differs = (table["effect in bfloat16"] - table["effect in float32"]).abs().max()
    inside = all(
        float(low) <= one <= float(high)
        for one, (low, high) in zip(
            table["effect in bfloat16"], table["interval in float32"].str.split(" to "), strict=True
        )
    )
    return (
        f"On a sample, {shares} texts in bfloat16 are those of float32, and no effect differs by more than "
        f"{100 * differs:.1f} points{', each within the interval of float32' if inside else ''}"
    )


def long_numbers() -> pd.DataFrame:
    return pd.read_csv(ROOT / "benchmarks/results/long.csv").set_index("what")


def scale_table() -> list[str]:
    """What many rows need, of the measured speed of one worker with two cores: on paper."""
    value, lines = long_numbers()["value"], []
    for rows, workers in ((10**6, 1), (10**6, 16), (10**9, 100), (10**9, 900)):
        speed = workers * value["1 worker"]
        hours, chunks = rows / speed / 3600, workers / CHUNK
        disk, sent = rows * value["bytes a row on the disk"] / 1e9, speed * value["bytes a row in a message"] / 1e6
        power = {10**6: "10⁶", 10**9: "10⁹"}[rows]
        lines.append(f"| {power} | {workers} | {hours:,.1f} | {disk:.2g} GB | {chunks:.1f} | {sent:.2f} MB |")
    return lines


def long_text() -> str:
    """What a long run costs beside the reading itself."""
    value, ratio = long_numbers()["value"], long_numbers()["× plain"]
    driver = f"{round(value['driver'], -3):,.0f} rows per second"
    return (
        f"the ledger costs nothing that can be seen ({ratio['ledger']:.2f} × the plain sweep's speed), one worker gives "
        f"{ratio['1 worker']:.2f} × and two with a core each {ratio['2 workers']:.2f} ×. The driver alone takes {driver} "
        f"from its workers to the disk, as many as {value['driver'] / value['1 worker']:,.0f} such workers read, and "
        f"lays out 10⁶ rows in {value['seconds to lay out 10^6 rows']:.0f} s; the judge scores 10⁶ different texts in "
        f"{value['seconds to score 10^6 texts'] / 60:.0f} minutes."
    )


if __name__ == "__main__":
    for table in (counts_table, gains_table, items_table):
        print("\n".join(table()), end="\n\n")
    for text in (lead_caption, findings_text, tries_text, drift_text):
        print(text(), end="\n\n")
