"""Precision and recall of a rule, against counts by hand; and the graded readings that are published."""

import numpy as np
import pandas as pd
import pytest

from helpers import ROOT, InputError
from helpers.experiments import right_readings
from helpers.judging.judge import similarity
from helpers.words.prompts import read_gold

GRADED = pd.read_csv(ROOT / "data/graded_readings.csv", keep_default_na=False)


def test_precision_and_recall_are_weighted_counts():
    settings = right_readings.Settings()
    rows = right_readings.read(settings)[::4].reset_index(drop=True)
    rows["right"] = rows["grade"] >= 2
    found = right_readings.tables(settings, rows)
    gold = read_gold("data/prompts.csv")
    for way, truths in ((right_readings.LEAD, [gold[p] for p in rows["source prompt"]]), (right_readings.PAPERS_WAY, rows["source prompt"])):
        above = similarity(rows["result"].tolist(), list(truths)) > 0.3
        hits, weight = (above & rows["right"]) * rows["weight"], rows["weight"]
        numbers = right_readings.at(found, way)
        assert numbers["precision"] == pytest.approx(hits.sum() / weight[above].sum(), abs=1e-4)
        assert numbers["recall"] == pytest.approx(hits.sum() / weight[rows["right"]].sum(), abs=1e-4)
        assert numbers["precision low"] <= numbers["precision"] <= numbers["precision high"]
        assert numbers["recall low"] <= numbers["recall"] <= numbers["recall high"]
    said = " ".join(right_readings.sentences(settings, found))
    assert f"{len(rows)} readings of 4 models" in said and "precision" in said
    assert len(right_readings.figure(settings, found).axes) == 2


def test_a_threshold_that_nothing_reaches_is_drawn():
    settings = right_readings.Settings(threshold=1.0)
    found = right_readings.tables(settings, right_readings.read(settings)[::8].reset_index(drop=True))
    assert np.isnan(right_readings.at(found, right_readings.LEAD)["precision"])
    assert len(right_readings.figure(settings, found).axes) == 2


def test_a_lenient_reader_finds_more_right():
    strict, lenient = (right_readings.Settings.of({"right_from": grade}) for grade in (3, 1))
    rows = right_readings.read(strict)
    share = [(rows["grade"] >= settings.right_from).mean() for settings in (strict, lenient)]
    assert share[0] < share[1]
    with pytest.raises(InputError, match="right_from=0: expected a grade, 1 to 3"):
        right_readings.Settings.of({"right_from": 0})


def test_the_graded_readings_stand_for_all_of_four_models():
    assert len(GRADED) >= 300 and GRADED["model"].nunique() == 4
    assert GRADED["weight"].sum() == pytest.approx(4 * (2016 + 3360), abs=1), "the readings of both evaluations"
    assert GRADED["grade"].isin(range(4)).all() and GRADED["id"].is_unique
    settled, both = GRADED["grade"], GRADED[["first reader", "second reader"]]
    assert ((settled >= both.min(axis=1)) & (settled <= both.max(axis=1))).all()


def test_the_graded_readings_are_rows_of_the_evaluations():
    for (model, component), part in GRADED.groupby(["model", "component"]):
        rows = pd.read_csv(ROOT / f"data/{model}/{component}.csv", keep_default_na=False).set_index("id")
        assert (rows.loc[part["id"], "result"].to_numpy() == part["result"].to_numpy()).all()


def test_a_file_that_lacks_something_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        right_readings.read(right_readings.Settings.of({"graded": "nowhere.csv"}))
    GRADED.drop(columns="grade").to_csv(tmp_path / "some.csv", index=False)
    with pytest.raises(InputError, match="lacks .'grade'."):
        right_readings.read(right_readings.Settings.of({"graded": str(tmp_path / "some.csv")}))
    odd = GRADED.head(2).assign(**{"source prompt": "Nobody"})
    odd.to_csv(tmp_path / "odd.csv", index=False)
    with pytest.raises(InputError, match="no description of 'Nobody'"):
        right_readings.read(right_readings.Settings.of({"graded": str(tmp_path / "odd.csv")}))
    assert np.isfinite(GRADED["weight"]).all()
