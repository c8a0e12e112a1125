"""What the page shows of a request, as HTML: status, table, ladder, heat map. Texts are always escaped."""

import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from importlib.resources import files

import numpy as np

from ..judging.chance import band, range_of_best
from ..judging.judge import SMALL_WORDS
from ..words.components import COMPONENTS, into
from ..words.methods import AMPLIFIED, METHODS, PLAIN, Method
from .cells import Best, Cell, Cells, Try, cells_of, chosen_by, count_similar, tries_per_method
from .desk import Desk
from .jobs import Job
from .scores import Scored

FULL_COLOUR = 0.8  # the score from which on a cell has its full shade
MOST_COLUMNS = 64  # tokens of a heat map
COLOURS = "".join(f"--{method.adjective}: {method.colour}; " for method in METHODS.values())
STYLE = f":root {{ {COLOURS}}}\n" + files(__package__).joinpath("style.css").read_text(encoding="utf-8")


# What is going on


def status(desk: Desk, job: Job | None) -> str:
    """Return the line that says what is going on, with a bar while readings are computed."""
    if job is None:
        if desk.state and not desk.state.startswith("loading"):
            return error(desk.state)
        return _line("busy", f"{desk.state} …") if desk.state else _line("calm", f"{desk.loaded} is ready.")
    if job.state == "waiting":
        ahead = desk.count_ahead(job)
        if not ahead and desk.state:
            return _line("busy", f"{desk.state} …", job)
        return _line("busy", f"Waiting: {ahead} {'request is' if ahead == 1 else 'requests are'} served first.", job)
    if job.state == "loading":
        return _line("busy", f"{desk.state or 'getting ready'} …", job)
    if job.state == "failed":
        return error(job.message, job)
    if job.state == "reading":
        return _progress(job)
    done = len(job.readings)
    words = f"{done:,} readings" if job.state == "done" else f"Stopped after {done:,} of {len(job.items):,} readings"
    if job.known:
        words += f", {job.known:,} of them in memory already"
    if job.read:
        words += f", in {job.seconds:.1f} s"
    if failed := sum(scored.reading.status != "ok" for scored in job.readings.values()):
        words += f"; {failed:,} failed"
    return _line("calm", f"{words}. {job.settings.model}, {desk.dtype}.", job)


def error(message: str, job: Job | None = None) -> str:
    """Return a sentence on what is wrong."""
    return f'<div class="status error" role="alert"{_data_of(job)}><span>{escape(message)}</span></div>'


def _progress(job: Job) -> str:
    done, total, speed = len(job.readings), len(job.items), job.rows_per_second
    left = f"{(total - done) / speed:.0f} s left" if speed else "estimating"
    return (
        f'<div class="status busy"{_data_of(job)}><progress max="{total}" value="{done}" aria-label="readings"></progress>'
        f'<span class="numbers">{done:,} of {total:,} readings · {speed:.0f} per second · {left}</span></div>'
    )


def _line(kind: str, words: str, job: Job | None = None) -> str:
    return f'<div class="status {kind}" role="status"{_data_of(job)}><span>{escape(words)}</span></div>'


def _data_of(job: Job | None) -> str:
    return f' data-job="{job.id}" data-state="{job.state}"' if job else ""


# The table


def heading(job: Job) -> str:
    """Return what was asked for; it stands over the results."""
    asked = job.settings
    layers = "all layers" if asked.layers == "all" else f"layers {escape(asked.layers)}"
    return (
        f'<div class="asked"><b>{shown(asked.prompt[:200])}</b> <span>{escape(asked.model)} · {layers} '
        f"{escape(into(asked.target_layer))} · α {escape(asked.amplifiers[:60])}</span></div>"
    )


def table(job: Job, position: int, show_all: bool = False, opens: bool = True) -> str:
    """Return a table with a row per layer and, for each component, a column per method.

    Args:
        position: of the token.
        show_all: all readings that a method chooses among, not the best alone.
        opens: whether a reading is a button that opens its ladder.
    """
    cells = cells_of(job, position)
    items = [item for item in job.items if item.position == position]
    components, layers = (dict.fromkeys(values) for values in zip(*((item.component, item.layer) for item in items)))
    methods = tries_per_method(job)
    above = "".join(
        f'<th colspan="{len(methods)}" scope="colgroup" title="{escape(COMPONENTS[name].meaning)}">{symbol(name)}</th>'
        for name in components
    )
    below = "".join(
        f'<th scope="col" class="{method.adjective}">{_column(method, tries, show_all)}</th>'
        for _ in components
        for method, tries in methods
    )
    body = []
    for layer in layers:
        row = [
            _cell(job, cell, chosen_by(method, cells.get(cell, [])), method, show_all, opens)
            for cell in (Cell(component, layer, position) for component in components)
            for method, _ in methods
        ]
        body.append(f'<tr><th scope="row"><span class="word">layer </span>{layer}</th>{"".join(row)}</tr>')
    what = f"Readings of the token {quoted(job.tokens[position])}, patched {into(job.settings.target_layer)}."
    return (
        f'<p class="caption">{what} {"A click on a reading opens its ladder of amplifiers." if opens else ""}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="readings"><table class="readings" '
        f'aria-label="{what}"><thead><tr><th rowspan="2" scope="col">layer</th>{above}</tr>'
        f"<tr>{below}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f"{counts(job, cells)}{_legend(job.settings.threshold)}"
    )


def _column(method: Method, tries: int, show_all: bool) -> str:
    if method is PLAIN:
        return "α = 1"
    return method.adjective if show_all or tries == 1 else f"best of {tries} {method.adjective}"


def counts(job: Job, cells: Cells) -> str:
    """Return how many vectors have a similar reading, beside the same count against the other prompts."""
    parts, others = [], 0
    for method, total, similar, by_chance in count_similar(job, cells):
        low, high = band(by_chance)
        parts.append(
            f"{similar:,} of {total:,} {method.adjective} (by chance {by_chance.mean():.1f}, {low:.0f} to {high:.0f})"
        )
        others = len(by_chance)
    if not parts:
        return ""
    return (
        f'<p class="counts">Vectors with a reading above {job.settings.threshold:g}: {"; ".join(parts)}. '
        f"Chance: the same readings compared with the paper's other {others} prompts.</p>"
    )


def _cell(job: Job, cell: Cell, tries: Sequence[Try], method: Method, show_all: bool, opens: bool) -> str:
    if not tries:
        return f'<td class="{method.adjective} empty">{"not read" if job.is_over else "…"}</td>'
    best = Best(job, tries)
    readings = "".join(
        f'<span class="reading{" best" if show_all and len(tries) > 1 and scored is best.scored else ""}">'
        f'{_text(job, scored)}<span class="numbers">{"" if method is PLAIN else f"α {amplifier:g} · "}{_score(scored)}'
        "</span></span>"
        for amplifier, scored, _ in tries
        if show_all or scored is best.scored
    )
    start = f'<td class="{method.adjective} {best.mark}" style="--shade:{_shade(best.scored)}">'
    if not opens:
        return f"{start}<div>{readings}</div></td>"
    label = (
        f"layer {cell.layer}, {COMPONENTS[cell.component].symbol}, amplifier {best.amplifier:g}: "
        f"{best.scored.reading.result or 'nothing'}; score {_score(best.scored)}, {best.in_words}. Open its ladder"
    )
    return (
        f'{start}<button type="button" data-cell="{cell}" data-focus="{method.adjective} {cell}" '
        f'aria-label="{escape(label)}">{readings}</button></td>'
    )


# The ladder


def ladder(job: Job, cell: Cell, tries: Sequence[Try] = ()) -> str:
    """Return every amplifier's reading of a vector, with its score and what chance gives; "" if none was read.

    Args:
        tries: of that cell, where they are at hand.
    """
    tries = tries or cells_of(job, cell.position).get(cell)
    if not tries:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{amplifier:g}</th><td class="numbers">{scored.reading.rho:.2g}</td>'
        f'<td class="whole">{_text(job, scored, whole=True)}</td><td class="numbers">{_score(scored)}</td>'
        f"<td>{_scale(scored.score, range_of_best(scored.chance[None]), job.settings.threshold)}</td></tr>"
        for amplifier, scored, _ in tries
    )
    return (
        f'<section class="ladder" aria-label="ladder"><h3>{symbol(cell.component)}, layer {cell.layer}, '
        f"token {quoted(job.tokens[cell.position])}</h3>{_verdict(job, chosen_by(AMPLIFIED, tries))}"
        '<div class="scroll" tabindex="0" role="region" aria-label="ladder of amplifiers"><table><thead><tr>'
        '<th scope="col">α</th><th scope="col" title="length beside the placeholder\'s own hidden state">ρ</th>'
        '<th scope="col">what the model writes</th><th scope="col">score</th>'
        f'<th scope="col">−0.2 to 1; grey: the paper\'s other {len(tries[0].scored.chance)} prompts</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _verdict(job: Job, amplified: Sequence[Try]) -> str:
    if not amplified:
        return ""
    best = Best(job, amplified)
    which = f"the best of {best.tries}" if best.tries > 1 else "the reading"
    low, high = best.chance
    return (
        f"<p>Amplified, {which} scores {_score(best.scored)} (α = {best.amplifier:g}); against the other prompts "
        f"{which} scores {low:.2f} to {high:.2f} (95 % of them): <b>{best.in_words}</b>.</p>"
    )


def _scale(score: float, chance: tuple[float, float], threshold: float) -> str:
    """Return a score on a line from −0.2 to 1, with the range of chance in grey and a tick at the threshold."""

    def at(value: float) -> float:
        return round(100 * (min(max(value, -0.2), 1.0) + 0.2) / 1.2, 1)

    low, high = at(chance[0]), at(chance[1])
    words = f"score {score:.2f}, by chance {chance[0]:.2f} to {chance[1]:.2f}"
    dot = "" if np.isnan(score) else f'<i class="dot" style="left:{at(score)}%"></i>'
    return (
        f'<span class="scale" role="img" aria-label="{words}" title="{words}"><i class="chance" '
        f'style="left:{low}%;width:{round(high - low, 1)}%"></i><i class="tick" style="left:{at(threshold)}%"></i>{dot}</span>'
    )


# The heat map


def heat_map(job: Job) -> str:
    """Return layer × token for each component, coloured by the best score; a click jumps to the cell."""
    cells, positions = cells_of(job), _columns(job)
    maps = "".join(_map(job, name, cells, positions) for name in dict.fromkeys(item.component for item in job.items))
    left_out = len(job.tokens) - len(positions)
    note = f"<p>{left_out:,} tokens are left out here.</p>" if left_out else ""
    return f'<div class="maps">{maps}</div>{note}{counts(job, cells)}{_legend(job.settings.threshold, of_map=True)}'


def _map(job: Job, component: str, cells: Cells, positions: Sequence[int]) -> str:
    rows, can_focus = [], True  # the tab key reaches the first square; arrow keys go on from there
    for layer in reversed(range(job.num_layers)):
        squares = []
        for cell in (Cell(component, layer, position) for position in positions):
            if tries := cells.get(cell):
                squares.append(_square(job, cell, tries, can_focus))
                can_focus = False
            else:
                squares.append('<td><span class="missing" title="not read yet"></span></td>')
        rows.append(f'<tr><th scope="row">{layer}</th>{"".join(squares)}</tr>')
    heads = "".join(f'<th scope="col"><span>{shown(job.tokens[position])}</span></th>' for position in positions)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="heat map of {escape(COMPONENTS[component].symbol)}">'
        f"<table><caption>{symbol(component)}</caption><thead><tr><th></th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _square(job: Job, cell: Cell, tries: Sequence[Try], can_focus: bool) -> str:
    best = Best(job, tries)
    label = escape(
        f"layer {cell.layer}, token {job.tokens[cell.position]!r}: {_score(best.scored)} at α = {best.amplifier:g}, "
        f"{best.in_words}; {best.scored.reading.result}"
    )
    return (
        f'<td><button type="button" tabindex="{0 if can_focus else -1}" class="{best.mark}" '
        f'style="--shade:{_shade(best.scored)}" data-cell="{cell}" data-focus="map {cell}" title="{label}" '
        f'aria-label="{label}"></button></td>'
    )


def _columns(job: Job) -> list[int]:
    """Return the positions of a heat map: all, or as many as can be seen, those that were read first."""
    every = list(range(len(job.tokens)))
    if len(every) <= MOST_COLUMNS:
        return every
    read = set(job.positions)
    return sorted(sorted(every, key=lambda position: (position not in read, position))[:MOST_COLUMNS])


# Parts of them


def _text(job: Job, scored: Scored, whole: bool = False) -> str:
    """Return a reading: its first item, the rest lighter; words of the prompt are marked.

    Args:
        whole: with what stands before the first item, too.
    """
    reading = scored.reading
    if reading.status != "ok":
        return f'<i class="failed">{escape(reading.message)}</i>'
    if not reading.result.strip():
        return "<i>nothing</i>"
    first = job.first_item(scored)
    start = reading.result.find(first) if first else 0
    before, rest = reading.result[:start], reading.result[start + len(first) :]
    before = f'<span class="tail">{_marked(job, before)}</span>' if whole else ""
    return f'{before}<span class="item">{_marked(job, first)}</span><span class="tail">{_marked(job, rest)}</span>'


def _marked(job: Job, text: str) -> str:
    """Return a text with the words that repeat the prompt marked."""
    repeated = _words(job.settings.prompt)
    return "".join(
        f'<mark title="repeats the prompt">{shown(part)}</mark>' if part.lower() in repeated else shown(part)
        for part in re.split(r"(\w+)", text)
    )


@lru_cache(maxsize=64)
def _words(prompt: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", prompt.lower())) - SMALL_WORDS


def _legend(threshold: float, of_map: bool = False) -> str:
    above, within = f"above {threshold:g} and above chance", f"above {threshold:g}, within chance of as many tries"
    marks = (
        f'<span><i class="box"></i> {above}, not an echo</span><span><i class="missing"></i> not read yet</span>'
        if of_map
        else f"<span><b>●</b> {above}</span><span><b>○</b> {within}</span>"
        "<span><b>↺</b> echo: its first item says nothing that is not in the prompt</span>"
        "<span><mark>word</mark> repeats the prompt</span>"
    )
    return (
        f'<p class="legend"><span>0 <i class="swatch"></i> {FULL_COLOUR:g} similarity to the prompt</span>{marks}</p>'
    )


def _score(scored: Scored) -> str:
    return "–" if np.isnan(scored.score) else f"{scored.score:.2f}"


def _shade(scored: Scored) -> str:
    return f"{min(max(np.nan_to_num(scored.score, nan=0.0), 0.0) / FULL_COLOUR, 1.0):.2f}"


def symbol(component: str) -> str:
    """Return what heads a component's column."""
    return escape(COMPONENTS[component].symbol).replace("h_PreMLP", "h<sub>PreMLP</sub>")


def quoted(text: str) -> str:
    """Return a token in quotation marks."""
    return f"“{shown(text.strip() or text)}”"


def shown(text: str) -> str:
    """Return a text as markup; line breaks are visible."""
    return escape(text).replace("\n", "⏎")
