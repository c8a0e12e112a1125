"""What the page shows of a request, as HTML: its status and what was asked for, here; its table, ladder and map."""

from html import escape
from importlib.resources import files

from ..words.components import into
from ..words.methods import BLIND, METHODS
from .desk import Desk
from .heatmap import heat_map
from .jobs import Job, ReadRequest, Request
from .ladder import ladder
from .parts import shown, which
from .table import counts, table

__all__ = ["STYLE", "counts", "error", "heading", "heat_map", "ladder", "status", "table"]
COLOURS = "".join(f"--{method.adjective}: {method.colour}; " for method in (*METHODS.values(), BLIND))
STYLE = f":root {{ {COLOURS}}}\n" + files(__package__).joinpath("style.css").read_text(encoding="utf-8")


def heading(job: Job, side: str = "") -> str:
    """Return what was asked for; it stands over the results.

    Args:
        side: of two requests that are shown side by side, "a" or "b".
    """
    asked = job.settings
    layers = "all layers" if asked.layers == "all" else f"layers {escape(asked.layers)}"
    return (
        f'<div class="asked">{which(side)}<b>{shown(asked.prompt[:200])}</b> <span>{escape(asked.model)} · {layers} '
        f"{escape(into(asked.target_layer))} · α {escape(asked.amplifiers[:60])}</span></div>"
    )


def status(desk: Desk, job: Job | None) -> str:
    """Return the line that says what is going on, with a bar while readings are computed."""
    if (job is None or job.is_kept) and desk.is_ready and desk.state and not desk.state.startswith("loading"):
        return error(desk.state, job)
    if job is None:
        return line("busy", f"{desk.state} …") if desk.state else line("calm", f"{desk.loaded} is ready.")
    if job.is_kept:
        words = f"{len(job.readings):,} readings, kept from an earlier day. {job.settings.model}, {desk.dtype}."
        return line("calm", words, job) if desk.is_ready else line("busy", f"{words[:-1]}: {desk.state} …", job)
    if job.state == "waiting" and (ahead := desk.count_ahead(job)):
        return line("busy", f"Waiting: {served_first(ahead)}.", job)
    if job.state in ("waiting", "loading"):
        return line("busy", f"{desk.state or 'getting ready'} …", job)
    if job.state == "failed":
        return error(job.message, job)
    if job.state == "reading":
        return _progress(job)
    if job.state == "weighing":
        return _weighing(job)
    done = len(job.readings)
    if job.state == "done":
        words = f"{done:,} readings"
    elif done == len(job.items):
        words = f"{done:,} readings, stopped before they were weighed"
    else:
        words = f"Stopped after {done:,} of {len(job.items):,} readings"
    words += how_read(job)
    if job.weighed:
        words += f", weighed in {job.weighing_seconds:.1f} s"
    if failed := sum(scored.reading.status != "ok" for scored in job.readings.values()):
        words += f"; {failed:,} failed"
    return line("calm", f"{words}. {job.settings.model}, {desk.dtype}.", job)


def served_first(ahead: int) -> str:
    """Say how many requests are served before one that waits."""
    return f"{ahead} {'request is' if ahead == 1 else 'requests are'} served first"


def how_read(job: ReadRequest) -> str:
    """Say how many readings were in memory already, and in which time the others were read; it goes on with a sentence."""
    known = f", {job.known:,} of them in memory already" if job.known else ""
    return f"{known}, in {job.seconds:.1f} s" if job.read else known


def error(message: str, job: Request | None = None) -> str:
    """Return a sentence on what is wrong."""
    return f'<div class="status error" role="alert"{_data_of(job)}><span>{escape(message)}</span></div>'


def amount(readings: int, seconds: float | None) -> str:
    """Say how many readings there are, and about how long they take, if that is known."""
    words = f"{readings:,} reading{'' if readings == 1 else 's'}"
    if seconds is None:
        return words
    return f"{words}, about {f'{seconds:,.0f} s' if seconds < 90 else f'{seconds / 60:,.0f} min'}" if seconds >= 1 else f"{words}, about 1 s"


def expected(readings: int, seconds: float | None) -> str:
    """Return the line beside the button."""
    return f'<p class="expected numbers" role="status">{amount(readings, seconds)}</p>'


def _progress(job: Job) -> str:
    done, total, speed = len(job.readings), len(job.items), job.rows_per_second
    left = f"{speed:.{0 if speed >= 1 else 1}f} per second · {(total - done) / speed:.0f} s left" if speed else "estimating"
    return (
        f'<div class="status busy"{_data_of(job)}><progress max="{total}" value="{done}" aria-label="readings"></progress>'
        f'<span class="numbers">{done:,} of {total:,} readings · {left}</span></div>'
    )


def _weighing(job: Job) -> str:
    done, total = len(job.evidence), len(job.items)
    return (
        f'<div class="status busy"{_data_of(job)}><progress max="{total}" value="{done}" aria-label="readings weighed">'
        f'</progress><span class="numbers">{len(job.readings):,} readings, {done:,} of them weighed without the prompt …'
        "</span></div>"
    )


def line(kind: str, words: str, job: Request | None = None) -> str:
    """Return a line that says what is going on; "busy" while something is."""
    return f'<div class="status {kind}" role="status"{_data_of(job)}><span>{escape(words)}</span></div>'


def _data_of(job: Request | None) -> str:
    return f' data-job="{job.id}" data-state="{job.state}"' if job else ""
