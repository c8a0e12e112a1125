"""How does a reading change as the MLP output grows, alone and on top of the residual that it is added to?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..words.components import COMPONENTS
from ..words.methods import AMPLIFIED, PLAIN
from ..words.plans import Plan, make_plan
from ..words.settings import THRESHOLD, Amplifiers, Cosine, Count, Layers, ReadSettings, TargetLayers, Text, setting
from ._publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLACE, WHEN = 40, "paper"
QUESTION = "amplification as guidance, scale by scale"
PAPER = "Figure 2, §3.5"
TABLE = "guidance.csv.gz"
NEEDS = ()

FORMS = {  # what is scaled -> how it is written, and the scale's symbol
    "mlp_output": ("α · MLP output", "α"),
    "guidance": ("h_PreMLP + w · MLP output", "w"),
}
PLAIN_READINGS = {0: "pre_mlp_residual", 1: "hidden_state"}  # what guidance passes through, by w


class Settings(ReadSettings):
    """The parameters of the notebook."""

    prompt: Text = setting("Red Hot Chili Peppers", "its last token's vectors are read")
    gold: Text = setting(
        "American rock band from California", "a true short description, which a legible reading is similar to"
    )
    layers: Layers = setting("4-6", "source layers, from 0")
    layer: Count = setting(5, "the layer whose readings are written out (or the nearest)")
    amplifiers: Amplifiers = setting(tuple(range(16)), "α, and w")
    target_layer: TargetLayers = setting("same", 'the patched layer: "same" as the source, or a number')
    threshold: Cosine = THRESHOLD


def plans(settings: Settings) -> list[Plan]:
    """Ask for amplified MLP outputs, h_PreMLP + w·mlp, and the two plain readings that it passes through."""
    shared = {"target_layer": settings.target_layer, "max_new_tokens": settings.max_new_tokens}
    return [
        make_plan([settings.prompt], tuple(FORMS), settings.layers, settings.amplifiers, **shared),
        make_plan([settings.prompt], tuple(PLAIN_READINGS.values()), settings.layers, 1, **shared),
    ]


def gold(settings: Settings) -> dict[str, str]:
    """Return the prompt's description."""
    return {settings.prompt: settings.gold}


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        layer: the one whose readings are written out.
        rows: the readings, with a column `legible`.
        table: per form and layer, legible (the scales), best (the scale most similar to the description), reading,
            score gold, last (the largest legible scale), same_as_plain (of guidance: at w = 0 and w = 1).
    """

    model: str
    layer: int
    rows: pd.DataFrame
    table: pd.DataFrame


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Find where each form is legible, and whether guidance passes through the two plain readings."""
    import pandas as pd

    from ..judging.effects import is_legible
    from ..judging.judge import Judge

    rows = rows.assign(legible=is_legible(rows, Judge(settings.judge, settings.threshold)))
    layer = min(rows["layer"], key=lambda other: abs(other - settings.layer))
    scaled, lines = rows, []
    if (rows["amplification value"] % 1 == 0).all():  # as a table that was read from a file has them
        scaled = rows.astype({"amplification value": int})
    for (component, number), part in scaled[scaled["component"].isin(FORMS)].groupby(["component", "layer"], sort=False):
        at = part.set_index("amplification value")
        best, legible = at["score gold"].idxmax(), at.index[at["legible"]].tolist()
        same = ""
        if component == "guidance" and all(w in at.index for w in PLAIN_READINGS):
            plain = rows[rows["layer"] == number].drop_duplicates("component", keep="last").set_index("component")
            same = all(at.loc[w, "result"] == plain.loc[name, "result"] for w, name in PLAIN_READINGS.items())
        lines.append(
            {
                "component": component, "layer": number, "legible": " ".join(f"{scale:g}" for scale in legible),
                "best": best, "reading": at.loc[best, "result"], "score gold": at.loc[best, "score gold"],
                "last": max(legible, default=""), "same_as_plain": same,
            }
        )  # fmt: skip
    return Found(rows.attrs["model"]["name"], int(layer), rows, pd.DataFrame(lines))


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say where each form is legible, and whether guidance agrees with the two plain readings."""
    said = []
    for row in found.table[found.table["layer"] == found.layer].to_dict("records"):
        where = f"at {row['legible'].replace(' ', ', ')}, and nowhere beyond" if row["legible"] else "at no scale"
        said.append(
            f"{FORMS[row['component']][0]}, layer {found.layer}: legible {where}; closest at {row['best']:g}, "
            f"{row['reading'].strip()!r} (similarity {row['score gold']:.2f})."
        )
    checked = found.table[(found.table["component"] == "guidance") & (found.table["same_as_plain"] != "")]
    if len(checked):
        said.append(
            f"w = 0 says what h_PreMLP says and w = 1 what the hidden state says, word for word, in "
            f"{int(checked['same_as_plain'].sum())} of {len(checked)} layers."
        )
    return said


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    return (
        f"{found.model}, “{settings.prompt}”, last token, one reading a scale. Similarity: of the reading to the entity's "
        f"description; blue: above {settings.threshold:g} and not an echo. ρ: length beside what it replaces."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw Figure 2: readings scale by scale, and their similarity, of both forms."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import STYLE

    rows = found.rows
    scales = rows.loc[rows["component"] == "guidance", "amplification value"].nunique()
    with plt.rc_context(STYLE):
        drawn = plt.figure(figsize=(11.5, 2.6 + 0.27 * scales + 2.2), layout="constrained")
        grid = drawn.add_gridspec(2, 2, height_ratios=[0.27 * scales + 0.6, 2.3])
        curves = None
        for column, (component, (form, symbol)) in enumerate(FORMS.items()):
            own = rows[(rows["component"] == component)].sort_values("amplification value", kind="stable")
            ladder = drawn.add_subplot(grid[0, column])
            _draw_ladder(ladder, own[own["layer"] == found.layer], symbol)
            guides = " (guidance)" if component == "guidance" else ""
            ladder.set_title(f"{form}{guides}, layer {found.layer}")
            curves = drawn.add_subplot(grid[1, column], sharey=curves)
            _draw_curves(curves, own, found.layer, settings.threshold)
            _mark_plain_readings(curves, component, rows[rows["layer"] == found.layer])
            curves.set(xlabel=symbol, ylim=(-0.15, 1.0))
            if not column:
                curves.set_ylabel("similarity to\nthe description")
            curves.legend(fontsize=8, ncols=3, loc="upper right")
        return panels.finish(drawn, caption(settings, found), 150)


def _draw_ladder(axes: Axes, rows: pd.DataFrame, symbol: str) -> None:
    """Write out the readings of one form, a line a scale."""
    from ..figures.style import INK, NULL_COLOUR, one_line

    axes.set(xlim=(0, 10), ylim=(len(rows) - 0.4, -1.2))
    axes.set_axis_off()
    heads = ((0.3, symbol, "right"), (1.0, "ρ", "right"), (1.3, "what the model writes", "left"), (9.9, "similarity", "right"))
    for x, label, align in heads:
        axes.text(x, -0.9, label, fontsize=8.5, color=NULL_COLOUR, ha=align)
    columns = ("amplification value", "rho", "result", "score gold", "legible")
    for line, (scale, rho, result, gold, legible) in enumerate(zip(*(rows[column] for column in columns), strict=True)):
        colour = AMPLIFIED.colour if legible else NULL_COLOUR
        axes.barh(line, 8.5 * max(gold, 0), left=1.2, height=0.86, color=colour, alpha=0.16, lw=0)
        axes.text(0.3, line, f"{scale:g}", ha="right", va="center", fontsize=9)
        axes.text(1.0, line, f"{rho:.2g}", ha="right", va="center", fontsize=8, color=NULL_COLOUR)
        look = {"color": colour if legible else INK, "weight": "bold" if legible else "normal"}
        axes.text(1.3, line, one_line(result.strip(), 52), va="center", fontsize=9, **look)
        axes.text(9.9, line, f"{gold:.2f}", ha="right", va="center", fontsize=8.5, color=colour)


def _draw_curves(axes: Axes, rows: pd.DataFrame, layer: int, threshold: float) -> None:
    """Draw similarity by scale, a line a layer; the neighbours lightly."""
    from ..figures.style import NULL_COLOUR

    for number, part in rows.groupby("layer"):
        if number == layer:
            look = {"lw": 2.2, "ls": "-", "marker": "o", "ms": 4}
        else:
            look = {"lw": 1.1, "ls": ":" if number < layer else "--", "alpha": 0.45}
        label = f"layer {number}"
        axes.plot(part["amplification value"], part["score gold"], color=AMPLIFIED.colour, label=label, **look)
    axes.axhline(threshold, color=NULL_COLOUR, lw=1, ls="--")


def _mark_plain_readings(axes: Axes, component: str, rows: pd.DataFrame) -> None:
    """Mark the plain readings that a form passes through."""
    plain = rows[PLAIN.choose(rows)].set_index("component")["score gold"]
    if component == "guidance":
        marks = [(w, name, f"{COMPONENTS[name].symbol}, plain", "vD"[w]) for w, name in PLAIN_READINGS.items()]
    else:
        marks = [(1, component, "plain (α = 1)", "s")] if component in plain else []
    for scale, name, label, marker in marks:
        look = {"ms": 8, "mfc": "none", "mec": PLAIN.colour, "mew": 1.6, "ls": "none", "label": label}
        axes.plot([scale], [plain[name]], marker, **look)


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and what was found."""
    about = {
        "model": found.model, "layer": found.layer, "threshold": settings.threshold, "verdict": sentences(settings, found)
    }  # fmt: skip
    publish(folder, {"guidance": drawn}, found.table, "guidance_found.csv", about)
