"""What the page shows of a request, as HTML: status, table, ladder, heat map. Texts are always escaped."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from html import escape
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from ..judging.chance import band, range_of_best
from ..judging.confidence import BELIEVED
from ..judging.judge import SMALL_WORDS
from ..runs.evidence import NOTHING, SURE, UNCALIBRATED
from ..words.chats import plain_text
from ..words.components import COMPONENTS, EVALUATED, into, plural
from ..words.methods import AMPLIFIED, BLIND, CHOICES, METHODS, PLAIN, Method
from .cells import (
    Best,
    Cell,
    Cells,
    Count,
    Try,
    blind_of,
    cells_of,
    chosen_by,
    count_blind,
    count_similar,
    readings_per_vector,
    similar_of,
    tries_per_method,
)
from .desk import Desk
from .jobs import Job
from .scores import Scored
from .weighing import Weighed

FULL_COLOUR = 0.8  # the score from which on a cell has its full shade
MOST_COLUMNS = 64  # tokens of a heat map
COLOURS = "".join(f"--{method.adjective}: {method.colour}; " for method in (*METHODS.values(), BLIND))
STYLE = f":root {{ {COLOURS}}}\n" + files(__package__).joinpath("style.css").read_text(encoding="utf-8")


# What is going on


def status(desk: Desk, job: Job | None) -> str:
    """Return the line that says what is going on, with a bar while readings are computed."""
    if (job is None or job.is_kept) and desk.is_ready and desk.state and not desk.state.startswith("loading"):
        return error(desk.state, job)
    if job is None:
        return line("busy", f"{desk.state} …") if desk.state else line("calm", f"{desk.loaded} is ready.")
    if job.is_kept:
        words = f"{len(job.readings):,} readings, kept from an earlier day. {job.settings.model}, {desk.dtype}."
        return line("calm", words, job) if desk.is_ready else line("busy", f"{words[:-1]}: {desk.state} …", job)
    if job.state == "waiting":
        ahead = desk.count_ahead(job)
        if not ahead and desk.state:
            return line("busy", f"{desk.state} …", job)
        return line("busy", f"Waiting: {ahead} {'request is' if ahead == 1 else 'requests are'} served first.", job)
    if job.state == "loading":
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
    if job.known:
        words += f", {job.known:,} of them in memory already"
    if job.read:
        words += f", in {job.seconds:.1f} s"
    if job.weighed:
        words += f", weighed in {job.weighing_seconds:.1f} s"
    if failed := sum(scored.reading.status != "ok" for scored in job.readings.values()):
        words += f"; {failed:,} failed"
    return line("calm", f"{words}. {job.settings.model}, {desk.dtype}.", job)


def error(message: str, job: Job | None = None) -> str:
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


def line(kind: str, words: str, job: Job | None = None) -> str:
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


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        component: whose vectors stand in it.
        kind: its class.
        head: over it, as markup.
        draw: (cell, its readings so far) -> the cell as markup.
    """

    component: str
    kind: str
    head: str
    draw: Callable[[Cell, Sequence[Try]], str]


def table(job: Job, position: int, choice: str = BLIND.adjective, show_all: bool = False, opens: bool = True) -> str:
    """Return a table with a row per layer: one reading of each vector.

    Args:
        position: of the token.
        choice: by what that reading is chosen (`words.methods.CHOICES`): "blind", a column per component; or
            "similarity", for each component a column per method.
        show_all: with "similarity", all readings that a method chooses among, not the best alone.
        opens: whether a reading is a button that opens its ladder.
    """
    cells = cells_of(job, position)
    items = [item for item in job.items if item.position == position]
    components, layers = (dict.fromkeys(values) for values in zip(*((item.component, item.layer) for item in items)))
    is_blind = CHOICES[choice][0] is BLIND
    columns = [
        column
        for name in components
        for column in (_blind_columns(job, name, opens) if is_blind else _similar_columns(job, name, show_all, opens))
    ]
    each = len(columns) // len(components)
    above = "".join(
        f'<th colspan="{each}" scope="colgroup" title="{escape(COMPONENTS[name].meaning)}">{symbol(name)}'
        f"<small>{escape(COMPONENTS[name].meaning)}</small></th>"
        for name in components
    )
    below = "".join(f'<th scope="col" class="{column.kind}">{column.head}</th>' for column in columns)
    body = []
    for layer in layers:
        row = [column.draw(at, cells.get(at, [])) for column in columns for at in [Cell(column.component, layer, position)]]
        body.append(f'<tr><th scope="row"><span class="word">layer </span>{layer}</th>{"".join(row)}</tr>')
    what = f"Readings of the token {quoted(job.tokens[position])}, patched {into(job.settings.target_layer)}."
    note = _how_chosen(job) if is_blind else ""
    below_it = f"{_blind_counts(job, cells)}{_blind_legend(job)}" if is_blind else f"{counts(job, cells)}{_legend(job.settings.threshold)}"
    return (
        f'<p class="caption">{what} {note} {"A click on a reading opens its ladder of amplifiers." if opens else ""}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="readings"><table class="readings {choice}" '
        f'aria-label="{what}"><thead><tr><th rowspan="2" scope="col">layer</th>{above}</tr>'
        f"<tr>{below}</tr></thead><tbody>{''.join(body)}</tbody></table></div>{below_it}"
    )


# Chosen without the prompt


def _blind_columns(job: Job, component: str, opens: bool) -> list[Column]:
    tries = readings_per_vector(job)
    head = f"one of {tries}" if tries > 1 else "the only one"
    return [Column(component, BLIND.adjective, head, lambda cell, tries: _blind_cell(job, cell, tries, opens))]


def _how_chosen(job: Job) -> str:
    """Say how the blind reading is chosen, or why it isn't yet."""
    if job.unweighed:
        return f"They could not be weighed: {escape(job.unweighed)} So of each vector the one that began most surely."
    if not job.weighed:
        why = "weighing was stopped" if job.is_over else "how far each can be believed follows when all are read and weighed …"
        return f"For now, of each vector the one that began most surely: {why}"
    if readings_per_vector(job) == 1:
        return "One of each vector: with a single amplifier there is nothing to choose among."
    fitted = job.calibration.fitted if job.calibration else {}
    asked = list(dict.fromkeys(item.component for item in job.items))
    ways = [
        (by, [plural(name) for name in asked if (name in fitted) == is_fitted])
        for by, is_fitted in (("the most likely right", True), ("the best mean rank", False))
    ]
    by = [(way, names) for way, names in ways if names]
    said = by[0][0] if len(by) == 1 else "; ".join(f"of {' and '.join(names)}, {way}" for way, names in by)
    return f"One of each vector, chosen without the prompt, by what the model itself tells: {said}."


def _blind_cell(job: Job, cell: Cell, tries: Sequence[Try], opens: bool) -> str:
    if not tries:
        return f'<td class="{BLIND.adjective} empty">{"not read" if job.is_over else "…"}</td>'
    one = blind_of(tries)
    kind, worth = _worth(one.weighed, among=len(tries))
    reading = (
        f'<span class="reading">{_text(job, one.scored)}<span class="numbers">{worth}'
        f"{' · ' if worth else ''}α {one.amplifier:g}</span></span>"
    )
    start = f'<td class="{BLIND.adjective} {kind}" style="--shade:{_trust(one.weighed):.2f}">'
    if not opens:
        return f"{start}<div>{reading}</div></td>"
    label = (
        f"layer {cell.layer}, {COMPONENTS[cell.component].symbol}, amplifier {one.amplifier:g}: "
        f"{one.scored.reading.result or 'nothing'}; {worth or 'not weighed yet'}. Open its ladder"
    )
    return (
        f'{start}<button type="button" data-cell="{cell}" data-focus="{BLIND.adjective} {cell}" '
        f'aria-label="{escape(label)}">{reading}</button></td>'
    )


KINDS = {SURE: "believed", NOTHING: "nothing", UNCALIBRATED: "uncalibrated"}  # verdict -> class of a cell


def _worth(weighed: Weighed | None, among: int) -> tuple[str, str]:
    """Return the class of the blind reading of a vector, and what it is worth, in words; "" while that isn't known.

    Args:
        among: how many readings the vector has.
    """
    if weighed is None or not weighed.chosen:
        return "waiting", ""
    sure = "" if np.isnan(weighed.confidence) else percent(weighed.confidence)
    if weighed.verdict == SURE:
        words = sure
    elif weighed.verdict == NOTHING:
        words = f"{NOTHING}{f' · {sure}' if sure else ''}"
    else:
        words = UNCALIBRATED + ("" if among == 1 or np.isnan(weighed.mean_rank) else f" · rank {weighed.mean_rank:.2f}")
    return KINDS[weighed.verdict], words


def percent(share: float) -> str:
    """Say a probability; not more surely than its two digits."""
    return f"{min(max(round(100 * share), 1), 99)} %"


def _trust(weighed: Weighed | None) -> float:
    """Return how strongly a cell is shaded: by its probability, if it is believed."""
    return weighed.confidence if weighed and weighed.verdict == SURE else 0.0


def _blind_counts(job: Job, cells: Cells) -> str:
    """Return how many vectors have a reading to believe, and how many of the chosen are similar to the prompt."""
    chosen = [one.weighed.verdict for tries in cells.values() for one in [blind_of(tries)] if one.weighed]
    if not chosen:
        return ""
    said = {SURE: "believed", NOTHING: "without a reading to believe", UNCALIBRATED: UNCALIBRATED}
    verdicts = ", ".join(f"{chosen.count(name):,} {words}" for name, words in said.items() if name in chosen)
    return f'<p class="counts">Of {len(chosen):,} vectors {verdicts}. {_counted([count_blind(job, cells)], job)}</p>'


def _blind_legend(job: Job) -> str:
    parts = []
    if job.calibration:
        about, fitted = job.calibration.about, " and ".join(
            f"{plural(name)} {into(str(EVALUATED[name]))}" if name in EVALUATED else plural(name) for name in job.calibration.fitted
        )
        parts.append(
            f"<span><b>71 %</b> the probability that the reading describes its vector, fitted on {about['entities']} "
            f"entities, on {fitted}; below {percent(BELIEVED)}: no reading to believe</span>"
        )
    if job.weighed and len(job.calibration.fitted if job.calibration else ()) < len({item.component for item in job.items}):
        parts.append(
            "<span><b>uncalibrated</b> nothing was fitted for it; rank: the mean rank among the vector's readings, by how "
            "sure the model was, how much surer than without the vector, and how like the vector it is read back in; 1 is "
            "the best</span>"
        )
    parts.append("<span><mark>word</mark> repeats the prompt</span>")
    return f'<p class="legend">{"".join(parts)}</p>'


# Chosen by similarity to the prompt


def _similar_columns(job: Job, component: str, show_all: bool, opens: bool) -> list[Column]:
    def draw(method: Method) -> Callable[[Cell, Sequence[Try]], str]:
        return lambda cell, tries: _cell(job, cell, chosen_by(method, tries), method, show_all, opens)

    return [
        Column(component, method.adjective, _column(method, tries, show_all), draw(method))
        for method, tries in tries_per_method(job)
    ]


def _column(method: Method, tries: int, show_all: bool) -> str:
    if method is PLAIN:
        return "α = 1"
    return method.adjective if show_all or tries == 1 else f"best of {tries} {method.adjective}"


def counts(job: Job, cells: Cells) -> str:
    """Return how many vectors have a similar reading, beside the same count against the other prompts."""
    found = count_similar(job, cells)
    return f'<p class="counts">{_counted(found, job)}</p>' if found else ""


def _counted(found: Sequence[Count], job: Job) -> str:
    parts = []
    for method, total, similar, by_chance in found:
        low, high = band(by_chance)
        parts.append(
            f"{similar:,} of {total:,} {method.adjective} (by chance {by_chance.mean():.1f}, {low:.0f} to {high:.0f})"
        )
    return (
        f"Vectors with a reading above {job.settings.threshold:g}: {'; '.join(parts)}. "
        f"Chance: the same readings compared with the paper's other {len(found[0].by_chance)} prompts."
    )


def _cell(job: Job, cell: Cell, tries: Sequence[Try], method: Method, show_all: bool, opens: bool) -> str:
    if not tries:
        return f'<td class="{method.adjective} empty">{"not read" if job.is_over else "…"}</td>'
    best = Best(job, tries)
    readings = "".join(
        f'<span class="reading{" best" if show_all and len(tries) > 1 and scored is best.scored else ""}">'
        f'{_text(job, scored)}<span class="numbers">{"" if method is PLAIN else f"α {amplifier:g} · "}{_score(scored)}'
        "</span></span>"
        for amplifier, scored in ((one.amplifier, one.scored) for one in tries)
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
    shown_by = {similar_of(tries).id: [SIMILAR_TAG]}
    if job.weighed:
        shown_by.setdefault(blind_of(tries).id, []).insert(0, BLIND_TAG)
    has_fit = any(one.weighed and not np.isnan(one.weighed.confidence) for one in tries)
    rows = "".join(
        f'<tr{" class=chosen" if one.id in shown_by else ""}><th scope="row">{one.amplifier:g}</th>'
        f'<td class="numbers">{one.scored.reading.rho:.2g}</td>'
        f'<td class="whole">{_text(job, one.scored, whole=True)}{"".join(shown_by.get(one.id, []))}</td>'
        f'<td class="numbers">{_own_worth(one.weighed, has_fit)}</td><td class="numbers">{_score(one.scored)}</td>'
        f"<td>{_scale(one.scored.score, range_of_best(one.scored.chance[None]), job.settings.threshold)}</td></tr>"
        for one in tries
    )
    worth = ("right", "the probability that it describes the vector") if has_fit else ("rank", "mean rank; 1 is the best")
    return (
        f'<section class="ladder" aria-label="ladder"><h3>{symbol(cell.component)}, layer {cell.layer}, '
        f"token {quoted(job.tokens[cell.position])}</h3>{_blind_verdict(job, tries)}{_verdict(job, chosen_by(AMPLIFIED, tries))}"
        '<div class="scroll" tabindex="0" role="region" aria-label="ladder of amplifiers"><table><thead><tr>'
        '<th scope="col">α</th><th scope="col" title="length beside the placeholder\'s own hidden state">ρ</th>'
        f'<th scope="col">what the model writes</th><th scope="col" title="{worth[1]}">{worth[0]}</th>'
        '<th scope="col" title="similarity to the prompt">score</th>'
        f'<th scope="col">−0.2 to 1; grey: the paper\'s other {len(tries[0].scored.chance)} prompts</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{_ladder_legend(has_fit)}{_lenses(job, cell)}</section>"
    )


def _lenses(job: Job, cell: Cell) -> str:
    """Return what the lenses say of a vector; "" while nothing is known."""
    if not (told := job.told.get(tuple(cell))):
        return ""
    meanings = {
        "Logit lens": (told.logit, "the likeliest next tokens if this vector were the last hidden state"),
        "Jacobian lens": (told.jacobian, "the same, of what the vector becomes by the last block, on average"),
    }
    parts = [
        f'<span title="{meaning}"><b>{name}</b> {" ".join(f"<q>{shown(token.strip() or token)}</q>" for token in tokens)}</span>'
        for name, (tokens, meaning) in meanings.items() if tokens
    ]  # fmt: skip
    return f'<p class="legend lenses">{"".join(parts)}</p>'


def _ladder_legend(has_fit: bool) -> str:
    """Say what the ladder's columns are; a title alone is nothing to a finger."""
    worth = "<b>right</b> how likely it describes the vector" if has_fit else "<b>rank</b> the mean rank; 1 is the best"
    parts = (
        "<b>α</b> what the vector is multiplied by", "<b>ρ</b> how long it then is, beside the placeholder's own state", worth,
        "<b>score</b> similarity to the prompt",
    )  # fmt: skip
    return f'<p class="legend">{"".join(f"<span>{part}</span>" for part in parts)}</p>'


BLIND_TAG, SIMILAR_TAG = (
    f' <span class="tag {method.adjective}">{words}</span>' for method, words in CHOICES.values()
)


def _own_worth(weighed: Weighed | None, has_fit: bool) -> str:
    number = weighed and (weighed.confidence if has_fit else weighed.mean_rank)
    if number is None or np.isnan(number):
        return "–"
    return percent(number) if has_fit else f"{number:.2f}"


def _blind_verdict(job: Job, tries: Sequence[Try]) -> str:
    one = blind_of(tries)
    _, worth = _worth(one.weighed, among=len(tries))
    return f"<p>Chosen without the prompt: α = {one.amplifier:g}, <b>{worth}</b>.</p>" if worth else ""


def _verdict(job: Job, amplified: Sequence[Try]) -> str:
    if not amplified:
        return ""
    best = Best(job, amplified)
    which = f"the best of {best.tries}" if best.tries > 1 else "the reading"
    low, high = best.chance
    return (
        f"<p>By similarity to the prompt: amplified, {which} scores {_score(best.scored)} (α = {best.amplifier:g}); against the other prompts "
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
    return frozenset(re.findall(r"\w+", plain_text(prompt).lower())) - SMALL_WORDS


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
