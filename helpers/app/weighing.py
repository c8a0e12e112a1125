"""What the readings of a request are worth, weighed without their prompt: one of each vector is chosen blind."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from ..engine.activations import CapturedPrompts
from ..engine.references import References
from ..judging.confidence import Confidence
from ..judging.evidence import EVIDENCE, Witness
from ..models.load import LanguageModel
from ..runs.evidence import confidence_for, weigh
from ..words.methods import CHOSEN_BLIND
from ..words.target import TargetPrompt

PART = 96  # readings between two looks at whether to stop
MOST_TEXTS = 100_000  # readings after which what is remembered of their texts is forgotten


class Weighed(NamedTuple):
    """What a reading is worth.

    Attributes:
        confidence: the probability that it describes its vector; nan where nothing was calibrated.
        mean_rank: among the readings of its vector; 1 is the best.
        chosen: whether it is the one of its vector.
        verdict: one of `runs.evidence.VERDICTS` if it is chosen, else "".
    """

    confidence: float
    mean_rank: float
    chosen: bool
    verdict: str


UNWEIGHED = Weighed(float("nan"), float("nan"), False, "")


class Weigher:
    """Weighs readings of one model.

    Attributes:
        references: the vectors of other prompts, captured once.
        known: what was fitted for this model; None if nothing was.

    Args:
        prompts: the other prompts.

    Raises:
        InputError: a file of a fitted confidence that can't be read.
    """

    def __init__(self, lm: LanguageModel, prompts: Sequence[str]):
        self._lm, self.references, self.known = lm, References(lm, prompts), confidence_for(lm)
        self._witness: Witness | None = None
        self._texts = 0

    def calibration(self, target_prompt: TargetPrompt) -> Confidence | None:
        """Return what readings of a target prompt can be weighed with: it was fitted on the paper's alone."""
        return self.known if target_prompt.name == TargetPrompt().name else None

    def evidence(
        self, rows: pd.DataFrame, target_prompt: TargetPrompt, sources: CapturedPrompts
    ) -> Iterator[dict[str, tuple[float, ...]]]:
        """Yield the evidence of readings, part by part: id -> the numbers of `evidence.EVIDENCE`.

        Args:
            rows: in the row schema, of one target prompt.
            sources: the activations of their prompts.
        """
        for start in range(0, len(rows), PART):
            part = rows[start : start + PART]
            self._texts += len(part)
            if self._witness is None or self._witness.target_prompt != target_prompt or self._texts > MOST_TEXTS:
                self._witness, self._texts = None, len(part)  # freed before the next one reads its prompt
                self._witness = Witness(self._lm, self.references, target_prompt)
            found = self._witness.of(part, sources)[list(EVIDENCE)]
            yield dict(zip(part["id"], found.itertuples(index=False, name=None), strict=True))

    def forget_large(self, most: int) -> None:
        """Forget the latest target prompt if its keys and values take more than so many bytes."""
        if self._witness and self._witness.bytes > most:
            self._witness = None

    def weigh(
        self, rows: pd.DataFrame, evidence: Mapping[str, tuple[float, ...]], target_prompt: TargetPrompt
    ) -> dict[str, Weighed]:
        """Return what each reading is worth, by its id; rows are all readings of their vectors."""
        return weighed_by(self.calibration(target_prompt), rows, evidence)


def weighed_by(
    calibration: Confidence | None, rows: pd.DataFrame, evidence: Mapping[str, tuple[float, ...]]
) -> dict[str, Weighed]:
    """Return what each reading is worth, by its id.

    Args:
        calibration: what was fitted for their model and target prompt; None if nothing was.
        rows: all readings of their vectors.
        evidence: id -> the numbers of `evidence.EVIDENCE`.
    """
    told = pd.DataFrame([evidence[id] for id in rows["id"]], rows.index, list(EVIDENCE))
    told = rows.drop(columns=list(EVIDENCE), errors="ignore").assign(**told)
    found = weigh(told, calibration)[["confidence", "mean_rank", CHOSEN_BLIND, "verdict"]]
    return {id: Weighed(*worth) for id, worth in zip(rows["id"], found.itertuples(index=False, name=None), strict=True)}
