"""Decoding is greedy, or sampled with numbers within limits."""

import math

import pytest

from helpers import InputError
from helpers.words.decoding import PAPERS_SAMPLING, Sampling, decoding


def test_temperature_0_is_greedy():
    assert decoding(0, 0.9) is None and decoding(0.0, 1) is None
    assert decoding(0.6, 0.9) == Sampling(0.6, 0.9) == PAPERS_SAMPLING
    assert str(Sampling(0.6, 0.9)) == "temperature 0.6, top_p 0.9"


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(-1, 0.9), (0, 0.9), (math.inf, 0.9), (math.nan, 0.9), (0.6, 0), (0.6, 1.1), ("a", 1)]
)
def test_sampling_refuses(temperature, top_p):
    with pytest.raises(InputError, match="temperature=|top_p="):
        Sampling(temperature, top_p)
