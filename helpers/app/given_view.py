"""What the page shows of given vectors, as HTML: what is going on, and the table of what to believe. Texts are escaped."""

from html import escape

import pandas as pd

from ..runs.vectors import explained, highest
from ..words.components import WAYS
from . import view
from .desk import Desk
from .jobs import OVER, VectorJob

MOST_LINES = 200  # of the table; those with the highest contrast


def status(desk: Desk, job: VectorJob | None) -> str:
    """Return the line that says what is going on."""
    if job and job.state == "weighing":
        return view.line("busy", f"{len(job.readings):,} readings; choosing what to believe of them …", job)
    if job is None or job.state not in OVER or job.state == "failed":
        return view.status(desk, job)
    words = f"{len(job.readings):,} readings"
    if job.state == "stopped":
        words = f"Stopped after {len(job.readings):,} of {len(job.items):,} readings"
    words += view.how_read(job)
    if failed := sum(reading.status != "ok" for reading in job.readings.values()):
        words += f"; {failed:,} failed"
    return view.line("calm", f"{words}. {job.settings.model}, {desk.dtype}.", job)


def table(job: VectorJob) -> str:
    """Return one reading of each vector, beside what chance would give, as `./runme.sh read` prints it."""
    if job.table is None:
        return ""
    lines, symbol = highest(job.table, MOST_LINES), WAYS[job.settings.way].symbol
    several = lines["target layer"].nunique() > 1
    heads = ["vector", "layer", *(["into"] if several else []), symbol, "reading", "contrast", "random", "nothing"]
    titles = {
        "layer": "source layer", "into": "the patched layer", symbol: WAYS[job.settings.way].formula,
        "contrast": "how much it agrees with the vector's other readings, less how much with those of random directions",
        "random": "random directions with a contrast as high, and chance", "nothing": "likeness to what is written of nothing",
    }  # fmt: skip
    head = "".join(f'<th scope="col" title="{escape(titles.get(name, ""))}">{name}</th>' for name in heads)
    body = "".join(_line(row, several) for row in lines.to_dict("records"))
    more = len(job.table) - len(lines)
    note = f"<p>and {more:,} more, in the CSV.</p>" if more else ""
    said = "".join(f"<p>{view.shown(one)}</p>" for one in explained(job.settings, job.table, job.rows))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="vectors"><table class="vectors" aria-label="one reading of '
        f'each vector"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div><div class="said">{note}{said}</div>'
    )


def _line(row: dict, several: bool) -> str:
    layer = "–" if row["layer"] < 0 else str(row["layer"])
    reading = view.shown(row["reading"]) if row["status"] == "ok" else f'<i class="failed">{escape(row["status"])}</i>'
    whole = view.shown(row["result"])
    chance = f"{row['random as high']} of {row['random']}" if row["random"] else "–"
    sure = "" if pd.isna(row["chance"]) else f"<small>chance {row['chance']:.2f}</small>"
    numbers = [layer, *([str(row["target layer"])] if several else []), f"{row['amplification value']:g}"]
    return (
        f'<tr><th scope="row">{view.shown(row["source prompt"])}</th>'
        f"{''.join(f'<td class=numbers>{number}</td>' for number in numbers)}"
        f'<td class="whole" title="{whole}"><span class="item">{reading}</span></td>'
        f'<td class="numbers">{_number(row["contrast"])}</td><td class="numbers">{chance}{sure}</td>'
        f'<td class="numbers">{_number(row["like nothing"])}</td></tr>'
    )


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2f}"
