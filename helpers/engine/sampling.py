"""How new tokens are chosen: the likeliest, alone or in contrast to a null, or drawn row by row; how sure it was."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical

from ..words.decoding import Contrast, Sampling

BLOCK = 512  # entries of the vocabulary that `greedy` first compares among themselves
FEW = 256  # tokens that nearly always hold top_p of the probability
ROWS = 32  # whose float32 logits are worked on at a time: a copy of a whole batch's would double the memory


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest logit of each row and its token, as `logits.max(-1)` does but faster.

    `max` walks along a row entry by entry on a CPU. The largest of each block, which needs no index, is found many at
    a time, and only the winning block is searched (benchmarks/).

    Args:
        logits: (rows, vocabulary), in any dtype.

    Returns:
        (rows,) values and (rows,) int64 tokens: the first of equals; NaN if there is one.
    """
    block = math.gcd(logits.shape[1], BLOCK)
    if block < 32:  # an odd vocabulary
        return tuple(logits.max(-1))
    blocks = logits.unflatten(1, (-1, block))
    winner = blocks.amax(-1).max(-1).indices
    best = blocks.take_along_dim(winner[:, None, None], 1).squeeze(1).max(-1)
    return best.values, winner * block + best.indices


def contrasted(contrast: Contrast, logits: Tensor, null: Tensor) -> Tensor:
    """Return z + weight·(z − z_null), −inf for tokens that are far less likely under z than the likeliest.

    Args:
        logits: (rows, vocabulary) z, in any dtype.
        null: (rows, vocabulary) z_null, of rows in which nothing is patched and which have written the same tokens.

    Returns:
        (rows, vocabulary) float32; NaN in rows whose z has a NaN.
    """
    z = logits.float()
    largest = z.amax(-1, keepdim=True)
    least = largest + math.log(contrast.floor) if contrast.floor else torch.full_like(largest, -torch.inf)
    return (z + contrast.weight * (z - null.float())).masked_fill(z < least, -torch.inf)  # no NaN is less


def draw(sampling: Sampling, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw a token for each row, with the row's own generator, so that batching never changes a row.

    The exponential race: the largest of p_i / e_i, with e_i exponential, is i with probability p_i. Unlike a draw
    from cumulated probabilities, it doesn't hang on the last digits of 50,000 sums.

    Args:
        logits: (rows, vocabulary) float32.
        generators: (rows,), on the CPU, so that every device draws the same.

    Returns:
        (rows,) int64 tokens.
    """
    likeliest, tokens = _likeliest(logits / sampling.temperature, sampling.top_p)
    uniform = torch.stack([torch.empty(logits.shape[1]).uniform_(generator=generator) for generator in generators])
    exponential = (-torch.log1p(-uniform.to(tokens.device).take_along_dim(tokens, 1))).clamp(min=1e-9)
    race = likeliest / exponential
    return tokens.take_along_dim(race.argmax(-1, keepdim=True), 1).squeeze(1)


def log_prob_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probability of a token in each row, at temperature 1.

    Args:
        logits: (rows, vocabulary), in any dtype.
        tokens: (rows,).

    Returns:
        (rows,) float32.
    """
    whole = torch.cat([part.float().logsumexp(-1) for part in logits.split(ROWS)])
    return logits.gather(1, tokens[:, None]).squeeze(1).float() - whole


def entropy_of(logits: Tensor) -> Tensor:
    """Return the entropy of each row's distribution at temperature 1, in nats: (rows, vocabulary) -> (rows,) float32."""
    parts = (Categorical(logits=part.float(), validate_args=False) for part in logits.split(ROWS))
    return torch.cat([part.entropy() for part in parts])


def _likeliest(logits: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the probabilities of the likeliest tokens up to top_p, 0 beyond, and these tokens: (rows, some) each.

    The set is the one that sorting the whole vocabulary gives. A few hundred tokens are nearly always enough, and
    sorting 262,144 of them took ten times as long as the model.
    """
    whole, some = logits.logsumexp(-1, keepdim=True), FEW
    if top_p >= 1:  # all of them: nothing is to be sorted
        return (logits - whole).exp(), torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    while True:
        values, tokens = logits.topk(min(some, logits.shape[1]))
        likeliest = (values - whole).exp()
        cumulated = likeliest.cumsum(-1)
        if some >= logits.shape[1] or (cumulated[:, -1] >= top_p).all() or cumulated.isnan().any():
            return likeliest * (cumulated - likeliest < top_p), tokens
        some *= 8
