"""Reference prompts: their last tokens' vectors, and what these have in common, which `centred` takes off others."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ..models.load import LanguageModel
from ..words.components import Site
from .activations import Activations, CapturedPrompts


def last_tokens(lm: LanguageModel, prompts: Sequence[str]) -> dict[str, Activations]:
    """Return the activations of each prompt's last token alone, at position 0, on the CPU."""

    def last(of: Activations) -> Activations:
        parts = (of.hidden_state, of.mlp_output, of.attention_output)
        return Activations(of.tokens[-1:], *(part[:, -1:].to("cpu", copy=True) for part in parts))

    captured = CapturedPrompts(lm, prompts)
    return {prompt: last(captured[prompt]) for prompt in prompts}


class References:
    """The vectors of reference prompts' last tokens, and their mean, at any site, leaving out one of them or none.

    The prompts run once, in passes (`capture_batch`); of each, the last token's vectors stay in memory.

    Attributes:
        last: prompt -> its last token's activations (`last_tokens`).

    Args:
        prompts: the references, each once (`Plan.references`).
    """

    @torch.inference_mode()
    def __init__(self, lm: LanguageModel, prompts: Sequence[str]):
        self._lm, self.prompts = lm, tuple(prompts)
        self.last = last_tokens(lm, self.prompts)
        self._at = cache(self._stacked)

    def is_for(self, lm: LanguageModel, prompts: Sequence[str]) -> bool:
        """Tell whether these are the vectors of exactly these references in this model."""
        return self._lm is lm and self.prompts == tuple(prompts)

    def vectors(self, site: Site, without: str = "") -> Tensor:
        """Return the references' vectors at a site: (references, width) float32 on the CPU.

        Args:
            without: a prompt that is left out, if it is one of the references.
        """
        return self._at(site)[torch.tensor([prompt != without for prompt in self.prompts])]

    def mean(self, site: Site, without: str = "") -> Tensor:
        """Return the mean of `vectors`: (width,) float32 on the CPU."""
        return self.vectors(site, without).double().mean(0).float()

    def _stacked(self, site: Site) -> Tensor:
        return torch.stack([self.last[prompt][site.component][site.layer, 0].float() for prompt in self.prompts])
