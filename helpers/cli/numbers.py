"""The numbers of README.md and docs/: each a function that returns markdown, made from data/ and benchmarks/results/.

Links are relative to the repository.
"""

import json
import re
from collections.abc import Callable

import pandas as pd

from .. import ROOT
from ..experiments import EXPERIMENTS
from ..experiments.can_it_speak import layers_above_chance
from ..models.catalogue import CATALOGUE
from ..words.components import EVALUATED, plural
from ..words.methods import AMPLIFIED, METHODS, PLAIN
from .reproduce import LEAD

NUMBERS: dict[str, Callable[[], str]] = {}  # name in a marker -> what makes its text
OPENED_BY = {  # how an experiment's notebook is run, where ./runme.sh --all doesn't run it
    "study": "with `--study`",
    "check": "with `./runme.sh check`",
}
APP_ROW = "| [`superscopes_app`](notebooks/superscopes_app.ipynb), or `./runme.sh app` | one prompt, its tokens, every layer | §5, Figures 5–6 |"
# The paper's model in Figure 3: interpreted pairs and 95 % of chance, of its published readings.
PAPERS_COUNTS = {PLAIN.name: (29, 2, 10), AMPLIFIED.name: (196, 28, 91)}


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
    return rows_of(["notebook", "asks", "in the paper"], rows) + "\n" + APP_ROW


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


def _overall(model: str) -> dict[tuple[str, str], dict]:
    return {(row["component"], row["method"]): row for row in about(model, "layer_success")["overall"]}


@number
def counts() -> str:
    """Lay out Figure 3 on each model: interpreted pairs and 95 % of chance; bold is above it."""
    columns = [(component, method) for component in EVALUATED for method in METHODS]
    tries = table_of(LEAD, "layer_success").groupby(["component", "method"])["tries"].max()
    header = [
        f"{plural(component)}, α = 1" if method == PLAIN.name else f"best of {tries[component, method]} amplified"
        for component, method in columns
    ]
    rows = []
    for model in CATALOGUE:
        found, cells = _overall(model), []
        for row in (found[column] for column in columns):
            cell = f"{row['interpreted']} ({row['null_low']}–{row['null_high']})"
            cells.append(f"**{cell}**" if row["interpreted"] > row["null_high"] else cell)
        rows.append([model, *cells])
    papers = [
        f"***{PAPERS_COUNTS[method][0]}** ({PAPERS_COUNTS[method][1]}–{PAPERS_COUNTS[method][2]})*"
        if component == "mlp_output" else ""
        for component, method in columns
    ]  # fmt: skip
    return rows_of(["", *header], [*rows, ["*Llama-2-13b-chat (the paper's files)*", *papers]])


@number
def findings() -> str:
    """Say where each component is read above chance."""

    def above(component: str, method: str) -> str:
        rows = {model: _overall(model)[component, method] for model in CATALOGUE}
        return listed([model for model, row in rows.items() if row["interpreted"] > row["null_high"]])

    return (
        f"Amplified MLP outputs are read above chance on {above('mlp_output', AMPLIFIED.name)}, plain ones on "
        f"{above('mlp_output', PLAIN.name)}. Plain hidden states are on {above('hidden_state', PLAIN.name)}, amplified "
        f"ones on {above('hidden_state', AMPLIFIED.name)}."
    )


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


def _gains() -> dict[tuple[str, str], dict]:
    return {
        (model, component): gains
        for model in CATALOGUE
        for component, gains in about(model, "amplification_or_tries_found")["gains"].items()
    }


def _points(gain: dict) -> str:
    text = f"{100 * gain['gain']:.1f} ({100 * gain['low']:.1f} to {100 * gain['high']:.1f})"
    return f"**{text}**" if gain["low"] > 0 or gain["high"] < 0 else text


@number
def gains() -> str:
    """Lay out how much is amplification: gains over chance in points; bold where the interval excludes zero."""
    found = _gains()
    tries = next(iter(found.values()))["tries"]
    header = [
        "",
        f"best of {tries} amplified, over one plain reading",
        f"over {tries} plain readings (other target prompts, or samples)",
        "one amplified, α chosen on other prompts, over one plain",
    ]
    return rows_of(header, [
        [f"{model}, {plural(component)}", *(_points(gain[name]) for name in ("total", "beyond", "alone"))]
        for (model, component), gain in found.items()
    ])  # fmt: skip


@number
def tries() -> str:
    """Say in sentences what the table of gains says."""
    found = _gains()

    def where(component: str, name: str, sign: int) -> str:
        excludes_zero = {1: lambda gain: gain["low"] > 0, -1: lambda gain: gain["high"] < 0}[sign]
        return listed([model for model in CATALOGUE if excludes_zero(found[model, component][name])])

    many = in_words(next(iter(found.values()))["tries"])
    return (
        f"For MLP outputs, {many} amplified readings beat one plain one on {where('mlp_output', 'total', 1)}, and {many} "
        f"plain ones on {where('mlp_output', 'beyond', 1)}: there the gain is amplification and not only more tries. A "
        f"single amplified reading beats a single plain one on {where('mlp_output', 'alone', 1)}. For hidden states, "
        f"{many} amplified readings beat one plain one on {where('hidden_state', 'total', 1)}, {many} plain ones on "
        f"{where('hidden_state', 'beyond', 1)}, and fall behind {many} plain ones on {where('hidden_state', 'beyond', -1)}; "
        f"a single amplified reading beats a single plain one on {where('hidden_state', 'alone', 1)} and falls behind on "
        f"{where('hidden_state', 'alone', -1)}."
    )


@number
def sizes() -> str:
    """Say how the effect grows with the model."""
    return "\n\n".join(about("model_sizes", "model_sizes")["verdict"])


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
            f"{best['null_mean']:.1f} (to {most})",
        ])  # fmt: skip
    of = f"of {len(page['named'])}"
    header = ["", f"described, {of}", "by chance", "layers read above chance", f"most read, {of}", "by chance"]
    return rows_of(header, rows)


def reference_counts() -> pd.DataFrame:
    """Read the paper's own counts, from the authors' published readings."""
    return pd.read_csv(ROOT / "data/reference/llama-2-13b-chat.csv")


@number
def reference() -> str:
    """Say how many prompts the paper's own readings interpret."""
    counted = reference_counts()
    amplified, plain = (counted[counted["method"] == method.name] for method in (AMPLIFIED, PLAIN))

    def per_layer(rows: pd.DataFrame) -> str:
        return ", ".join(map(str, rows["interpreted"]))

    layers = f"layers {amplified['layer'].min()} to {amplified['layer'].max()}"
    return (
        f"{per_layer(amplified)} of {amplified['prompts'].max()} prompts for {layers}, amplified, and "
        f"{per_layer(plain)} plain."
    )


# The paper, item by item


def _percent(row: pd.Series) -> str:
    return f"{100 * row['effect']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


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
    found = _overall(LEAD)
    amplified, plain = (found["mlp_output", method.name] for method in (AMPLIFIED, PLAIN))
    ours = (
        f"{amplified['interpreted']} of {amplified['pairs']}, by chance {amplified['null_mean']:.1f} "
        f"({plain['interpreted']}, by chance {plain['null_mean']:.1f})"
    )
    papers = reference_counts().groupby("method")[["interpreted", "prompts", "null_mean"]].sum()
    amplified, plain = papers.loc[AMPLIFIED.name], papers.loc[PLAIN.name]
    theirs = (
        f"{amplified['interpreted']:g} of {amplified['prompts']:g}, by chance {amplified['null_mean']:.1f} "
        f"({plain['interpreted']:g}, by chance {plain['null_mean']:.1f})"
    )
    return [("Figure 3, amplified (plain)", ours, theirs, "layer_success_plots")]


def _before_context() -> list[tuple[str, str, str, str]]:
    earlier = about(LEAD, "before_context_found")["earlier"]
    legible = earlier["mlp_output"][AMPLIFIED.name]["legible"]
    layers = earlier["hidden_state"][AMPLIFIED.name]["layers"]
    prompts = legible["n"]
    mlp = f"{legible['rate'] * prompts:.0f} of {prompts} prompts, by chance {legible['null'] * prompts:.1f}"
    hidden = f"{layers['rate']:.1f} on average, by chance {layers['null']:.1f}"
    return [
        ("Tables 1–2, legible in an MLP output before ℓ_c", mlp, "three examples", "before_context"),
        ("Table 3, §4.2, legible layers earlier", hidden, "three examples", "before_context"),
    ]


def _single() -> list[tuple[str, str, str, str]]:
    found = table_of(LEAD, "amplification_or_tries_found")
    single = found[(found["vector"] == "own") & (found["component"] == "mlp_output")]
    best = single.loc[single["effect"].idxmax()]
    ours = f"{best['amplifier']:g}: {_percent(best)} above chance"
    return [("§4.1, the best single α", ours, "by hand", "amplification_or_tries")]


def _every_component() -> list[tuple[str, str, str, str]]:
    effects = table_of(LEAD, "every_component_found", dtype={"target": str})
    effects = effects[effects["method"] == AMPLIFIED.name].set_index(["component", "target"])
    attention, summed = effects.loc["attention_output", "same"], effects.loc["mlp_sum[1-7]", "0"]
    ours = f"{_percent(attention)}; {_percent(summed)} above chance"
    return [("§6, attention outputs; MLP outputs 1–7 added up", ours, "proposed", "every_component")]


def _elsewhere() -> list[tuple[str, str, str, str]]:
    found = table_of(LEAD, "elsewhere_found")
    found = found[(found["method"] == AMPLIFIED.name) & (found["category"] == "all, by others of the category")]
    found = found.set_index("component")
    ours = f"{_percent(found.loc['mlp_output'])}; {_percent(found.loc['hidden_state'])} above chance of their category"
    what = f"{found['prompts'].max()} other entities, MLP outputs; hidden states"
    return [(what, ours, "–", "elsewhere")]


def _stability() -> list[tuple[str, str, str, str]]:
    runs = table_of(LEAD, "stability_found")
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
def proof() -> str:
    """Say what the proof at load costs."""
    table = measured("load")
    seconds, share = table["proof, seconds"], table["proof, share of load"]
    return (
        f"{seconds.min():.2f} to {seconds.max():.1g} s on the catalogue's models, {100 * share.min():.0f} to "
        f"{100 * share.max():.0f} % of loading them"
    )


@number
def app() -> str:
    """Say how fast the page is."""
    table = measured("app").set_index("what")
    first, whole = (table.loc[f"page, {which} readings"] for which in ("first", "all"))
    return (
        f"On two CPU cores, browser included, the {whole['rows']:g} readings of the picture begin to appear after "
        f"{first['seconds']:.1f} s and are there after {whole['seconds']:.1f} s, {whole['times the sweep']:.1f} times as long "
        f"as a sweep of the same plan ([numbers](benchmarks/results/app.csv))."
    )
