"""Labels of a prompt's vectors, as a table: what a command, a notebook and the page make of `engine.labels`."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import pandas as pd
import torch

from ..engine.activations import Activations, capture
from ..engine.labels import LabelScorer, LabelScores, reference_vectors
from ..engine.references import last_tokens
from ..engine.vectors import amplified_vectors
from ..models.load import LanguageModel
from ..words.labels import LabelSettings
from ..words.rows import ITEM_COLUMNS, Item
from .sweep import describe

WHICH = (  # columns of the row schema that say which vector
    "source prompt", "token", "position", "component", "layer", "target layer", "amplification value", "target prompt",
)  # fmt: skip
STEP = 64  # vectors between two looks at whether to stop
SCORES = ("log odds", "probability", "chance", "others as probable")


def label(
    lm: LanguageModel,
    prompt: str,
    labels: str | Sequence[str],
    progress: Callable[[int, int], None] | None = None,
    **settings,
) -> pd.DataFrame:
    """Ask which of a few labels a prompt's vectors are, and return the probability of each, beside chance.

    Args:
        labels: "band, person, country, food", or a list.
        progress: called after each vector with (vectors done, vectors in all).
        settings: component ("hidden_state"), layers ("1-7"), amplifiers (1, 2), token (-1), target_layer (the paper's
            for the component), target_prompt (the paper's), prompts (a CSV of prompts whose last tokens give the
            reference vectors), batch_size: see `words.labels.LabelSettings`.

    Returns:
        A row per vector and label, in the order given: which vector; `label`; `continuation`, the text that was scored;
        `log odds`, of that text with the vector over nothing patched; `probability`, their softmax over the labels;
        `chance`, the mean probability under the same component, layer and amplifier of the other prompts; `others as
        probable`, the share of those under which the label is at least as probable. `.attrs` says what made it.

    Raises:
        InputError: names the parameter, what was given and what is allowed.
    """
    asked = LabelSettings.of({"model": lm.name, **settings, "prompt": prompt, "labels": labels})
    return label_as_asked(lm, asked, progress)


def label_as_asked(
    lm: LanguageModel, asked: LabelSettings, progress: Callable[[int, int], None] | None = None
) -> pd.DataFrame:
    """Return what `label` returns, of settings that are a record already."""
    plan = asked.plan()
    items, others = plan.items(lm), asked.references()
    scorer = LabelScorer(lm, asked.labels, plan.target_prompt)
    sources, references = {asked.prompt: capture(lm, asked.prompt)}, last_tokens(lm, others)
    scores = []
    for item in items:
        scores += [found for found in score_in_steps(scorer, item, sources, references, asked.batch_size) if found]
        if progress:
            progress(len(scores), len(items))
    rows = rows_of_labels(items, scores)
    rows.attrs = {**describe(lm, plan), "settings": asked.shown(), "references": len(others)}
    return rows


def score_in_steps(
    scorer: LabelScorer,
    item: Item,
    sources: Mapping[str, Activations],
    references: Mapping[str, Activations],
    batch_size: int = 0,
) -> Iterator[LabelScores | None]:
    """Score a vector's labels in a few passes; yield None after each but the last, and then the scores of one vector.

    Args:
        sources: source prompt -> its activations; of the item's alone are enough.
        references: of `engine.references.last_tokens`.
        batch_size: rows at a time; 0 is a good number.
    """
    replaced = scorer.prompt.placeholder_states
    own = amplified_vectors([item], sources, replaced)
    vectors = torch.cat([own, reference_vectors(item, references, replaced)])
    found = []
    for part in vectors.split(STEP):
        if found:
            yield None
        found.append(scorer.log_odds(part, [item.target] * len(part), batch_size or None))
    odds = torch.cat(found)
    yield scorer.scores(odds[:1], odds[None, 1:])


def rows_of_labels(items: Sequence[Item], scores: Sequence[LabelScores]) -> pd.DataFrame:
    """Return items with the scores of their labels as a table; see `label`."""
    rows = [
        {name: getattr(item, ITEM_COLUMNS[name]) for name in WHICH}
        | {"label": name, "continuation": text}
        | dict(zip(SCORES, (round(value, 6) for value in values), strict=True))
        for item, found in zip(items, scores, strict=True)
        for name, text, *values in zip(
            found.labels, found.continuations, found.log_odds[0].tolist(), found.probability[0].tolist(),
            found.chance[0].tolist(), found.as_probable[0].tolist(), strict=True,
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)
