"""Greedy is the likeliest token; sampling draws from the cut distribution, row by row."""

import pytest
import torch
from reading import texts_of

from helpers.engine.sampling import draw, greedy
from helpers.words.decoding import Sampling
from helpers.words.plans import make_plan


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [49152, 32000, 151936, 50257, 40])
def test_greedy_is_the_first_of_the_largest(dtype, vocabulary):
    logits = torch.randn(7, vocabulary, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[1, 3] = logits[1, vocabulary - 1] = logits[1].max() + 1  # equals, far apart
    logits[2] = -torch.inf
    logits[3, 11] = torch.nan
    logits[4, -1] = torch.inf
    logits[5] = 0
    values, tokens = greedy(logits)
    expected = logits.max(-1)
    torch.testing.assert_close(values, expected.values, equal_nan=True, rtol=0, atol=0)
    assert tokens.tolist() == expected.indices.tolist()
    assert tokens.tolist()[1] == 3 and tokens.tolist()[3] == 11 and tokens.tolist()[5] == 0


def test_draws_come_from_the_cut_distribution():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, -1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4000)]
    counts = torch.bincount(draw(Sampling(1.0, 0.9), logits, generators), minlength=4) / 4000
    expected = torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95  # the fourth is beyond top_p
    assert (counts - expected).abs().max() < 0.03
    assert (draw(Sampling(0.01, 1.0), logits, generators) == 0).all(), "nearly greedy"


def test_a_flat_distribution_is_drawn_from_in_full():
    """top_p of it needs more tokens than are first looked at."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(200)]
    drawn = draw(Sampling(1.0, 1.0), torch.zeros(200, 3000), generators)
    assert drawn.min() < 300 and drawn.max() > 2700 and len(drawn.unique()) > 180


def test_sampling_is_seeded_by_row_not_by_batch(tiny):
    def plan(seed):
        sampling = Sampling(1.5, 0.95)
        return make_plan(["Titanic", "Star Wars"], layers="0-2", amplifiers=[1, 3], decoding=sampling, seed=seed)

    texts = texts_of(tiny, plan(7), batch_size=12)
    assert texts_of(tiny, plan(7), batch_size=5) == texts
    assert texts_of(tiny, plan(8)) != texts
