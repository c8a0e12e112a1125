"""What the page shows of a question, "Is it a band, a person…?", as HTML. Texts are always escaped."""

from html import escape

from ..words.components import COMPONENTS
from . import view
from .desk import Desk
from .jobs import Question
from .parts import quoted, shown, symbol

LIKELIEST = '<b class="likeliest" title="the likeliest, above its chance">●</b>'


def answer(desk: Desk, question: Question) -> str:
    """Return what is known so far: what the question waits for, why it failed, or its labels; "" if it was stopped."""
    if question.state == "stopped":
        return ""
    if question.state == "failed":
        return view.error(question.message)
    if question.state == "done":
        return labels(question)
    ahead = desk.count_ahead(question)
    waits = f": {view.served_first(ahead)}" if ahead else ""
    return f'<p class="caption" role="status">Asking{waits or escape(f": {desk.state}" if desk.state else "")} …</p>'


def labels(question: Question) -> str:
    """Return the labels of a question's one vector, the likeliest first: a bar each, with a tick where chance is."""
    [item], rows = question.items, question.rows
    what = (
        f"{symbol(item.component)}, layer {item.layer}, token {quoted(question.tokens[item.position])}, "
        f"α = {item.amplifier:g}"
    )
    if rows["probability"].isna().any():
        return view.error(f"{COMPONENTS[item.component].symbol} times {item.amplifier:g} is out of the dtype's range.")
    rows, lines = rows.sort_values("probability", ascending=False, kind="stable"), []
    for number, row in enumerate(rows.to_dict("records")):
        own, chance, others = row["probability"], row["chance"], row["others as probable"]
        is_likeliest = number == 0 and own > chance
        words = f"probability {own:.2f}, by chance {chance:.2f}; as probable for {others:.0%} of the other prompts"
        lines.append(
            f'<tr{" class=best" if is_likeliest else ""}><th scope="row">{shown(row["label"])}</th>'
            f'<td class="wide"><span class="share" role="img" aria-label="{words}" title="{words}">'
            f'<i class="bar" style="width:{100 * own:.1f}%"></i><i class="tick" style="left:{100 * chance:.1f}%"></i>'
            f'</span></td><td class="numbers">{own:.2f}{f" {LIKELIEST}" if is_likeliest else ""}</td>'
            f'<td class="numbers">chance {chance:.2f}</td></tr>'
        )
    form = shown(rows.loc[rows.index.min(), "continuation"])
    return (
        f'<section class="answer" aria-label="labels"><h3>{what}</h3><table aria-label="probability of each label">'
        f"<tbody>{''.join(lines)}</tbody></table><p>Each label as the text that follows the target prompt, as in "
        f"“{form}”, less the same with nothing patched. Tick: chance, the mean over the last tokens of "
        f"{rows.attrs['references']} other prompts.</p></section>"
    )
