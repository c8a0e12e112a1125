"""What was found: counts, effects, and the criteria that choose one reading."""

import re
from collections.abc import Mapping

import pandas as pd

from ... import ROOT
from ...experiments import EXPERIMENTS, beside, ways_to_amplify
from ...experiments._sentences import is_certain, within_category
from ...experiments.can_it_speak import layers_above_chance
from ...experiments.model_sizes import AS_DEEP, EARLY
from ...experiments.which_amplifier import ASKED_MORE, BEST, FIXED
from ...judging.chance import NULLS
from ...judging.rules import DESCRIPTION, PROMPT, RULES
from ...models.catalogue import CATALOGUE
from ...words.components import EVALUATED, plural
from ...words.methods import AMPLIFIED, BLIND, METHODS, PLAIN
from ..reproduce import LEAD
from .parts import about, in_words, listed, measured, number, rows_of, table_of

OPENED_BY = {  # how an experiment's notebook is run, where ./runme.sh --all doesn't run it
    "study": "with `--study`",
    "check": "with `./runme.sh check`",
}
VECTORS_ROW = "| [`your_own_vectors`](notebooks/your_own_vectors.ipynb), or `./runme.sh read` | a file's rows, a steering vector, arithmetic | §3.3, §2.3 |"
APP_ROW = "| [`superscopes_app`](notebooks/superscopes_app.ipynb), or `./runme.sh app` | one prompt, its tokens, every layer | §5, Figures 5–6 |"


# What can be run


@number
def experiments() -> str:
    """List the notebooks with their questions."""
    rows = []
    for name, experiment in EXPERIMENTS.items():
        how = OPENED_BY.get(experiment.WHEN, "")
        rows.append([f"[`{name}`](notebooks/{name}.ipynb)" + (f", {how}" if how else ""), experiment.QUESTION, experiment.PAPER])
    return rows_of(["notebook", "asks", "in the paper"], rows) + f"\n{VECTORS_ROW}\n{APP_ROW}"


@number
def families() -> str:
    """Count the kinds of models that a run of the tests has tried."""
    status = (ROOT / "tests" / "STATUS.md").read_text(encoding="utf-8")
    return str(len(set(re.findall(r"^\| [^|]+ \| `([^`]+)` \|", status, flags=re.M))))


# What was found


@number
def lead() -> str:
    """Say what Superscopes.jpg shows."""
    found = about(LEAD, "story_found")
    best, over_all = found["best"], found["over all"]
    steps = best["steps"]
    chance, low, high = (over_all[name] * over_all["prompts"] for name in ("null", "null_low", "null_high"))
    return (
        f"“{best['prompt']}” in {LEAD}, layer {best['layer']}: what the MLP adds at the last token reads as "
        f"“{steps['mlp_output']['reading']}”, and {best['amplifier']:g} times as long as "
        f"“{steps['amplified']['reading']}”. The clearest of {over_all['prompts']} prompts, {_layers_and_amplifiers()}, "
        f"found by the code; the story holds for {over_all['holds']} of {over_all['prompts']} prompts, and by chance "
        f"would for {chance:.1f} ({low:.0f} to {high:.0f})."
    )


def _layers_and_amplifiers() -> str:
    rows = table_of(LEAD, "mlp_output", usecols=["layer", "amplification value"])
    amplifiers = set(rows["amplification value"]) - {1}
    return f"{rows['layer'].nunique()} layers and {len(amplifiers)} amplifiers"


PAPERS_MODEL = "llama-2-13b-chat"  # its folder of results is made of the authors' published readings


def overall(model: str, rule: str = DESCRIPTION.name) -> dict[tuple[str, str], dict]:
    rows = about(model, "layer_success")["overall"]
    return {(row["component"], row["method"]): row for row in rows if row["judged by"] == rule}


def _counts(rule: str) -> str:
    """Lay out Figure 3 on each model: interpreted pairs, 95 % of chance, and chance of the category."""
    columns = [(component, method.name) for component in EVALUATED for method in (PLAIN, BLIND, AMPLIFIED)]
    tries = table_of(LEAD, "layer_success").groupby(["component", "method"])["tries"].max()
    heads = {PLAIN.name: "{}, α = 1", BLIND.name: "one chosen blind", AMPLIFIED.name: "best of {} amplified"}
    header = [
        heads[method].format(plural(component) if method == PLAIN.name else tries[component, method])
        for component, method in columns
    ]
    rows = []
    for model in (*CATALOGUE, PAPERS_MODEL):
        found, cells = overall(model, rule), []
        for row in (found.get(column) for column in columns):
            if row is None:
                cells.append("")
                continue
            cell = f"{row['interpreted']} ({row['null_low']:.0f}–{row['null_high']:.0f}; {row['same_mean']:.0f})"
            cells.append(f"**{cell}**" if row["interpreted"] > row["null_high"] else cell)
        rows.append([f"*{model} (the paper's files)*" if model == PAPERS_MODEL else model, *cells])
    return rows_of(["", *header], rows)


@number
def counts() -> str:
    """Lay out Figure 3, judged by the descriptions."""
    return _counts(DESCRIPTION.name)


@number
def counts_papers_rule() -> str:
    """Lay out Figure 3, judged by the prompts."""
    return _counts(PROMPT.name)


def _effects(rule: str) -> dict[tuple[str, str, str], dict]:
    """Return the effects of the evaluations' settings: (model, component, method) -> its row."""
    targets = {component: str(target) for component, target in EVALUATED.items()}
    found = {}
    for model in CATALOGUE:
        rows = table_of(model, "every_component_found", dtype={"target": str})
        rows = rows[(rows["judged by"] == rule) & (rows["target"] == rows["component"].map(targets))]
        found |= {(model, row["component"], row["method"]): row for row in rows.to_dict("records")}
    return found


def _in_points(numbers: Mapping[str, float], name: str = "effect") -> str:
    low, high = 100 * numbers["low"], 100 * numbers["high"]
    text = f"{100 * numbers[name]:z.1f} ({low:z.1f} to {high:z.1f})".replace("-", "−")
    return f"**{text}**" if low > 0 or high < 0 else text


def _effects_table(rule: str) -> str:
    found = _effects(rule)
    header = ["", *(f"{method.adjective}, above {chance}" for method in (AMPLIFIED, PLAIN) for chance in ("chance", "chance of the category"))]
    rows = [
        [f"{model}, {plural(component)}"]
        + [
            _in_points(numbers)
            for method in (AMPLIFIED, PLAIN)
            for row in [found[model, component, method.name]]
            for numbers in (row, within_category(row))
        ]
        for model in CATALOGUE
        for component in EVALUATED
    ]
    return rows_of(header, rows)


@number
def effects() -> str:
    """Lay out the effects by both kinds of chance, judged by the descriptions."""
    return _effects_table(DESCRIPTION.name)


@number
def effects_papers_rule() -> str:
    """Lay out the effects by both kinds of chance, judged by the prompts."""
    return _effects_table(PROMPT.name)


@number
def findings() -> str:
    """Say where each component is read above chance, and where above that of its category."""
    found = _effects(DESCRIPTION.name)

    def above(component: str, method: str) -> str:
        rows = {model: found[model, component, method] for model in CATALOGUE}
        any_other = listed([model for model, row in rows.items() if is_certain(row)])
        same = listed([model for model, row in rows.items() if is_certain(within_category(row))])
        return f"above chance on {any_other}, and above chance of their category on {same}"

    return " ".join(
        f"{method.adjective.capitalize()} {plural(component)} are read {above(component, method.name)}."
        for component in EVALUATED
        for method in (AMPLIFIED, PLAIN)
    )


@number
def rules() -> str:
    """Say how well each rule tells a right reading."""
    return " ".join(about("right_readings", "right_readings")["verdict"])


@number
def drift() -> str:
    """Say what bfloat16 changes, on a sample."""
    table = measured("drift")
    same = table.groupby("model")[["same text", "readings"]].sum()
    shares = listed([f"{row['same text']} of {row['readings']} ({model})" for model, row in same.iterrows()])
    differs = (table["effect in bfloat16"] - table["effect in float32"]).abs().max()
    intervals = table["interval in float32"].str.split(" to ", expand=True).astype(float)
    inside = table["effect in bfloat16"].between(intervals[0], intervals[1]).all()
    return (
        f"On a sample, {shares} texts in bfloat16 are those of float32, and no effect differs by more than "
        f"{100 * differs:.1f} points{', each within the interval of float32' if inside else ''}"
    )


def _gains(rule: str = DESCRIPTION.name) -> dict[tuple[str, str], dict]:
    return {
        (model, component): gains
        for model in (*CATALOGUE, PAPERS_MODEL)
        for component, gains in about(model, "amplification_or_tries_found")["gains"][rule].items()
    }


def _gains_table(rule: str) -> str:
    found = _gains(rule)
    tries = next(iter(found.values()))["tries"]
    header = [
        "",
        f"best of {tries} amplified, over one plain reading",
        f"over {tries} plain readings (other target prompts, or samples)",
        "one amplified, α chosen on other prompts, over one plain",
        "the same, over chance of the category",
    ]
    return rows_of(header, [
        [f"{model}, {plural(component)}"]
        + [_in_points(gain[name], "gain") if name in gain else "" for name in ("total", "beyond", "alone")]
        + [_in_points(within_category(gain["alone"]), "gain")]
        for (model, component), gain in found.items()
    ])  # fmt: skip


@number
def gains() -> str:
    """Lay out how much is amplification: gains over chance in points; bold where the interval excludes zero."""
    return _gains_table(DESCRIPTION.name)


@number
def gains_papers_rule() -> str:
    """Lay out the same, judged by the prompts."""
    return _gains_table(PROMPT.name)


@number
def tries() -> str:
    """Say in sentences what the table of gains says of our models."""
    found = _gains()

    def where(component: str, name: str, sign: int) -> str:
        excludes_zero = {1: lambda gain: gain["low"] > 0, -1: lambda gain: gain["high"] < 0}[sign]
        return listed([model for model in CATALOGUE if excludes_zero(found[model, component][name])])

    many = in_words(next(iter(found.values()))["tries"])
    decided = where("mlp_output", "beyond", 1)
    meaning = (
        "there the gain is amplification and not only more tries" if decided != "none"
        else "whether that is amplification or only more tries, these models leave open"
    )  # fmt: skip
    return (
        f"For MLP outputs, {many} amplified readings beat one plain one on {where('mlp_output', 'total', 1)}, and {many} "
        f"plain ones on {decided}: {meaning}. A single amplified reading beats a single plain one on "
        f"{where('mlp_output', 'alone', 1)}. For hidden states, {many} amplified readings beat one plain one on {where('hidden_state', 'total', 1)}, {many} plain ones on "
        f"{where('hidden_state', 'beyond', 1)}, and fall behind {many} plain ones on {where('hidden_state', 'beyond', -1)}; "
        f"a single amplified reading beats a single plain one on {where('hidden_state', 'alone', 1)} and falls behind on "
        f"{where('hidden_state', 'alone', -1)}."
    )


@number
def single() -> str:
    """Lay out what one try gives, plain and at each model's best single amplifier, of MLP outputs."""
    rows = []
    for model in (*CATALOGUE, PAPERS_MODEL):
        found = table_of(model, "amplification_or_tries_found")
        found = found[(found["vector"] == "vectors") & (found["component"] == "mlp_output")]
        several = pd.DataFrame(about(model, "amplification_or_tries_found")["several"])
        several = several[(several["way"] == "amplifiers") & (several["component"] == "mlp_output")]
        for rule in RULES.values():
            of_rule, most = found[found["judged by"] == rule.name], several[several["judged by"] == rule.name]
            plain, amplified = of_rule[of_rule["amplifier"] == 1].iloc[0], of_rule[of_rule["amplifier"] != 1]
            best, together = amplified.loc[amplified["effect"].idxmax()], most.loc[most["tries"].idxmax()]
            cells = [_rate(plain), f"α = {best['amplifier']:g}: {_rate(best)}", _rate(together)]
            rows.append([f"{model}, {rule.label}", *cells])
    return rows_of(["", "one plain try", "one amplified try", "best of five amplified"], rows)


def _rate(row: Mapping[str, float]) -> str:
    return f"{100 * row['rate']:.1f} % (chance {100 * row['null']:.1f} %; above it {_in_points(row)})"


WITNESSES = {  # choice -> how a column says it
    PLAIN.name: "one plain", FIXED: "one fixed α", "agreement_contrast": "agreement", "entropy": "entropy",
    "log_prob": "log-probability", "pmi": "pmi", "pmi_mean": "pmi, mean vector", "specificity": "specificity",
    "round_trip": "round trip", "consistency": "consistency", "mean_rank": "mean rank", "mean_rank_all": "mean rank of all",
    "confidence": "probability",
}  # fmt: skip
CHOSEN_BLIND = {"agreement_contrast": "by agreement", "confidence": "by probability"}  # criterion -> how a column says it


@number
def blind() -> str:
    """Lay out what one reading chosen blind gives, beside one plain one, one fixed α and the best, which sees the answer."""
    rows, shares, beats = [], {}, {}
    for model in (*CATALOGUE, PAPERS_MODEL):
        table = table_of(model, "which_amplifier")
        table = table[(table["judged by"] == DESCRIPTION.name) & ~table["set"].str.endswith(ASKED_MORE)]
        for (name, component), part in table.groupby(["set", "component"], sort=False):
            of = part.set_index("choice")
            who = f"{model}, {of['prompts'].iloc[0]} {name}, {plural(component)}"
            cells = [_in_points(of.loc[choice]) if choice in of.index else "" for choice in (PLAIN.name, FIXED, *CHOSEN_BLIND, BEST)]
            rows.append([who, *cells])
            for choice in of.index.intersection(list(CHOSEN_BLIND)):
                share = of.loc[choice, "effect"] / of.loc[BEST, "effect"] if is_certain(of.loc[BEST]) else float("nan")
                shares.setdefault((choice, component), []).append(share)
                beats.setdefault((choice, component), []).append(of.loc[choice, "effect"] > of.loc[PLAIN.name, "effect"])
    said = " ".join(
        f"Of {plural(component)}, the one chosen {CHOSEN_BLIND[choice]} has more than one plain reading in {sum(of)} of "
        f"{len(of)} lines, and a median of {100 * pd.Series(shares[choice, component]).median():.0f} % of the effect of "
        "the best of all."
        for (choice, component), of in beats.items()
    )
    chosen = [f"one chosen blind, {how}" for how in CHOSEN_BLIND.values()]
    header = ["", "one plain", "one fixed α", *chosen, "the best of all, which sees the answer"]
    return f"{rows_of(header, rows)}\n\n{said} Medians are of the lines whose best of all is surely above chance."


@number
def witnesses() -> str:
    """Lay out what each criterion gives where all are known: the vectors of which what costs more was asked."""
    from ...judging.more_evidence import MORE_EVIDENCE

    rows, names = [], [*WITNESSES, BEST]
    for model in CATALOGUE:
        table = table_of(model, "which_amplifier")
        known = table[table["choice"].isin(MORE_EVIDENCE)][["set", "component"]].drop_duplicates()
        table = table[table["judged by"] == DESCRIPTION.name].merge(known)
        for (name, component), part in table.groupby(["set", "component"], sort=False):
            of = part.set_index("choice")
            layers = about(model, "which_amplifier")["sets"][name]["layers"]
            who = f"{model}, {of['prompts'].iloc[0]} {name.removesuffix(ASKED_MORE)}, {plural(component)}, layers {layers}"
            rows.append([who, *(_in_points(of.loc[choice]) if choice in of.index else "" for choice in names)])
    if not rows:
        return "No model of these results was asked yet."
    return rows_of(["", *(WITNESSES.get(name, "the best of all, which sees the answer") for name in names)], rows)


@number
def sure() -> str:
    """Lay out what the confidence is worth on what it was not fitted on."""
    rows = []
    for model in (model for model in CATALOGUE if (ROOT / "data" / model / "how_sure.json").is_file()):
        for row in about(model, "how_sure")["numbers"]:
            of = "both" if row["component"] == "both" else plural(row["component"])
            shares = [row["right of the believed"] or 0, row["right of the believed by chance"] or 0]
            believed = "{:.0f} % (chance {:.0f} %)".format(*(100 * share for share in shares))
            rows.append([
                f"{model}, {row['set']}, {of}", f"{row['vectors']}", f"{100 * row['right']:.1f} %",
                f"{row['believed']}", believed if row["believed"] else "–",
                f"{row['auroc']:.2f} ({row['auroc low']:.2f} to {row['auroc high']:.2f})",
                f"{100 * row['error']:.0f} % ({100 * row['error low']:.0f} to {100 * row['error high']:.0f})",
            ])  # fmt: skip
    return rows_of(["", "vectors", "read right", "believed", "of these right", "AUROC", "calibration error"], rows)


@number
def lenses() -> str:
    """Lay out how often each way to read a vector finds what it stands for, over all layers."""
    rows = []
    for model in (model for model in CATALOGUE if (ROOT / "data" / model / "beside.csv").is_file()):
        found = table_of(model, "beside")
        found = found[found["layer"] == beside.ALL]
        for (rule, component), of in found.groupby(["judged by", "component"], sort=False):
            of = of.set_index("way")
            cells = [_in_points(of.loc[way]) if way in of.index else "" for way in beside.WAYS]
            rows.append([f"{model}, {plural(component)}, {beside.RULES[rule]}", *cells])
    return rows_of(["", *beside.WAYS], rows)


WAYS_CHOSEN = {
    ways_to_amplify.FIXED: "one setting", ways_to_amplify.BLIND: "chosen blind", ways_to_amplify.BEST: "the best of all"
}  # fmt: skip


@number
def ways() -> str:
    """Lay out what each way to amplify gives, of the models that have tried them."""
    rows, names = [], [PLAIN.name, *ways_to_amplify.FORMULAS]
    for model in (model for model in CATALOGUE if (ROOT / "data" / model / "ways_to_amplify_found.csv").is_file()):
        found = table_of(model, "ways_to_amplify_found").fillna({"setting": ""})
        for (rule, component, choice), of in found.groupby(["judged by", "component", "choice"], sort=False):
            of = of.set_index("way")
            texts = {name: [_in_points(of.loc[name]), of.loc[name, "setting"]] for name in names if name in of.index}
            cells = [", ".join(filter(None, texts.get(name, ()))) for name in names]
            rows.append([f"{model}, {plural(component)}, {RULES[rule].label}, {WAYS_CHOSEN[choice]}", *cells])
    header = ["", *(METHODS[name].label if name in METHODS else f"{name}: {ways_to_amplify.FORMULAS[name]}" for name in names)]
    return rows_of(header, rows)


@number
def context() -> str:
    """Lay out in how many prompts each model's readings are legible before ℓ_c, beside three kinds of chance."""
    rows = []
    for model in CATALOGUE:
        earlier = about(model, "before_context_found")["earlier"]
        for component, methods in earlier.items():
            for method, found in methods.items():
                legible, n = found["legible"], found["n"]
                level = "the entity" if is_certain(legible["same"]) else "its kind"
                rows.append([
                    f"{model}, {METHODS[method].adjective} {plural(component)}",
                    f"{legible['any']['rate'] * n:.0f} of {n}",
                    *(f"{legible[null]['null'] * n:.1f}" for null in NULLS),
                    level if is_certain(legible["any"]) else "nothing beyond chance",
                ])  # fmt: skip
    header = ["", "legible before ℓ_c", *(f"by chance of {said}" for said in NULLS.values()), "what is legible"]
    return rows_of(header, rows)


@number
def sizes() -> str:
    """Lay out how the effect grows with the model: amplified readings, at the paper's relative depth and layers 1–7."""
    table = table_of("model_sizes", "model_sizes", dtype={"layer": str})
    table = table[table["method"] == AMPLIFIED.name].sort_values("parameters", kind="stable")
    rows = []
    for rule in RULES.values():
        of_rule = table[table["judged by"] == rule.name].set_index(["model", "component", "layer"])
        for model in of_rule.index.unique("model"):
            cells = [_in_points(of_rule.loc[(model, name, layers)]) for name in EVALUATED for layers in (AS_DEEP, EARLY)]
            rows.append([f"{model}, {rule.label}", *cells])
    header = [f"{plural(name)}, {layers}" for name in EVALUATED for layers in ("as deep", "layers 1–7")]
    return rows_of(["", *header], rows)


@number
def check() -> str:
    """Lay out what `./runme.sh check` says of each model."""
    rows = []
    for model in CATALOGUE:
        page = about(model, "can_it_speak")
        counted = pd.DataFrame(page["counts"])
        best, most = counted.loc[counted["interpreted"].idxmax()], counted["null_high"].max()
        described = sum(row["described"] for row in page["named"])
        rows.append([
            model,
            str(described),
            f"{page['by_chance']['mean']:.1f} (to {page['by_chance']['high']})",
            f"{layers_above_chance(counted)} of 0–{counted['layer'].max()}",
            f"{best['interpreted']}, layer {best['layer']}",
            f"{best['null_mean']:.1f} (to {most:g})",
        ])  # fmt: skip
    of = f"of {len(page['named'])}"
    header = ["", f"described, {of}", "by chance", "layers read above chance", f"most read, {of}", "by chance"]
    return rows_of(header, rows)


@number
def reference() -> str:
    """Say how many prompts the paper's readings interpret, by its rule."""
    counted = table_of(PAPERS_MODEL, "layer_success")
    counted = counted[counted["judged by"] == PROMPT.name]
    amplified, plain = (counted[counted["method"] == method.name] for method in (AMPLIFIED, PLAIN))

    def per_layer(rows: pd.DataFrame) -> str:
        return ", ".join(map(str, rows["interpreted"]))

    layers = f"layers {amplified['layer'].min()} to {amplified['layer'].max()}"
    return (
        f"{per_layer(amplified)} of {amplified['prompts'].max()} prompts for {layers}, amplified, and "
        f"{per_layer(plain)} plain."
    )
