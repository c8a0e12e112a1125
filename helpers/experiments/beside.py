"""How often is the right word found by each way of reading the same vector: lenses, the nearest text, readings?"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from .. import InputError
from ..words.components import title
from ..words.methods import CHOSEN_BLIND
from ..words.prompts import OUR_PROMPTS
from ..words.settings import THRESHOLD, Cosine, FilePath, FilePaths, Positive, ReadSettings, TargetText, setting
from ..words.target import TargetPrompt
from ._evaluated import FILES, check_asked, chosen_blind, fitted_folders, folder_of, with_confidence
from ._publish import publish
from ._sentences import in_runs, percent, with_interval
from ._usual import ask_for_nothing, described

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from ..runs.readings import Readings

PLACE, WHEN = 107, "study"
QUESTION = "what do lenses, neighbours and readings find?"
PAPER = "–"
TABLE = ""
NEEDS = FILES

ALL = "all"  # layers together
LOGIT, JACOBIAN, NEAREST = "logit lens", "Jacobian lens", "nearest text"
PLAIN, CHOSEN = "plain reading", "reading chosen blind"
TEXT_ONLY, CONTINUATION = "text only", "continuation only"
WAYS = {  # way -> colour and marker
    LOGIT: ("#b07aa1", "v"), JACOBIAN: ("#59a14f", "^"), NEAREST: ("#76645b", "s"), PLAIN: ("#4e79a7", "D"), CHOSEN: ("#e15759", "o"),
    TEXT_ONLY: ("#1f2933", "*"), CONTINUATION: ("#7b8794", "P"),
}  # fmt: skip
RULES = {"words": "a word of the description is named", "similarity": "similar to the description"}


class Settings(ReadSettings):
    """The parameters of the notebook."""

    prompts: FilePath = setting(OUR_PROMPTS, "a CSV with the columns `prompt` and `gold`, relative to the repository")
    results: FilePaths = setting((), "CSVs to read, relative to the repository; empty is the evaluations in out_dir")
    lens: FilePath = setting("", "a Jacobian lens; empty is the one that `./runme.sh lens fit` has made, if it has")
    bank: FilePath = setting("", "texts for neighbours, a line each; empty is the suite's names and descriptions")
    target_prompt: TargetText = setting("", "what the readings were asked with, for text only; empty is the paper's")
    tries: Positive = setting(5, "tokens of a lens, or words of a text, among which a word may be")
    threshold: Cosine = THRESHOLD


plans, gold = ask_for_nothing, described


def content_words(text: str) -> list[str]:
    """Return the words of a text that mean something, in their order."""
    import re

    from ..judging.judge import SMALL_WORDS

    return [word for word in re.findall(r"\w+", text) if word.lower() not in SMALL_WORDS]


def gather(readings: Readings) -> pd.DataFrame:
    """Read the stored readings' vectors in each other way.

    Returns:
        A row per component, layer, way and source prompt: what it says, and the content words that it names (a tuple,
        in lower case). A lens is asked for the first tokens of all descriptions' words, so it names those alone. What
        is written without a vector (text only, continuation only) is the same at each layer.
        `.attrs`: model, bank (texts), texts of the lens (None without one).

    Raises:
        InputError: no evaluation of this model, or one of several tokens; fewer than two prompts with a description;
            readings of another target prompt; or a lens of another model.
    """
    import pandas as pd
    import torch

    from ..engine.activations import CapturedPrompts
    from ..engine.plain import in_plain_text
    from ..lenses.jacobian import fitted_lens
    from ..lenses.logit import ranks, vocabulary
    from ..lenses.neighbours import Bank, read_bank
    from ..runs.plain import plain_texts
    from ..runs.results import evaluations, read_results
    from ..words.components import Site

    settings, descriptions = readings.settings, gold(readings.settings)
    rows = read_results(settings.results or evaluations(folder_of(settings)))
    check_asked(settings, [rows], readings.card.slug)
    rows = rows[rows["source prompt"].isin(descriptions)]
    prompts = list(rows["source prompt"].unique())
    if len({descriptions[prompt] for prompt in prompts}) < 2:
        raise InputError("prompts", settings.prompts, "chance needs two of its prompts, read and with descriptions that differ")
    if (rows.groupby("source prompt")["position"].nunique() > 1).any():
        raise InputError("results", list(settings.results), "expected readings of one token of each prompt")
    target = TargetPrompt.of_text(settings.target_prompt).located(readings.card)
    if others := set(rows["target prompt"]) - {target.name}:
        raise InputError("target_prompt", settings.target_prompt, f"the readings are of {', '.join(sorted(others))}, not of {target.name}")
    asked = in_plain_text(readings.card, prompts, target)
    texts = [*read_bank(settings.bank), *(descriptions.values() if not settings.bank else ())]
    lm = readings.lm
    lens = fitted_lens(lm, settings.lens)
    sites = [Site(*site) for site in rows[["component", "layer"]].drop_duplicates().itertuples(index=False)]
    bank, sources = Bank(lm, texts, sites), CapturedPrompts(lm, prompts)
    position = dict(zip(rows["source prompt"], rows["position"].astype(int), strict=True))
    vectors = {site: torch.empty(len(prompts), lm.width) for site in sites}
    for number, prompt in enumerate(prompts):
        for site, of in vectors.items():
            of[number] = sources[prompt][site.component][site.layer, position[prompt]].float().cpu()
    words = sorted({word for prompt in prompts for word in content_words(descriptions[prompt])})
    named = torch.tensor([[prompt.lower() in text.lower() for text in bank.texts] for prompt in prompts])
    marked, _ = chosen_blind(with_confidence(rows, *fitted_folders(settings)), readings.judge)
    written = plain_texts(readings, [*asked, *prompts], settings.max_new_tokens)
    texts_only, followed = [written[text] for text in asked], [written[prompt] for prompt in prompts]
    items_only = [target.first_item(text) for text in texts_only]
    read = {PLAIN: rows[rows["amplification value"] == 1], CHOSEN: marked[marked[CHOSEN_BLIND]]}

    def by_lens(of: torch.Tensor) -> list[tuple[str, Sequence[str]]]:
        rank = ranks(lm, of, words)
        within = ((rank > 0) & (rank <= settings.tries)).tolist()
        told = [[word for word, there in zip(words, row, strict=True) if there] for row in within]
        said = [" ".join(token.strip() for token, _ in one) for one in vocabulary(lm, of, settings.tries)]
        return list(zip(said, told, strict=True))

    def by_words(says: Sequence[str], of: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
        return [(said, content_words(text)[: settings.tries]) for said, text in zip(says, of, strict=True)]

    def of_readings(of: pd.DataFrame, site: Site) -> list[tuple[str, Sequence[str]]]:
        some = of[(of["component"] == site.component) & (of["layer"] == site.layer)].drop_duplicates("source prompt")
        some = some.set_index("source prompt").reindex(prompts)
        some.loc[some["status"] != "ok", ["result", "first item"]] = ""
        return by_words(some["result"], some["first item"])

    lines = []
    for site, of in vectors.items():
        near = [bank.texts[number] for number in bank.cosines(of, site).masked_fill(named, -torch.inf).argmax(1)]
        said = {LOGIT: by_lens(of)}
        if lens and (site.layer in lens.jacobians or site.layer == lm.num_layers - 1):
            said[JACOBIAN] = by_lens(lens.carried(of, site.layer, lm.num_layers - 1))
        said |= {NEAREST: by_words(near, near)} | {way: of_readings(some, site) for way, some in read.items()}
        said |= {TEXT_ONLY: by_words(texts_only, items_only), CONTINUATION: by_words(followed, followed)}
        for way, told in said.items():
            for prompt, (says, words_named) in zip(prompts, told, strict=True):
                lower = tuple(word.lower() for word in words_named)
                lines.append((site.component, site.layer, way, prompt, says, lower))
    found = pd.DataFrame(lines, columns=["component", "layer", "way", "source prompt", "says", "names"])
    found.attrs = {"model": lm.slug, "bank": len(bank.texts), "texts of the lens": lens.n_prompts if lens else None}
    return found


class Found(NamedTuple):
    """What each way finds.

    Attributes:
        model: whose vectors they are.
        prompts: how many; layers: which.
        bank: how many texts.
        lens: over how many texts the Jacobian lens was fitted; None without one.
        table: judged by, component, way, layer (or ALL), and the columns of `effects.beside_chance`.
    """

    model: str
    prompts: int
    layers: str
    bank: int
    lens: int | None
    table: pd.DataFrame


def tables(settings: Settings, rows: pd.DataFrame) -> Found:
    """Compare what each way finds with chance: the same words and texts, judged by other prompts' descriptions."""
    import numpy as np
    import pandas as pd

    from ..judging.chance import others
    from ..judging.effects import beside_chance
    from ..judging.judge import Judge

    judge, descriptions = Judge(settings.judge, settings.threshold), gold(settings)
    prompts = list(rows["source prompt"].unique())
    truths = [descriptions[prompt] for prompt in prompts]
    wanted, allowed = [set(content_words(truth.lower())) for truth in truths], others(truths)
    cosines = judge.embedded(rows["says"].tolist()) @ judge.embedded(truths).T
    cosines[(rows["says"] == "").to_numpy()] = -1
    right = {
        "words": np.array([[bool(of.intersection(names)) for of in wanted] for names in rows["names"]]),
        "similarity": cosines > settings.threshold,
    }
    lines, place = [], np.arange(len(rows))
    for rule, component, way in product(RULES, rows["component"].unique(), WAYS):
        mine = (rows["component"] == component) & (rows["way"] == way)
        of = {layer: right[rule][place[mine & (rows["layer"] == layer)]] for layer in sorted(rows["layer"][mine].unique())}
        for layer, table in [(ALL, np.mean(list(of.values()), axis=0)), *of.items()] if of else []:
            about = {"judged by": rule, "component": component, "way": way, "layer": layer}
            lines.append(about | beside_chance(np.asarray(table, float), allowed))
    attrs = rows.attrs
    layers = in_runs(rows["layer"])
    return Found(attrs["model"], len(prompts), layers, attrs["bank"], attrs["texts of the lens"], pd.DataFrame(lines))


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say how often each way finds what a vector stands for, over all layers."""
    said = []
    for row in found.table[found.table["layer"] == ALL].to_dict("records"):
        said.append(
            f"{title(row['component'])}, {row['way']}, {RULES[row['judged by']]}: {percent(row['rate'])}, "
            f"{with_interval(row)} above chance."
        )
    return [*said, _lens(found)]


def _lens(found: Found) -> str:
    if found.lens is None:
        return "There is no Jacobian lens of this model; ./runme.sh lens fit makes one."
    return f"The Jacobian lens is a mean over {found.lens} texts."


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    return (
        f"{found.model}, {found.prompts} prompts, source layers {found.layers}; how often each way is right, less how often by chance: the same "
        f"words judged by other prompts' descriptions. Above: a content word of the description among {settings.tries} tries, the likeliest tokens of "
        f"a lens (a word by its first token) or the first words of a text. Below: similarity to the description above {settings.threshold:g}, of a lens's "
        f"tokens joined, the text, the whole reading. Nearest text: of {found.bank} names and descriptions, every prompt's own description "
        f"among them; a text with the prompt's name in it is left out. Without a vector, the same at each layer: text only is what the model "
        f"writes when the target prompt has the prompt in plain text, continuation only what it writes after the prompt by itself. {_lens(found)} 95 % intervals over prompts."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw each way's effect by layer and over all layers, a row per rule, a panel per component."""
    import matplotlib.pyplot as plt
    import numpy as np

    from ..figures import panels
    from ..figures.style import LINE, STYLE

    table, components = found.table, list(found.table["component"].unique())
    layers = [layer for layer in table["layer"].unique() if layer != ALL]
    with plt.rc_context(STYLE):
        size = (1 + 5.2 * len(components), 8.4)
        drawn, axes = plt.subplots(len(RULES), len(components), figsize=size, squeeze=False, sharey="row", layout="constrained")
        ways = [way for way in WAYS if (table["way"] == way).any()]
        for (row, rule), (column, component) in product(enumerate(RULES), enumerate(components)):
            panel = axes[row, column]
            panels.zero_line(panel)
            for way, offset in zip(ways, panels.offsets(len(ways), 0.15), strict=True):
                of = table[(table["judged by"] == rule) & (table["component"] == component) & (table["way"] == way)]
                of = of.assign(at=[len(layers) + 0.4 if layer == ALL else layers.index(layer) for layer in of["layer"]])
                colour, marker = WAYS[way]
                if way in (TEXT_ONLY, CONTINUATION):  # the same at each layer
                    of = of[of["layer"] == ALL]
                    panel.axhline(of["effect"].iloc[0], color=colour, lw=0.8, ls=":")
                look = {"color": colour, "marker": marker, "label": way, "ms": 4.5, "elinewidth": 1}
                panels.interval_dots(panel, np.asarray(of["at"], float) + offset, of, over_chance=True, **look)
            panel.axvline(len(layers) - 0.3, color=LINE, lw=1)
            panel.set_xticks([*range(len(layers)), len(layers) + 0.4], [*map(str, layers), ALL])
            panel.set_title(f"{title(component)}: {RULES[rule]}", fontsize=10)
            panels.percent(panel.yaxis)
        for panel in axes[-1]:
            panel.set_xlabel("source layer")
        for panel in axes[:, 0]:
            panel.set_ylabel("right, above chance")
        panels.legend_below(drawn, axes[0, 0], columns=4)
        return panels.finish(drawn, caption(settings, found))


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure and the effects."""
    about = {
        "model": found.model, "prompts": found.prompts, "tries": settings.tries, "threshold": settings.threshold,
        "bank": found.bank, "texts of the lens": found.lens, "verdict": sentences(settings, found),
    }  # fmt: skip
    publish(folder, {"beside": drawn}, found.table, "beside.csv", about)
