"""How new tokens are chosen: greedily, in contrast to a null, or sampled with a temperature, a top_p and a seed."""

import math
from dataclasses import dataclass
from numbers import Real

from .. import InputError

SAMPLING_VERSION = 2  # part of a sampled row's id; raised only when a sampled text could change
CONTRAST_VERSION = 1  # the same of a contrasted row


@dataclass(frozen=True)
class Sampling:
    """Draw each new token from softmax(logits / temperature), cut to the likeliest tokens that sum to top_p.

    The defaults are those of the paper's published runs (Llama-2-chat's generation config), which had no seed. Each
    row has its own generator, so that batching never changes a row (`engine.sampling`).
    """

    temperature: float = 0.6
    top_p: float = 0.9

    def __post_init__(self):
        if not (_is_number(self.temperature) and 0 < self.temperature < math.inf):
            raise InputError("temperature", self.temperature, "expected a number above 0 (0 is greedy in notebooks)")
        if not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise InputError("top_p", self.top_p, "expected a number above 0, up to 1")

    def __str__(self) -> str:
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}"


@dataclass(frozen=True)
class Contrast:
    """Choose the largest of z + weight·(z − z_null), so that what the prompt alone would make the model write loses.

    z are the logits of the patched row. z_null are those of a row in which nothing is patched and which has written the
    same tokens. Tokens whose probability under z is below `floor` times the largest are left out. A weight of 0 is
    greedy.
    """

    weight: float
    floor: float = 0.05

    def __post_init__(self):
        if not _is_number(self.weight) or not 0 <= self.weight < math.inf:
            raise InputError("weight", self.weight, "expected a number, 0 (greedy) or more")
        if not _is_number(self.floor) or not 0 <= self.floor <= 1:
            raise InputError("floor", self.floor, "expected a share of the largest probability, 0 to 1")

    def __str__(self) -> str:
        return f"contrast λ = {self.weight:g}, floor {self.floor:g}"


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


Decoding = Sampling | Contrast  # None is greedy
PAPERS_SAMPLING = Sampling(temperature=0.6, top_p=0.9)


def decoding(temperature: float, top_p: float) -> Sampling | None:
    """Return the decoding that two plain numbers mean, as settings give them: temperature 0 is greedy."""
    return None if temperature == 0 else Sampling(temperature, top_p)
