"""The map: layer × token, each square in the colour of what the table shows of its vector, as HTML."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from ..runs.evidence import NOTHING
from ..words.components import COMPONENTS
from ..words.methods import BLIND, CHOICES
from .cells import Best, Cell, Try, blind_of, cells_of
from .jobs import Job
from .parts import FULL_COLOUR, SIDES, score, shade, shown, symbol, which, worth
from .table import blind_meanings, counts, places_fitted

MOST_COLUMNS = 64  # tokens of a map
MOST_WITH_WORDS = 12  # tokens beside which the squares are wide enough for words
STRONGEST = 12  # that are listed


class Square(NamedTuple):
    """A vector in the map.

    Attributes:
        kind: its class.
        shade: how strongly it is coloured, from 0 to 1.
        words: what it is worth.
        first: the first item of its reading.
        amplifier: of that reading.
    """

    kind: str
    shade: float
    words: str
    first: str
    amplifier: float


def heat_map(job: Job, choice: str = BLIND.adjective, side: str = "") -> str:
    """Return layer × token for each component, and a list of the strongest; a click jumps to the cell.

    Args:
        choice: by what the reading of a vector is chosen that is shown (`words.methods.CHOICES`): "blind", coloured by
            its probability, or where none was fitted, by its rank; or "similarity", by its score.
        side: of two requests that are shown side by side, "a" or "b".
    """
    cells, positions = cells_of(job), _columns(job)
    is_blind = CHOICES[choice][0] is BLIND
    squares = {cell: _square(job, tries, is_blind) for cell, tries in cells.items()}
    components = dict.fromkeys(item.component for item in job.items)
    has_words = len(positions) <= MOST_WITH_WORDS
    maps = "".join(_map(job, name, squares, positions, has_words, side) for name in components)
    left_out = len(job.tokens) - len(positions)
    note = f"<p>{left_out:,} tokens are left out here.</p>" if left_out else ""
    shown_kind = f"{choice}{' worded' if has_words else ''}"
    return (
        f'<section class="map {shown_kind}">{f"<h3>{which(side)}</h3>" if side else ""}<div class="maps">{maps}</div>{note}'
        f"{_strongest(job, squares, side)}{'' if is_blind else counts(job, cells, side)}{_legend(job, is_blind)}</section>"
    )


def _square(job: Job, tries: Sequence[Try], is_blind: bool) -> Square:
    if is_blind:
        one = blind_of(tries)
        kind, words = worth(one.weighed, among=len(tries))
        strength = _strength(one)
        return Square(kind, strength, words or "not weighed yet", job.first_item(one.scored), one.amplifier)
    best = Best(job, tries)
    words = f"{score(best.scored)}, {best.in_words}"
    return Square(best.mark, float(shade(best.scored)), words, job.first_item(best.scored), best.amplifier)


def _strength(one: Try) -> float:
    """Return the probability of a blind reading, or where nothing was fitted, its rank; 0 while it isn't known."""
    if not one.weighed:
        return 0.0
    confidence, rank = one.weighed.confidence, one.weighed.mean_rank
    return float(np.nan_to_num(rank if np.isnan(confidence) else confidence))


def _map(
    job: Job, component: str, squares: dict[Cell, Square], positions: Sequence[int], has_words: bool, side: str
) -> str:
    rows, can_focus = [], True  # the tab key reaches the first square; arrow keys go on from there
    for layer in reversed(range(job.num_layers)):
        drawn = []
        for cell in (Cell(component, layer, position) for position in positions):
            if square := squares.get(cell):
                drawn.append(_button(job, cell, square, can_focus, has_words, side))
                can_focus = False
            else:
                drawn.append('<td><span class="missing" title="not read yet"></span></td>')
        rows.append(f'<tr><th scope="row">{layer}</th>{"".join(drawn)}</tr>')
    heads = "".join(f'<th scope="col"><span>{shown(job.tokens[position])}</span></th>' for position in positions)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="map of {escape(COMPONENTS[component].symbol)}">'
        f"<table><caption>{symbol(component)}</caption><thead><tr><th></th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _button(job: Job, cell: Cell, square: Square, can_focus: bool, has_words: bool, side: str) -> str:
    label = escape(_label(job, cell, square))
    words = f"<span>{shown(square.first)}</span>" if has_words else ""
    return (
        f'<td><button type="button" tabindex="{0 if can_focus else -1}" class="{square.kind}" '
        f'style="--shade:{square.shade:.2f}" data-cell="{cell}" data-side="{side or SIDES[0]}" '
        f'data-focus="map {side} {cell}" title="{label}" aria-label="{label}">{words}</button></td>'
    )


def _label(job: Job, cell: Cell, square: Square) -> str:
    return (
        f"layer {cell.layer}, token {job.tokens[cell.position]!r}: {square.words}, at α = {square.amplifier:g}; "
        f"{square.first or 'nothing'}"
    )


def _strongest(job: Job, squares: dict[Cell, Square], side: str) -> str:
    """Return the strongest of the map as a list, for where squares have no room for words."""
    told = {cell: square for cell, square in squares.items() if square.first and square.shade > 0}
    order = sorted(told, key=lambda cell: (not told[cell].words.startswith(NOTHING), told[cell].shade), reverse=True)
    lines = "".join(
        f'<li><button type="button" data-cell="{cell}" data-side="{side or SIDES[0]}" style="--shade:{told[cell].shade:.2f}">'
        f'<span class="item">{shown(told[cell].first)}</span> <span class="tail">{symbol(cell.component)}, layer {cell.layer}, '
        f"“{shown(job.tokens[cell.position].strip())}”</span> "
        f'<span class="numbers">{escape(told[cell].words)}</span></button></li>'
        for cell in order[:STRONGEST]
    )
    return f'<div class="strongest"><h4>The strongest</h4><ol>{lines}</ol></div>' if lines else ""


def _columns(job: Job) -> list[int]:
    """Return the positions of a map: all, or as many as can be seen, those that were read first."""
    every = list(range(len(job.tokens)))
    if len(every) <= MOST_COLUMNS:
        return every
    read = set(job.positions)
    return sorted(sorted(every, key=lambda position: (position not in read, position))[:MOST_COLUMNS])


def _legend(job: Job, is_blind: bool) -> str:
    """Say what the colours show: what the table shows, too."""
    if is_blind:
        places = set().union(*places_fitted(job).values())
        meanings = ["probability that the reading describes its vector"] * any(places)
        meanings += ["mean rank among the vector's readings"] * ("" in places)
        said = " or, where nothing was fitted, ".join(meanings)
        parts = [f'<span>0 <i class="swatch"></i> 1 {said}; of the reading chosen without the prompt</span>', *blind_meanings(job)]
    else:
        threshold = job.settings.threshold
        parts = [
            f'<span>0 <i class="swatch"></i> {FULL_COLOUR:g} similarity of the best reading to the prompt</span>',
            f'<span><i class="box"></i> above {threshold:g} and above chance, not an echo</span>',
        ]
    parts.append('<span><i class="missing"></i> not read yet</span>')
    return f'<p class="legend">{"".join(parts)}</p>'
