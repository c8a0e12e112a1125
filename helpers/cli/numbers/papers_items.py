"""The paper, item by item, beside our numbers."""

import pandas as pd

from ...experiments._sentences import with_interval, within_category
from ...judging.chance import NULLS
from ...judging.rules import DESCRIPTION, RULES
from ...words.components import plural
from ...words.methods import AMPLIFIED, BLIND, PLAIN, Method
from ..reproduce import LEAD
from .found import PAPERS_MODEL, overall
from .parts import about, in_words, number, rows_of, table_of


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
            ours, theirs = (_figure_3_cell(overall(model, rule.name), method) for model in (LEAD, PAPERS_MODEL))
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
