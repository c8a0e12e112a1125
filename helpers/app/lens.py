"""What cheap lenses say of a request's vectors, beside their readings: logit lens, and Jacobian lens where one was fitted."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import torch

from .. import InputError
from ..engine.activations import Activations
from ..lenses.jacobian import fitted_lens
from ..lenses.logit import vocabulary
from ..models.load import LanguageModel

TOKENS = 5  # of each list
PART = 96  # vectors between two looks at whether to stop
MOST = 2_000  # vectors of a request that lenses are asked about


class Told(NamedTuple):
    """The likeliest tokens of a vector, the likeliest first.

    Attributes:
        logit: by the logit lens.
        jacobian: by the Jacobian lens; () if there is none for this model, or none of this layer.
    """

    logit: tuple[str, ...]
    jacobian: tuple[str, ...] = ()


class Lenses:
    """The lenses of a model.

    Attributes:
        jacobian: one that was fitted for it and lies where results or caches are kept; None if there is none, or one that
            doesn't fit.
    """

    def __init__(self, lm: LanguageModel):
        self._lm, self.jacobian = lm, None
        with suppress(InputError):  # the logit lens needs no file
            self.jacobian = fitted_lens(lm)

    def of(self, places: Sequence[tuple[str, int, int]], activations: Activations) -> dict[tuple[str, int, int], Told]:
        """Return what the lenses say of vectors of a prompt.

        Args:
            places: (component, layer, position) of each.
        """
        vectors = torch.stack([activations[component][layer, position] for component, layer, position in places])
        logit = self._top(vectors)
        last, jacobian = self._lm.num_layers - 1, [()] * len(places)
        if self.jacobian:
            has = [place for place, (_, layer, _) in enumerate(places) if layer == last or layer in self.jacobian.jacobians]
            if has:
                carried = self.jacobian.carried(vectors[has], [places[place][1] for place in has], last)
                for place, top in zip(has, self._top(carried), strict=True):
                    jacobian[place] = top
        return {place: Told(*both) for place, *both in zip(places, logit, jacobian, strict=True)}

    def _top(self, vectors: torch.Tensor) -> list[tuple[str, ...]]:
        return [tuple(token for token, _ in found) for found in vocabulary(self._lm, vectors, TOKENS)]
