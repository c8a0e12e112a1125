"""`./runme.sh read`: what given vectors say, as a table in the terminal and as CSVs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..words.components import WAYS
from ..words.files import shown
from ..words.settings import settle
from ..words.vectors import VectorSettings
from . import DONE, FAILED_ROWS

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


MOST_LINES = 60  # of the table in the terminal
BELIEVED = "-believed.csv"


def read(texts: Sequence[str], options: Mapping[str, str | None]) -> int:
    """Read vectors, print what to believe of each, and write all readings; the same command continues a stopped one.

    Args:
        texts: NAME=VALUE settings of `VectorSettings`, or options of a model's source.
        options: settings that were given as arguments or options; None where they weren't.

    Returns:
        The exit code: 0 done, 3 with failed rows.

    Raises:
        InputError: names the parameter, what was given and what is allowed; before the weights are loaded.
        Stopped: see `runs.loop.finish`.
    """
    asked = settle(VectorSettings, texts, options)
    asked.check()
    print("looking up the vectors, and checking the settings against the model …", flush=True)
    from ..models.load import check_hardware
    from ..runs.readings import Readings
    from ..runs.results import save_results
    from ..runs.vectors import Request, believed, explained

    check_hardware(asked.dtype, asked.device)
    request = Request(asked)
    asked, card = request.reading, request.card
    rows = sum(len(plan.items(card)) for plan in request.plans)
    beside = f" beside {asked.random} random directions{' each' if request.are_alike else ''}" if asked.random else ""
    if request.map_found:
        print(request.map_found, flush=True)
    print(f"{card.slug}: {_count(len(request.vectors), 'vector')}{beside}, {rows:,} readings", flush=True)
    if not asked.out_dir:
        asked = asked.model_copy(update={"out_dir": f"runs/read/{card.slug}"})
    readings = Readings(asked)
    read = readings.of(f"{request.name}.csv", request.plans)
    table = believed(read, readings.judge)
    save_results(table, readings.folder / f"{request.name}{BELIEVED}")
    from rich.console import Console

    console = Console(width=shutil.get_terminal_size((120, 24)).columns, highlight=False)
    console.print()
    console.print(table_of(table, WAYS[request.way].symbol))
    if (more := len(table) - MOST_LINES) > 0:
        console.print(f"and {more:,} more, in the CSV", markup=False)
    for line in ["", *explained(asked, table, read)]:
        console.print(line, markup=False)
    console.print(f"\n{shown(readings.folder / request.name)}.csv and {request.name}{BELIEVED}", markup=False, soft_wrap=True)
    return FAILED_ROWS if (read["status"] != "ok").any() else DONE


def table_of(table: pd.DataFrame, symbol: str) -> Table:
    """Return the table that is printed, the vectors with the highest contrast where there are too many.

    Args:
        table: of `runs.vectors.believed`.
        symbol: what the amplifier is called.
    """
    from rich.table import Table
    from rich.text import Text

    from ..runs.vectors import highest

    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    drawn.add_column("vector", overflow="fold", max_width=32)
    lines = highest(table, MOST_LINES)
    several = lines["target layer"].nunique() > 1
    for name in ("layer", *(["into"] if several else []), symbol):
        drawn.add_column(name, justify="right", no_wrap=True)
    drawn.add_column("reading", overflow="fold", ratio=1)
    for name in ("contrast", "random", "nothing"):
        drawn.add_column(name, justify="right", no_wrap=True)
    before = None
    for _, row in lines.iterrows():
        as_high = f"{row['random as high']} of {row['random']}" if row["random"] else "–"
        name = row["source prompt"] if row["source prompt"] != before else ""
        before = row["source prompt"]
        reading = row["reading"] if row["status"] == "ok" else f"({row['status']})"
        cells = (
            name, "–" if row["layer"] < 0 else str(row["layer"]), *([str(row["target layer"])] if several else []),
            f"{row['amplification value']:g}", reading, _number(row["contrast"]), as_high, _number(row["like nothing"]),
        )  # fmt: skip
        drawn.add_row(*(Text(cell) for cell in cells))
    return drawn


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"
