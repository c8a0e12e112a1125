"""Does the effect grow with the model?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from .. import ROOT, InputError
from ..models.catalogue import CATALOGUE
from ..words.components import EVALUATED, into, plural, title
from ..words.files import in_repository, json_of
from ..words.methods import AMPLIFIED, METHODS, PLAIN
from ..words.plans import Plan
from ..words.settings import THRESHOLD, Cosine, FilePath, FilePaths, ResultSettings, setting
from ._publish import publish
from ._sentences import OTHERS, amplified, in_runs, percent, what_counts, with_interval

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
REFERENCE_COMPONENT = "mlp_output"  # the only one of which its counts were published


class Settings(ResultSettings):
    """The parameters of the notebook."""

    folders: FilePaths = setting(
        (), "of results, relative to the repository; empty is data/<model>/ of every catalogue model that has them"
    )
    threshold: Cosine = THRESHOLD
    out_dir: FilePath = setting(
        "", "where results go, relative to the repository; empty is data/model_sizes/", changes_results=False
    )


def plans(settings: Settings) -> list[Plan]:
    """Ask a model for nothing."""
    return []


def gold(settings: Settings) -> dict[str, str]:
    """Judge nothing by descriptions."""
    return {}


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        tries: method -> readings of which the best counts.
        table: per model, component, method and layer, the effect on the grids (`effects.effect`), with its relative
            depth; and over the paper's layers together (layer "1-7").
        reference: the paper's counts as effects over chance, by relative depth: method, layer, depth, effect, half
            (from chance to its 97.5 % point).
    """

    tries: dict[str, int]
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

    judge, parts, tries = Judge(settings.judge, settings.threshold), [], {}
    for name, rows in models.items():
        about = rows.attrs["model"]
        judged = {component: judge_rows(on_grid(rows, component), judge) for component in EVALUATED}
        tries |= {method: one.number_of_tries(method) for one in judged.values() for method in one.methods}
        parts.append(
            _effects(judged, about["layers"]).assign(
                model=name,
                parameters=about["parameters"],
                dtype=about["dtype"],
                prompts=rows["source prompt"].nunique(),
            )
        )
    counts = pd.read_csv(ROOT / "data/reference/llama-2-13b-chat.csv")
    return Found(tries, pd.concat(parts, ignore_index=True), reference_effects(counts))


def _effects(of_component: dict[str, Judged], num_layers: int) -> pd.DataFrame:
    """Return one model's effect per layer and relative depth, and over the paper's layers together."""
    import pandas as pd

    from ..judging.effects import by_method

    lines = []
    for component, judged in of_component.items():
        early = [layer for layer in judged.layers if layer in EARLY_LAYERS]
        parts = [(layer, round(layer / (num_layers - 1), 4), [layer]) for layer in judged.layers]
        for layer, depth, layers in [*parts, (EARLY, None, early)]:
            for method, numbers in by_method(judged.at_layers(layers)).items():
                lines.append({"component": component, "method": method, "layer": layer, "depth": depth} | numbers)
    return pd.DataFrame(lines)


def reference_effects(counts: pd.DataFrame, num_layers: int = REFERENCE_LAYERS) -> pd.DataFrame:
    """Return the paper's counts as effects over chance, by relative depth.

    Args:
        counts: columns method, layer, prompts, interpreted, null_mean, null_high.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "method": counts["method"],
            "layer": counts["layer"],
            "depth": counts["layer"] / (num_layers - 1),
            "effect": (counts["interpreted"] - counts["null_mean"]) / counts["prompts"],
            "half": (counts["null_high"] - counts["null_mean"]) / counts["prompts"],
        }
    )


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say what the models of several sizes show, together: the effect over the early source layers, small to large."""
    together = found.table["layer"] == EARLY
    whole, layers = found.table[together].sort_values("parameters"), found.table.loc[~together, "layer"]
    models, early, said = whole["model"].unique(), in_runs(layer for layer in layers if layer in EARLY_LAYERS), []
    for component in EVALUATED:
        of_component, parts = whole[whole["component"] == component], []
        for method in reversed(found.tries):
            rows, tries = of_component[of_component["method"] == method], found.tries[method]
            above = ((rows["low"] > 0) & (rows["p_value"] < 0.05)).sum()
            what = f"{f'Best of {tries}' if tries > 1 else 'One'} {METHODS[method].one}"
            named = ", ".join(with_interval(row) for row in rows.to_dict("records"))
            parts.append(f"{what} {named}; above chance in {above} of {len(rows)}")
        papers = ""
        if component == REFERENCE_COMPONENT:
            means = found.reference.groupby("method")["effect"].mean()
            papers = f" The paper's 13 B model: {percent(means[AMPLIFIED.name])} and {percent(means[PLAIN.name])}."
        effects, grows = of_component.loc[of_component["method"] == AMPLIFIED.name, "effect"], ""
        if len(models) > 1:
            grows = (
                f" Among ours the amplified effect {'rises' if effects.is_monotonic_increasing else 'does not rise'} "
                f"with every step of size (by point estimates; layers {early} reach different depths)."
            )
        said.append(
            f"{title(component)}, interpreted above chance in source layers {early}, on {', '.join(models)}: "
            f"{'. '.join(parts)}.{papers}{grows}"
        )
    return said


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    targets = ", ".join(f"{plural(name)} {into(at)} (α = {amplified(name)})" for name, at in EVALUATED.items())
    return (
        "Interpreted, above chance, in a share of prompts, by relative depth of the source layer; "
        f"{found.table['prompts'].max()} prompts, similarity to the prompt above {settings.threshold:g}, "
        f"{', '.join(found.table['dtype'].unique())}. {targets}. {what_counts(found.tries)} Coloured bands: 95 % "
        f"intervals over prompts. Grey: what chance varies by ({OTHERS}). Models differ in more than size: family, training, tokenizer."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw the effect over chance by relative depth, a column per model, small to large, a row per component."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import NULL_COLOUR, STYLE

    models = found.table.sort_values("parameters").drop_duplicates("model")[["model", "parameters"]]
    with plt.rc_context(STYLE):
        drawn, rows = plt.subplots(
            len(EVALUATED), len(models) + 1, figsize=(14, 6.4), layout="constrained", sharey=True, sharex=True
        )
        for row, component in zip(rows, EVALUATED, strict=True):
            effects = found.table[found.table["component"] == component]
            for axes, model in zip(row[:-1], models["model"], strict=True):
                _draw_model(axes, effects[(effects["model"] == model) & (effects["layer"] != EARLY)])
            row[0].set_ylabel(f"{title(component)}\ninterpreted, above chance")
            if component == REFERENCE_COMPONENT:
                _draw_reference(row[-1], found.reference)
            else:
                look = {"ha": "center", "va": "center", "color": NULL_COLOUR, "transform": row[-1].transAxes}
                row[-1].text(0.5, 0.5, "the paper gives\nno counts here", **look)
        for axes, (model, parameters) in zip(rows[0, :-1], models.itertuples(index=False), strict=True):
            axes.set_title(f"{model}\n{_size(parameters)}", fontsize=10)
        rows[0, -1].set_title(f"{REFERENCE}\n13 B (the paper's files)", fontsize=10)
        for axes in rows.flat:
            panels.zero_line(axes)
            panels.percent(axes.yaxis)
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
