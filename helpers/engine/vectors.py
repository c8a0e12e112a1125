"""The vector that an item stands for, amplified in its way."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .. import InputError
from ..words.components import COMPOSED, Site, parse_component
from ..words.rows import Item
from .activations import Activations
from .references import References


def amplified_vectors(
    items: Sequence[Item],
    sources: Mapping[str, Activations],
    replaced: Mapping[Site, Tensor],
    references: References | None = None,
    span: bool = False,
) -> Tensor:
    """Return α·v of each item, or what its way puts there (`components.WAYS`): (items, width) float32 on the CPU.

    Where the target prompt has several placeholders, (items, placeholders, width): a way may depend on each one's state.

    A zero vector has no direction: scaled to a length, it is NaN.

    Args:
        sources: source prompt -> its activations.
        replaced: target site -> (width,) float32, the placeholder's own state, which the vector replaces; of several
            placeholders (placeholders, width).
        references: of the plan; only centred components need them.
        span: each placeholder gets its own token's vector (`TargetPrompt.span`).
    """

    def vector(item: Item) -> Tensor:
        activations, own = sources[item.source_prompt], replaced[item.target]
        if own.dim() == 1:
            return vector_of(item, activations, own, references)
        first = item.position - (len(own) - 1)
        tokens = [item._replace(position=first + number) if span else item for number in range(len(own))]
        return torch.stack([vector_of(*pair, references) for pair in zip(tokens, [activations] * len(own), own, strict=True)])

    multipliers = [item.amplifier if parse_component(item.component).is_amplified else 1.0 for item in items]
    vectors = torch.stack([vector(item) for item in items])
    return torch.tensor(multipliers, dtype=torch.float32).view(-1, *[1] * (vectors.dim() - 1)) * vectors


def vector_of(
    item: Item, activations: Activations, replaced: Tensor, references: References | None = None
) -> Tensor:
    """Return an item's vector, not yet multiplied by α; in another way than the plain one, amplified: (width,) float32.

    Args:
        activations: of the item's source prompt.
        replaced: (width,) float32 on the CPU, the placeholder's own state at the item's target site.
        references: as in `amplified_vectors`.

    Returns:
        On the CPU.
    """
    component = parse_component(item.component)

    def read(name: str, layer: int | slice = item.layer) -> Tensor:
        return activations[name][layer, item.position].float()

    match component.kind:
        case "zero":
            return torch.zeros_like(replaced)
        case "none":
            return replaced
        case "random":  # the key leaves out the amplifier, so that all amplifiers multiply the same vector
            key = f"{item.seed} {component.of} {item.source_prompt} {item.position} {item.layer}"
            drawn = torch.randn(len(replaced), generator=torch.Generator().manual_seed(as_seed(key)))
            return drawn * (read(component.of).cpu().norm() / drawn.norm())
        case "guidance":  # h + (w − 1)·mlp: exact at w = 0 and w = 1
            return read("hidden_state").cpu() + (item.amplifier - 1) * read("mlp_output").cpu()
        case "mlp_sum":
            first, last = component.blocks
            return read("mlp_output", slice(first, last + 1)).sum(0).cpu()
        case "centred":  # the difference from the mean grows; the mean itself becomes that of hidden states
            there = references.mean(item.target, without=item.source_prompt)
            mean = references.mean(Site(component.of, item.layer), without=item.source_prompt)
            return there + item.amplifier * (read(component.of).cpu() - mean)
        case way if way in COMPOSED:
            return put(way, item.amplifier, read(component.of).cpu(), replaced)
        case _:
            return read(component.kind).cpu()


def put(way: str, amplifier: float, vector: Tensor, replaced: Tensor) -> Tensor:
    """Return what a way puts at the placeholder (`components.WAYS`), where it needs no other vectors.

    Args:
        vector: (…, width) float32, not yet amplified.
        replaced: (width,) float32, the placeholder's own state there; or (…, width).

    Raises:
        InputError: a way that isn't of that kind.
    """
    length = replaced.norm() if replaced.dim() == 1 else replaced.norm(dim=-1, keepdim=True)
    match way:
        case "plain":
            return amplifier * vector.expand_as(replaced) if vector.dim() < replaced.dim() else amplifier * vector
        case "norm":
            return amplifier * length * _direction(vector)
        case "norm_add":
            return replaced + amplifier * length * _direction(vector)
        case "add":
            return replaced + amplifier * vector
        case "fixed_norm":
            return (amplifier * _direction(vector)).expand_as(replaced)
    raise InputError("way", way, "expected plain, norm, norm_add, add or fixed_norm")


def _direction(vector: Tensor) -> Tensor:
    """Return v/‖v‖, NaN of a zero vector."""
    return vector / (vector.norm() if vector.dim() == 1 else vector.norm(dim=-1, keepdim=True))


def as_seed(key: str) -> int:
    """Return a seed that depends on every letter of a text."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:15], 16)
