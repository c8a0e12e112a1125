"""The table: a row per layer, one reading of each vector, of one request or of two side by side, as HTML."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from ..judging.chance import band
from ..judging.confidence import BELIEVED
from ..runs.evidence import NOTHING, SURE, UNCALIBRATED
from ..words.components import COMPONENTS, into, plural
from ..words.methods import BLIND, CHOICES, PLAIN, Method
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
    tries_per_method,
)
from .jobs import Job
from .parts import FULL_COLOUR, SIDES, percent, quoted, score, shade, symbol, text, which, worth
from .weighing import Weighed

SCROLLS = ' tabindex="0" role="region" aria-label="readings"'  # in the report; in the page, what it stands in does


class Drawn(NamedTuple):
    """What stands in a cell of the table.

    Attributes:
        kind: its classes.
        shade: how strongly it is coloured, from 0 to 1; "" where nothing stands.
        body: as markup.
    """

    kind: str
    shade: str
    body: str

    def tag(self, name: str, before: str = "") -> str:
        """Return it as an element."""
        style = f' style="--shade:{self.shade}"' if self.shade else ""
        return f'<{name} class="{self.kind}"{style}>{before}{self.body}</{name}>'


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        component: whose vectors stand in it.
        kind: its class.
        head: over it, as markup.
        draw: (cell, its readings so far) -> what stands in the cell.
    """

    component: str
    kind: str
    head: str
    draw: Callable[[Cell, Sequence[Try]], Drawn]


class Side(NamedTuple):
    """A request that the table shows, alone or beside another one.

    Attributes:
        name: "a" or "b"; "" of the only one.
        position: of the token, in this request.
        cells: its readings so far.
        columns: (component, kind) -> column, in order.
    """

    name: str
    job: Job
    position: int
    cells: Cells
    columns: Mapping[tuple[str, str], Column]

    def draw(self, key: tuple[str, str], layer: int) -> Drawn | None:
        """Return what stands in a cell; None if this request has no such column or layer."""
        column = self.columns.get(key)
        if not column or layer not in {item.layer for item in self.job.items}:
            return None
        cell = Cell(column.component, layer, self.position)
        return column.draw(cell, self.cells.get(cell, []))


def table(
    job: Job,
    position: int,
    choice: str = BLIND.adjective,
    show_all: bool = False,
    opens: bool = True,
    beside: Job | None = None,
    opened: Cell | None = None,
) -> str:
    """Return a table with a row per layer: one reading of each vector; of two requests, two in each cell.

    Args:
        position: of the token.
        choice: by what that reading is chosen (`words.methods.CHOICES`): "blind", a column per component; or
            "similarity", for each component a column per method.
        show_all: with "similarity", all readings that a method chooses among, not the best alone.
        opens: whether a reading is a button that opens its ladder.
        beside: a request for the same prompt with other settings.
        opened: the cell whose ladder is open; a row is left free under it.
    """
    is_blind = CHOICES[choice][0] is BLIND
    jobs = [job, beside] if beside else [job]
    names = SIDES if beside else [""]
    sides = []
    for name, one in zip(names, jobs, strict=True):
        at = position if one is job else same_position(job, position, one)
        columns = (
            column
            for component in _components(one)
            for column in (_blind_columns(one, component, name if opens else None) if is_blind
                           else _similar_columns(one, component, show_all, name if opens else None))
        )  # fmt: skip
        sides.append(Side(name, one, at, cells_of(one, at), {(column.component, column.kind): column for column in columns}))
    keys = sorted({key: None for side in sides for key in side.columns}, key=lambda key: _components(job).index(key[0]))
    layers = sorted({item.layer for one in jobs for item in one.items}) if beside else _layers(job)
    body = []
    for layer in layers:
        row = "".join(_td(key[1], [side.draw(key, layer) for side in sides]) for key in keys)
        body.append(f'<tr><th scope="row"><span class="word">layer </span>{layer}</th>{row}</tr>')
        if opened and opened.layer == layer:
            body.append(f'<tr class="opened" aria-hidden="true"><td colspan="{1 + len(keys)}"></td></tr>')
    what = _what(job, position, beside)
    heads = {key: [side.columns[key].head for side in sides if key in side.columns] for key in keys}
    each = {component: sum(key[0] == component for key in keys) for component, _ in keys}
    above = "".join(
        f'<th colspan="{each[name]}" scope="colgroup" title="{escape(COMPONENTS[name].meaning)}">{symbol(name)}'
        f"<small>{escape(COMPONENTS[name].meaning)}</small></th>"
        for name in each
    )
    below = "".join(
        f'<th scope="col" class="{kind}">{" / ".join(dict.fromkeys(heads[component, kind]))}</th>' for component, kind in keys
    )
    notes = [_how_chosen(side.job) for side in sides] if is_blind else []
    if len(set(notes)) > 1:
        notes = [f"{which(side.name)}{note}" for side, note in zip(sides, notes, strict=True)]
    said = [_blind_counts(side) if is_blind else counts(side.job, side.cells, side.name) for side in sides]
    legends = dict.fromkeys(_blind_legend(side.job) if is_blind else similar_legend(side.job) for side in sides)
    return (
        f'<p class="caption">{what} {" ".join(dict.fromkeys(notes))} {"A click on a reading opens its ladder of amplifiers." if opens else ""}</p>'
        f'<div class="scroll"{"" if opens else SCROLLS}><table class="readings {choice}" aria-label="{_label(job, position)}"><thead><tr>'
        f'<th rowspan="2" scope="col">layer</th>{above}</tr><tr>{below}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
        f"{''.join(said)}{''.join(legends)}"
    )


def _td(kind: str, drawn: Sequence[Drawn | None]) -> str:
    if len(drawn) == 1:
        return drawn[0].tag("td")
    both = "".join(
        one.tag("div", which(side)) if one else f'<div class="{kind} absent">{which(side)}–</div>'
        for side, one in zip(SIDES, drawn, strict=True)
    )
    return f'<td class="pair">{both}</td>'


def same_position(job: Job, position: int, other: Job) -> int:
    """Return where another request for the same prompt has a token; of another model, it may stand elsewhere."""
    at = job.positions.index(position) if position in job.positions else -1
    return other.positions[at] if at < len(other.positions) else other.positions[-1]


def _components(job: Job) -> list[str]:
    return list(dict.fromkeys(item.component for item in job.items))


def _layers(job: Job) -> list[int]:
    return list(dict.fromkeys(item.layer for item in job.items))


def _label(job: Job, position: int) -> str:
    return f"Readings of the token {quoted(job.tokens[position])}, patched {into(job.settings.target_layer)}."


def _what(job: Job, position: int, beside: Job | None) -> str:
    """Say what a cell is."""
    is_amplified = any(item.amplifier != 1 for one in (job, beside) if one for item in one.items)
    both = " A and B: with each of the two settings." if beside else ""
    return (
        f"Each cell is what the model writes about one of its own vectors: that of {quoted(job.tokens[position])} in the "
        f"row's layer, {'amplified and ' if is_amplified else ''}put in place of a word in a prompt that asks for "
        f"descriptions.{both}"
    )


# Chosen without the prompt


def _blind_columns(job: Job, component: str, side: str | None) -> list[Column]:
    tries = readings_per_vector(job)
    head = f"one of {tries}" if tries > 1 else "the only one"
    return [Column(component, BLIND.adjective, head, lambda cell, tries: _blind_cell(job, cell, tries, side))]


def _how_chosen(job: Job) -> str:
    """Say how the blind reading is chosen, or why it isn't yet."""
    if job.unweighed:
        return f"They could not be weighed: {escape(job.unweighed)} So of each vector the one that began most surely."
    if not job.weighed:
        why = "weighing was stopped" if job.is_over else "how far each can be believed follows when all are read and weighed …"
        return f"For now, of each vector the one that began most surely: {why}"
    if readings_per_vector(job) == 1:
        return "One of each vector: with a single amplifier there is nothing to choose among."
    places = set().union(*places_fitted(job).values())
    ways = ["the most likely right"] * any(places) + ["the best mean rank"] * ("" in places)
    by = ", or where nothing was fitted, ".join(ways)
    return f"One of each vector, chosen without the prompt, by what the model itself tells: {by}."


def _blind_cell(job: Job, cell: Cell, tries: Sequence[Try], side: str | None) -> Drawn:
    if not tries:
        return _nothing_yet(job, BLIND)
    one = blind_of(tries)
    kind, words = worth(one.weighed, among=len(tries))
    reading = (
        f'<span class="reading">{text(job, one.scored)}<span class="numbers">{words}'
        f"{' · ' if words else ''}α {one.amplifier:g}</span></span>"
    )
    label = f"{one.scored.reading.result or 'nothing'}; {words or 'not weighed yet'}"
    body = _opening(reading, cell, one.amplifier, label, BLIND, side)
    return Drawn(f"{BLIND.adjective} {kind}", f"{_trust(one.weighed):.2f}", body)


def _nothing_yet(job: Job, method: Method) -> Drawn:
    return Drawn(f"{method.adjective} empty", "", "not read" if job.is_over else "…")


def _opening(readings: str, cell: Cell, amplifier: float, label: str, method: Method, side: str | None) -> str:
    """Return readings as a button that opens their ladder; without one, where `side` is None."""
    if side is None:
        return f"<div>{readings}</div>"
    where = f"{side.upper()}, " * bool(side) + f"layer {cell.layer}, {COMPONENTS[cell.component].symbol}"
    return (
        f'<button type="button" data-cell="{cell}" data-side="{side or SIDES[0]}" '
        f'data-focus="{side}{method.adjective} {cell}" '
        f'aria-label="{escape(f"{where}, amplifier {amplifier:g}: {label}. Open its ladder")}">{readings}</button>'
    )


def _trust(weighed: Weighed | None) -> float:
    """Return how strongly a cell is shaded: by its probability, if it is believed."""
    return weighed.confidence if weighed and weighed.verdict == SURE else 0.0


def _blind_counts(side: Side) -> str:
    """Return how many vectors have a reading to believe, and how many of the chosen are similar to the prompt."""
    chosen = [one.weighed.verdict for tries in side.cells.values() for one in [blind_of(tries)] if one.weighed]
    if not chosen:
        return ""
    said = {SURE: "believed", NOTHING: "without a reading to believe", UNCALIBRATED: UNCALIBRATED}
    verdicts = ", ".join(f"{chosen.count(name):,} {words}" for name, words in said.items() if name in chosen)
    found = _counted([count_blind(side.job, side.cells)], side.job)
    return f'<p class="counts">{which(side.name)}Of {len(chosen):,} vectors {verdicts}. {found}</p>'


def _blind_legend(job: Job) -> str:
    parts = [*blind_meanings(job), "<span><mark>word</mark> repeats the prompt</span>"]
    return f'<p class="legend">{"".join(parts)}</p>'


def places_fitted(job: Job) -> dict[str, list[str]]:
    """Return, of each component of a request, the places of the fit that its vectors are put into; "" for none."""
    places = {}
    for component, *layers in dict.fromkeys((item.component, item.layer, item.target_layer) for item in job.items):
        places.setdefault(component, {})[job.calibration.place(component, *layers) if job.calibration else ""] = None
    return {component: list(some) for component, some in places.items()}


def blind_meanings(job: Job) -> list[str]:
    """Say what a probability means, and a rank, as far as a request has them."""
    parts, places = [], [place for some in places_fitted(job).values() for place in some]
    if any(places):
        names: dict[str, list[str]] = {}
        for component, target in (place.split(" into ") for place in places if place):
            names.setdefault(into(target), []).append(plural(component))
        said = "; ".join(f"{', '.join(some[:-1])}{' and ' * (len(some) > 1)}{some[-1]} {target}" for target, some in names.items())
        parts.append(
            "<span><b>71 %</b> the probability that the reading describes its vector, fitted on "
            f"{job.calibration.about['entities']} entities ({said}); below {percent(BELIEVED)}: no reading to believe</span>"
        )
    if job.weighed and not all(places):
        parts.append(
            "<span><b>uncalibrated</b> nothing was fitted for it; rank: the mean rank among the vector's readings, by how "
            "sure the model was, how much surer than without the vector, and how like the vector it is read back in; 1 is "
            "the best</span>"
        )
    return parts


# Chosen by similarity to the prompt


def _similar_columns(job: Job, component: str, show_all: bool, side: str | None) -> list[Column]:
    def draw(method: Method) -> Callable[[Cell, Sequence[Try]], Drawn]:
        return lambda cell, tries: _similar_cell(job, cell, chosen_by(method, tries), method, show_all, side)

    return [
        Column(component, method.adjective, _column(method, tries, show_all), draw(method))
        for method, tries in tries_per_method(job)
    ]


def _column(method: Method, tries: int, show_all: bool) -> str:
    if method is PLAIN:
        return "α = 1"
    return method.adjective if show_all or tries == 1 else f"best of {tries} {method.adjective}"


def counts(job: Job, cells: Cells, side: str = "") -> str:
    """Return how many vectors have a similar reading, beside the same count against the other prompts."""
    found = count_similar(job, cells)
    return f'<p class="counts">{which(side)}{_counted(found, job)}</p>' if found else ""


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


def _similar_cell(
    job: Job, cell: Cell, tries: Sequence[Try], method: Method, show_all: bool, side: str | None
) -> Drawn:
    if not tries:
        return _nothing_yet(job, method)
    best = Best(job, tries)
    readings = "".join(
        f'<span class="reading{" best" if show_all and len(tries) > 1 and scored is best.scored else ""}">'
        f'{text(job, scored)}<span class="numbers">{"" if method is PLAIN else f"α {amplifier:g} · "}{score(scored)}'
        "</span></span>"
        for amplifier, scored in ((one.amplifier, one.scored) for one in tries)
        if show_all or scored is best.scored
    )
    label = f"{best.scored.reading.result or 'nothing'}; score {score(best.scored)}, {best.in_words}"
    body = _opening(readings, cell, best.amplifier, label, method, side)
    return Drawn(f"{method.adjective} {best.mark}".strip(), shade(best.scored), body)


def similar_legend(job: Job) -> str:
    """Say what the colours and marks of readings that are chosen by similarity mean."""
    threshold = job.settings.threshold
    above, within = f"above {threshold:g} and above chance", f"above {threshold:g}, within chance of as many tries"
    return (
        f'<p class="legend"><span>0 <i class="swatch"></i> {FULL_COLOUR:g} similarity to the prompt</span>'
        f"<span><b>●</b> {above}</span><span><b>○</b> {within}</span>"
        "<span><b>↺</b> echo: its first item says nothing that is not in the prompt</span>"
        "<span><mark>word</mark> repeats the prompt</span></p>"
    )
