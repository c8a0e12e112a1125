"""How new tokens are chosen when not greedily: seeded, row by row, so that batching never changes a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

from . import InputError

if TYPE_CHECKING:  # plans name a decoding long before torch is needed
    import torch
    from torch import Tensor


BLOCK = 512  # entries of the vocabulary that `greedy` first compares among themselves
SAMPLING_VERSION = 2  # part of a sampled row's id; raised only when a sampled text could change
FEW = 256  # tokens that hold top_p of the probability, nearly always


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each row and its token: (rows,) and (rows,) int64; the first of equals; NaN if there is one.

    What `logits.max(-1)` gives. That call walks along a row entry by entry on a CPU; the largest of each block, which
    needs no index, is found many at a time, and only the winning block is searched (benchmarks/).

    Args:
        logits: (rows, vocabulary), in any dtype.
    """
    block = math.gcd(logits.shape[1], BLOCK)
    if block < 32:  # an odd vocabulary
        return tuple(logits.max(-1))
    blocks = logits.unflatten(1, (-1, block))
    winner = blocks.amax(-1).max(-1).indices
    best = blocks.take_along_dim(winner[:, None, None], 1).squeeze(1).max(-1)
    return best.values, winner * block + best.indices


@dataclass(frozen=True)
class Sampling:
    """Draw each new token from softmax(logits / temperature), cut to the likeliest tokens that sum to top_p.

    The defaults are those of the paper's published runs (Llama-2-chat's generation config), which had no seed.
    """

    temperature: float = 0.6
    top_p: float = 0.9

    def __post_init__(self):
        if not (isinstance(self.temperature, Real) and 0 < self.temperature < math.inf):
            raise InputError("temperature", self.temperature, "expected a number above 0 (0 is greedy in notebooks)")
        if not (isinstance(self.top_p, Real) and 0 < self.top_p <= 1):
            raise InputError("top_p", self.top_p, "expected a number above 0, up to 1")

    def choose(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """(rows,) token ids, each row drawn with its own generator.

        The exponential race: the largest of p_i / e_i, with e_i exponential, is i with probability p_i. Unlike a
        draw from cumulated probabilities, it does not hang on the last digits of 50,000 sums.

        Args:
            logits: (rows, vocabulary) float32.
            generators: (rows,), on the CPU, so that every device draws the same.
        """
        import torch

        likeliest, tokens = self._likeliest(logits / self.temperature)
        uniform = torch.stack([torch.empty(logits.shape[1]).uniform_(generator=one) for one in generators])
        exponential = (-torch.log1p(-uniform.to(tokens.device).take_along_dim(tokens, 1))).clamp(min=1e-9)
        race = likeliest / exponential
        return tokens.take_along_dim(race.argmax(-1, keepdim=True), 1).squeeze(1)

    def _likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the likeliest tokens up to top_p, 0 beyond, and these tokens: (rows, some) each.

        The set that sorting the whole vocabulary gives; a few hundred tokens are enough nearly always, and sorting
        262,144 of them took ten times as long as the model.
        """
        whole, some = logits.logsumexp(-1, keepdim=True), FEW
        while True:
            values, tokens = logits.topk(min(some, logits.shape[1]))
            likeliest = (values - whole).exp()
            upto = likeliest.cumsum(-1)
            if some >= logits.shape[1] or (upto[:, -1] >= self.top_p).all() or upto.isnan().any():
                return likeliest * (upto - likeliest < self.top_p), tokens
            some *= 8


def sampling(temperature: float, top_p: float) -> Sampling | None:
    """The decoding of two plain numbers, as notebooks and the command line give them: temperature 0 is greedy."""
    return None if temperature == 0 else Sampling(temperature, top_p)
