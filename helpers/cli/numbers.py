"""The numbers of README.md and docs/: each a function that returns markdown, made from data/ and benchmarks/results/.

Links are relative to the repository.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd

from .. import ROOT
from ..bench.patchscopes import PUBLISHED
from ..bench.tables import ANY, CONTINUATION, MEAN, NO_LAYER, TEXT_ONLY
from ..experiments import EXPERIMENTS, beside, ways_to_amplify
from ..experiments._sentences import is_certain, with_interval, within_category
from ..experiments.can_it_speak import layers_above_chance
from ..experiments.model_sizes import AS_DEEP, EARLY
from ..experiments.which_amplifier import ASKED_MORE, BEST, FIXED
from ..judging.chance import NULLS
from ..judging.rules import DESCRIPTION, PROMPT, RULES
from ..models.catalogue import CATALOGUE
from ..words.components import EVALUATED, plural
from ..words.methods import AMPLIFIED, BLIND, METHODS, PLAIN, Method
from .reproduce import LEAD

NUMBERS: dict[str, Callable[[], str]] = {}  # name in a marker -> what makes its text
OPENED_BY = {  # how an experiment's notebook is run, where ./runme.sh --all doesn't run it
    "study": "with `--study`",
    "check": "with `./runme.sh check`",
}
VECTORS_ROW = "| [`your_own_vectors`](notebooks/your_own_vectors.ipynb), or `./runme.sh read` | a file's rows, a steering vector, arithmetic | §3.3, §2.3 |"
APP_ROW = "| [`superscopes_app`](notebooks/superscopes_app.ipynb), or `./runme.sh app` | one prompt, its tokens, every layer | §5, Figures 5–6 |"


def number(function: Callable[[], str]) -> Callable[[], str]:
    """Register a function under its name."""
    NUMBERS[function.__name__] = function
    return function


def about(model: str, name: str) -> dict:
    """Read the JSON of one of a model's results."""
    return json.loads((ROOT / "data" / model / f"{name}.json").read_text(encoding="utf-8"))


def table_of(model: str, name: str, **options) -> pd.DataFrame:
    """Read one of a model's tables."""
    return pd.read_csv(ROOT / "data" / model / f"{name}.csv", keep_default_na=False, **options)


def measured(name: str) -> pd.DataFrame:
    """Read a table of benchmarks/results/."""
    return pd.read_csv(ROOT / "benchmarks" / "results" / f"{name}.csv")


def listed(names: list[str]) -> str:
    """List names in a sentence; "none" if there are none."""
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else "none"


def in_words(count: int) -> str:
    """Write a small number as a word."""
    return dict(enumerate(("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))).get(count, str(count))


def rows_of(header: list[str], rows: list[list[str]]) -> str:
    """Lay out a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("".join(f"| {cell} " if cell else "| " for cell in line).replace("\n", " ") + "|" for line in lines)


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


def _overall(model: str, rule: str = DESCRIPTION.name) -> dict[tuple[str, str], dict]:
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
        found, cells = _overall(model, rule), []
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
                share = of.loc[choice, "effect"] / of.loc[BEST, "effect"] if of.loc[BEST, "effect"] > 0 else float("nan")
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
    return f"{rows_of(header, rows)}\n\n{said}"


@number
def witnesses() -> str:
    """Lay out what each criterion gives where all are known: the vectors of which what costs more was asked."""
    from ..judging.more_evidence import MORE_EVIDENCE

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


# The paper, item by item


@number
def items() -> str:
    """Lay out each item of the paper: our number on the lead model, the paper's, and where it is."""
    rows = [
        [what, ours, papers, f"[`{where}`](data/{LEAD}/notebooks/{where}.ipynb)"]
        for item in (_figure_1, _figure_2, _figure_3, _before_context, _single, _every_component, _elsewhere, _stability)
        for what, ours, papers, where in item()
    ]
    return rows_of(["in the paper", "here", "the paper's", "where"], rows)


def _figure_1() -> list[tuple[str, str, str, str]]:
    found = about(LEAD, "story_found")
    story, best, over_all = found["story"], found["best"], found["over all"]

    def told(one: dict) -> str:
        return f"layer {one['layer']}, α = {one['amplifier']:g} reads “{one['steps']['amplified']['reading']}”"

    chance = over_all["null"] * over_all["prompts"]
    holds = "holds" if story["holds"] else "does not hold"
    over = f"holds for {over_all['holds']} of {over_all['prompts']}, by chance {chance:.1f}"
    return [
        (f"Figure 1, “{story['token'].strip()}”", f"{holds}: {told(story)}", "holds", "story"),
        ("Figure 1, over all prompts", f"{over}; clearest: “{best['prompt']}”, {told(best)}", "–", "story"),
    ]


def _figure_2() -> list[tuple[str, str, str, str]]:
    layer = about(LEAD, "guidance_found")["layer"]
    found = table_of(LEAD, "guidance_found")
    forms = found[found["layer"] == layer].set_index("component")
    scaled, guided = forms.loc["mlp_output"], forms.loc["guidance"]
    ours = (
        f"layer {layer}: α · MLP output closest at {scaled['best']:g}, “{scaled['reading'].strip()}”; w at "
        f"{guided['best']:g}, “{guided['reading'].strip()}”"
    )
    return [("Figure 2, §3.5, guidance", ours, "α = 9 “Rock band”, 12 “Band from California”", "guidance")]


def _figure_3() -> list[tuple[str, str, str, str]]:
    items = []
    for rule in RULES.values():
        for method, what in ((AMPLIFIED, "amplified"), (BLIND, "one chosen blind")):
            ours, theirs = (_figure_3_cell(_overall(model, rule.name), method) for model in (LEAD, PAPERS_MODEL))
            items.append((f"Figure 3, {what} (plain), {rule.label}", ours, theirs, "layer_success_plots"))
    return items


def _figure_3_cell(found: dict, method: Method) -> str:
    chosen, plain = (found["mlp_output", one.name] for one in (method, PLAIN))
    return (
        f"{chosen['interpreted']} of {chosen['pairs']}, by chance {chosen['null_mean']:.1f} "
        f"({plain['interpreted']}, by chance {plain['null_mean']:.1f})"
    )


def _before_context() -> list[tuple[str, str, str, str]]:
    earlier = about(LEAD, "before_context_found")["earlier"]
    items = []
    for component, where in (("mlp_output", "Tables 1–2"), ("hidden_state", "Table 3, §4.2")):
        found = earlier[component][AMPLIFIED.name]
        legible, layers, n = found["legible"], found["layers"]["any"], found["n"]
        nulls = "; ".join(f"{legible[null]['null'] * n:.1f} by {NULLS[null]}" for null in NULLS)
        ours = (
            f"{legible['any']['rate'] * n:.0f} of {n} prompts (by chance {nulls}), {layers['rate']:.1f} layers earlier on "
            f"average (by chance {layers['null']:.1f})"
        )
        items.append((f"{where}, legible in {plural(component)} before ℓ_c", ours, "three examples", "before_context"))
    return items


def _leading(name: str, **options) -> pd.DataFrame:
    """Read the rows of one of the lead model's tables that are judged by the descriptions."""
    found = table_of(LEAD, name, **options)
    return found[found["judged by"] == DESCRIPTION.name]


def _single() -> list[tuple[str, str, str, str]]:
    found = _leading("amplification_or_tries_found")
    rows = found[(found["vector"] == "vectors") & (found["component"] == "mlp_output") & (found["amplifier"] != 1)]
    best = rows.loc[rows["effect"].idxmax()]
    ours = f"{best['amplifier']:g}: {with_interval(best)} above chance"
    return [("§4.1, the best single α", ours, "by hand", "amplification_or_tries")]


def _every_component() -> list[tuple[str, str, str, str]]:
    effects = _leading("every_component_found", dtype={"target": str})
    effects = effects[effects["method"] == AMPLIFIED.name].set_index(["component", "target"])
    attention, summed = effects.loc["attention_output", "same"], effects.loc["mlp_sum[1-7]", "0"]
    ours = f"{with_interval(attention)}; {with_interval(summed)} above chance"
    return [("§6, attention outputs; MLP outputs 1–7 added up", ours, "proposed", "every_component")]


def _elsewhere() -> list[tuple[str, str, str, str]]:
    found = _leading("elsewhere_found")
    found = found[(found["method"] == AMPLIFIED.name) & (found["category"] == "all")].set_index("component")
    parts = [with_interval(within_category(found.loc[component].to_dict())) for component in ("mlp_output", "hidden_state")]
    what = f"{found['prompts'].max()} other entities, MLP outputs; hidden states"
    return [(what, f"{'; '.join(parts)} above chance of their category", "–", "elsewhere")]


def _stability() -> list[tuple[str, str, str, str]]:
    runs = _leading("stability_found")
    runs = runs[(runs["method"] == AMPLIFIED.name) & (runs["component"] == "mlp_output")]
    targets, seeds = (in_words(runs[column].nunique()) for column in ("target prompt", "seed"))
    what = f"{targets.capitalize()} target prompts × {seeds} seeds, MLP outputs"
    ours = f"{100 * runs['effect'].min():.1f} to {100 * runs['effect'].max():.1f} % above chance"
    return [(what, ours, "–", "stability")]


# What was measured


@number
def long() -> str:
    """Say what a long run costs beside the reading itself."""
    table = measured("long").set_index("what")
    value, ratio = table["value"], table["× plain"]
    driver = f"{round(value['driver'], -3):,.0f} rows per second"
    return (
        f"the ledger costs nothing that can be seen ({ratio['ledger']:.2f} × the plain sweep's speed), one worker gives "
        f"{ratio['1 worker']:.2f} × and two with a core each {ratio['2 workers']:.2f} ×. The driver alone takes {driver} "
        f"from its workers to the disk, as many as {value['driver'] / value['1 worker']:,.0f} such workers read, and "
        f"lays out 10⁶ rows in {value['seconds to lay out 10^6 rows']:.0f} s; the judge scores 10⁶ different texts in "
        f"{value['seconds to score 10^6 texts'] / 60:.0f} minutes."
    )


@number
def scale() -> str:
    """Lay out what many rows need, at the measured speed of one worker with two cores: on paper."""
    value, rows = measured("long").set_index("what")["value"], []
    chunk = int(re.search(r"^CHUNK = (\d+)", (ROOT / "helpers/runs/cluster.py").read_text(encoding="utf-8"), re.M)[1])
    for power, workers in ((6, 1), (6, 16), (9, 100), (9, 900)):
        speed = workers * value["1 worker"]
        rows.append([
            {6: "10⁶", 9: "10⁹"}[power],
            str(workers),
            f"{10**power / speed / 3600:,.1f}",
            f"{10**power * value['bytes a row on the disk'] / 1e9:.2g} GB",
            f"{workers / chunk:.1f}",
            f"{speed * value['bytes a row in a message'] / 1e6:.2f} MB",
        ])  # fmt: skip
    return rows_of(["rows", "workers", "hours", "ledger", "tasks per second", "to the driver per second"], rows)


@number
def speed() -> str:
    """Say how fast the engine is, beside other ways."""
    from ..engine.compile import FROM_ROWS

    table = measured("speed").set_index(["way", "dtype"])

    def both(way: str, column: str, form: str) -> str:
        """Give the float32 and the bfloat16 number."""
        return " and ".join(format(table.loc[(way, dtype), column], form) for dtype in ("float32", "bfloat16"))

    faster, per_second, same = "engine is faster by", "rows per second", "same texts as plain float32"
    engine, uncompiled = "this engine", "this engine, not compiled"
    texts = table.loc[(engine, "bfloat16"), same]
    plain = table.loc[("plain, one by one", "bfloat16"), same].split(" of ")[0]
    return (
        f"On two CPU cores the engine reads {table.loc[(engine, 'float32'), per_second]:.0f} vectors per second in "
        f"float32 and {table.loc[(engine, 'bfloat16'), per_second]:.0f} in bfloat16: {both('plain, one by one', faster, '.0f')} "
        f"times as many as the plain way and {both('nnsight', faster, '.1f')} times as many as nnsight's best batch. A row "
        f"takes {both(engine, 'times the matrix products', '.1f')} times the bare matrix products of its new tokens. That is "
        f"a long plan, whose blocks are compiled first; a plan of fewer than {FROM_ROWS:,} rows doesn't wait for a compiler "
        f"and reads {both(uncompiled, per_second, '.0f')} per second. In bfloat16 rounding decides between close words: "
        f"{texts} texts were the plain float32 way's, {table.loc[('batched generate', 'bfloat16'), same]} were for "
        f"transformers' own batches, and {plain} for the plain way in bfloat16; {texts.split(' of ')[1]} texts can't tell "
        f"these apart."
    )


@number
def teacher() -> str:
    """Say how fast given texts are scored."""
    table = measured("teacher").set_index("way")["times reading"]
    lengths = (1, 2, 3, 5, 10)
    times = listed([f"{table[f'scoring texts of {length} tokens']:.1f}" for length in lengths])
    return f"texts of {listed([str(length) for length in lengths])} tokens at {times} times the rows per second of reading"


@number
def proof() -> str:
    """Say what the proof at load costs."""
    table = measured("load")
    seconds, share = table["proof, seconds"], table["proof, share of load"]
    return (
        f"{seconds.min():.2f} to {seconds.max():.1g} s on the catalogue's models, {100 * share.min():.0f} to "
        f"{100 * share.max():.0f} % of loading them"
    )


@number
def given() -> str:
    """Say how fast rows of a file are read."""
    table = measured("given").set_index("way")
    sweep, file, large = (table.loc[way] for way in ("a sweep", "a file", "a large file, small model"))
    ratio = file["rows per second"] / sweep["rows per second"]
    return (
        f"On one CPU core, {file['rows']:,.0f} rows of a file were read at {ratio:.2f} times the speed of as many rows of a "
        f"sweep, in turns. {large['rows']:,.0f} of 110,000 rows of a large file, looked up and read by a small model, took "
        f"{large['MB more']:.0f} MB more memory than 64 of them ([numbers](benchmarks/results/given.csv))."
    )


@number
def logit_lens() -> str:
    """Say what the logit lens costs beside a sweep."""
    table = measured("lens").set_index("of")
    lens = table.loc["logit lens"]
    return (
        f"Beside a sweep of {lens['rows']:g} rows of SmolLM2 it took {100 * lens['share of the sweep']:.1f} % of the sweep's time "
        "([numbers](benchmarks/results/lens.csv))."
    )


@number
def app() -> str:
    """Say how fast the page is."""
    table = measured("app").set_index("what")
    first, whole, weighed = (
        table.loc[f"page, {which}"] for which in ("first readings", "all readings", "all readings with their confidence")
    )
    return (
        f"On two CPU cores, browser included, the {whole['rows']:g} readings of the picture begin to appear after "
        f"{first['seconds']:.1f} s and are there after {whole['seconds']:.1f} s, {whole['times the sweep']:.1f} times as long "
        f"as a sweep of the same plan; their confidence is there after {weighed['seconds']:.1f} s "
        f"([numbers](benchmarks/results/app.csv))."
    )


@number
def neighbor() -> str:
    """Say what waiting threads cost, alone and beside other work."""
    table = measured("neighbor").set_index("way")
    ours, usual, one = (table.loc[way] for way in ("spin 100,000", "torch's default", "one thread"))
    alone, fair = "alone, x the default alone", "beside it, x a fair share"
    return (
        f"A sweep of 32 rows took, alone, {ours[alone]:.2f} times as long as with torch's default, and with one thread "
        f"{one[alone]:.2f} times; beside two busy processes on two cores {ours[fair]:.2f} times a fair share, which is twice the "
        f"time alone (torch's default {usual[fair]:.2f}, one thread {one[fair]:.2f}; AMD EPYC, two rounds; "
        "[numbers](benchmarks/results/neighbor.csv))."
    )


@number
def stop_at_item() -> str:
    """Say what ending a reading with its first list item saves."""
    from ..engine.writing import LEAVE

    table = measured("items")
    table = table[table["rows leave when so many still write"] == LEAVE]
    told = "; ".join(
        f"of {line['new tokens']} tokens {line['x the time of whole readings']:.2f} ({line['least']:.2f} to {line['most']:.2f})"
        for _, line in table.iterrows()
    )
    rows = table["rows"].iloc[0]
    return (
        f"Beside whole readings of the same {rows} vectors it took this share of the processor time, the least and the most of "
        f"three rounds in brackets: {told} ([numbers](benchmarks/results/items.csv))."
    )


@number
def visitors() -> str:
    """Say what many visitors at once wait for, and what a server holds."""
    folder = ROOT / "benchmarks" / "results"
    many, memory = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("visitors", "memory_of_requests")
    )
    return (
        f"{many['visitors']} visitors who ask for four readings and their confidence at the same moment, and again when they have "
        f"them, for {many['seconds']} s, on {many['cores']} cores: {many['requests']} requests, half of them answered within "
        f"{many['seconds, median']:.0f} s, the last after {many['seconds, longest']:.0f} s; {in_words(many['wrong'])} answer was wrong or "
        f"another's, and the server held {many['MiB at the start']:,.0f} MiB at the start and {many['MiB at the end']:,.0f} at the end "
        f"([numbers](benchmarks/results/visitors.csv)). Over {memory['rows']} requests one after another, one of them of 19,900 "
        f"letters, a server held {memory['MiB after the first request']:,.0f} MiB after the first, {memory['MiB at the end']:,.0f} after the "
        f"last, and {memory['MiB at most']:,.0f} at most ([numbers](benchmarks/results/memory_of_requests.csv))."
    )


# Tasks whose answers are known


def _bench(name: str, shown: Callable[[pd.Series], str]) -> str:
    """Lay out a benchmark: a row per model and task, a column per method and how its source layers count.

    Args:
        shown: task's first line -> what stands in a last column; none if it is empty everywhere.
    """
    models = [model for model in CATALOGUE if (ROOT / "data" / model / f"bench_{name}.csv").is_file()]
    if not models:
        return "Not measured yet."
    header: dict[tuple[str, str], str] = {}
    lines, last = [], []
    for model in models:
        table, asked = table_of(model, f"bench_{name}"), about(model, f"bench_{name}")["asked"]
        for task, of_task in table.groupby("task", sort=False):
            first, at = of_task.iloc[0], of_task.set_index(["method", "layer"])
            told = asked[task]
            itself = f"; answers {told['answered']} of {told['asked']}" if told["asked"] else ""
            cells = {key: _beside_chance(at.loc[key]) for key in at.index if key[1] == _scope_of(key[0])}
            header |= {key: SCOPE[key[1]].format(key[0]) for key in cells}
            lines.append((f"{model}, {task}: {first['rows']} rows of {first['units']}{itself}", cells))
            last.append(shown(first))
    rows = [[name, *(cells.get(key, "–") for key in header)] for name, cells in lines]
    names = ["", *header.values()]
    if any(last):
        names, rows = [*names, "published: text only; Patchscopes"], [[*row, one or "–"] for row, one in zip(rows, last, strict=True)]
    return rows_of(names, rows)


def _scope_of(method: str) -> str:
    """Return how a method's source layers count in a page's table: as few tries as can be, or as many."""
    if method in (TEXT_ONLY, CONTINUATION):
        return NO_LAYER
    return MEAN if "into" in method else ANY


SCOPE = {NO_LAYER: "{}", MEAN: "{}: mean of layers", ANY: "{}: any layer"}


def _beside_chance(line: pd.Series) -> str:
    """Write a rate in percent with chance in brackets; bold if its distance to chance is surely above zero."""
    told = f"{100 * line['rate']:.0f} ({100 * line['null']:z.0f})"
    return f"**{told}**" if line["low"] > 0 else told


def _of_bench(name: str) -> str:
    """Say, per model, in how many tasks a vector says more than text only, what is no result, and what is left out."""
    header, rows, said = [], [], []
    for model in CATALOGUE:
        if (ROOT / "data" / model / f"bench_{name}.json").is_file():
            found = about(model, f"bench_{name}")
            gains = pd.DataFrame(found["against text only"])
            of_method = dict(list(gains[gains["layer"] == ANY].groupby("method", sort=False)))
            header = list(of_method)
            rows.append([model, *map(_more_and_less, of_method.values())])
            said += [f"{model}: {sentence}" for sentence in found["verdict"] if "no result" in sentence]
            left_out = "; ".join(why.replace(": left out; ", ", ") for why in found["refused"])
            said += [f"{model}: left out are {left_out}."] * bool(left_out)
    if not rows:
        return "Not measured yet."
    return "\n\n".join([rows_of(["tasks: vector more, can't be told, text only more", *header], rows), *said])


def _more_and_less(gains: pd.DataFrame) -> str:
    """Write in how many tasks a vector surely says more than the text, in how many it can't be told, in how many less."""
    more, less = int((gains["low"] > 0).sum()), int((gains["high"] < 0).sum())
    return f"{more}, {len(gains) - more - less}, {less}"


def _published(line: pd.Series) -> str:
    """Write the published rates of a line's task: text only; Patchscopes."""
    both = PUBLISHED.get(line["task"])
    return f"{100 * both[0]:.0f}; {100 * both[1]:.0f}" if both else ""


for _name, _shown in {"patchscopes": _published, "lens": lambda line: "", "workspace": lambda line: ""}.items():
    NUMBERS |= {f"bench_{_name}": partial(_bench, _name, _shown), f"bench_{_name}_said": partial(_of_bench, _name)}
