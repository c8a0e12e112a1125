"""METHOD_VERSION guards the results: these rows of the real model may change only together with it."""

import pandas as pd
import pytest

from helpers import ROOT
from helpers.runs.results import read_results, save_results
from helpers.runs.sweep import sweep
from helpers.words.components import COMPONENTS
from helpers.words.plans import METHOD_VERSION
from helpers.words.rows import DIGITS, ROW_COLUMNS

GOLDEN = ROOT / "tests" / "golden.csv"


PROMPTS = ["Diana, Princess of Wales", "Alexander the Great", "Titanic"]


def golden_rows(lm, prompts=PROMPTS) -> pd.DataFrame:
    """Read every component into both kinds of target layer, in float32."""
    return sweep(
        lm,
        prompts,
        components=COMPONENTS,
        layers=[1, 7],
        amplifiers=[1, 1.5, 9],
        target_layer=["same", 0],
    )


@pytest.mark.parametrize("prompts", [PROMPTS[:1], pytest.param(PROMPTS, marks=pytest.mark.slow)], ids=["a prompt", "all"])
def test_golden_rows(lm, prompts):
    expected, rows = read_results(GOLDEN), golden_rows(lm, prompts)
    expected = expected[expected["source prompt"].isin(prompts)].reset_index(drop=True)
    assert len(expected) == len(rows) == 48 * len(prompts)
    how = "a new version of the method: make its golden rows with `python -m tests.engine.test_golden`"
    assert METHOD_VERSION == 2, how
    for column in ROW_COLUMNS:
        if column in DIGITS:  # rounded; the last digits may differ between processors
            close = (rows[column] - pd.to_numeric(expected[column])).abs().fillna(0)
            within = {"rho": 2e-3 * expected["rho"].abs(), "entropy": 2e-3, "log_prob": 2e-3}.get(column, 1e-5)
            assert (close <= within).all(), column
            assert (rows[column].isna() == expected[column].isna()).all(), column
        elif column != "seed":
            assert rows[column].tolist() == expected[column].tolist(), column


if __name__ == "__main__":
    from helpers.models.load import load_model

    save_results(golden_rows(load_model("smollm2-135m")), GOLDEN)
