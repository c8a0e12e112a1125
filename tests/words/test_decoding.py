"""Decoding is greedy, sampled or contrasted, with numbers within limits."""

import math

import pytest

from helpers import InputError
from helpers.words.decoding import PAPERS_SAMPLING, Contrast, Sampling, decoding


def test_temperature_0_is_greedy():
    assert decoding(0, 0.9) is None and decoding(0.0, 1) is None
    assert decoding(0.6, 0.9) == Sampling(0.6, 0.9) == PAPERS_SAMPLING
    assert str(Sampling(0.6, 0.9)) == "temperature 0.6, top_p 0.9"


@pytest.mark.parametrize(
    ("temperature", "top_p"),
    [(-1, 0.9), (0, 0.9), (math.inf, 0.9), (math.nan, 0.9), (0.6, 0), (0.6, 1.1), ("a", 1), (True, 1), (1, True)],
)
def test_sampling_refuses(temperature, top_p):
    with pytest.raises(InputError, match="temperature=|top_p="):
        Sampling(temperature, top_p)


def test_a_contrast_says_what_it_is():
    assert str(Contrast(0.5)) == "contrast λ = 0.5, floor 0.05" and Contrast(1) == Contrast(1.0, 0.05)


@pytest.mark.parametrize(
    ("weight", "floor", "words"),
    [
        (-0.1, 0.05, "weight=-0.1: expected a number, 0"),
        (math.inf, 0.05, "weight=inf"),
        (math.nan, 0.05, "weight=nan"),
        (True, 0.05, "weight=True"),
        ("1", 0.05, "weight='1'"),
        (1, -0.1, "floor=-0.1: expected a share"),
        (1, 1.1, "floor=1.1"),
        (1, math.nan, "floor=nan"),
        (1, None, "floor=None"),
    ],
)
def test_a_contrast_refuses(weight, floor, words):
    with pytest.raises(InputError, match=words):
        Contrast(weight, floor)
