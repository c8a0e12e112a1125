"""Reference prompts: what their last tokens' vectors have in common, taken off others by the way `centred`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.load import LanguageModel
from ..words.components import COMPONENTS, Site
from .activations import CapturedPrompts


class ReferenceMeans:
    """The mean vector of reference prompts' last tokens, at any site, leaving out one of them or none.

    The prompts run once, in passes (`capture_batch`); of each, the last token's vectors stay in memory.

    Args:
        prompts: the references, each once (`Plan.references`).
    """

    @torch.inference_mode()
    def __init__(self, lm: LanguageModel, prompts: Sequence[str]):
        self._lm, self._prompts = lm, tuple(prompts)
        captured, last = CapturedPrompts(lm, self._prompts), {component: [] for component in COMPONENTS}
        for prompt in self._prompts:
            activations = captured[prompt]
            for component, vectors in last.items():
                vectors.append(activations[component][:, -1].float().cpu())
        self._last = {component: torch.stack(vectors) for component, vectors in last.items()}  # (prompts, layers, width)

    def is_for(self, lm: LanguageModel, prompts: Sequence[str]) -> bool:
        """Tell whether these are the means of exactly these references in this model."""
        return self._lm is lm and self._prompts == tuple(prompts)

    def mean(self, site: Site, without: str = "") -> Tensor:
        """Return the mean at a site: (width,) float32 on the CPU.

        Args:
            without: a prompt that is left out of its own mean, if it is one of the references.
        """
        kept = torch.tensor([prompt != without for prompt in self._prompts])
        return self._last[site.component][kept, site.layer].double().mean(0).float()
