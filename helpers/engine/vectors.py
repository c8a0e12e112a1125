"""The vector that an item stands for, amplified in its way."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..words.components import Site, parse_component
from ..words.rows import Item
from .activations import Activations
from .references import References


def amplified_vectors(
    items: Sequence[Item],
    sources: Mapping[str, Activations],
    replaced: Mapping[Site, Tensor],
    references: References | None = None,
) -> Tensor:
    """Return α·v of each item, or what its way puts there (`components.WAYS`): (items, width) float32 on the CPU.

    A zero vector has no direction: scaled to a length, it is NaN.

    Args:
        sources: source prompt -> its activations.
        replaced: target site -> (width,) float32, the placeholder's own state, which the vector replaces.
        references: of the plan; only centred components need them.
    """
    vectors = [vector_of(item, sources[item.source_prompt], replaced[item.target], references) for item in items]
    multipliers = [item.amplifier if parse_component(item.component).is_amplified else 1.0 for item in items]
    return torch.tensor(multipliers, dtype=torch.float32)[:, None] * torch.stack(vectors)


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
        case "norm":
            return item.amplifier * replaced.norm() * _direction(read(component.of).cpu())
        case "norm_add":
            return replaced + item.amplifier * replaced.norm() * _direction(read(component.of).cpu())
        case _:
            return read(component.kind).cpu()


def _direction(vector: Tensor) -> Tensor:
    """Return v/‖v‖, NaN of a zero vector."""
    return vector / vector.norm()


def as_seed(key: str) -> int:
    """Return a seed that depends on every letter of a text."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:15], 16)
