"""Neighbours: which texts of a bank have vectors like a given one, in the same component and layer.

argmax_y cos(V(y) − μ, v − μ), V(y) the vector of the last token of y, μ the mean over the bank: without it, the
direction that all vectors share would win.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import InputError
from ..engine.activations import capture_batch
from ..models.load import LanguageModel
from ..words.components import COMPONENTS, Site
from ..words.files import in_repository
from ..words.prompts import read_gold, read_prompts

TEXTS = 256  # whose activations are in memory at a time
LEAST_TEXTS = 2  # one alone is its own mean
OURS = ("data/prompts.csv", "data/entities.csv", "data/known_entities.csv")


class Neighbour(NamedTuple):
    """A text of the bank, and how near it is: a centred cosine."""

    text: str
    cosine: float


class Bank:
    """Vectors of many texts at a few sites, by which others are named; of each text only those vectors are kept.

    Attributes:
        texts: each once, in their order.

    Args:
        texts: at least two that differ; 50,000 texts of width 1,000 take 200 MB a site.
        sites: components and layers, where vectors are compared.

    Raises:
        InputError: too few texts, a blank one, or a site that the model doesn't have.
    """

    @torch.inference_mode()
    def __init__(self, lm: LanguageModel, texts: Sequence[str], sites: Sequence[Site]):
        self.texts = tuple(dict.fromkeys(texts))
        if len(self.texts) < LEAST_TEXTS:
            raise InputError("texts", len(self.texts), f"expected at least {LEAST_TEXTS} that differ")
        if blank := [text for text in self.texts if not text.strip()]:
            raise InputError("texts", blank[0], "expected a text that is not blank")
        for site in sites:
            if site.component not in COMPONENTS or not 0 <= site.layer < lm.num_layers:
                allowed = f"expected one of {', '.join(COMPONENTS)} and a layer of 0–{lm.num_layers - 1}"
                raise InputError("sites", tuple(site), allowed)
        self._units, self._mean = {}, {}
        kept = {site: torch.empty(len(self.texts), lm.width) for site in sites}
        for start, activations in self._captured(lm):
            for site, vectors in kept.items():
                for row, one in enumerate(activations, start=start):
                    vectors[row] = one[site.component][site.layer, -1].float().cpu()
        for site, vectors in kept.items():
            self._mean[site] = vectors.double().mean(0).float()
            self._units[site] = torch.nn.functional.normalize(vectors.sub_(self._mean[site]), dim=-1)

    def _captured(self, lm: LanguageModel) -> Iterator[tuple[int, list]]:
        for start in range(0, len(self.texts), TEXTS):
            yield start, capture_batch(lm, self.texts[start : start + TEXTS])

    def cosines(self, vectors: Tensor, site: Site) -> Tensor:
        """Return the centred cosine of each vector with each text of the bank: (n, texts) float32.

        Args:
            vectors: (n, width) of this site.

        Raises:
            InputError: a site that the bank wasn't made for, or vectors of another width.
        """
        if site not in self._units:
            raise InputError("site", tuple(site), f"the bank has {', '.join(f'{c} {layer}' for c, layer in self._units)}")
        width = len(self._mean[site])
        if vectors.dim() != 2 or vectors.shape[1] != width:
            raise InputError("vectors", tuple(vectors.shape), f"expected shape (n, {width})")
        centred = torch.nn.functional.normalize(vectors.float().cpu() - self._mean[site], dim=-1)
        return centred @ self._units[site].T

    def nearest(self, vectors: Tensor, site: Site, k: int = 5, without: Sequence[str] = ()) -> list[list[Neighbour]]:
        """Return the nearest texts of each vector, the nearest first, (n,) lists.

        Args:
            vectors, site: as of `cosines`.
            k: how many; fewer where the bank has fewer.
            without: (n,) a text that is no neighbour of each vector, as its own source prompt; "" for none.

        Raises:
            InputError: as `cosines`; a k that isn't positive, or not as many texts to leave out as vectors.
        """
        if not isinstance(k, int) or k < 1:
            raise InputError("k", k, "expected a whole number, at least 1")
        if without and len(without) != len(vectors):
            raise InputError("without", len(without), f"expected as many as vectors, {len(vectors)}")
        place, found = {text: number for number, text in enumerate(self.texts)}, []
        for start in range(0, len(vectors), TEXTS):
            cosines = self.cosines(vectors[start : start + TEXTS], site)
            for row, text in enumerate(without[start : start + TEXTS]):
                if text in place:
                    cosines[row, place[text]] = -torch.inf
            values, places = cosines.topk(min(k, len(self.texts)))
            for of_row, cosine in zip(places.tolist(), values.tolist(), strict=True):
                pairs = zip(of_row, cosine, strict=True)
                found.append([Neighbour(self.texts[number], one) for number, one in pairs if one != -torch.inf])
        return found


def read_bank(file: str = "") -> list[str]:
    """Read texts for a bank, a line each; the suite's names and descriptions if no file is named.

    Raises:
        InputError: no such file, or one that isn't text.
    """
    if not file:
        named = [text for ours in OURS for text in (*read_prompts(ours), *read_gold(ours).values())]
        return list(dict.fromkeys(named))
    try:
        lines = in_repository(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("bank", file, f"can't be read as a text file ({error})") from error
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))
