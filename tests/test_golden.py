"""METHOD_VERSION guards the results: these rows of the real model may change only together with it."""

import pandas as pd
from conftest import GOLDEN

from helpers.plans import COMPONENTS, METHOD_VERSION
from helpers.results import read_results
from helpers.superscopes import ROW_COLUMNS, sweep


def golden_rows(lm) -> pd.DataFrame:
    """Every component, both kinds of target layer, a repeated look at one prompt, in float32."""
    return sweep(
        lm,
        ["Diana, Princess of Wales", "Alexander the Great", "Titanic"],
        components=COMPONENTS,
        layers=[1, 7],
        amplifiers=[1, 1.5, 9],
        target_layer=["same", 0],
    )


def test_golden_rows(lm):
    expected, rows = read_results(GOLDEN), golden_rows(lm)
    assert METHOD_VERSION == 2, "a new version of the method: make its golden rows with `python tests/test_golden.py`"
    for column in ROW_COLUMNS:
        if column.startswith("score") or column == "rho":  # rounded: the last digit may differ between processors
            close = (rows[column] - pd.to_numeric(expected[column])).abs().fillna(0)
            assert (close <= 2e-3 * expected[column].abs() if column == "rho" else close <= 2e-6).all(), column
        elif column != "seed":
            assert rows[column].tolist() == expected[column].tolist(), column


if __name__ == "__main__":
    from helpers.models import load_model
    from helpers.results import save_results

    save_results(golden_rows(load_model("smollm2-135m")), GOLDEN)
