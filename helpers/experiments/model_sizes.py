"""Does the effect grow with the model?"""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from .. import ROOT, InputError
from ..judging.rules import RULES, rules_for
from ..models.catalogue import CATALOGUE
from ..words.components import EVALUATED, into, plural, title
from ..words.files import in_repository, json_of
from ..words.methods import AMPLIFIED, METHODS, PLAIN
from ..words.prompts import read_categories
from ..words.settings import PROMPTS, THRESHOLD, Cosine, FilePath, FilePaths, ResultSettings, setting
from ._publish import publish
from ._sentences import OTHERS, amplified, interpreted, is_certain, percent, what_counts, with_interval, within_category
from ._usual import ask_for_nothing, described
from .layer_success_plots import REFERENCE as PAPERS_COUNTS

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..judging.effects import Judged

PLACE, WHEN = 120, "study"
QUESTION = "does the effect grow with the model?"
PAPER = "–"
TABLE = ""
NEEDS = ()

FILES = ("mlp_output.csv", "hidden_state.csv", "every_component.csv.gz")  # of each model
EARLY, EARLY_LAYERS = "1-7", range(1, 8)  # the layers of the paper's evaluations, together
REFERENCE, REFERENCE_LAYERS = "Llama-2-13b-chat", 40  # the paper's model
PAPERS_DEPTH = max(EARLY_LAYERS) / (REFERENCE_LAYERS - 1)  # the relative depth that the paper's layers reach
AS_DEEP = "as deep as the paper's"  # the layers from 1 to that depth, together: what sizes are compared by
REFERENCE_COMPONENT = "mlp_output"  # the only one of which its counts were published


class Settings(ResultSettings):
    """The parameters of the notebook."""

    folders: FilePaths = setting(
        (), "of results, relative to the repository; empty is data/<model>/ of every catalogue model that has them"
    )
    prompts: FilePath = PROMPTS
    threshold: Cosine = THRESHOLD
    out_dir: FilePath = setting(
        "", "where results go, relative to the repository; empty is data/model_sizes/", changes_results=False
    )


plans, gold = ask_for_nothing, described


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        tries: method -> readings of which the best counts.
        rules: by what readings are judged, the leading rule first.
        table: per rule, model, component, method and layer, the effect on the grids (`effects.effect`), with its
            relative depth; and together, over the layers that are as deep as the paper's (layer AS_DEEP, with the
            deepest), and over its layers (layer "1-7").
        reference: the paper's counts as effects over chance, by relative depth: judged by, method, layer, depth,
            effect, half (from chance to its 97.5 % point).
    """

    tries: dict[str, int]
    rules: list[str]
    table: pd.DataFrame
    reference: pd.DataFrame


def read(settings: Settings) -> dict[str, pd.DataFrame]:
    """Read the evaluations' settings of each model: its name -> rows; `.attrs["model"]` is what its JSON says.

    Raises:
        InputError: no folder has all files.
    """
    import pandas as pd

    from ..runs.results import read_results

    candidates = [in_repository(folder) for folder in settings.folders] or [ROOT / "data" / name for name in CATALOGUE]
    folders = [folder for folder in candidates if all((folder / file).is_file() for file in FILES)]
    if not folders:
        raise InputError("folders", [str(folder) for folder in candidates], f"none has {', '.join(FILES)}")
    models = {}
    for folder in folders:
        rows = read_results([folder / file for file in FILES])
        targets = {component: rows["layer"] if target == "same" else target for component, target in EVALUATED.items()}
        parts = [rows[(rows["component"] == name) & (rows["target layer"] == at)] for name, at in targets.items()]
        rows = pd.concat(parts).drop_duplicates("id")  # a depth may be one of the layers 1–7
        rows.attrs["model"] = json.loads(json_of(folder / FILES[0]).read_text(encoding="utf-8"))["model"]
        models[rows.attrs["model"]["name"]] = rows
    return models


def tables(settings: Settings, models: dict[str, pd.DataFrame]) -> Found:
    """Compare each model's layers with chance, and put the paper's counts beside them."""
    import pandas as pd

    from ..judging.effects import judge_rows, on_grid
    from ..judging.judge import Judge

    judge, categories, parts, tries = Judge(settings.judge, settings.threshold), read_categories(settings.prompts), [], {}
    rules = rules_for({prompt for rows in models.values() for prompt in rows["source prompt"]}, gold(settings))
    for (name, rows), (rule, truths) in product(models.items(), rules.items()):
        about = rows.attrs["model"]
        judged = {
            component: judge_rows(on_grid(rows, component), judge, truths, categories=categories)
            for component in EVALUATED
        }
        tries |= {method: table.number_of_tries(method) for table in judged.values() for method in table.methods}
        columns = {"judged by": rule, "model": name, "parameters": about["parameters"], "dtype": about["dtype"]}
        columns["prompts"] = rows["source prompt"].nunique()
        parts.append(_effects(judged, about["layers"]).assign(**columns))
    counts = pd.read_csv(ROOT / PAPERS_COUNTS)
    counts = counts[counts["method"].isin(METHODS)]
    return Found(tries, list(rules), pd.concat(parts, ignore_index=True), reference_effects(counts))


def _effects(of_component: dict[str, Judged], num_layers: int) -> pd.DataFrame:
    """Return one model's effect per layer, over the layers as deep as the paper's, and over the paper's layers."""
    import pandas as pd

    from ..judging.effects import by_method

    lines = []
    for component, judged in of_component.items():
        early = [layer for layer in judged.layers if layer in EARLY_LAYERS]
        deepest = max([layer for layer in early if layer / (num_layers - 1) <= PAPERS_DEPTH + 1e-9], default=early[0])
        as_deep = [layer for layer in early if layer <= deepest]
        parts = [(layer, [layer]) for layer in judged.layers] + [(AS_DEEP, as_deep), (EARLY, early)]
        for layer, layers in parts:
            depth = round(max(layers) / (num_layers - 1), 4)
            for method, numbers in by_method(judged.at_layers(layers)).items():
                lines.append({"component": component, "method": method, "layer": layer, "depth": depth} | numbers)
    return pd.DataFrame(lines)


def reference_effects(counts: pd.DataFrame, num_layers: int = REFERENCE_LAYERS) -> pd.DataFrame:
    """Return the paper's counts as effects over chance, by relative depth.

    Args:
        counts: columns judged by, method, layer, prompts, interpreted, null_mean, null_high.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "judged by": counts["judged by"],
            "method": counts["method"],
            "layer": counts["layer"],
            "depth": counts["layer"] / (num_layers - 1),
            "effect": (counts["interpreted"] - counts["null_mean"]) / counts["prompts"],
            "half": (counts["null_high"] - counts["null_mean"]) / counts["prompts"],
        }
    )


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say what the models of several sizes show, small to large: as deep as the paper's layers, and in its layers."""
    said = []
    for rule, component in product(found.rules, EVALUATED):
        rows = found.table[(found.table["judged by"] == rule) & (found.table["component"] == component)]
        models = ", ".join(rows.sort_values("parameters")["model"].unique())
        said.append(
            f"{title(component)}, {RULES[rule].label}, on {models}, at relative depths as in the paper (to "
            f"{PAPERS_DEPTH:.2f}): {_together(found, rows, AS_DEEP)}{_papers(found, rule, component)} For comparison, in source "
            f"layers {EARLY}, which reach relative depth {rows.loc[rows['layer'] == EARLY, 'depth'].min():.2f} to "
            f"{rows.loc[rows['layer'] == EARLY, 'depth'].max():.2f}: {_together(found, rows, EARLY)}"
        )
    return said


def _together(found: Found, rows: pd.DataFrame, layers: str) -> str:
    """Say the effects over some layers together, method by method."""
    rows, parts = rows[rows["layer"] == layers].sort_values("parameters"), []
    for method in reversed(found.tries):
        of_method, tries = rows[rows["method"] == method].to_dict("records"), found.tries[method]
        what = f"{f'best of {tries}' if tries > 1 else 'one'} {METHODS[method].adjective}"
        named = ", ".join(with_interval(row) for row in of_method)
        above = f"above chance on {sum(map(is_certain, of_method))} of {len(of_method)}"
        if (of_category := [within_category(row) for row in of_method]) and of_category[0]:
            above += f", above chance of the category on {sum(map(is_certain, of_category))}"
        parts.append(f"{what} {named} ({above})")
    effects, grows = rows.loc[rows["method"] == AMPLIFIED.name, "effect"], ""
    if len(effects) > 1:
        grows = f" The amplified effect {'rises' if effects.is_monotonic_increasing else 'does not rise'} with every step of size."
    return f"{'; '.join(parts)}.{grows}"


def _papers(found: Found, rule: str, component: str) -> str:
    """Say the paper's effects, where its counts are known."""
    theirs = found.reference[found.reference["judged by"] == rule]
    if component != REFERENCE_COMPONENT or theirs.empty:
        return ""
    means = theirs.groupby("method")["effect"].mean()
    return f" The paper's 13 B model: {percent(means[AMPLIFIED.name])} and {percent(means[PLAIN.name])}."


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    targets = ", ".join(f"{plural(name)} {into(at)} (α = {amplified(name)})" for name, at in EVALUATED.items())
    return (
        f"Above chance, by relative depth of the source layer; {found.table['prompts'].max()} prompts, "
        f"{', '.join(found.table['dtype'].unique())}. {interpreted(settings.threshold, found.rules, 'prompts')} {targets}. "
        f"{what_counts(found.tries)} Coloured bands: 95 % intervals over prompts. Grey: what chance varies by ({OTHERS}). "
        "Shaded: as deep as the paper's layers. Scales differ between rows. Models differ in more than size: family, "
        "training, tokenizer."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw the effect over chance by relative depth, a column per model, small to large, a row per component and rule."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import LINE, NULL_COLOUR, STYLE

    models = found.table.sort_values("parameters").drop_duplicates("model")[["model", "parameters"]]
    with plt.rc_context(STYLE):
        places = list(product(found.rules, EVALUATED))
        drawn, rows = plt.subplots(
            len(places), len(models) + 1, figsize=(14, 1 + 2.8 * len(places)), layout="constrained", sharey="row",
            sharex=True,
        )  # fmt: skip
        for row, (rule, component) in zip(rows, places, strict=True):
            effects = found.table[(found.table["component"] == component) & (found.table["judged by"] == rule)]
            for axes, model in zip(row[:-1], models["model"], strict=True):
                _draw_model(axes, effects[(effects["model"] == model) & ~effects["layer"].isin((EARLY, AS_DEEP))])
            row[0].set_ylabel(f"{title(component)}\n{RULES[rule].label}")
            theirs = found.reference[found.reference["judged by"] == rule]
            if component == REFERENCE_COMPONENT and len(theirs):
                _draw_reference(row[-1], theirs)
            else:
                look = {"ha": "center", "va": "center", "color": NULL_COLOUR, "transform": row[-1].transAxes}
                row[-1].text(0.5, 0.5, "the paper gives\nno counts here", **look)
        for axes, (model, parameters) in zip(rows[0, :-1], models.itertuples(index=False), strict=True):
            axes.set_title(f"{model}\n{_size(parameters)}", fontsize=10)
        rows[0, -1].set_title(f"{REFERENCE}\n13 B (the paper's files)", fontsize=10)
        for axes in rows.flat:
            panels.zero_line(axes)
            panels.percent(axes.yaxis)
            axes.axvspan(0, PAPERS_DEPTH, color=LINE, alpha=0.35, lw=0, zorder=0)
        for axes in rows[-1]:
            axes.set_xlabel("relative depth")
        panels.legend_below(drawn, rows[0, 0])
        return panels.finish(drawn, caption(settings, found), 185)


def _draw_model(axes: Axes, effects: pd.DataFrame) -> None:
    from ..figures import panels

    for method in panels.methods_in(effects):
        rows = effects[effects["method"] == method.name].sort_values("depth")
        axes.fill_between(rows["depth"], rows["low"], rows["high"], color=method.colour, alpha=0.16, lw=0)
        line = {"color": method.colour, "lw": 1.8, "marker": method.marker, "ms": 4.5, "label": method.label}
        axes.plot(rows["depth"], rows["effect"], **line)
        if method == AMPLIFIED:
            panels.chance_band(axes, rows["depth"], rows, over_chance=True, label=f"chance for {method.name} (95 %)")


def _draw_reference(axes: Axes, reference: pd.DataFrame) -> None:
    from ..figures import panels

    for method in panels.methods_in(reference):
        rows = reference[reference["method"] == method.name]
        line = {"color": method.colour, "lw": 1.8, "marker": method.marker, "ms": 4.5, "mfc": "white"}
        axes.plot(rows["depth"], rows["effect"], **line)
        if method == AMPLIFIED:
            axes.fill_between(rows["depth"], 0, rows["half"], lw=0, **panels.FILLED)


def _size(parameters: float) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the effects."""
    models = list(found.table["model"].unique())
    about = {"models": models, "threshold": settings.threshold, "verdict": sentences(settings, found)}
    publish(folder, {"model_sizes": drawn}, found.table, "model_sizes.csv", about)
