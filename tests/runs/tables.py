"""The plans that the tests of runs read, and their readings."""

import hashlib
import io

import numpy as np
import pandas as pd

from helpers.runs.readings import Readings
from helpers.words.plans import make_plan
from helpers.words.settings import ReadSettings

PROMPTS = ["Titanic", "Star Wars", "Diana, Princess of Wales"]
GRID = {"components": ("hidden_state", "mlp_output"), "layers": "all", "amplifiers": (1, 2, 5), "max_new_tokens": 4}
PLANS = [make_plan(PROMPTS, **GRID), make_plan(PROMPTS[:2], layers=1, amplifiers=(1, 3), max_new_tokens=3)]
ROWS = 3 * 2 * 3 * 3 + 2 * 2


def make_readings(model, out_dir, bar=None, session=None, **settings) -> Readings:
    """Return readings of a model, by the names of settings."""
    return Readings(ReadSettings.of({"model": str(model), "out_dir": str(out_dir)} | settings), session, bar)


def assert_same_but_for_rounding(first: bytes, second: bytes) -> None:
    """Check that two CSVs are the same; what is measured may differ in a last digit, when batches or threads differ."""
    rows, others = (pd.read_csv(io.BytesIO(content), keep_default_na=False, dtype=str) for content in (first, second))
    measured = ["rho", "entropy", "log_prob"]
    assert rows.drop(columns=measured).equals(others.drop(columns=measured))
    for name in measured:
        numbers, other = (pd.to_numeric(table[name]) for table in (rows, others))
        assert np.allclose(numbers, other, rtol=1e-3, atol=2e-3, equal_nan=True), name


class QuickJudge:
    """A judge without a sentence model: texts have vectors that only their letters decide."""

    name, fingerprint, threshold = "quick", "0123456789abcdef", 0.3

    def embed(self, texts):
        vectors = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) - 127.5 for text in texts]
        return np.array([vector / np.linalg.norm(vector) for vector in vectors], np.float32)
