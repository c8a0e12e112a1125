"""The ladder: every amplifier's reading of one vector, as HTML."""

from collections.abc import Sequence

import numpy as np

from ..judging.chance import range_of_best
from ..words.methods import AMPLIFIED, CHOICES
from .cells import Best, Cell, Try, blind_of, cells_of, chosen_by, similar_of
from .jobs import Job
from .parts import percent, quoted, score, shown, symbol, text, which, worth
from .weighing import Weighed

BLIND_TAG, SIMILAR_TAG = (
    f' <span class="tag {method.adjective}">{words}</span>' for method, words in CHOICES.values()
)


def ladder(job: Job, cell: Cell, tries: Sequence[Try] = (), side: str = "") -> str:
    """Return every amplifier's reading of a vector, with its score and what chance gives; "" if none was read.

    Args:
        tries: of that cell, where they are at hand.
        side: of two requests that are shown side by side, "a" or "b".
    """
    tries = tries or cells_of(job, cell.position).get(cell)
    if not tries:
        return ""
    shown_by = {similar_of(tries).id: [SIMILAR_TAG]}
    if job.weighed:
        shown_by.setdefault(blind_of(tries).id, []).insert(0, BLIND_TAG)
    has_fit = any(one.weighed and not np.isnan(one.weighed.confidence) for one in tries)
    head, meaning = ("right", "the probability that it describes the vector") if has_fit else ("rank", "mean rank; 1 is the best")
    rows = "".join(
        f'<tr{" class=chosen" if one.id in shown_by else ""}><th data-head="α" scope="row">{one.amplifier:g}</th>'
        f'<td class="numbers" data-head="ρ">{one.scored.reading.rho:.2g}</td>'
        f'<td class="whole">{text(job, one.scored, whole=True)}{"".join(shown_by.get(one.id, []))}</td>'
        f'<td class="numbers" data-head="{head}">{_own_worth(one.weighed, has_fit)}</td>'
        f'<td class="numbers" data-head="score">{score(one.scored)}</td>'
        f'<td class="chance">{_scale(one.scored.score, range_of_best(one.scored.chance[None]), job.settings.threshold)}</td></tr>'
        for one in tries
    )
    return (
        f'<section class="ladder" aria-label="ladder"><h3>{which(side)}{symbol(cell.component)}, layer {cell.layer}, '
        f"token {quoted(job.tokens[cell.position])}</h3>{_blind_verdict(tries)}{_verdict(job, chosen_by(AMPLIFIED, tries))}"
        '<div class="scroll" tabindex="0" role="region" aria-label="ladder of amplifiers"><table><thead><tr>'
        '<th scope="col">α</th><th scope="col" title="length beside the placeholder\'s own hidden state">ρ</th>'
        f'<th scope="col">what the model writes</th><th scope="col" title="{meaning}">{head}</th>'
        '<th scope="col" title="similarity to the prompt">score</th>'
        f'<th scope="col">beside chance</th></tr></thead><tbody>{rows}</tbody></table></div>'
        f"{_legend(has_fit, job.settings.threshold, len(tries[0].scored.chance))}{_lenses(job, cell)}</section>"
    )


def _legend(has_fit: bool, threshold: float, others: int) -> str:
    """Say what the ladder's columns are; a title alone is nothing to a finger."""
    sure = "<b>right</b> how likely it describes the vector" if has_fit else "<b>rank</b> the mean rank; 1 is the best"
    parts = (
        "<b>α</b> what the vector is multiplied by", "<b>ρ</b> how long it then is, beside the placeholder's own state", sure,
        "<b>score</b> similarity to the prompt",
        f"<b>line</b> scores from −0.2 to 1, a tick at {threshold:g}; grey: by chance, of the paper's other {others} prompts",
    )  # fmt: skip
    return f'<p class="legend">{"".join(f"<span>{part}</span>" for part in parts)}</p>'


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


def _own_worth(weighed: Weighed | None, has_fit: bool) -> str:
    number = weighed and (weighed.confidence if has_fit else weighed.mean_rank)
    if number is None or np.isnan(number):
        return "–"
    return percent(number) if has_fit else f"{number:.2f}"


def _blind_verdict(tries: Sequence[Try]) -> str:
    one = blind_of(tries)
    _, words = worth(one.weighed, among=len(tries))
    return f"<p>Chosen without the prompt: α = {one.amplifier:g}, <b>{words}</b>.</p>" if words else ""


def _verdict(job: Job, amplified: Sequence[Try]) -> str:
    if not amplified or np.isnan((best := Best(job, amplified)).scored.score):  # all have failed
        return ""
    what = f"the best of {best.tries}" if best.tries > 1 else "the reading"
    low, high = best.chance
    return (
        f"<p>By similarity to the prompt: amplified, {what} scores {score(best.scored)} (α = {best.amplifier:g}); against "
        f"the other prompts {what} scores {low:.2f} to {high:.2f} (95 % of them): <b>{best.in_words}</b>.</p>"
    )


def _scale(value: float, chance: tuple[float, float], threshold: float) -> str:
    """Return a score on a line from −0.2 to 1, the range of chance in grey, a tick at the threshold; "" without a score."""
    if np.isnan(value):
        return ""

    def at(value: float) -> float:
        return round(100 * (min(max(value, -0.2), 1.0) + 0.2) / 1.2, 1)

    low, high = at(chance[0]), at(chance[1])
    words = f"score {value:.2f}, by chance {chance[0]:.2f} to {chance[1]:.2f}"
    return (
        f'<span class="scale" role="img" aria-label="{words}" title="{words}"><i class="chance" '
        f'style="left:{low}%;width:{round(high - low, 1)}%"></i><i class="tick" style="left:{at(threshold)}%"></i>'
        f'<i class="dot" style="left:{at(value)}%"></i></span>'
    )
