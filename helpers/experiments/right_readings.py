"""Which rule tells a right reading? Judged one by one, and by similarity."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Annotated, NamedTuple

from .. import InputError
from ..judging.rules import DESCRIPTION, PROMPT, RULES
from ..words.files import in_repository
from ..words.settings import PROMPTS, THRESHOLD, Cosine, FilePath, FilePaths, Form, ResultSettings, setting
from ._publish import publish
from ._sentences import percent
from ._usual import ask_for_nothing, described

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..judging.judge import Judge

PLACE, WHEN = 125, "study"
QUESTION = "which rule tells a right reading?"
PAPER = "§4.1's score"
TABLE = ""
NEEDS = ()

ALL = "all models"
RESAMPLES = 2000
RIGHT, GRADES = 2, (1, 2, 3)  # the lowest grade that is right; the grades that could be
PAPERS_WAY = (PROMPT.name, "whole", True)
LEAD = (DESCRIPTION.name, "whole", True)


class Way(NamedTuple):
    """A way to judge a reading: by which rule, the whole text or its first item, whether an echo can be right."""

    rule: str
    text: str
    echoes: bool

    @property
    def label(self) -> str:
        echoes = "" if self.echoes else ", no echoes"
        return f"{self.text}, {RULES[self.rule].label}{echoes}"


WAYS = [Way(*way) for way in product((DESCRIPTION.name, PROMPT.name), ("whole", "first item"), (True, False))]


def _check_grade(parameter: str, value: object) -> int:
    if value not in GRADES:
        raise InputError(parameter, value, f"expected a grade, {GRADES[0]} to {GRADES[-1]}")
    return value


class Settings(ResultSettings):
    """The parameters of the notebook."""

    graded: FilePath = setting("data/graded_readings.csv", "readings with the grades that two readers gave them")
    prompts: FilePath = PROMPTS
    right_from: Annotated[int, Form(_check_grade, int)] = setting(RIGHT, "the lowest grade that counts as right")
    threshold: Cosine = THRESHOLD
    judges: FilePaths = setting((), "folders of other sentence-transformers models, to compare")
    out_dir: FilePath = setting(
        "", "where results go, relative to the repository; empty is data/right_readings/", changes_results=False
    )


plans, gold = ask_for_nothing, described


class Found(NamedTuple):
    """How well similarity agrees with a reader.

    Attributes:
        graded: the readings, with a column `right`.
        agreement: Cohen's kappa of the two readers, on right and wrong.
        table: per judge, way and model (ALL first): precision and recall at the threshold with 95 % intervals, the
            area under the precision–recall curve, readings, and right ones among them.
        curves: (judge, rule) -> precision and recall of the whole text by threshold.
    """

    graded: pd.DataFrame
    agreement: float
    table: pd.DataFrame
    curves: dict[tuple[str, str], pd.DataFrame]


def read(settings: Settings) -> pd.DataFrame:
    """Read the graded readings.

    Raises:
        InputError: no such file, a column that is missing, or a prompt without a description.
    """
    import pandas as pd

    file = in_repository(settings.graded)
    if not file.is_file():
        raise InputError("graded", settings.graded, "no such file")
    rows = pd.read_csv(file, keep_default_na=False)
    needed = ["model", "source prompt", "result", "weight", "first reader", "second reader", "grade"]
    if missing := [column for column in needed if column not in rows]:
        raise InputError("graded", settings.graded, f"lacks {missing}")
    if unknown := sorted(set(rows["source prompt"]) - set(gold(settings))):
        raise InputError("prompts", settings.prompts, f"no description of {unknown[0]!r}")
    return rows


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Compare each way to judge, by each judge, with the grades."""
    import pandas as pd
    from sklearn.metrics import cohen_kappa_score

    from ..judging.judge import Judge

    rows = rows.assign(right=rows["grade"] >= settings.right_from)
    readers = [rows[name] >= settings.right_from for name in ("first reader", "second reader")]
    lines, curves = [], {}
    for folder in (settings.judge, *settings.judges):
        judge = Judge(folder, settings.threshold)
        similar = dict(_similarities(rows, gold(settings), judge))
        for way, cosines in similar.items():
            for model in (ALL, *rows["model"].unique()):
                part = (rows["model"] == model).to_numpy() | (model == ALL)
                about = {"judge": judge.name, "judged by": way.rule, "text": way.text, "echoes": way.echoes}
                lines.append(about | {"model": model} | _agreement(rows[part], cosines[part], judge.threshold))
        curves |= {
            (judge.name, way.rule): _by_threshold(rows, cosines)
            for way, cosines in similar.items()
            if way in (LEAD, PAPERS_WAY)
        }
    return Found(rows, float(cohen_kappa_score(*readers)), pd.DataFrame(lines), curves)


def _similarities(rows: pd.DataFrame, golds: dict[str, str], judge: Judge) -> Iterator[tuple[Way, np.ndarray]]:
    """Yield each way to judge with its similarities, (rows,); −1 for an echo that cannot be right."""
    import numpy as np

    from ..judging.judge import is_echo
    from ..judging.score import first_items

    prompts, items = rows["source prompt"].tolist(), first_items(rows)
    echoes = np.array([is_echo(item, prompt) for item, prompt in zip(items, prompts, strict=True)])
    texts = {"whole": rows["result"].tolist(), "first item": items}
    truths = {DESCRIPTION.name: [golds[prompt] for prompt in prompts], PROMPT.name: prompts}
    for way in WAYS:
        cosines = judge.similarity(texts[way.text], truths[way.rule])
        yield way, cosines if way.echoes else np.where(echoes, -1, cosines)


def _agreement(rows: pd.DataFrame, cosines: np.ndarray, threshold: float) -> dict[str, float]:
    """Return precision and recall over all readings that the graded ones stand for, with intervals over prompts."""
    import numpy as np
    from sklearn.metrics import average_precision_score

    weight, right, found = rows["weight"].to_numpy(), rows["right"].to_numpy(), cosines > threshold
    prompts, of_prompt = np.unique(rows["source prompt"], return_inverse=True)
    sums = np.array([np.bincount(of_prompt, weight * what, len(prompts)) for what in (found & right, found, right)])
    rng = np.random.default_rng(0)
    drawn = sums[:, rng.integers(len(prompts), size=(RESAMPLES, len(prompts)))].sum(2)
    numbers = {}
    for name, of in (("precision", 1), ("recall", 2)):
        with np.errstate(invalid="ignore"):
            low, high = np.nanquantile(drawn[0] / drawn[of], [0.025, 0.975])
            numbers |= {name: sums[0].sum() / sums[of].sum(), f"{name} low": low, f"{name} high": high}
    numbers["area"] = average_precision_score(right, cosines, sample_weight=weight)
    return {name: round(float(value), 4) for name, value in numbers.items()} | {"readings": len(rows), "right": int(right.sum())}


def _by_threshold(rows: pd.DataFrame, cosines: np.ndarray) -> pd.DataFrame:
    """Return precision and recall at each threshold from 0 on."""
    import pandas as pd
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(rows["right"], cosines, sample_weight=rows["weight"])
    curve = pd.DataFrame({"threshold": thresholds, "precision": precision[:-1], "recall": recall[:-1]})
    return curve[curve["threshold"] >= 0]


def at(found: Found, way: tuple, judge: str = "", model: str = ALL) -> pd.Series:
    """Return the numbers of a way to judge, by a judge (the first if left out)."""
    table = found.table[found.table["judge"] == (judge or found.table["judge"].iloc[0])]
    keys = ["judged by", "text", "echoes", "model"]
    return table.set_index(keys).loc[(*way, model)]


def _said(numbers: pd.Series) -> str:
    def share(name: str) -> str:
        return f"{name} {numbers[name]:.2f} ({numbers[f'{name} low']:.2f} to {numbers[f'{name} high']:.2f})"

    return f"{share('precision')}, {share('recall')}"


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say how well each rule tells a right reading, and whether another judge would do better."""
    weight = found.graded["weight"]
    share = (weight * found.graded["right"]).sum() / weight.sum()
    said = [
        f"{len(found.graded)} readings of {found.graded['model'].nunique()} models were graded by two readers who saw neither "
        f"model nor score (Cohen's κ {found.agreement:.2f} on right or wrong). Weighted back to all that they stand for, "
        f"{percent(share)} are right.",
        f"Above {settings.threshold:g}, similarity to the description has {_said(at(found, LEAD))}; similarity to the "
        f"prompt, the paper's rule, {_said(at(found, PAPERS_WAY))}.",
        "Per model, by the description and by the prompt: "
        + "; ".join(
            f"{model} precision {lead['precision']:.2f} and {papers['precision']:.2f}, recall {lead['recall']:.2f} and "
            f"{papers['recall']:.2f}"
            for model in found.graded["model"].unique()
            for lead, papers in [(at(found, LEAD, model=model), at(found, PAPERS_WAY, model=model))]
        )
        + ".",
    ]
    first, *others = found.table["judge"].unique()
    if others:
        areas = [
            f"{judge} {at(found, LEAD, judge)['area']:.2f} and {at(found, PAPERS_WAY, judge)['area']:.2f}"
            for judge in (first, *others)
        ]
        wins = [judge for judge in others if at(found, LEAD, judge)["area"] > at(found, LEAD)["area"]]
        verdict = f"{', '.join(wins)} would be better" if wins else f"none is better than {first} by the description"
        said.append(f"Area under the precision–recall curve, by the description and by the prompt: {', '.join(areas)}; {verdict}.")
    return said


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    return (
        f"{len(found.graded)} readings of {', '.join(found.graded['model'].unique())}, graded one by one; right: grade "
        f"{settings.right_from} or more, it says at least what kind of thing the entity is. Weighted back to all readings of the "
        f"evaluations. Left: precision (filled) and recall (open) at a similarity above {settings.threshold:g}; bars: 95 % "
        "intervals over prompts. Right: whole texts, as the threshold moves; the mark is the threshold."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw precision and recall of each way to judge, and both as the threshold moves."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import STYLE

    with plt.rc_context(STYLE):
        drawn, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", width_ratios=[1.1, 1])
        _draw_ways(left, found)
        _draw_curves(right, found, settings.threshold)
        return panels.finish(drawn, caption(settings, found))


def _colour(rule: str) -> str:
    from ..words.methods import AMPLIFIED, PLAIN

    return {DESCRIPTION.name: AMPLIFIED.colour, PROMPT.name: PLAIN.colour}[rule]


def _draw_ways(axes: Axes, found: Found) -> None:
    from ..figures import panels

    for place, way in enumerate(WAYS):
        numbers = at(found, way)
        for name, shift, face in (("precision", -0.13, _colour(way.rule)), ("recall", 0.13, "white")):
            reach = [[numbers[name] - numbers[f"{name} low"]], [numbers[f"{name} high"] - numbers[name]]]
            look = {"color": _colour(way.rule), "mfc": face, "marker": "o", "ms": 6, "capsize": 2.5, "elinewidth": 1.2}
            axes.errorbar(numbers[name], place + shift, xerr=reach, ls="none", **look)
    axes.set_yticks(range(len(WAYS)), [way.label for way in WAYS], fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.02), xlabel="precision (filled), recall (open)")
    panels.percent(axes.xaxis)


def _draw_curves(axes: Axes, found: Found, threshold: float) -> None:
    from ..figures import panels

    judges = list(found.table["judge"].unique())
    for (judge, rule), curve in found.curves.items():
        area = at(found, LEAD if rule == DESCRIPTION.name else PAPERS_WAY, judge)["area"]
        style = ("-", "--", ":", "-.")[judges.index(judge) % 4]
        label = f"by the {rule}, {judge} (area {area:.2f})"
        axes.plot(curve["recall"], curve["precision"], color=_colour(rule), ls=style, lw=1.8, label=label)
        at_threshold = curve[curve["threshold"] > threshold][:1]  # none where nothing is as similar
        axes.plot(at_threshold["recall"], at_threshold["precision"], "o", color=_colour(rule), ms=6)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title="As the threshold moves")
    panels.percent(axes.xaxis, axes.yaxis)
    axes.legend(fontsize=8.5, loc="best")


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the numbers."""
    about = {
        "threshold": settings.threshold,
        "right_from": settings.right_from,
        "agreement": round(found.agreement, 4),
        "verdict": sentences(settings, found),
    }
    publish(folder, {"right_readings": drawn}, found.table, "right_readings.csv", about)
