"""What the model itself tells of its readings: how sure it was, and whether a reading, read back in, is like its vector.

Nothing here sees the words of the source prompt, a description or a score. The model is needed once more: one
teacher-forced pass over what it wrote, and each reading as a source prompt of its own.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import InputError
from ..engine.activations import Activations, CapturedPrompts, capture_batch
from ..engine.prompt import PatchedPrompt
from ..engine.references import References
from ..engine.teacher import TextScores, score_texts
from ..engine.vectors import amplified_vectors
from ..models.load import LanguageModel
from ..words.components import COMPONENTS, Site, parse_component
from ..words.prompts import LEAST_REFERENCES
from ..words.rows import ITEM_COLUMNS, Item
from ..words.target import TargetPrompt
from .score import first_items

EVIDENCE = {  # column -> what it is
    "entropy": "entropy in nats of what the model would write first",
    "item_log_prob": "mean log-probability of the first item's tokens under the vector",
    "pmi": "the same, less their mean log-probability when nothing is patched",
    "round_trip": "how much more the first item, read as a source prompt, is like the vector than like those of other "
    "prompts: a cosine less a mean of cosines, centred on those prompts, in the same component and layer",
}
DECIMALS = 4
USUAL_TOKENS = 12  # of a first item, at most; longer ones cost another reading of the target prompt
TEXTS = 256  # that are captured at a time


class Asked(NamedTuple):
    """Readings that say something, with what they were made from.

    Attributes:
        items: (n,).
        plain: (n, width) their vectors; zeros for a component that no text has by itself.
        amplified: (n, width) what was put at the placeholder; of several, (n, placeholders, width).
        said: (n,) first items.
        written: (n,) what was written up to the end of the first item.
    """

    items: list[Item]
    plain: Tensor
    amplified: Tensor
    said: list[str]
    written: list[str]


class Witness:
    """Tells evidence of a model's readings, beside the vectors of other prompts.

    Attributes:
        columns: what it tells -> what that is.

    Args:
        references: the other prompts, or their vectors where they are at hand; one that is the reading's own is left out.
        target_prompt: that was read with; the paper's if left out.

    Raises:
        InputError: fewer references than LEAST_REFERENCES and one more.
    """

    columns = EVIDENCE

    def __init__(
        self, lm: LanguageModel, references: Sequence[str] | References, target_prompt: TargetPrompt | None = None
    ):
        prompts = references.prompts if isinstance(references, References) else list(dict.fromkeys(references))
        if len(prompts) <= LEAST_REFERENCES:
            why = f"evidence needs at least {LEAST_REFERENCES} other prompts to compare with, beside a reading's own"
            raise InputError("references", len(prompts), why)
        self.lm, self.references = lm, references if isinstance(references, References) else References(lm, prompts)
        self._prompt = PatchedPrompt(lm, target_prompt or TargetPrompt(), USUAL_TOKENS)
        self.target_prompt, self._replaced = self._prompt.target_prompt, self._prompt.placeholder_states
        self._unpatched: dict[str, float] = {}  # text -> its log-probability when nothing is patched

    @property
    def bytes(self) -> int:
        """Return the bytes that its target prompt takes."""
        return self._prompt.bytes

    def of(self, rows: pd.DataFrame, sources: CapturedPrompts | None = None) -> pd.DataFrame:
        """Return the evidence of some rows.

        Args:
            rows: in the row schema, of this model and target prompt.
            sources: activations of their prompts, where they are at hand.

        Returns:
            Its `columns`, with the rows' index; NaN where there is no reading, or no such number.

        Raises:
            InputError: rows of another target prompt, of centred components, whose references the rows don't tell, or,
                without `sources`, of tokens that the model wrote itself.
        """
        if centred := [name for name in rows["component"].unique() if parse_component(name).is_centred]:
            raise InputError("rows", centred, "there is no evidence of centred components yet")
        if others := set(rows["target prompt"]) - {self.target_prompt.name}:
            raise InputError("rows", sorted(others), f"expected readings of the target prompt {self.target_prompt.name!r}")
        found = pd.DataFrame(np.nan, rows.index, list(self.columns))
        rows = rows.assign(said=first_items(rows))
        rows = rows[(rows["status"] == "ok") & (rows["said"] != "")].sort_values("source prompt", kind="stable")
        if not len(rows):
            return found
        for name, values in self._tell(self._asked(rows, sources)).items():
            found.loc[rows.index, name] = values
        return found.round(DECIMALS)

    def _asked(self, rows: pd.DataFrame, sources: CapturedPrompts | None) -> Asked:
        """Look up the vectors of some rows that say something, sorted by prompt."""
        items = [
            Item(**{field: row[name] for name, field in ITEM_COLUMNS.items()}) for row in rows.to_dict("records")
        ]
        sources = sources or self._captured(rows)
        plain, amplified = [], []
        for prompt, of in groupby(items, lambda item: item.source_prompt):  # one prompt's activations are in memory
            some, at = list(of), sources[prompt]
            amplified.append(amplified_vectors(some, {prompt: at}, self._replaced, span=self.target_prompt.span))
            plain += [self._recorded(item, at) for item in some]
        written = [_up_to(item, result) for item, result in zip(rows["said"], rows["result"], strict=True)]
        return Asked(items, torch.stack(plain), torch.cat(amplified), rows["said"].tolist(), written)

    def _captured(self, rows: pd.DataFrame) -> CapturedPrompts:
        for prompt, furthest in rows.groupby("source prompt", sort=False)["position"].max().items():
            if furthest >= len(self.lm.token_ids(prompt)):
                why = f"token {furthest} is none of the prompt's: there is no evidence of what the model writes on"
                raise InputError("rows", prompt, why)
        return CapturedPrompts(self.lm, list(dict.fromkeys(rows["source prompt"])))

    def _recorded(self, item: Item, at: Activations) -> Tensor:
        """Return an item's vector as the model made it, (width,) float32 on the CPU; zeros where it isn't one of COMPONENTS."""
        if item.component not in COMPONENTS:
            return torch.zeros(self.lm.width)
        return at[item.component][item.layer, item.position].float().cpu()

    def _tell(self, asked: Asked) -> dict[str, np.ndarray]:
        """Return each of `columns` of some readings, (n,)."""
        scores = self._scores(asked.amplified, asked.items, asked.written)
        log_prob = scores.log_prob.numpy()
        return {
            "entropy": scores.entropy.numpy(),
            "item_log_prob": log_prob,
            "pmi": log_prob - self._when_unpatched(asked.written),
            "round_trip": self._round_trips(asked.items, asked.plain, asked.said),
        }

    def _scores(self, vectors: Tensor, items: Sequence[Item], texts: Sequence[str]) -> TextScores:
        """Score texts under vectors that are put where items are."""
        return score_texts(self.lm, vectors, texts=texts, target_prompt=self._prompt, **places_of(items))

    def _when_unpatched(self, texts: Sequence[str]) -> np.ndarray:
        """Return the mean log-probability of each text when nothing is patched, (n,)."""
        if new := sorted({*texts} - self._unpatched.keys()):
            scores = score_texts(self.lm, None, 0, new, self._prompt)
            self._unpatched |= dict(zip(new, scores.log_prob.tolist(), strict=True))
        return np.array([self._unpatched[text] for text in texts])

    def _round_trips(self, items: Sequence[Item], vectors: Tensor, texts: Sequence[str]) -> np.ndarray:
        """Return each reading's round trip, (n,); NaN for a component that a text doesn't have by itself.

        Args:
            vectors: (n, width), not amplified.
            texts: (n,) first items.
        """
        found = np.full(len(items), np.nan)
        rows_of: dict[str, list[int]] = {}
        for row, (item, text) in enumerate(zip(items, texts, strict=True)):
            if item.component in COMPONENTS:
                rows_of.setdefault(text, []).append(row)
        distinct, deepest = sorted(rows_of), max((item.layer for item in items), default=0)
        for start in range(0, len(distinct), TEXTS):
            some = distinct[start : start + TEXTS]
            groups: dict[tuple[Site, str], list[tuple[int, Tensor]]] = {}
            for text, activations in zip(some, capture_batch(self.lm, some, deepest), strict=True):
                for row in rows_of[text]:
                    site, own = items[row].source, items[row].source_prompt
                    read = activations[site.component][site.layer, -1].float().cpu()
                    groups.setdefault((site, own if own in self.references.prompts else ""), []).append((row, read))
            for (site, own), pairs in groups.items():
                rows, back = [row for row, _ in pairs], torch.stack([read for _, read in pairs])
                found[rows] = round_trip(vectors[rows], back, self.references.vectors(site, own)).numpy()
        return found


def round_trip(vectors: Tensor, back: Tensor, references: Tensor) -> Tensor:
    """Return cos(back − μ, v − μ) less its mean over references in the place of v, (n,); μ is the references' mean.

    Without the centring, the direction that all vectors share would win.

    Args:
        vectors: (n, width), what was read.
        back: (n, width), what its reading gives as a source prompt.
        references: (m, width).
    """
    mean = references.mean(0)
    vectors, back, others = (
        torch.nn.functional.normalize(values - mean, dim=-1) for values in (vectors, back, references)
    )
    return (back * vectors).sum(-1) - (back @ others.T).mean(-1)


def places_of(items: Sequence[Item]) -> dict[str, list]:
    """Return where items are put, as `interpret` and `score_texts` take it."""
    targets = [item.target for item in items]
    return {"target_layers": [one.layer for one in targets], "target_component": [one.component for one in targets]}


def _up_to(item: str, result: str) -> str:
    """Return what was written up to the end of the first item."""
    return result[: result.index(item) + len(item)]
