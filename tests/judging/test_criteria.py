"""Choosing one reading blind: by hand on a small table, and never by what the prompt or a description says."""

import numpy as np
import pandas as pd
import pytest

from helpers import InputError
from helpers.judging.criteria import (
    ALL_RANKED,
    BLIND,
    CRITERIA,
    LEAST_REFERENCES,
    NEIGHBOURS,
    choose,
    criteria_of,
    criterion_values,
)
from helpers.judging.judge import Judge
from helpers.judging.more_evidence import MORE_EVIDENCE

KINDS = ("rock band", "river in Africa", "French painter", "space film", "soft drink", "passenger ship")
NAMES = [f"token {number}" for number in range(12)]


def table(noise: str = "a kind of soup") -> pd.DataFrame:
    """Two layers, three amplifiers: at 3 every token says what it is, at 1 and 6 what all say."""
    rows = [
        (name, -1, "mlp_output", layer, layer, amplifier, f": {KINDS[number % 6]}, x" if amplifier == 3 else f": {noise}")
        for number, name in enumerate(NAMES)
        for layer in (1, 2)
        for amplifier in (1, 3, 6)
    ]
    columns = ["source prompt", "position", "component", "layer", "target layer", "amplification value", "result"]
    return pd.DataFrame(rows, columns=columns).assign(status="ok")


def with_evidence(rows: pd.DataFrame) -> pd.DataFrame:
    """What a model may have told: of the right readings more, but for one number that is missing."""
    right = rows["amplification value"] == 3
    told = {name: np.where(right, 1.0, 0.0) for name in ("item_log_prob", "pmi", "round_trip", "confidence", *MORE_EVIDENCE)}
    rows = rows.assign(entropy=np.where(right, 0.5, 2.0), **told)
    rows.loc[0, ["entropy", *told]] = np.nan
    return rows


@pytest.mark.parametrize("criterion", [name for name, one in CRITERIA.items() if one.needs])
def test_what_the_model_told_is_followed(criterion):
    rows = with_evidence(table())
    assert (choose(rows, criterion)["amplification value"] == 3).all()
    assert criterion in criteria_of(rows) and criterion not in criteria_of(table())
    by = "which_amplifier with witnesses=" if criterion in MORE_EVIDENCE else "how_sure"
    with pytest.raises(InputError, match=f"{criterion} needs these columns: run {by} for this model first"):
        choose(table(), criterion)


def test_what_every_token_says_is_not_chosen():
    rows = table()
    assert (choose(rows)["amplification value"] == 3).all() and len(choose(rows)) == 24
    assert (choose(rows, "agreement_amplifiers")["amplification value"] == 1).all(), "the two that agree; the first of equals"


def test_agreement_is_the_mean_with_the_nearest_readings_of_the_token_in_other_layers():
    rows, judge = table(), Judge()
    of = {text: judge.embed([text])[0] for text in (*KINDS, "a kind of soup")}
    found = criterion_values(rows, "agreement")
    for index in (1, 2):  # α = 3 and 6 of the first token in layer 1; three readings in layer 2
        own = of["rock band" if index == 1 else "a kind of soup"]
        others = [of["a kind of soup"], of["rock band"], of["a kind of soup"]]
        assert found[index] == pytest.approx(np.mean([own @ other for other in others]), abs=1e-5)
    contrast = criterion_values(rows, "agreement_contrast")
    own, rest = of["rock band"], []
    for number in range(1, 12):
        others = [of["a kind of soup"], of[KINDS[number % 6]], of["a kind of soup"]]
        rest.append(np.mean([own @ other for other in others]))
    assert contrast[1] == pytest.approx(found[1] - np.mean(rest), abs=1e-5)


@pytest.mark.parametrize("criterion", [name for name, one in CRITERIA.items() if not one.needs])
def test_readings_that_say_the_same_are_equals(criterion):
    """A product of matrices may tell them apart in its last digits, and other processors in other ones."""
    values = criterion_values(table(), criterion)
    by_cell = table().assign(value=values)[table()["amplification value"] != 3].groupby(["source prompt", "layer"])["value"]
    assert (by_cell.nunique() == 1).all()
    assert (values * 10**6 - (values * 10**6).round()).abs().max() < 1e-6, "rounded"


def test_only_the_nearest_count():
    many = pd.concat([table().assign(component=f"c{number}") for number in range(NEIGHBOURS)], ignore_index=True)
    chosen = criterion_values(many, "agreement")[many["amplification value"] == 3]
    assert chosen.min() == pytest.approx(1, abs=1e-5), "as many readings in the other layer say the same"


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_choice_is_blind(criterion):
    """Other names for the prompts, and shuffled scores and descriptions, change no choice."""
    rows = with_evidence(table()).assign(score=0.1, **{"score gold": 0.2})
    order = np.random.default_rng(0).permutation(len(NAMES))
    other = rows.assign(
        **{
            "source prompt": rows["source prompt"].map(dict(zip(NAMES, [NAMES[i] for i in order], strict=True))),
            "score": np.random.default_rng(1).random(len(rows)),
            "score gold": np.random.default_rng(2).random(len(rows)),
        }
    )
    assert choose(rows, criterion).index.equals(choose(other, criterion).index)
    hidden = rows.drop(columns=["score", "score gold"])
    assert choose(hidden, criterion).index.equals(choose(rows, criterion).index)


def test_what_failed_is_never_chosen_and_helps_nobody():
    rows = table()
    failed = (rows["amplification value"] == 3) & (rows["layer"] == 1)
    rows.loc[failed, ["status", "result"]] = ["nonfinite", ""]
    chosen = choose(rows)
    assert (chosen["status"] == "ok").all() and len(chosen) == 24
    assert criterion_values(rows)[failed].isna().all()
    nothing = rows.assign(status=np.where(rows["source prompt"] == NAMES[0], "error", rows["status"]))
    assert len(choose(nothing)) == 24, "a vector without a reading keeps a row"


def test_what_cannot_be_compared_is_refused():
    rows = table()
    with pytest.raises(InputError, match="criterion='magic': expected one of agreement_contrast, "):
        choose(rows, "magic")
    few = rows[rows["source prompt"].isin(NAMES[:LEAST_REFERENCES])]
    with pytest.raises(InputError, match=f"at least {LEAST_REFERENCES} other tokens"):
        choose(few, BLIND.name)
    assert len(choose(few, "agreement")) == 2 * LEAST_REFERENCES
    with pytest.raises(InputError, match="a single layer"):
        choose(rows[rows["layer"] == 1], "agreement")
    with pytest.raises(InputError, match="a single amplifier"):
        choose(rows[rows["amplification value"] == 3], "agreement_amplifiers")


def test_the_mean_rank_of_all_is_the_mean_of_six_ranks():
    rows = with_evidence(table())
    rng = np.random.default_rng(0)
    rows = rows.assign(**{name: rng.random(len(rows)) for name in ALL_RANKED})
    cells = rows.groupby(["source prompt", "layer"])
    assert list(ALL_RANKED) == ["entropy", "pmi", "round_trip", "pmi_mean", "specificity", "consistency"]
    for cell in cells.indices.values():
        part = rows.iloc[cell]
        place = {name: [(part[name] <= value).sum() / len(part) for value in part[name]] for name in ALL_RANKED}
        place["entropy"] = [(part["entropy"] >= value).sum() / len(part) for value in part["entropy"]]
        expected = np.mean(list(place.values()), axis=0)
        assert criterion_values(rows, "mean_rank_all").iloc[cell].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_vector_that_is_put_at_two_places_has_a_reading_at_each():
    rows = table().assign(**{"target component": ""})
    both = pd.concat([rows, rows.assign(**{"target component": "mlp_output"})], ignore_index=True)
    chosen = choose(both)
    assert len(chosen) == 2 * 24 and (chosen["target component"] == "").sum() == 24
