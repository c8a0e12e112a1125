"""The numbers behind the claims: against counts by hand, on made-up readings whose truth is known."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from helpers import InputError
from helpers.judging.counts import success_counts
from helpers.judging.effects import (
    Judged,
    by_method,
    by_threshold,
    chosen_on_half,
    effect,
    gain,
    is_legible,
    judge_rows,
    on_grid,
    shares_in_effect,
)
from helpers.judging.effects import (
    tests_by_layer as mcnemar_by_layer,
)
from helpers.judging.judge import Judge
from helpers.words.methods import AMPLIFIED, METHODS, PLAIN


def judged_by(cosines, amplifiers, categories=()):
    """Cosines (n, layers, tries, n) as a table, with made-up names."""
    n, layers, tries, _ = cosines.shape
    grid = pd.DataFrame({"amplification value": amplifiers, "target prompt": "paper", "seed": None})
    chosen = {
        name: np.broadcast_to(method.choose(grid).to_numpy(), (n, layers, tries)) for name, method in METHODS.items()
    }
    prompts = tuple(f"p{i}" for i in range(n))
    return Judged(prompts, tuple(range(1, layers + 1)), grid, cosines, chosen, prompts, categories=categories)


def over_chance(judged, successes):
    return shares_in_effect(successes.mean(1), judged.others())


def table(n=12, layers=3, tries=4, signal=0.0, seed=0):
    """Random cosines; a reading fits its own prompt in a share `signal` of cases."""
    rng = np.random.default_rng(seed)
    cosines = rng.uniform(-0.2, 0.4, (n, layers, tries, n)).astype(np.float32)
    hits = rng.random((n, layers, tries)) < signal
    cosines[np.arange(n), :, :, np.arange(n)] += 0.6 * hits
    return judged_by(cosines, [1.0, 3.0, 6.0, 9.0][:tries])


def test_effect_equals_a_count_by_hand():
    judged = table(signal=0.4)
    found = effect(judged, judged.successes(AMPLIFIED))
    n = len(judged.prompts)
    rates = []
    for k in range(n):
        hits = 0
        for i, layer in itertools.product(range(n), range(3)):
            hits += any(judged.cosines[i, layer, t, (i + k) % n] > 0.3 for t in (1, 2, 3))
        rates.append(hits / (3 * n))
    assert found["rate"] == pytest.approx(rates[0], abs=1e-4)
    assert found["null"] == pytest.approx(np.mean(rates[1:]), abs=1e-4)
    assert found["null_low"] == pytest.approx(min(rates[1:]), abs=1e-4)
    assert found["effect"] == pytest.approx(rates[0] - np.mean(rates[1:]), abs=2e-4)
    assert found["low"] < found["effect"] < found["high"] and found["p_value"] < 0.01


def test_the_interval_covers_the_truth_where_some_prompts_attract_every_reading():
    """Two prompts that any reading fits widen chance for all; the mean stays own less chance."""
    judged = table(signal=0.3)
    judged.cosines[..., :2] += 0.5
    successes = judged.successes(PLAIN)
    shares = over_chance(judged, successes)
    means = successes.mean(1)
    others = ~np.eye(len(means), dtype=bool)
    assert shares.mean() == pytest.approx(means.diagonal().mean() - means[others].mean())
    own_only = means.diagonal() - np.where(others, means, 0).sum(1) / others.sum(1)
    assert shares.std() < own_only.std(), "what an attractive prompt gains as its own judge, it gives to all"


def test_without_signal_the_interval_covers_zero_and_p_is_uniform():
    found = [effect(one, one.successes(AMPLIFIED)) for one in (table(seed=seed) for seed in range(60))]
    covered = np.mean([one["low"] <= 0 <= one["high"] for one in found])
    p_values = np.array([one["p_value"] for one in found])
    assert covered > 0.85 and 0.35 < p_values.mean() < 0.65 and (p_values < 0.05).mean() < 0.17


def test_best_of_k_is_the_mean_over_all_subsets():
    judged = table(signal=0.3)
    for k in (1, 2, 3):
        subsets = [np.isin(np.arange(4), subset) for subset in itertools.combinations((1, 2, 3), k)]
        by_hand = np.mean([judged.successes(subset) for subset in subsets], axis=0)
        np.testing.assert_allclose(judged.best_of(k, AMPLIFIED), by_hand)
    assert (judged.best_of(3, AMPLIFIED) == judged.successes(AMPLIFIED)).all()
    assert judged.number_of_tries(AMPLIFIED) == 3
    with pytest.raises(InputError, match="expected 1 to 3"):
        judged.best_of(4, AMPLIFIED)


def test_an_amplifier_chosen_on_a_half_is_judged_on_the_other():
    """Where no amplifier beats chance, the best on one half doesn't on the other; the best in hindsight would."""
    effects, oracles = [], []
    for seed in range(40):
        judged = table(n=16, layers=2, seed=seed)
        chosen, shares = chosen_on_half(judged, AMPLIFIED, splits=10)
        assert shares.sum() == pytest.approx(1) and list(shares.index) == [3, 6, 9]
        effects.append(over_chance(judged, chosen).mean())
        single = [over_chance(judged, judged.successes(np.arange(4) == t)).mean() for t in (1, 2, 3)]
        oracles.append(max(single))
    assert abs(np.mean(effects)) < 0.02 < np.mean(oracles)


def test_the_better_amplifier_is_found():
    judged = table(n=20, signal=0.0)
    own = np.arange(20)
    judged.cosines[own, :, 2, own] = 0.9
    chosen, shares = chosen_on_half(judged, AMPLIFIED, splits=10)
    assert shares[6] == 1 and over_chance(judged, chosen).mean() > 0.7
    more = gain(judged, chosen, judged.successes(PLAIN))
    assert more["low"] > 0.3 and more["low"] < more["gain"] < more["high"]


def test_chance_within_categories_takes_no_credit_for_the_category():
    """Readings that only say what kind of thing it is beat any other prompt, not the others of their kind."""
    n, kinds = 12, ("film", "band", "city")
    categories = tuple(kinds[i % 3] for i in range(n))
    alike = np.array(categories)[:, None] == np.array(categories)
    cosines = np.where(alike, 0.5, 0.1).astype(np.float32)[:, None, None, :]
    judged = judged_by(cosines, [1.0], categories)
    found = effect(judged, judged.successes())
    assert found["effect same"] == 0 and found["p_value same"] == 1 and found["prompts same"] == n
    assert found["effect"] > 0.7 and found["p_value"] < 0.01
    more = gain(judged, judged.successes(), np.zeros_like(judged.successes()))
    assert more["gain"] == found["effect"] and more["gain same"] == 0
    unknown = judged_by(cosines, [1.0])
    assert not any(name.endswith(" same") for name in effect(unknown, unknown.successes()))


def test_only_some_prompts_may_count_as_readers():
    """Of six prompts the first three are read; all six judge, and a prompt alone in its category has no such chance."""
    judged = table(n=6, signal=0.5)
    judged = replace(judged, categories=("film", "film", "ship", "film", "film", "film"))
    successes, readers = judged.successes(AMPLIFIED), np.arange(6) < 3
    found, means = effect(judged, successes, readers), successes.mean(1)
    assert found["prompts"] == 3 and found["prompts same"] == 2
    assert found["rate"] == pytest.approx(means.diagonal()[:3].mean(), abs=1e-4)
    by_others = [means[i, [j for j in range(6) if j != i]].mean() for i in range(3)]
    assert found["null"] == pytest.approx(np.mean(by_others), abs=1e-4)
    of_category = [means[i, [j for j in range(6) if j not in (i, 2)]].mean() for i in (0, 1)]
    assert found["null same"] == pytest.approx(np.mean(of_category), abs=1e-4)
    nobody = effect(judged, successes, np.arange(6) == 2)
    assert nobody["prompts same"] == 0 and np.isnan(nobody["effect same"])


def test_prompts_with_one_description_are_no_chance_for_each_other():
    judged = table(n=5, signal=0.5)
    judged = replace(judged, truths=("band", "band", "film", "ship", "city"))
    means = judged.successes(PLAIN).mean(1)
    by_others = [means[i, [j for j in range(5) if judged.truths[j] != judged.truths[i]]].mean() for i in range(5)]
    assert effect(judged, judged.successes(PLAIN))["null"] == pytest.approx(np.mean(by_others), abs=1e-4)


def test_a_method_may_choose_another_try_at_each_place():
    """A criterion may look at the readings themselves; then the tries that count differ from place to place."""
    judged = table(signal=0.4)
    n, layers, tries, _ = judged.cosines.shape
    picked = np.random.default_rng(3).integers(tries, size=(n, layers))
    mask = picked[..., None] == np.arange(tries)
    by_hand = np.take_along_axis(judged.cosines, picked[..., None, None], axis=2)[:, :, 0]
    assert (judged.successes(mask) == (by_hand > 0.3)).all()
    assert (judged.best_of(1, mask) == judged.successes(mask)).all()
    rates = by_threshold(judged, mask, thresholds=[0.3])
    assert rates["rate"][0] == pytest.approx(effect(judged, judged.successes(mask))["rate"], abs=1e-4)


def test_parts_keep_readings_with_what_was_chosen():
    judged = table(signal=0.4)
    whole = judged.successes(AMPLIFIED)
    assert (judged.at_layers([3, 1]).successes(AMPLIFIED) == whole[:, [2, 0]]).all()


def test_mcnemar_with_holm():
    more, less = np.zeros((10, 2, 10), dtype=bool), np.zeros((10, 2, 10), dtype=bool)
    own = np.arange(10)
    more[own[:8], 0, own[:8]] = True  # eight prompts in layer 1 that the other way doesn't read: p = 2 · 0.5⁸
    less[own[8:9], 1, own[8:9]] = True
    tests = mcnemar_by_layer([1, 2], more, less)
    assert tests["only_more"].tolist() == [8, 0] and tests["only_less"].tolist() == [0, 1]
    assert tests["p_value"].tolist() == pytest.approx([2 * 0.5**8, 1.0], abs=1e-6)
    assert tests["p_holm"].tolist() == pytest.approx([4 * 0.5**8, 1.0], abs=1e-6)


ROWS = [
    ("Pink Floyd", ": British rock band"), ("Titanic", ": ship that sank"), ("King Kong", ": giant ape"),
    ("Star Wars", ": Star Wars, film"),
]  # fmt: skip


def rows():
    lines = [(p, layer, a, text if a == 3 else "x") for p, text in ROWS for layer in (1, 2) for a in (1, 3)]
    made = pd.DataFrame(lines, columns=["source prompt", "layer", "amplification value", "result"])
    return made.assign(component="mlp_output", status="ok", seed=None, **{"target prompt": "paper"})


def test_judged_rows_agree_with_the_counts_of_figure_3():
    judged = judge_rows(rows())
    _, overall = success_counts(rows())
    for method, found in by_method(judged).items():
        counted = overall.set_index("method").loc[method]
        assert found["rate"] == pytest.approx(counted["interpreted"] / counted["pairs"], abs=1e-4)
        assert found["null"] == pytest.approx(counted["null_mean"] / counted["pairs"], abs=2e-3)
        curve = by_threshold(judged, method)
        assert curve.set_index("threshold").loc[0.3, "rate"] == pytest.approx(found["rate"], abs=1e-4)
        assert curve["rate"].is_monotonic_decreasing


def test_what_is_scored_can_be_chosen():
    whole, no_echo = judge_rows(rows()), judge_rows(rows(), echoes=False)
    assert (no_echo.cosines[3, :, 1] == -1).all() and (whole.cosines[3, :, 1, 3] > 0.3).all(), "an echo of Star Wars"
    gold = {p: text for p, text in ROWS}
    assert judge_rows(rows(), by_gold=gold).cosines[0, 0, 1, 0] == pytest.approx(1, abs=1e-5)
    failed = rows().assign(status="nonfinite")
    assert (judge_rows(failed).cosines == -1).all()
    with pytest.raises(InputError, match="at least two"):
        judge_rows(rows().iloc[:4])
    with pytest.raises(InputError, match="each of 2 tries once"):
        judge_rows(rows().iloc[:-1])
    with pytest.raises(InputError, match="each of 2 tries once"):
        judge_rows(pd.concat([rows(), rows().iloc[:1]]))
    with pytest.raises(InputError, match="two different descriptions"):
        judge_rows(rows(), by_gold={prompt: "the same" for prompt, _ in ROWS})
    some = judge_rows(rows(), categories={"Star Wars": "film"})
    assert some.nulls == ("any",), "not every prompt has a category"
    with pytest.raises(InputError, match="one component"):
        judge_rows(pd.concat([rows(), rows().assign(component="hidden_state")]))


def test_the_judges_threshold_is_what_counts():
    strict, lenient = (judge_rows(rows(), Judge(threshold=threshold)) for threshold in (0.99, -1))
    assert not strict.successes().any() and lenient.successes().all()
    assert (strict.cosines == lenient.cosines).all()


def test_a_method_without_readings_has_no_effect():
    plain = rows()[rows()["amplification value"] == 1]
    assert list(by_method(judge_rows(plain))) == ["Patchscopes"]
    assert list(by_method(judge_rows(rows()))) == ["Patchscopes", "Superscopes"]


def test_first_items_end_where_their_target_prompt_says():
    """With "; " between its items, a reading's first item may hold a comma."""
    read = rows().assign(result=[f"{text}, x; Tesla" for text in rows()["result"]])
    read["first item"] = [text.split("; ")[0].removeprefix(": ") for text in read["result"]]
    gold = {prompt: text.removeprefix(": ") + ", x" for prompt, text in ROWS}
    judged = judge_rows(read, by_gold=gold, first_item=True)
    assert judged.cosines[0, 0, 1, 0] == pytest.approx(1, abs=1e-5)


def test_legible_is_similar_to_the_description_and_no_echo():
    read = pd.DataFrame(
        [
            ("Star Wars", "space film, Titanic", 0.5, "ok"),
            ("Star Wars", "star wars, a space film", 0.5, "ok"),
            ("Star Wars", "space film", 0.25, "ok"),
            ("Star Wars", "", np.nan, "nonfinite"),
        ],
        columns=["source prompt", "result", "score gold", "status"],
    )
    assert is_legible(read).tolist() == [True, False, False, False]
    assert is_legible(read, Judge(threshold=0.2)).tolist() == [True, False, True, False]
    assert is_legible(read[:0]).tolist() == []


def test_methods_are_compared_on_one_grid():
    grid = (1, 3, 6, 9, 12, 15)
    read = pd.DataFrame(itertools.product((1, 2, 9), (*grid, 100)), columns=["layer", "amplification value"])
    read["component"] = "mlp_output"
    found = on_grid(read, "mlp_output", layers=[1, 2])
    assert set(found["layer"]) == {1, 2} and set(found["amplification value"]) == set(grid)
    assert set(on_grid(read, "mlp_output")["layer"]) == {1, 2, 9}
    with pytest.raises(InputError, match=r"lack \[6\]"):
        on_grid(read[read["amplification value"] != 6], "mlp_output")


def test_two_tables_are_compared_on_the_same_prompts_only():
    judged, other = table(signal=0.4), table(signal=0.2, seed=1)
    more, less = judged.successes(AMPLIFIED), other.successes(AMPLIFIED)
    assert gain(judged, more, less, other)["gain"] > 0
    turned = replace(other, prompts=other.prompts[::-1])
    with pytest.raises(InputError, match="expected the same prompts in the same order"):
        gain(judged, more, less, turned)
