"""The nulls, against a slow one by hand."""

import numpy as np
import pytest

from helpers.judging.chance import (
    band,
    by_chance,
    drawn_means,
    others,
    permutations,
    permuted_means,
    range_of_best,
    rotated,
    rotation_means,
)


def test_each_null_has_its_judges():
    truths, categories = ["rock band", "rock band", "film", "ship", "punk band"], ["band", "band", "film", "film", "band"]
    assert others(truths)[0].tolist() == [False, False, True, True, True], "the same description is no other"
    assert others(truths, categories, "same")[0].tolist() == [False, False, False, False, True]
    assert others(truths, categories, "same")[2].tolist() == [False, False, False, True, False]
    assert others(truths, categories, "other")[0].tolist() == [False, False, True, True, False]
    assert not others(["a", "b"], ["film", "ship"], "same").any(), "alone in its category"


def test_chance_is_the_mean_over_the_others():
    table, allowed = np.array([[9.0, 1, 3], [2, 9, 4], [7, 8, 9]]), np.ones((3, 3), dtype=bool)
    np.fill_diagonal(allowed, False)
    assert by_chance(table, allowed).tolist() == [2, 3, 7.5]
    allowed[2] = False
    assert by_chance(table, allowed).tolist() == [2, 3, 0]


def test_rotations_leave_out_whom_they_must():
    """Three prompts, of which two have the same truth: one rotation pairs two of them with a true other each."""
    table = np.arange(9.0).reshape(3, 3)
    allowed = others(["a", "a", "b"])
    by_hand = []
    for k in (1, 2):
        kept = [table[i, (i + k) % 3] for i in range(3) if allowed[i, (i + k) % 3]]
        by_hand.append(np.mean(kept))
    np.testing.assert_allclose(rotation_means(table, allowed), by_hand)


def test_where_truths_repeat_a_band_of_draws_is_about_chance_and_one_of_rotations_is_not():
    """Ten prompts of one truth, and two others, whose truth is the common word: it is said by all and of all."""
    allowed = others(["animal"] * 10 + ["tool", "gem"])
    table = np.zeros((12, 12))
    table[:, :10] = 1  # every text says "animal"
    null = by_chance(table, allowed).mean()
    low, high = band(drawn_means(table, allowed))
    assert null == pytest.approx(2 * 10 / 11 / 12) and low <= null <= high
    assert band(rotation_means(table, allowed))[0] > null
    assert drawn_means(table, allowed).mean() == pytest.approx(null, abs=0.002)
    assert (drawn_means(table, allowed) == drawn_means(table, allowed)).all()
    nobody = allowed.copy()
    nobody[:10] = False
    assert drawn_means(table, nobody).mean() == pytest.approx(10 / 11, abs=0.01), "of those who have others"


def test_groups_are_permuted_among_themselves():
    groups = [np.array([0, 3, 5]), np.array([1, 2, 4, 6])]
    for pairing in permutations(7, 50, groups):
        for group in groups:
            assert sorted(pairing[group]) == sorted(group)
    alike = np.zeros((7, 7))
    for group in groups:
        alike[np.ix_(group, group)] = 1
    assert (permuted_means(alike, np.ones((7, 7), dtype=bool), groups) == 1).all()


@pytest.mark.parametrize("shape", [(5, 5), (5, 5, 3), (1, 7), (3, 5)])
def test_rotated_equals_a_loop(shape):
    table = np.random.default_rng(0).random(shape)
    readers, judges = shape[:2]
    by_hand = [[table[i, (i + k) % judges] for i in range(readers)] for k in range(judges)]
    np.testing.assert_array_equal(rotated(table), by_hand)
    np.testing.assert_array_equal(rotated(table)[0], [table[i, i] for i in range(readers)])


@pytest.mark.parametrize("number", [1, 3, 39, 40, 41, 47, 200])
def test_the_band_holds_95_percent(number):
    """Each end is the smallest value that such a share of the rotations doesn't exceed."""
    values = np.random.default_rng(number).integers(0, 30, number)
    low, high = band(values)
    for end, share in ((low, 0.025), (high, 0.975)):
        assert end == min(value for value in values if np.mean(values <= value) >= share)


def test_a_reading_that_fits_everything_is_no_better_than_chance():
    everything = rotated(np.ones((6, 6))).mean(1)
    assert band(everything[1:]) == (everything[0], everything[0])


def test_chance_of_the_best_has_as_many_tries():
    cosines = np.array([[0.1, 0.5, 0.2], [0.3, 0.0, 0.2]])
    assert range_of_best(cosines) == (0.2, 0.5) and range_of_best(cosines[:1]) == (0.1, 0.5)


def test_permutations_are_random_and_come_again():
    first, second = permutations(9, 200), permutations(9, 200)
    assert (first == second).all() and (np.sort(first, axis=1) == np.arange(9)).all()
    assert np.abs((first == np.arange(9)).mean(0) - 1 / 9).max() < 0.1
