"""The one null, against a slow one by hand."""

import numpy as np
import pytest

from helpers.judging.chance import band, permutations, range_of_best, rotated, rotations


def test_over_all_rotations_each_prompt_meets_each_other_judge_once():
    met = np.zeros((6, 6), dtype=int)
    for judges in rotations(6):
        assert sorted(judges) == list(range(6)), "a rotation has each judge once, as the real pairing does"
        met[np.arange(6), judges] += 1
    assert (met == 1 - np.eye(6, dtype=int)).all()


def test_groups_are_rotated_among_themselves():
    groups = [np.array([0, 3, 5]), np.array([1, 2, 4, 6])]
    found = list(rotations(7, groups))
    assert len(found) == 2, "as many as the smallest group allows"
    for judges in found:
        for group in groups:
            assert sorted(judges[group]) == sorted(group) and (judges[group] != group).all()
    for pairing in permutations(7, 50, groups):
        for group in groups:
            assert sorted(pairing[group]) == sorted(group)


@pytest.mark.parametrize("shape", [(5, 5), (5, 5, 3), (1, 7), (3, 5)])
def test_rotated_equals_a_loop(shape):
    table = np.random.default_rng(0).random(shape)
    readers, judges = shape[:2]
    by_hand = [[table[i, (i + k) % judges] for i in range(readers)] for k in range(judges)]
    np.testing.assert_array_equal(rotated(table), by_hand)
    np.testing.assert_array_equal(rotated(table)[0], [table[i, i] for i in range(readers)])


def test_rotated_and_rotations_are_the_same_null():
    table = np.random.default_rng(1).random((8, 8)) > 0.5
    one_by_one = [table[np.arange(8), judges].sum() for judges in rotations(8)]
    assert rotated(table)[1:].sum(1).tolist() == one_by_one


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
