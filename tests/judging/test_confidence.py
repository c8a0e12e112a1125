"""The confidence: it tells right from wrong where the evidence does, promises what is true, and never saw the judged."""

import json

import numpy as np
import pandas as pd
import pytest

from helpers import InputError
from helpers.judging.confidence import (
    Confidence,
    auroc,
    best_of,
    calibration_error,
    digest_of,
    fit,
    out_of_category,
    places_of,
    probability,
    reliability,
)
from helpers.judging.evidence import EVIDENCE

COMPONENTS = ("mlp_output", "hidden_state")


def made(entities=160, tries=4, seed=0, slope=2.0):
    """Readings whose chance to be right follows `pmi`: rows with evidence, which are right, and their categories."""
    rng = np.random.default_rng(seed)
    lines = [
        (f"entity {number}", -1, component, 2, 2, float(alpha), f"{number} {component} {alpha}")
        for number in range(entities)
        for component in COMPONENTS
        for alpha in range(1, tries + 1)
    ]
    columns = ["source prompt", "position", "component", "layer", "target layer", "amplification value", "id"]
    rows = pd.DataFrame(lines, columns=columns).assign(status="ok")
    rows[list(EVIDENCE)] = rng.normal(size=(len(rows), len(EVIDENCE)))
    right = rng.random(len(rows)) < probability(slope * rows["pmi"] - 1)
    return rows, right.to_numpy(), rows["source prompt"].map(lambda name: int(name.split()[1]) % 4).to_numpy()


def test_it_learns_what_the_evidence_tells_and_promises_what_is_true():
    rows, right, _ = made(800)
    confidence = Confidence({}, fit(rows, right), {})
    for component in COMPONENTS:
        weights = dict(zip(EVIDENCE, confidence.fitted[f"{component} into same"].weights, strict=True))
        assert weights["pmi"] > 1 and all(abs(weights[name]) < 0.5 for name in EVIDENCE if name != "pmi")
    other, truth, _ = made(800, seed=1)
    sure = confidence.of(other)
    chosen = best_of(other, sure)
    assert len(chosen) == 800 * 2, "one reading of each vector"
    picked = other.assign(right=truth).loc[chosen, "right"]
    assert auroc(sure, truth) > 0.8 and calibration_error(sure[chosen], picked, bins=5) < 0.1
    assert abs(sure[chosen].mean() - picked.mean()) < 0.06, "the best of four doesn't promise too much"
    assert picked.mean() > truth.mean() + 0.2


def test_where_the_evidence_tells_nothing_nothing_is_promised():
    rows, right, _ = made(slope=0)
    sure = Confidence({}, fit(rows, right), {}).of(made(seed=1, slope=0)[0])
    assert sure.mean() == pytest.approx(0.27, abs=0.06) and auroc(sure, made(seed=1, slope=0)[1]) == pytest.approx(0.5, abs=0.08)


def test_an_entity_is_judged_by_what_other_categories_tell():
    """What holds within a category only, its name, can't help; and a changed truth changes no probability of its own."""
    rows, right, kinds = made()
    sure = out_of_category(rows, right, kinds)
    assert auroc(sure, right) > 0.8
    turned = np.where(kinds == 2, ~right, right)
    again = out_of_category(rows, turned, kinds)
    assert (again[kinds == 2] == sure[kinds == 2]).all() and (again[kinds != 2] != sure[kinds != 2]).any()


def test_what_has_no_evidence_or_no_fit_has_no_confidence():
    rows, right, _ = made()
    confidence = Confidence({}, fit(rows, right), {})
    some = rows.assign(component=np.where(rows.index % 2, "attention_output", rows["component"]))
    some.loc[4, "round_trip"] = np.nan
    sure = confidence.of(some)
    assert sure[some.index % 2 == 1].isna().all() and np.isnan(sure[4]) and sure[[0, 2, 6]].notna().all()
    few = rows[:60]
    assert fit(few, right[:60]) == {}, "too few readings"
    assert fit(rows, np.zeros(len(rows), dtype=bool)) == {}, "none is right"


def test_it_is_the_same_after_it_was_stored(tmp_path):
    rows, right, _ = made()
    kept = Confidence({"name": "m"}, fit(rows, right), {"evidence": list(EVIDENCE), "digest": digest_of(rows, right)})
    kept.save(tmp_path / "confidence.json")
    assert Confidence.load(tmp_path / "confidence.json") == kept
    assert Confidence.load(tmp_path / "nothing.json") is None
    assert digest_of(rows, ~right) != digest_of(rows, right)
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(InputError, match="not a file of a fitted confidence"):
        Confidence.load(tmp_path / "odd.json")
    other = json.loads((tmp_path / "confidence.json").read_text())
    other["about"]["evidence"] = ["magic"]
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match="fitted on other evidence, or without places; run how_sure again"):
        Confidence.load(tmp_path / "other.json")
    kept._replace(fitted={"hidden_state": kept.fitted["hidden_state into same"]}).save(tmp_path / "before.json")
    with pytest.raises(InputError, match="or without places"):
        Confidence.load(tmp_path / "before.json")


def test_a_vector_in_its_own_layer_is_of_the_place_that_others_of_its_component_go_to():
    rows = pd.DataFrame(
        [("a", 0, 0), ("a", 2, 0), ("b", 0, 0), ("b", 2, 2), ("c", 1, 3)], columns=["component", "layer", "target layer"]
    )
    assert places_of(rows).tolist() == ["a into 0", "a into 0", "b into same", "b into same", "c into 3"]
    assert places_of(rows, {"b into 0"}).tolist() == ["a into same", "a into 0", "b into 0", "b into same", "c into 3"]
    assert places_of(rows.drop(columns="target layer")).tolist() == [""] * 5
    known = Confidence({}, {"b into 0": None, "b into same": None}, {})
    assert [known.place("b", 0, 0), known.place("b", 2, 2), known.place("b", 2, 3), known.place("a", 2, 2)] == [
        "b into 0", "b into same", "", "",
    ]  # fmt: skip


def test_numbers_by_hand():
    sure, right = [0.1, 0.1, 0.9, 0.9], [False, True, True, True]
    assert calibration_error(sure, right, bins=2) == pytest.approx((0.4 + 0.1) / 2)
    assert auroc(sure, right) == pytest.approx((1 + 1 + 0.5) / 3)
    assert np.isnan(auroc(sure, [True] * 4))
    table = reliability(sure, right, bins=2)
    assert table["readings"].tolist() == [2, 2] and table["right"].tolist() == [0.5, 1.0]


def test_what_was_read_in_another_way_has_no_confidence_and_teaches_none():
    """It is fitted on greedy readings of vectors at a block's output; sampled ones, and others' places, are others."""
    rows, right, _ = made()
    fitted = fit(rows, right)
    confidence = Confidence({}, fitted, {})
    usual = rows.assign(**{"seed": pd.array([pd.NA] * len(rows), "Int64"), "target component": ""})
    assert confidence.of(usual).equals(confidence.of(rows))
    for name, value in (("seed", 0), ("target component", "mlp_output")):
        other = usual.copy()
        other.loc[::4, name] = value
        sure = confidence.of(other)
        assert sure[::4].isna().all() and sure[1::4].equals(confidence.of(rows)[1::4])
        odd = pd.concat([usual, other[::4].assign(pmi=-other["pmi"][::4])], ignore_index=True)
        assert fit(odd, np.concatenate([right, right[::4]])) == fitted
