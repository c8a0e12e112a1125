"""One vector, amplified until it can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..words.components import MLP_GRID
from ..words.methods import AMPLIFIED, PLAIN
from ..words.plans import Plan, make_plan
from ..words.prompts import read_gold
from ..words.settings import (
    PROMPTS,
    THRESHOLD,
    Cosine,
    FilePath,
    FilePaths,
    Layers,
    ReadSettings,
    TargetLayers,
    Text,
    setting,
)
from ..words.target import TARGET_PROMPTS
from ._publish import publish
from ._sentences import is_certain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..judging.judge import Judge

PLACE, WHEN = 70, "paper"
QUESTION = "one vector, amplified until it can be read"
PAPER = "Figure 1"
TABLE = "story.csv.gz"
NEEDS = ()
WANTS = ("mlp_output.csv", "every_component.csv.gz")  # to tell the story of every prompt

# Figure 1: whether each step is legible.
STEPS = {"pre_mlp_residual": False, "mlp_output": False, "amplified": True, "hidden_state": True}
FAILS = {
    "pre_mlp_residual": "the residual before the MLP is legible already",
    "mlp_output": "the plain MLP output is legible already",
    "amplified": "no amplified MLP output is legible",
    "hidden_state": "the hidden state is not legible",
}
PRIORITY = ("amplified", "mlp_output", "pre_mlp_residual", "hidden_state")  # to the story, most first


class Settings(ReadSettings):
    """The parameters of the notebook."""

    prompt: Text = setting("Diana, Princess of Wales", "its last token's vectors are read")
    gold: Text = setting(
        "Member of the British royal family", "a true short description, which a legible reading is similar to"
    )
    layers: Layers = setting("0-7", "source layers to look in, from 0")
    target_layer: TargetLayers = setting("same", 'the patched layer: "same" as the source, or a number')
    prompts: FilePath = setting(PROMPTS.default, "of `results`: a CSV with the columns `prompt` and `gold`")
    results: FilePaths = setting(
        (), "the MLP evaluation's CSV and every_component's, for the story of every prompt; empty leaves it out"
    )
    threshold: Cosine = THRESHOLD


def plans(settings: Settings) -> list[Plan]:
    """Ask for h_PreMLP, the MLP output plain and amplified, and the hidden state of one prompt; a random vector."""
    shared = {name: getattr(settings, name) for name in ("layers", "target_layer", "max_new_tokens")}
    return [
        make_plan([settings.prompt], ("pre_mlp_residual", "hidden_state"), amplifiers=1, **shared),
        make_plan([settings.prompt], ("mlp_output", "random[mlp_output]"), amplifiers=MLP_GRID, **shared),
    ]


def gold(settings: Settings) -> dict[str, str]:
    """Return the prompt's description."""
    return {settings.prompt: settings.gold}


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        model: whose they are.
        story: of the prompt: layer, amplifier, holds; random readings, random legible: how many amplified random
            vectors there were, and how many of them are legible; steps: per step its component, amplifier, first item
            of the reading, score gold and legible; missing: the steps that don't go as in Figure 1.
        over_all: `effects.effect` of the share of prompts for which the story holds in some layer, with prompts and
            holds (their number); {} without `results`.
        best: the story of the prompt whose amplified MLP output is most similar to its description, with that
            description as gold; None if it holds for none.
    """

    model: str
    story: dict
    over_all: dict[str, float]
    best: dict | None

    @property
    def steps(self) -> pd.DataFrame:
        """The prompt's story, a row a step."""
        import pandas as pd

        return pd.DataFrame(self.story["steps"]).T.rename_axis("step").reset_index()


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Find the layer and amplifier that show the story best; and those of every prompt, if `results` has its readings."""
    from ..judging.judge import Judge
    from ..runs.results import read_results

    judge = Judge(settings.judge, settings.threshold)
    story = find_story(rows, judge)
    over_all, best = {}, None
    if settings.results:
        over_all, best = stories(read_results(settings.results), read_gold(settings.prompts), judge)
    return Found(rows.attrs["model"]["name"], story, over_all, best)


def find_story(rows: pd.DataFrame, judge: Judge) -> dict[str, object]:
    """Find the layer and amplifier at which the readings come closest to Figure 1's story, and whether it holds.

    It holds where the residual before the MLP and the plain MLP output say nothing of the entity, the amplified MLP
    output does, and the hidden state, their sum, does too.

    Args:
        rows: of one prompt, scored by gold.

    Returns:
        See `Found.story`.
    """
    from ..judging.effects import is_legible

    rows = rows.assign(legible=is_legible(rows, judge))
    by_layer = []
    for layer, part in rows.groupby("layer"):
        amplified = part[(part["component"] == "mlp_output") & AMPLIFIED.choose(part)]
        best = amplified.sort_values(["legible", "score gold"], ascending=False, kind="stable").iloc[0]
        plain = part[PLAIN.choose(part)].set_index("component")
        of_step = {step: best if step == "amplified" else plain.loc[step] for step in STEPS}
        missing = [step for step, legible in STEPS.items() if bool(of_step[step]["legible"]) != legible]
        steps = {
            step: {
                "amplifier": float(row["amplification value"]),
                "reading": row["first item"].strip(),
                "score gold": round(float(row["score gold"]), 3),
                "legible": bool(row["legible"]),
            }
            for step, row in of_step.items()
        }
        by_layer.append({
            "prompt": best["source prompt"], "token": best["token"].strip(), "layer": int(layer),
            "target layer": int(best["target layer"]), "amplifier": float(best["amplification value"]),
            "holds": not missing, "missing": missing, "steps": steps,
        })  # fmt: skip
    random = rows[rows["component"].str.startswith("random") & AMPLIFIED.choose(rows)]
    for story in by_layer:  # the control has as many tries as the story was chosen from
        story |= {"random readings": len(random), "random legible": int(random["legible"].sum())}
    return min(by_layer, key=_distance)


def _distance(story: Mapping[str, object]) -> tuple:
    """Rank a story: those that lack nothing first, then those whose amplified reading is closest to the description."""
    return (*(step in story["missing"] for step in PRIORITY), -story["steps"]["amplified"]["score gold"])


def stories(rows: pd.DataFrame, golds: Mapping[str, str], judge: Judge) -> tuple[dict[str, float], dict | None]:
    """Count the prompts for which the story holds in any layer, beside chance, and find the clearest of them.

    Args:
        rows: the MLP evaluation, and h_PreMLP and hidden states into the same layer (every_component); scores aren't
            needed.

    Returns:
        See `Found.over_all` and `Found.best`; {} and None if all have the same description.
    """
    import pandas as pd

    from ..judging.effects import effect, judge_rows
    from ..judging.score import score

    keep = {"pre_mlp_residual": (1,), "hidden_state": (1,), "mlp_output": MLP_GRID}
    same = rows[(rows["target layer"] == rows["layer"]) & rows["source prompt"].isin(golds)].drop_duplicates("id")
    parts = {
        component: same[(same["component"] == component) & same["amplification value"].isin(grid)]
        for component, grid in keep.items()
    }
    layers = sorted(set.intersection(*(set(part["layer"]) for part in parts.values())))
    read = [set(part["source prompt"]) for part in parts.values()]
    order = {prompt: place for place, prompt in enumerate(parts["mlp_output"]["source prompt"].unique())}
    parts = {  # the same prompts in the same order
        component: part[part["layer"].isin(layers) & part["source prompt"].isin(set.intersection(*read))].sort_values(
            "source prompt", key=lambda prompts: prompts.map(order), kind="stable"
        )
        for component, part in parts.items()
    }
    if len({golds[prompt] for prompt in set.intersection(*read)}) < 2:
        return {}, None
    judged = {component: judge_rows(part, judge, golds, echoes=False) for component, part in parts.items()}
    mlp = judged["mlp_output"]
    holds = mlp.successes(AMPLIFIED) & ~mlp.successes(PLAIN)
    holds &= ~judged["pre_mlp_residual"].successes() & judged["hidden_state"].successes()
    of_prompt = holds.any(1)  # (n, n): of prompt i, judged by prompt j's description
    numbers = effect(mlp, of_prompt[:, None, :]) | {"prompts": len(of_prompt), "holds": int(of_prompt.diagonal().sum())}
    held = [prompt for prompt, is_held in zip(mlp.prompts, of_prompt.diagonal(), strict=True) if is_held]
    if not held:
        return numbers, None
    every = pd.concat(parts.values(), ignore_index=True)
    scored = score(every[every["source prompt"].isin(held)], judge, golds)
    best = min((find_story(part, judge) for _, part in scored.groupby("source prompt", sort=False)), key=_distance)
    return numbers, best | {"gold": golds[best["prompt"]]}


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say what Figure 1 shows on the model, or which steps fail; and in how many prompts the story holds."""
    said = [_story_sentence(found.story, found.model)]
    if numbers := found.over_all:
        n = numbers["prompts"]
        certain = "more than chance" if is_certain(numbers) else "within chance"
        said.append(
            f"On {found.model} the story holds for {numbers['holds']} of {n} prompts in some layer; by chance for "
            f"{numbers['null'] * n:.1f} ({numbers['null_low'] * n:.0f} to {numbers['null_high'] * n:.0f}): {certain}."
        )
    return said


def _story_sentence(story: Mapping[str, object], model: str) -> str:
    if story["holds"]:
        return (
            f"{model}, “{story['prompt']}”, layer {story['layer']}: amplified {story['amplifier']:g} times, the MLP output "
            "says what neither it nor the residual before it says plainly, and what the hidden state says."
        )
    reasons = "; ".join(FAILS[step] for step in story["missing"])
    where = f"The story of “{story['prompt']}” does not hold on {model} in any layer"
    return f"{where}; in its best, layer {story['layer']}, {reasons}."


def _control(story: Mapping[str, object]) -> str:
    legible, random = story["random legible"], story["random readings"]
    return f"Control: {legible} of {random} amplified random vectors as long are legible."


def caption(settings: Settings, found: Found) -> str:
    """Say how the prompt's picture is judged, and what chance does."""
    return _legible(settings, settings.gold) + _control(found.story)


def _legible(settings: Settings, gold: str) -> str:
    return f"Legible: similarity to “{gold}” above {settings.threshold:g}, and not an echo. "


def figure(settings: Settings, found: Found, tokens: Sequence[str]) -> Figure:
    """Draw Figure 1 of the prompt.

    Args:
        tokens: of the prompt.
    """
    story = found.story
    last = "" if story["holds"] else sentences(settings, found)[0]
    return _draw(story, tokens, found.model, caption(settings, found), last)


def clearest(found: Found) -> dict:
    """Return the clearest story of all prompts; the prompt's own where it holds for none."""
    return found.best or found.story


def best_figure(settings: Settings, found: Found, tokens: Sequence[str]) -> Figure:
    """Draw Figure 1 of the prompt whose story is clearest.

    Args:
        tokens: of that prompt (`clearest`).
    """
    said = sentences(settings, found)
    if not found.best:
        return _draw(found.story, tokens, found.model, caption(settings, found), said[0])
    chosen = f"The clearest of {found.over_all['prompts']} prompts × layers × amplifiers."
    return _draw(found.best, tokens, found.model, _legible(settings, found.best["gold"]) + chosen, said[-1])


def _draw(story: Mapping[str, object], tokens: Sequence[str], model: str, judged: str, sentence: str) -> Figure:
    """Draw h_PreMLP → mlp → amplified mlp → + → h, and what each says.

    Args:
        judged: what "legible" means, and how the story was found or what chance does.
        sentence: last, in bold: that the story doesn't hold, or how often it does.
    """
    import matplotlib.pyplot as plt

    from ..figures.style import INK, LINE, NULL_COLOUR, STYLE

    with plt.rc_context(STYLE):
        drawn = plt.figure(figsize=(12, 5.4))
        axes = drawn.add_axes([0, 0, 1, 1], xlim=(0, 12), ylim=(0, 5.4))
        axes.set_axis_off()
        axes.text(0.4, 5.0, "Amplify a vector until it can be read", fontsize=19, weight="bold", color=INK, va="center")
        about = f"{model} · source layer {story['layer']} (from 0) · into layer {story['target layer']}"
        axes.text(11.6, 5.0, about, fontsize=10.5, color=NULL_COLOUR, ha="right", va="center")
        _draw_tokens(axes, tokens)
        _draw_steps(axes, story)
        axes.plot([0.4, 11.6], [1.22, 1.22], color=LINE, lw=1)
        first, second, third, last = TARGET_PROMPTS[0].text.split(", ")
        asked = f"{first}, {second}, {third.partition(':')[0]}: … , {last}"
        asked = f"Each vector takes the place of {last} in “{asked}”, and the model goes on writing."
        axes.text(0.4, 0.93, asked, fontsize=9.6, color=INK, va="center")
        axes.text(0.4, 0.62, judged, fontsize=9.6, color=INK, va="center")
        colour = INK if story["holds"] else PLAIN.colour
        axes.text(0.4, 0.29, sentence, fontsize=9.6, color=colour, va="center", weight="bold")
    return drawn


def _draw_tokens(axes: Axes, tokens: Sequence[str]) -> None:
    from ..figures.style import INK, LINE, NULL_COLOUR, PAPER

    x = 0.4
    for number, token in enumerate(tokens):
        text, is_last = token.strip() or "␣", number == len(tokens) - 1
        wide, colour = 0.26 + 0.105 * len(text), AMPLIFIED.colour if is_last else LINE
        _box(axes, x, 4.12, wide, 0.42, fc=colour if is_last else PAPER, ec=colour, rounding=0.1)
        look = {"ha": "center", "va": "center", "fontsize": 11.5, "color": "w" if is_last else INK}
        axes.text(x + wide / 2, 4.33, text, **look)
        x += wide + 0.09
    axes.text(x + 0.12, 4.33, "← the vectors of this token", fontsize=10, color=NULL_COLOUR, va="center")


def _draw_steps(axes: Axes, story: Mapping[str, object]) -> None:
    import textwrap

    from matplotlib.patches import FancyArrowPatch

    from ..figures.style import INK, NULL_COLOUR, one_line

    blue, amplified = AMPLIFIED.colour, f"{story['amplifier']:g} × MLP output"
    boxes = (
        ("pre_mlp_residual", "before the MLP", "residual h_PreMLP, α = 1", 0.4, 2.25),
        ("mlp_output", "MLP output", "what the MLP adds, α = 1", 3.25, 2.25),
        ("amplified", amplified, "the same vector, amplified", 6.1, 2.65),
        ("hidden_state", "hidden state", "h_PreMLP + MLP output, α = 1", 9.35, 2.25),
    )
    for step, title, what, left, wide in boxes:
        strong, about = step == "amplified", story["steps"][step]
        look = {"fc": "#eaf3fa", "ec": blue, "lw": 2.2} if strong else {"fc": "w", "ec": "#c3cad3", "lw": 1.2}
        _box(axes, left, 1.5, wide, 2.1, **look)
        x, colour = left + 0.16, blue if strong else INK
        axes.text(x, 3.36, title, fontsize=12.5, weight="bold", color=colour, va="center")
        axes.text(x, 3.08, what, fontsize=8.8, color=NULL_COLOUR, va="center")
        reading = textwrap.fill("“" + one_line(about["reading"] or " ", 60) + "”", 22 if strong else 19)
        axes.text(x, 2.87, reading, fontsize=12.5, color=INK, va="top", linespacing=1.2)
        mark = f"{'✓ legible' if about['legible'] else '– not legible'}   {about['score gold']:.2f}"
        axes.text(x, 1.69, mark, fontsize=10, color=blue if about["legible"] else NULL_COLOUR, va="center")
    for start, end, label in ((2.67, 3.23, "MLP"), (5.52, 6.08, f"× {story['amplifier']:g}"), (8.77, 9.33, "+")):
        arrow = {"arrowstyle": "-|>", "mutation_scale": 15, "color": INK, "lw": 1.4}
        axes.add_patch(FancyArrowPatch((start, 2.5), (end, 2.5), **arrow))
        axes.text((start + end) / 2 - 0.02, 2.72, label, ha="center", fontsize=11.5, color=INK)


def _box(axes: Axes, x: float, y: float, wide: float, high: float, rounding: float = 0.14, **look) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(FancyBboxPatch((x, y), wide, high, boxstyle=f"round,pad=0,rounding_size={rounding}", **look))


def save(settings: Settings, found: Found, drawn: Figure, best: Figure, folder: Path) -> None:
    """Write the two pictures and what was found."""
    about = {
        "model": found.model, "gold": settings.gold, "threshold": settings.threshold, "story": found.story,
        "over all": found.over_all, "best": found.best, "verdict": sentences(settings, found),
    }  # fmt: skip
    publish(folder, {"story": drawn, "story_best": best}, found.steps, "story_found.csv", about)
