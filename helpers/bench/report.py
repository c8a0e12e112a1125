"""What a benchmark shows, in words, as a figure and as files; none has the tasks' texts."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pandas as pd

from ..experiments._sentences import is_certain
from ..figures.style import save_figure
from ..runs.results import save_results
from .tables import ANY, CONTINUATION, MEAN, TEXT_ONLY, surely

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .measure import Found
    from .settings import BenchSettings

TIMES_CHANCE = 3  # a reading that succeeds less often than so many times chance is no result
SCOPES = {MEAN: "mean of layers", ANY: "any layer"}
LOOKS = {  # method begins with -> colour, marker
    TEXT_ONLY: ("#1f2933", "*"), CONTINUATION: ("#7b8794", "P"), "plain": ("#D55E00", "s"),
    "amplified": ("#0072B2", "o"), "logit": ("#009E73", "^"), "Jacobian": ("#CC79A7", "v"),
}  # fmt: skip


def at(table: pd.DataFrame, layer: str) -> pd.DataFrame:
    """Return the lines of one scope, with those that have no layer."""
    return table[table["layer"].isin([layer, ""])]


def is_result(line) -> bool:
    """Tell whether a rate is surely above chance, and at least TIMES_CHANCE as high."""
    return bool(is_certain(line) and line["rate"] >= TIMES_CHANCE * line["null"])


def sentences(bench: ModuleType, settings: BenchSettings, found: Found) -> list[str]:
    """Say, per task, what each way finds; where text alone wins; and what was left out."""
    said = []
    for task, lines in found.table.groupby("task", sort=False):
        first, about = lines.iloc[0], found.asked[task]
        asked = f" (the model answers {about['answered']} of {about['asked']} itself)" if about["asked"] else ""
        ways = at(lines, ANY)
        told = "; ".join(f"{line['method']} {_rate(line)}" for _, line in ways.iterrows())
        said.append(f"{task}, {first['rows']} rows of {first['units']} subjects{asked}. Any source layer: {told}.")
    said += _against_text(found)
    said += _no_result(found)
    said += [f"{why}." for why in found.refused]
    return said


def _rate(line) -> str:
    return f"{_percent(line['rate'])} (chance {_percent(line['null'])}{_tries(line)})"


def _percent(share: float) -> str:
    return f"{100 * share:z.0f} %"


def _tries(line) -> str:
    return f", {line['tries']} tries" if line["tries"] > 1 else ""


def _against_text(found: Found) -> list[str]:
    """Say, per method, in which tasks a vector says more than the text, over chance, and in which less."""
    said = []
    for method, some in found.gains[found.gains["layer"] == ANY].groupby("method", sort=False):
        more, less = (list(some.loc[where, "task"]) for where in surely(some))
        ends = [f"text alone says more in {_tasks(less, some)}"] * bool(less)
        ends += [f"the vector in {_tasks(more, some)}"] * bool(more)
        ends += [f"it can't be told in {len(some) - len(more) - len(less)}"] * (len(more) + len(less) < len(some))
        said.append(f"Against text only, each over its chance; {method}, any source layer: {'; '.join(ends)}.")
    return said


def _no_result(found: Found) -> list[str]:
    """Say in which tasks, and with which methods, nothing is found that counts."""
    ways, listed = found.table[found.table["layer"] == ANY], []
    for task, lines in ways.groupby("task", sort=False):
        few = [line["method"] for line in lines.to_dict("records") if not is_result(line)]
        listed += [f"{task} ({'all' if len(few) == len(lines) else '; '.join(few)})"] * bool(few)
    why = f"under {TIMES_CHANCE} times chance, or not surely above it"
    return [f"No result ({why}), any source layer: {', '.join(listed)}."] * bool(listed)


def _tasks(names: list[str], some: pd.DataFrame) -> str:
    return f"all {len(some)} tasks" if len(names) == len(some) > 1 else f"{len(names)} ({', '.join(names)})"


def caption(bench: ModuleType, settings: BenchSettings, found: Found) -> str:
    """Say what the figure shows."""
    whose = {
        "usable": "Rows whose answer the model itself gives to the question in plain text, so that text only is 100 % "
        "where it asks the same." if bench.NAME == "patchscopes" else "Rows whose answer the model itself gives.",
        "all": "All rows, whether or not the model knows the answer.",
    }[settings.rows]  # fmt: skip
    lens = f" The Jacobian lens is a mean over {found.texts_of_lens} texts." if found.texts_of_lens is not None else ""
    whose = "" if bench.NAME == "lens" else f" {whose}"
    return (
        f"{found.model}: {bench.QUESTION}{whose} Grey, chance: the same texts with as many tries, judged by the answers of "
        f"other rows (95 % of random ones). Bars: 95 % intervals of the distance to chance, over subjects. Chosen "
        f"blind: one of {len(settings.amplifiers)} amplifiers, by {' or '.join(found.criteria)}.{lens}"
    )


def figure(bench: ModuleType, settings: BenchSettings, found: Found) -> Figure:
    """Draw each task's rates: a row per task, the mean of the source layers on the left, any of them on the right."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import STYLE

    tasks, methods = list(dict.fromkeys(found.table["task"])), list(dict.fromkeys(found.table["method"]))
    with plt.rc_context(STYLE):
        height = (0.2 * len(methods) + 0.35) * len(tasks) + 1.8
        drawn, rows = plt.subplots(
            len(tasks), len(SCOPES), figsize=(11, height), layout="constrained", squeeze=False, sharex=True, sharey="row"
        )
        for of_task, task in zip(rows, tasks, strict=True):
            for axes, (scope, title) in zip(of_task, SCOPES.items(), strict=True):
                lines = at(found.table[found.table["task"] == task], scope)
                for place, (_, line) in enumerate(lines.iterrows()):
                    colour, marker = next(look for name, look in LOOKS.items() if line["method"].startswith(name))
                    filled = "any of" not in line["method"] and "first 10" not in line["method"]
                    look = {"color": colour, "marker": marker, "mfc": colour if filled else "white"}
                    panels.chance_bars(axes, [place], line, horizontal=True)
                    panels.interval_dots(axes, [place], line, horizontal=True, **look)
                names = list(lines["method"])
                axes.set_yticks(range(len(names)), names, fontsize=8)
                axes.set_ylim(len(names) - 0.5, -0.5)
                axes.set_xlim(-0.03, 1.03)
                of_all = f"{task}, {lines['rows'].iloc[0]} rows: " if axes is of_task[0] else ""
                axes.set_title(f"{of_all}{title}", fontsize=9)
                panels.percent(axes.xaxis)
        return panels.finish(drawn, caption(bench, settings, found))


def save(bench: ModuleType, settings: BenchSettings, found: Found, folder: Path) -> list[str]:
    """Write the table, what it is of, and the figure: bench_<name>.csv, .json, .png, .pdf; return the sentences."""
    said = sentences(bench, settings, found)
    end = "" if settings.rows == "usable" else f"_{settings.rows}"
    found.table.attrs = {
        "model": found.model,
        "settings": settings.shown(),
        "criteria": found.criteria,
        "asked": found.asked,
        "against text only": found.gains.to_dict("records"),
        "refused": found.refused,
        **({} if found.texts_of_lens is None else {"texts of the Jacobian lens": found.texts_of_lens}),
        "verdict": said,
    }
    save_figure(figure(bench, settings, found), folder / f"bench_{bench.NAME}{end}.png")
    save_results(found.table, folder / f"bench_{bench.NAME}{end}.csv")
    return said
