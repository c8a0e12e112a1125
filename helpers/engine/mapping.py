"""Another model reads: vectors of a source model, mapped into the space of the model that reads (Patchscopes' §4.4)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from .. import InputError
from ..models.gguf import sha256
from ..models.load import LanguageModel
from ..words.components import Site
from ..words.files import in_repository, write_atomically
from ..words.grammar import check_layer, once
from ..words.prompts import LEAST_REFERENCES
from ..words.vectors import Through
from .references import References

FORMAT = "superscopes-map-1"
RIDGES = tuple(10.0**power for power in range(-4, 4))


@dataclass(frozen=True)
class MapAbout:
    """What a map was fitted on, and how well it holds.

    Attributes:
        source, target: fingerprints of the two models.
        source_component, source_layer, target_component, target_layer: from where to where.
        ridge: weight of the penalty on the matrix, beside the mean square of the inputs.
        prompts, held_out: how many prompts it was fitted on and tried on; their last tokens.
        digest: of both lists.
        r2: share of the held-out vectors' variance about the fitted ones' mean that it explains; below 0, the mean does
            better.
        cosine, cosine_of_others: mean cosine, less the mean, of a mapped held-out vector with the true one, and with
            those of the other held-out prompts: the null.
    """

    source: str
    target: str
    source_component: str
    source_layer: int
    target_component: str
    target_layer: int
    ridge: float
    prompts: int
    held_out: int
    digest: str
    r2: float
    cosine: float
    cosine_of_others: float


@dataclass(frozen=True)
class AffineMap:
    """v ↦ v·matrix + bias.

    Attributes:
        matrix: (source width, target width) float32.
        bias: (target width,) float32.
    """

    matrix: Tensor
    bias: Tensor
    about: MapAbout

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return vectors (…, source width) of the source model as the target model's, (…, target width) float32."""
        if vectors.shape[-1] != len(self.matrix):
            raise InputError("vectors", tuple(vectors.shape), f"expected {len(self.matrix)} numbers each")
        return vectors.float().cpu() @ self.matrix + self.bias

    def check(self, source: LanguageModel, target: LanguageModel) -> None:
        """Refuse models other than those that it was fitted on.

        Raises:
            InputError: names the model.
        """
        for name, lm in (("source", source), ("target", target)):
            if (wanted := getattr(self.about, name)) != lm.fingerprint:
                raise InputError(name, lm.name, f"the map was fitted on the model with the fingerprint {wanted}")

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole; what it was fitted on is in its metadata."""
        metadata = {"format": FORMAT, "about": json.dumps(asdict(self.about))}
        tensors = {"matrix": self.matrix.contiguous(), "bias": self.bias.contiguous()}
        with write_atomically(Path(path), "wb") as file:
            file.write(save(tensors, metadata))


def load_map(path: str | Path) -> AffineMap:
    """Read a map that `AffineMap.save` wrote.

    Raises:
        InputError: no such file, not of this format, or numbers that aren't finite.
    """
    if not Path(path).is_file():
        raise InputError("map", str(path), "no such file")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            about = MapAbout(**json.loads(metadata["about"]))
            made = AffineMap(file.get_tensor("matrix"), file.get_tensor("bias"), about)
    except Exception as error:  # whatever a broken file raises
        raise InputError("map", str(path), f"not a map ({' '.join(str(error).split())[:200]})") from error
    fits = made.matrix.dim() == 2 and made.bias.shape == made.matrix.shape[1:]
    if not fits or not (made.matrix.isfinite().all() and made.bias.isfinite().all()):
        raise InputError("map", str(path), "expected a finite matrix (source width, target width) and bias")
    return made


def through_map(path: str) -> Through:
    """Return what a map's file does to vectors, for a plan of given ones.

    Raises:
        InputError: as `load_map`.
    """
    file = in_repository(path)
    found = load_map(file)
    return Through("map", path, sha256(file)[:16], *found.matrix.shape, json.dumps(asdict(found.about)))


def identity_for(source: LanguageModel, target: LanguageModel, vectors: Tensor) -> Tensor:
    """Return vectors as they are, where the widths agree; equal widths alone don't make two spaces one.

    Raises:
        InputError: the widths differ.
    """
    if source.width != target.width or vectors.shape[-1] != source.width:
        why = f"{source.name} has {source.width} numbers a vector, {target.name} {target.width}; fit a map (fit_map)"
        raise InputError("vectors", tuple(vectors.shape), why)
    return vectors


def fit_map(
    source: LanguageModel,
    target: LanguageModel,
    prompts: str | Sequence[str],
    held_out: str | Sequence[str],
    source_site: Site,
    target_site: Site,
    ridge: float | None = None,
) -> AffineMap:
    """Fit the affine map, by least squares, from a source model's last-token vectors to the target model's.

    Args:
        prompts: that it is fitted on; fewer than widths leave many maps that fit, of which the ridge takes a small one.
        held_out: other prompts, on which it is tried.
        source_site, target_site: component (of COMPONENTS) and layer in either model.
        ridge: 0 is plain least squares; None takes, of RIDGES, what predicts each prompt best from the others.

    Raises:
        InputError: too few prompts, some in both lists, or a layer that a model doesn't have.
    """
    prompts, held_out = once("prompts", prompts), once("held_out", held_out)
    for name, some in (("prompts", prompts), ("held_out", held_out)):
        if len(some) < LEAST_REFERENCES:
            raise InputError(name, len(some), f"expected at least {LEAST_REFERENCES}")
    if shared := set(prompts) & set(held_out):
        raise InputError("held_out", sorted(shared)[0], "is also among the prompts that the map is fitted on")
    if ridge is not None and not (isinstance(ridge, int | float) and 0 <= ridge < float("inf")):
        raise InputError("ridge", ridge, "expected 0 or more, or None")
    for name, lm, site in (("source_site", source, source_site), ("target_site", target, target_site)):
        check_layer(name, site.layer, lm.num_layers)
        if site.component in ("block_input", "embedding"):
            raise InputError(name, site.component, "expected a component that is captured")
    fitted = [References(lm, prompts).vectors(site).double() for lm, site in ((source, source_site), (target, target_site))]
    tried = [References(lm, held_out).vectors(site).double() for lm, site in ((source, source_site), (target, target_site))]
    x_mean, y_mean = (vectors.mean(0) for vectors in fitted)
    ridge, matrix = _fitted(fitted[0] - x_mean, fitted[1] - y_mean, ridge)
    mapped, true = (tried[0] - x_mean) @ matrix, tried[1] - y_mean
    cosines = torch.nn.functional.cosine_similarity(mapped[:, None], true[None], dim=-1)
    own, others = cosines.diagonal().mean(), cosines[~torch.eye(len(cosines), dtype=torch.bool)].mean()
    about = MapAbout(
        source.fingerprint, target.fingerprint, *source_site, *target_site, float(ridge), len(prompts), len(held_out),
        hashlib.sha256(json.dumps([prompts, held_out]).encode()).hexdigest()[:16],
        round(float(1 - (mapped - true).square().sum() / true.square().sum()), 4),
        round(float(own), 4), round(float(others), 4),
    )  # fmt: skip
    return AffineMap(matrix.float(), (y_mean - x_mean @ matrix).float(), about)


def _fitted(x: Tensor, y: Tensor, ridge: float | None) -> tuple[float, Tensor]:
    """Return the ridge, and the matrix that takes rows of x to those of y; both are centred.

    Args:
        ridge: beside the mean square of x; see `fit_map`.
    """
    from sklearn.linear_model import LinearRegression, Ridge, RidgeCV

    size = float(x.square().mean() * len(x))
    alphas = [one * size for one in RIDGES]
    model = RidgeCV(alphas) if ridge is None else Ridge(ridge * size) if ridge else LinearRegression()
    model.fit(x.numpy(), y.numpy())
    return RIDGES[alphas.index(model.alpha_)] if ridge is None else ridge, torch.tensor(model.coef_.T)
