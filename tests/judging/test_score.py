"""The score columns, against similarities of single pairs."""

import numpy as np
import pandas as pd

from helpers.judging.judge import similarity
from helpers.judging.score import first_items, score


def rows_of(*readings):
    return pd.DataFrame(readings, columns=["source prompt", "result"]).assign(status="ok")


def test_score_columns():
    rows = rows_of(("Pink Floyd", ": rock band, Tesla"), ("Titanic", "ship"), ("Titanic", ""))
    rows.loc[2, "status"] = "nonfinite"
    scored = score(rows, gold={"Titanic": "A ship that sank in 1912"})
    pairs = similarity([": rock band, Tesla", "ship"], ["Pink Floyd", "Titanic"])
    np.testing.assert_allclose(scored["score"][:2], pairs, atol=2e-6)
    assert (scored["score"].round(6) == scored["score"])[:2].all()
    np.testing.assert_allclose(scored["score first item"][0], similarity(["rock band"], ["Pink Floyd"])[0], atol=2e-6)
    by_gold = similarity(["ship"], ["A ship that sank in 1912"])[0]
    np.testing.assert_allclose(scored["score gold"][1], by_gold, atol=2e-6)
    assert scored[["score", "score first item", "score gold"]].isna().values.tolist()[2] == [True] * 3
    assert np.isnan(scored["score gold"][0])
    assert "score" not in rows


def test_a_first_item_ends_where_its_target_prompt_says():
    """Another target prompt may separate its items otherwise; rows carry what their own prompt's separator gives."""
    rows = rows_of(("Pink Floyd", ": rock band, British; Tesla"))
    assert first_items(rows) == ["rock band"]
    rows["first item"] = ["rock band, British"]
    assert first_items(rows) == ["rock band, British"]
    found = score(rows)["score first item"][0]
    np.testing.assert_allclose(found, similarity(["rock band, British"], ["Pink Floyd"])[0], atol=2e-6)


def test_no_rows_have_no_scores():
    assert score(rows_of())["score"].tolist() == []
