"""Rates beside chance with the same tries, against counting by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest

from helpers.bench.lens import _mean
from helpers.bench.report import is_result
from helpers.bench.rules import contains, names
from helpers.bench.tables import ANY, MEAN, Cases, by_source_layer, surely
from helpers.bench.tasks import Case, spread


def cases_of(*units, turns=1):
    return [Case(unit, f"{unit} {turn}", unit, wanted) for unit, wanted in units for turn in range(turns)]


def test_units_count_once_and_chance_is_others_answers():
    some = [*cases_of(("a", ("x",)), turns=3), *cases_of(("b", ("y",)), ("c", ("x",)))]
    cases = Cases(some, contains, any)
    texts = ["x y", "", "", "y", "x y"]  # of the three cases of a; of b; of c
    table = cases.table(cases.said(texts))
    assert np.allclose(table, [[1 / 3, 1 / 3, 1 / 3], [0, 1, 0], [1, 1, 1]])
    assert cases.allowed.tolist() == [[False, True, False], [True, False, True], [False, True, False]]
    line = cases.line("plain", 3, 1, cases.said(texts))
    assert line["rows"] == 5 and line["units"] == 3 and line["rate"] == pytest.approx((1 / 3 + 1 + 1) / 3, abs=1e-4)
    by_hand = np.mean([1 / 3, np.mean([0, 0]), 1])  # a by y; b by x and x; c by y
    assert line["null"] == pytest.approx(by_hand, abs=1e-4) and line["effect"] == pytest.approx(line["rate"] - by_hand, abs=1e-4)


def test_the_share_of_words_where_several_are_wanted():
    some = cases_of(("a", ("one", "two")), ("b", ("three",)), ("c", ("two", "four")))
    shares, anys = Cases(some, names, _mean), Cases(some, names, any)
    texts = ["one", "one, two", "four two"]
    assert shares.table(shares.said(texts)).tolist() == [[0.5, 0, 0], [1, 0, 0.5], [0.5, 0, 1]]
    assert anys.table(anys.said(texts)).tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 1]]
    assert not shares.allowed[0, 2] and shares.allowed[0, 1], "who shares a word is no chance"


def test_each_text_is_judged_alone():
    cases = Cases(cases_of(("a", ("New Delhi",)), ("b", ("Rome",))), names, any)
    apart = cases.said(["New", "Rome"]) | cases.said(["Delhi", "x"])
    assert not apart[0].any() and apart[1, 1]


def test_chance_has_as_many_tries():
    """Texts drawn without regard to their cases succeed as often as chance says, over one layer and over any of ten."""
    rng, words = np.random.default_rng(0), [f"w{number}" for number in range(30)]
    cases = Cases(cases_of(*((word, (word,)) for word in words)), names, any)
    draws = [rng.random((30, 10, 30)) < 0.08 for _ in range(20)]  # (cases, layers, words)
    told = [cases.line("plain", ANY, 10, found.any(1)) for found in draws]
    assert np.mean([line["null"] for line in told]) == pytest.approx(1 - 0.92**10, abs=0.02), "the null has ten tries, too"
    assert np.mean([line["effect"] for line in told]) == pytest.approx(0, abs=0.05)
    assert sum(line["p_value"] < 0.05 for line in told) <= 4 and sum(line["low"] > 0 for line in told) <= 4
    found = draws[0]
    lines = {line["layer"]: line for line in by_source_layer(cases, "plain", found, list(range(10)), 4)}
    assert lines[ANY]["tries"] == 40 and lines[MEAN]["tries"] == 4 and len(lines) == 12
    assert lines[MEAN]["null"] == pytest.approx(0.08, abs=0.02)
    off_diagonal = [found[i].any(0)[j] for i, j in itertools.permutations(range(30), 2)]
    assert lines[ANY]["null"] == pytest.approx(np.mean(off_diagonal), abs=1e-4)
    right = found | np.eye(30, dtype=bool)[:, None]
    line = by_source_layer(cases, "plain", right, list(range(10)), 4)[-1]
    assert line["rate"] == 1 and line["low"] > 0.3 and line["p_value"] < 0.001


def test_a_gain_over_the_text_is_over_chance():
    cases = Cases(cases_of(*((f"w{number}", (f"w{number}",)) for number in range(12))), names, any)
    own, everything = np.eye(12, dtype=bool), np.ones((12, 12), dtype=bool)
    assert cases.gain(own, everything)["gain"] == 1, "what says everything says nothing"
    same = cases.gain(own, own)
    assert same == {"gain": 0, "low": 0, "high": 0, "p_value": 1}


@pytest.mark.parametrize(("units", "is_told"), [(5, False), (6, True)])
def test_of_five_subjects_nothing_is_told_between_two_ways(units, is_told):
    """All five in the same direction are two of 32 ways to toss five coins."""
    cases = Cases(cases_of(*((f"w{number}", (f"w{number}",)) for number in range(units))), names, any)
    nothing, own = np.zeros((units, units), dtype=bool), np.eye(units, dtype=bool)
    gains = pd.DataFrame([cases.gain(own, nothing), cases.gain(nothing, own), cases.gain(own, own)])
    assert gains["p_value"].tolist() == [round(2 / 2**units, 4)] * 2 + [1] and gains["low"][0] == 1
    more, less = surely(gains)
    assert more.tolist() == [is_told, False, False] and less.tolist() == [False, is_told, False]


def test_the_most_frequent_answer_said_of_everything_is_no_result():
    """It is right of eight in twelve, and wrong by all answers that differ; but it says nothing of the subject."""
    cases = Cases(cases_of(*((f"u{number}", ("animal" if number < 8 else f"w{number}",)) for number in range(12))), names, any)
    line = cases.line("plain", ANY, 1, cases.said(["animal"] * 12))
    assert line["rate"] == pytest.approx(8 / 12, abs=1e-4) and line["p_value"] == 1 and not is_result(line)
    told = cases.line("plain", ANY, 1, cases.said(["animal"] * 8 + [f"w{number}" for number in range(8, 12)]))
    assert is_result(told)


def test_rows_are_spread_over_subjects():
    some = cases_of(("a", ("x",)), ("b", ("y",)), ("c", ("z",)), turns=3)
    assert [case.source for case in spread(some, 4)] == ["a 0", "b 0", "c 0", "a 1"]
    assert len(spread(some)) == 9 and spread([]) == []
