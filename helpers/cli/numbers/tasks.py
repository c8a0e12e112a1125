"""Tasks whose answers are known, as tables."""

from collections.abc import Callable
from functools import partial

import pandas as pd

from ... import ROOT
from ...bench.patchscopes import PUBLISHED
from ...bench.tables import ANY, CONTINUATION, MEAN, NO_LAYER, TEXT_ONLY, surely
from ...experiments._sentences import is_certain
from ...models.catalogue import CATALOGUE
from .parts import NUMBERS, about, rows_of, table_of


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
    """Write a rate in percent with chance in brackets; bold if it is surely above chance."""
    told = f"{100 * line['rate']:.0f} ({100 * line['null']:z.0f})"
    return f"**{told}**" if is_certain(line) else told


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
            said += [f"{model}: {sentence}" for sentence in found["verdict"] if sentence.startswith("No result")]
            left_out = "; ".join(why.replace(": left out; ", ", ") for why in found["refused"])
            said += [f"{model}: left out are {left_out}."] * bool(left_out)
    if not rows:
        return "Not measured yet."
    return "\n\n".join([rows_of(["tasks: vector more, can't be told, text only more", *header], rows), *said])


def _more_and_less(gains: pd.DataFrame) -> str:
    """Write in how many tasks a vector surely says more than the text, in how many it can't be told, in how many less."""
    more, less = (int(where.sum()) for where in surely(gains))
    return f"{more}, {len(gains) - more - less}, {less}"


def _published(line: pd.Series) -> str:
    """Write the published rates of a line's task: text only; Patchscopes."""
    both = PUBLISHED.get(line["task"])
    return f"{100 * both[0]:.0f}; {100 * both[1]:.0f}" if both else ""


for _name, _shown in {"patchscopes": _published, "lens": lambda line: "", "workspace": lambda line: ""}.items():
    NUMBERS |= {f"bench_{_name}": partial(_bench, _name, _shown), f"bench_{_name}_said": partial(_of_bench, _name)}
