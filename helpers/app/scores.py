"""How similar a reading is to its prompt, and to the other prompts that chance is made of."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..judging.judge import Judge
from ..words.chats import plain_text
from ..words.prompts import other_prompts
from ..words.rows import Reading


class Scored(NamedTuple):
    """A reading with its scores.

    Attributes:
        reading: what the model wrote.
        score: similarity to the prompt; nan if the reading failed.
        chance: (other prompts,) float32, similarity to each of them; -1 if the reading failed.
    """

    reading: Reading
    score: float
    chance: np.ndarray


class Scorer:
    """Scores the readings of one prompt.

    Args:
        judge: keeps the embeddings of `prompts`, nothing else.
        prompts: which chance is made of, without the prompt itself.
    """

    def __init__(self, judge: Judge, prompt: str, prompts: Sequence[str]):
        self._judge, prompt = judge, plain_text(prompt)
        self._prompt = judge.embed([prompt])[0]  # (d,)
        self._others = judge.embedded(other_prompts(prompt, prompts))  # (other prompts, d)

    def score(self, readings: Sequence[Reading]) -> list[Scored]:
        """Return the readings with their scores."""
        vectors = self._judge.embed([reading.result for reading in readings])
        is_ok = np.array([reading.status == "ok" for reading in readings])
        scores = np.where(is_ok, vectors @ self._prompt, np.nan).tolist()
        chance = np.where(is_ok[:, None], vectors @ self._others.T, np.float32(-1))  # a failed reading is no try
        return [Scored(*scored) for scored in zip(readings, scores, chance, strict=True)]
