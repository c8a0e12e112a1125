"""The Jacobian lens: what a block's output does, on average, to the last block's; then the model's own norm and head.

J_ℓ = mean over texts and positions t of Σ_{t′ ≥ t} ∂h_final,t′ / ∂h_ℓ,t, the first 16 positions left out: they are where
attention goes when it has nowhere to go. softmax(W_U · norm_f(J_ℓ v)) is then read by `logit`. For what a block adds,
an MLP output, J_ℓ is exact to first order, too.

Files have the field's format: a dict {"J": {layer: (width, width) float16}, "n_prompts", "source_layers", "d_model",
"provenance"}, or one with the maps under `parameters.jacobians`; a layer is the output of its block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .. import InputError
from ..engine.hooks import trace
from ..models.load import LanguageModel
from ..words.files import in_repository, write_atomically
from ..words.lenses import lens_file

SKIPPED = 16  # positions at the beginning of a text
MOST_BYTES = 1 << 30  # of what a pass keeps for its gradients
LEAST_AGREEMENT = 0.1  # of a lens with the model, where one of another model has 0
DIRECTIONS, CHECKED_TOKENS = 8, 32  # by which that is told
CHECKED_TEXT = (
    "The town lies on both sides of a river, and most of its houses were built by merchants more than two hundred years "
    "ago. Every spring the water rises, the bridges are closed for a week, and people cross it by boat."
)


@dataclass(frozen=True)
class Lens:
    """A Jacobian lens.

    Attributes:
        jacobians: layer -> (width, width) float32, of outputs of blocks; the last block's is the identity.
        n_prompts: texts that it is a mean over.
        provenance: what made it, as its file says.
        agreement: layer -> how it agrees with the model that it was loaded for (`agreement`); {} if it wasn't checked.
    """

    jacobians: Mapping[int, Tensor]
    n_prompts: int
    provenance: Mapping[str, object]
    agreement: Mapping[int, float] = field(default_factory=dict)

    @property
    def width(self) -> int:
        return next(iter(self.jacobians.values())).shape[0]

    def carried(self, vectors: Tensor, layers: int | Sequence[int], last: int) -> Tensor:
        """Return J_ℓ·v of each vector, for `logit.vocabulary`: (n, width) float32 on the CPU.

        Args:
            vectors: (n, width), of any component.
            layers: ℓ, a single one or (n,).
            last: the model's last layer, whose vectors stay as they are.

        Raises:
            InputError: another width, or a layer that the lens doesn't have.
        """
        if vectors.dim() != 2 or vectors.shape[1] != self.width:
            raise InputError("vectors", tuple(vectors.shape), f"expected shape (n, {self.width})")
        found = vectors.float().cpu().clone()
        of = torch.as_tensor(layers).expand(len(found))
        for layer in of.unique().tolist():
            if layer not in self.jacobians and layer != last:
                raise InputError("layers", layer, f"this lens has {_runs(self.jacobians)}")
            if layer != last:
                found[of == layer] = found[of == layer] @ self.jacobians[layer].T
        return found

    def save(self, path: str | Path) -> None:
        """Write the lens in the field's format, whole or not at all.

        Raises:
            InputError: a number out of float16's range.
        """
        maps = {layer: jacobian.half() for layer, jacobian in self.jacobians.items()}
        if not all(one.isfinite().all() for one in maps.values()):
            raise InputError("lens", str(path), "it has numbers that float16 can't hold")
        path = in_repository(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path, "wb") as file:
            torch.save(
                {
                    "J": maps, "n_prompts": self.n_prompts, "source_layers": sorted(maps), "d_model": self.width,
                    "provenance": dict(self.provenance),
                },
                file,
            )  # fmt: skip


def load_lens(path: str | Path, lm: LanguageModel | None = None) -> Lens:
    """Read a lens, ours or another's, without running any code that the file could hold.

    Args:
        lm: a model that it must fit: its width, its layers, and what it does to a text.

    Raises:
        InputError: no such file, not one of a lens, or a lens of another model.
    """
    file = in_repository(path)
    if not file.is_file():
        raise InputError("lens", str(path), "no such file; ./runme.sh lens fit MODEL makes one")
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, IndexError too; each means a file that can't be used
        raise InputError("lens", str(path), f"not a file of tensors ({' '.join(str(error).split())[:100]})") from error
    held = held if isinstance(held, Mapping) else {}
    parameters = held.get("parameters")
    maps = held.get("J") or (parameters.get("jacobians") if isinstance(parameters, Mapping) else None)
    if not isinstance(maps, Mapping) or not maps:
        raise InputError("lens", str(path), "holds neither J nor parameters.jacobians: layer -> (width, width)")
    try:
        jacobians = {int(layer): maps[layer].float() for layer in maps}
        widths = {size for one in jacobians.values() for size in one.shape}
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError("lens", str(path), "expected a number of a layer -> (width, width)") from error
    if len(widths) != 1 or any(one.dim() != 2 for one in jacobians.values()):
        raise InputError("lens", str(path), "expected square maps of one width")
    if not all(one.isfinite().all() for one in jacobians.values()):
        raise InputError("lens", str(path), "some of its numbers are not finite")
    told = held.get("provenance")
    provenance = dict(told) if isinstance(told, Mapping) else {}
    lens = Lens(dict(sorted(jacobians.items())), int(held.get("n_prompts") or 0), provenance)
    return lens if lm is None else checked(lens, lm, str(path))


def fitted_lens(lm: LanguageModel, lens: str = "") -> Lens | None:
    """Return a model's Jacobian lens: the file that is named, or the one that was fitted; None if none was.

    Raises:
        InputError: as `load_lens`.
    """
    file = lens_file(lm.name, lens, **lm.source.options.changed)
    return load_lens(file, lm) if lens or file.is_file() else None


def checked(lens: Lens, lm: LanguageModel, name: str = "") -> Lens:
    """Return a lens with its agreement, after it was found to fit a model.

    Args:
        name: of its file, for the message.

    Raises:
        InputError: another width, layers that the model doesn't have, or no agreement with what it does to a text.
    """
    if lens.width != lm.width:
        raise InputError("lens", name, f"of width {lens.width}; {lm.slug} has {lm.width}")
    if max(lens.jacobians) >= lm.num_layers or min(lens.jacobians) < 0:
        raise InputError("lens", name, f"of layers {_runs(lens.jacobians)}; {lm.slug} has 0–{lm.num_layers - 1}")
    told = agreement(lens, lm)
    if told and (middle := sorted(told.values())[len(told) // 2]) < LEAST_AGREEMENT:
        why = f"doesn't agree with what {lm.slug} does to a text: a cosine of {middle:.2f}, expected {LEAST_AGREEMENT} or more"
        raise InputError("lens", name, f"{why}; it was fitted on another model")
    return Lens(lens.jacobians, lens.n_prompts, lens.provenance, told)


def agreement(lens: Lens, lm: LanguageModel, text: str = CHECKED_TEXT) -> dict[int, float]:
    """Return, per layer, how like the lens is to the Jacobian of one text: a cosine, 0 of a lens of another model.

    It is told in a few random directions of the last block's output, and without the part that is the identity: every
    model has that, since each block adds to what it receives.

    Raises:
        InputError: a text of too few tokens.
    """
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(lm.width, min(DIRECTIONS, lm.width), generator=generator))[0].T
    own = jacobians_of(lm, lm.token_ids(text)[:CHECKED_TOKENS], directions)

    def without_identity(rows: Tensor) -> Tensor:
        return rows - (rows * directions).sum(-1, keepdim=True) * directions

    pairs = {
        layer: (without_identity(own[layer]).flatten(), without_identity(directions @ lens.jacobians[layer]).flatten())
        for layer in lens.jacobians
        if layer in own
    }
    return {layer: round(torch.cosine_similarity(*pair, dim=0).item(), 4) for layer, pair in pairs.items()}


def jacobians_of(
    lm: LanguageModel, ids: Sequence[int], directions: Tensor | None = None, skipped: int = SKIPPED
) -> dict[int, Tensor]:
    """Return the Jacobians of one text: layer -> (width, width) float32 on the CPU, of all blocks but the last.

    As many copies of the text as memory allows go through the model once; each copy's gradients are a row of every
    layer's Jacobian, from one pass backwards.

    Args:
        ids: of the text's tokens, more than `skipped`.
        directions: (rows, width) of the last block's output; its own axes if left out. A row of the result is the
            gradient of one of them.
        skipped: positions at the beginning that count neither as t nor as t′.

    Raises:
        InputError: too few tokens.
    """
    if len(ids) <= skipped:
        raise InputError("texts", f"{len(ids)} tokens", f"expected more than {skipped}, whose positions are left out")
    directions = torch.eye(lm.width) if directions is None else directions
    config = lm.config.get_text_config()
    inner = getattr(config, "intermediate_size", None) or 4 * lm.width
    inner = max(inner) if isinstance(inner, (list, tuple)) else inner
    each = 4 * len(ids) * lm.num_layers * (12 * lm.width + 4 * inner)  # bytes that a copy keeps, about
    copies = max(1, min(len(directions), MOST_BYTES // each))
    found = {layer: torch.empty(len(directions), lm.width) for layer in range(lm.num_layers - 1)}
    text = torch.tensor([ids], device=lm.device).expand(copies, -1)
    with torch.enable_grad(), trace(lm.blocks) as states:
        lm.model.base_model(text, use_cache=False)
    *sources, final = states
    for start in range(0, len(directions), copies):
        some = directions[start : start + copies]
        weights = torch.zeros_like(final)
        weights[: len(some), skipped:] = some[:, None].to(final)
        gradients = torch.autograd.grad(final, sources, weights, retain_graph=start + copies < len(directions))
        for layer, gradient in enumerate(gradients):
            found[layer][start : start + len(some)] = gradient[: len(some), skipped:].float().mean(1).cpu()
    return found


def _runs(layers: Mapping[int, object]) -> str:
    return f"{min(layers)}–{max(layers)}" if layers else "none"
