"""What the page shows of a request, as HTML: the table, the ladder, the heat map, the report. No text is ever markup."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from importlib.resources import files

import numpy as np

from ..scoring import SMALL_WORDS, is_echo, null_range
from .desk import Desk, Job, Reading

TITLES = {
    "pre_mlp_residual": "h_PreMLP",
    "mlp_output": "MLP output",
    "hidden_state": "hidden state",
    "attention_output": "attention output",
}
MEANINGS = {
    "pre_mlp_residual": "the residual stream before the MLP adds to it",
    "mlp_output": "what the MLP adds",
    "hidden_state": "the residual stream after the block",
    "attention_output": "what attention adds",
}
MARKS = {
    "hit": "similar, and above chance",
    "lucky": "similar, but within chance",
    "echo": "similar, but its first item says nothing that is not in the prompt",
    "": "not similar",
}
FULL_COLOUR = 0.8  # the score that a cell is shaded most at
MOST_COLUMNS = 64  # tokens of a heat map
STYLE = files(__package__).joinpath("style.css").read_text(encoding="utf-8")


Key = tuple[str, int, int]  # component, layer, position
Ladders = dict[Key, list[tuple[float, Reading]]]


class Best:
    """The best reading of some at one place, beside chance with as many tries.

    Attributes:
        amplifier, reading: of the reading that is most similar to the prompt.
        tries: how many there were.
        chance: (low, high) 95 % range of the best of so many against other prompts.
        mark: "hit", "lucky", "echo" or "", and `in_words`.
    """

    def __init__(self, job: Job, ladder: Sequence[tuple[float, Reading]]):
        self.amplifier, self.reading = max(ladder, key=lambda step: np.nan_to_num(step[1].score, nan=-2.0))
        self.tries = len(ladder)
        self.chance = null_range(np.stack([reading.chance for _, reading in ladder]))
        first = job.plan.target_prompt.first_item(self.reading.result)
        if not self.reading.score > job.settings.threshold:  # also of nan
            self.mark = ""
        elif is_echo(first, job.settings.prompt):
            self.mark = "echo"
        else:
            self.mark = "hit" if self.reading.score > self.chance[1] else "lucky"
        self.in_words = MARKS[self.mark]


def ladders(job: Job, position: int | None = None) -> Ladders:
    """(component, layer, position) -> [(amplifier, reading)], in the plan's order, of what has been read so far."""
    items, readings, found = job.items, job.readings, {}
    if "id" not in items:
        return found
    if position is not None:
        items = items[items["position"] == position]
    columns = ("component", "layer", "position", "amplification value", "id")
    for component, layer, at, amplifier, id in zip(*(items[name] for name in columns), strict=True):
        if id in readings:
            found.setdefault((component, layer, at), []).append((amplifier, readings[id]))
    return found


def status(desk: Desk, job: Job | None) -> str:
    """The line that says what is going on, with a bar while something is."""
    if job is None:
        if desk.state and not desk.state.startswith("loading"):
            return error(desk.state)
        return _line("busy", f"{desk.state} …") if desk.state else _line("calm", f"{desk.loaded} is ready.")
    done, total = len(job.readings), len(job.items)
    if job.state == "waiting":
        place = desk.place(job)
        if not place and desk.state:
            return _line("busy", f"{desk.state} …", job)
        return _line("busy", f"Waiting: {place} {'request is' if place == 1 else 'requests are'} served first.", job)
    if job.state == "loading":
        return _line("busy", f"{desk.state or 'getting ready'} …", job)
    if job.state == "failed":
        return error(job.message, job)
    speed = job.rows_per_second
    if job.state == "reading":
        left = f"{(total - done) / speed:.0f} s left" if speed else "estimating"
        return (
            f'<div class="status busy"{_of(job)}><progress max="{total}" value="{done}" aria-label="readings"></progress>'
            f'<span class="numbers">{done:,} of {total:,} readings · {speed:.0f} per second · {left}</span></div>'
        )
    words = f"{done:,} readings" if job.state == "done" else f"Stopped after {done:,} of {total:,} readings"
    if job.known:
        words += f", {job.known:,} of them in memory already"
    if job.read:
        words += f", in {job.seconds:.1f} s"
    failed = sum(reading.status != "ok" for reading in job.readings.values())
    if failed:
        words += f"; {failed:,} failed"
    return _line("calm", f"{words}. {job.settings.model}, {desk.dtype}.", job)


def error(message: str, job: Job | None = None) -> str:
    """One sentence on what is wrong."""
    return f'<div class="status error" role="alert"{_of(job)}><span>{escape(message)}</span></div>'


def _line(kind: str, words: str, job: Job | None = None) -> str:
    return f'<div class="status {kind}" role="status"{_of(job)}><span>{escape(words)}</span></div>'


def _of(job: Job | None) -> str:
    return f' data-job="{job.id}" data-state="{job.state}"' if job else ""


def heading(job: Job) -> str:
    """What was asked for, over its results."""
    one = job.settings
    return (
        f'<div class="asked"><b>{_shown(one.prompt[:200])}</b> <span>{escape(one.model)} · {_layers(one.layers)} into '
        f"{_target(one.target_layer)} · α {escape(one.amplifiers[:60])}</span></div>"
    )


def table(job: Job, position: int, show_all: bool = False, opens: bool = True) -> str:
    """A row per layer, a column per component: the plain reading (α = 1) beside the best amplified one, or all.

    Args:
        opens: whether a reading is a button that opens its ladder.
    """
    found, settings = ladders(job, position), job.settings
    items = job.items[job.items["position"] == position]
    components = items["component"].unique()
    amplifiers = items["amplification value"].unique()
    groups = [("plain", "α = 1")] if 1 in amplifiers else []
    if more := (amplifiers != 1).sum():
        groups.append(("amplified", "amplified" if show_all or more == 1 else f"best of {more} amplified"))
    heads = "".join(
        f'<th colspan="{len(groups)}" scope="colgroup" title="{escape(MEANINGS[name])}">{_title(name)}</th>'
        for name in components
    )
    below = "".join(f'<th scope="col" class="{kind}">{words}</th>' for _ in components for kind, words in groups)
    body = []
    for layer in items["layer"].unique():
        cells = []
        for component in components:
            ladder = found.get((component, layer, position), [])
            for kind, _ in groups:
                steps = [step for step in ladder if (step[0] == 1) == (kind == "plain")]
                cells.append(_cell(job, (component, layer, position), steps, kind, show_all, opens))
        body.append(f'<tr><th scope="row"><span class="word">layer </span>{layer}</th>{"".join(cells)}</tr>')
    where = f"Readings of the token {_quoted(job.tokens[position])}, patched into {_target(settings.target_layer)}."
    return (
        f'<p class="caption">{where} {"A click on a reading opens its ladder of amplifiers." if opens else ""}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="readings"><table class="readings" '
        f'aria-label="{escape(re.sub("<[^>]*>", "", where))}"><thead><tr><th rowspan="2" scope="col">layer</th>{heads}</tr>'
        f"<tr>{below}</tr></thead><tbody>{''.join(body)}</tbody></table></div>{counts(job, found)}{_legend(settings.threshold)}"
    )


def counts(job: Job, found: Ladders) -> str:
    """In how many places a reading is similar, beside the same count against the other prompts."""
    places = {"plain": [], "amplified": []}
    for steps in found.values():
        for kind, own in places.items():
            if some := [reading for amplifier, reading in steps if (amplifier == 1) == (kind == "plain")]:
                best = max(np.nan_to_num(reading.score, nan=-1.0) for reading in some)
                own.append((best, np.max([reading.chance for reading in some], axis=0)))
    parts, threshold, others = [], job.settings.threshold, 0
    for kind, pairs in places.items():
        if pairs:
            own, chance = np.array([best for best, _ in pairs]), np.stack([row for _, row in pairs])
            others, by_chance = chance.shape[1], (chance > threshold).sum(0)  # places, for each of the other prompts
            low, high = np.quantile(by_chance, [0.025, 0.975], method="inverted_cdf")
            many = f"{(own > threshold).sum():,} of {len(own):,} {kind}"
            parts.append(f"{many} (by chance {by_chance.mean():.1f}, {low:.0f} to {high:.0f})")
    if not parts:
        return ""
    words = f"Places above {threshold:g}: {'; '.join(parts)}. Chance: the same readings beside the paper's other {others} prompts."
    return f'<p class="counts">{words}</p>'


def _cell(job: Job, key: Key, steps: list, kind: str, show_all: bool, opens: bool) -> str:
    if not steps:
        words = "…" if job.state in ("waiting", "loading", "reading") else "not read"
        return f'<td class="{kind} empty">{words}</td>'
    best = Best(job, steps)
    shown = steps if show_all else [(best.amplifier, best.reading)]
    component, layer, position = key
    label = (
        f"layer {layer}, {TITLES[component]}, amplifier {best.amplifier:g}: "
        f"{best.reading.result or 'nothing'}; score {_score(best.reading)}, {best.in_words}. Open its ladder"
    )
    readings = "".join(
        f'<span class="reading{" best" if reading is best.reading and len(shown) > 1 else ""}">{_text(job, reading)}'
        f'<span class="numbers">{"" if kind == "plain" else f"α {amplifier:g} · "}{_score(reading)}</span></span>'
        for amplifier, reading in shown
    )
    if not opens:
        return f'<td class="{kind} {best.mark}" style="--shade:{_shade(best.reading.score)}"><div>{readings}</div></td>'
    return (
        f'<td class="{kind} {best.mark}" style="--shade:{_shade(best.reading.score)}">'
        f'<button type="button" data-cell="{_cell_name(key)}" data-focus="{kind} {_cell_name(key)}" '
        f'aria-label="{escape(label)}">{readings}</button></td>'
    )


def ladder(job: Job, key: Key, steps: list[tuple[float, Reading]] | None = None) -> str:
    """Every amplifier's reading at one place, its score, and what chance would give; nothing if none was read there.

    Args:
        steps: (amplifier, reading) of that place, where they are at hand.
    """
    steps = steps or ladders(job, key[2]).get(key)
    if not steps:
        return ""
    component, layer, position = key
    threshold, rows = job.settings.threshold, []
    for amplifier, reading in steps:
        chance = null_range(reading.chance[None])
        rows.append(
            f'<tr><th scope="row">{amplifier:g}</th><td class="numbers">{reading.rho:.2g}</td>'
            f'<td class="whole">{_text(job, reading, whole=True)}</td>'
            f'<td class="numbers">{_score(reading)}</td><td>{_scale(reading.score, chance, threshold)}</td></tr>'
        )
    amplified = [step for step in steps if step[0] != 1]
    verdict = ""
    if amplified:
        best = Best(job, amplified)
        tries = f"the best of {best.tries}" if best.tries > 1 else "the reading"
        verdict = (
            f"<p>Amplified, {tries} scores {_score(best.reading)} (α = {best.amplifier:g}); against the other prompts "
            f"{tries} scores {best.chance[0]:.2f} to {best.chance[1]:.2f} (95 % of them): <b>{best.in_words}</b>.</p>"
        )
    return (
        f'<section class="ladder" aria-label="ladder"><h3>{_title(component)}, layer {layer}, '
        f"token {_quoted(job.tokens[position])}</h3>{verdict}"
        '<div class="scroll" tabindex="0" role="region" aria-label="ladder of amplifiers"><table><thead><tr>'
        '<th scope="col">α</th><th scope="col" title="length beside the placeholder\'s own hidden state">ρ</th>'
        '<th scope="col">what the model writes</th><th scope="col">score</th>'
        f'<th scope="col">−0.2 to 1; grey: the paper\'s other {len(steps[0][1].chance)} prompts</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def heat_map(job: Job) -> str:
    """Layer × token for each component, coloured by the best score; a click jumps to the cell."""
    found, positions = ladders(job), _columns(job)
    maps = []
    for component in job.items["component"].unique():
        layers, rows = range(job.num_layers), []
        for layer in reversed(layers):
            squares = []
            for position in positions:
                key = (component, layer, position)
                if steps := found.get(key):
                    best = Best(job, steps)
                    label = (
                        f"layer {layer}, token {job.tokens[position]!r}: {_score(best.reading)} at α = "
                        f"{best.amplifier:g}, {best.in_words}; {best.reading.result}"
                    )
                    squares.append(
                        f'<td><button type="button" tabindex="{-1 if rows or squares else 0}" class="{best.mark}" style="--shade:{_shade(best.reading.score)}" '
                        f'data-cell="{_cell_name(key)}" data-focus="map {_cell_name(key)}" title="{escape(label)}" '
                        f'aria-label="{escape(label)}"></button></td>'
                    )
                else:
                    squares.append('<td><span class="missing" title="not read yet"></span></td>')
            rows.append(f'<tr><th scope="row">{layer}</th>{"".join(squares)}</tr>')
        heads = "".join(f'<th scope="col"><span>{_shown(job.tokens[at])}</span></th>' for at in positions)
        maps.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="heat map of {escape(TITLES[component])}">'
            f"<table><caption>{_title(component)}</caption><thead><tr><th></th>{heads}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
    left_out = len(job.tokens) - len(positions)
    note = f"<p>{left_out:,} tokens are left out here.</p>" if left_out else ""
    return f'<div class="maps">{"".join(maps)}</div>{note}{counts(job, found)}{_legend(job.settings.threshold, of_map=True)}'


def _columns(job: Job) -> list[int]:
    """The positions of a heat map: all, or as many as can be seen, those that were read first."""
    every = list(range(len(job.tokens)))
    if len(every) <= MOST_COLUMNS:
        return every
    read = set(job.items["position"])
    return sorted(sorted(every, key=lambda at: (at not in read, at))[:MOST_COLUMNS])


def report(job: Job, python: str) -> str:
    """A page of its own, without scripts, of everything that was read and what made it."""
    settings = job.settings
    parts = []
    for position in job.rows["position"].unique():
        parts.append(f"<h2>Token {_quoted(job.tokens[position])}</h2>{table(job, position, opens=False)}")
        parts += [ladder(job, key, steps) for key, steps in ladders(job, position).items()]
    about = escape(json.dumps(job.rows.attrs, indent=2, ensure_ascii=False, default=str))
    made_of = f"{len(job.rows):,} readings of {settings.model}" + (
        "" if job.state == "done" else f", stopped; {len(job.items):,} were asked for"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Superscopes: {escape(settings.prompt[:80])}</title><style>{STYLE}</style></head>"
        f'<body class="report"><h1>{escape(settings.prompt)}</h1><p>{escape(made_of)}. Score: similarity to the prompt '
        f"(all-MiniLM-L6-v2); chance: the same readings against other prompts.</p>{''.join(parts)}"
        f"<h2>The same in Python</h2><pre>{escape(python)}</pre><h2>What made it</h2><pre>{about}</pre></body></html>"
    )


def _text(job: Job, reading: Reading, whole: bool = False) -> str:
    """A reading: its first item, and the rest lighter; words of the prompt are marked."""
    if reading.status != "ok":
        return f'<i class="failed">{escape(reading.message)}</i>'
    if not reading.result.strip():
        return "<i>nothing</i>"
    first = job.plan.target_prompt.first_item(reading.result)
    start = reading.result.find(first) if first else 0
    before, rest = reading.result[:start], reading.result[start + len(first) :]
    before = f'<span class="tail">{_marked(job, before)}</span>' if whole else ""
    return f'{before}<span class="item">{_marked(job, first)}</span><span class="tail">{_marked(job, rest)}</span>'


def _marked(job: Job, text: str) -> str:
    """Text as markup, with the words that repeat the prompt marked."""
    own = _words(job.settings.prompt)
    parts = re.split(r"(\w+)", text)
    return "".join(
        f'<mark title="repeats the prompt">{_shown(part)}</mark>' if part.lower() in own else _shown(part)
        for part in parts
    )


@lru_cache(maxsize=64)
def _words(prompt: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", prompt.lower())) - SMALL_WORDS


def _scale(score: float, chance: tuple[float, float], threshold: float) -> str:
    """A score on a line from −0.2 to 1, with the range of chance in grey and a tick at the threshold."""

    def at(value: float) -> float:
        return round(100 * (min(max(value, -0.2), 1.0) + 0.2) / 1.2, 1)

    low, high = at(chance[0]), at(chance[1])
    words = f"score {score:.2f}, by chance {chance[0]:.2f} to {chance[1]:.2f}"
    dot = "" if np.isnan(score) else f'<i class="dot" style="left:{at(score)}%"></i>'
    return (
        f'<span class="scale" role="img" aria-label="{words}" title="{words}"><i class="chance" '
        f'style="left:{low}%;width:{round(high - low, 1)}%"></i><i class="tick" style="left:{at(threshold)}%"></i>{dot}</span>'
    )


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


def _score(reading: Reading) -> str:
    return "–" if np.isnan(reading.score) else f"{reading.score:.2f}"


def _shade(score: float) -> str:
    return f"{min(max(np.nan_to_num(score, nan=0.0), 0.0) / FULL_COLOUR, 1.0):.2f}"


def _title(component: str) -> str:
    return escape(TITLES[component]).replace("h_PreMLP", "h<sub>PreMLP</sub>")


def _target(target_layer: str) -> str:
    return "the same layer" if target_layer == "same" else f"layer {escape(target_layer)}"


def _layers(layers: str) -> str:
    return "all layers" if layers == "all" else f"layers {escape(layers)}"


def _quoted(text: str) -> str:
    return f"“{_shown(text.strip() or text)}”"


def _shown(text: str) -> str:
    return escape(text).replace("\n", "⏎")


def _cell_name(key: Key) -> str:
    return "|".join(map(str, key))


def parse_cell(name: object) -> Key | None:
    """(component, layer, position) of a cell's name; None of anything else that a page might send."""
    found = re.fullmatch(r"([a-z_]{1,40})\|(\d{1,6})\|(\d{1,6})", name) if isinstance(name, str) else None
    return (found[1], int(found[2]), int(found[3])) if found else None
