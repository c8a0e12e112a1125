"""Record and patch what modules produce. A hook's life is a `with` block; no other file registers hooks."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


@contextmanager
def record(
    outputs: Mapping[Hashable, nn.Module],
    inputs: Mapping[Hashable, nn.Module] = {},
    keep: Callable[[Tensor], Tensor] = Tensor.clone,
) -> Iterator[dict[Hashable, Tensor]]:
    """Keep what modules return (and what they receive first) in each forward pass inside the `with` block.

    Args:
        outputs: key -> module whose output is kept.
        inputs: key -> module whose first input is kept.
        keep: returns a copy of what is kept of a tensor; all of it, if left out.

    Yields:
        key -> (batch, tokens, width) tensor of the latest pass; a copy, since some families add to it in place.
    """
    seen: dict[Hashable, Tensor] = {}

    def keep_output(key):
        def hook(module, args, output):
            seen[key] = keep(_tensor_of(output))

        return hook

    def keep_input(key):
        def hook(module, args, kwargs):
            seen[key] = keep(args[0] if args else kwargs["hidden_states"])

        return hook

    with ExitStack() as registered:  # removes each hook, also when a later registration or the body raises
        for key, module in outputs.items():
            registered.callback(module.register_forward_hook(keep_output(key)).remove)
        for key, module in inputs.items():
            registered.callback(module.register_forward_pre_hook(keep_input(key), with_kwargs=True).remove)
        yield seen


class Place(NamedTuple):
    """Where a vector can be patched in.

    Attributes:
        module: whose output is replaced.
        receives: replace what it receives first instead.
        scale: the block multiplies the module's output by this before it is added.
    """

    module: nn.Module
    receives: bool = False
    scale: float | Tensor = 1.0


@contextmanager
def patch(
    places: Sequence[nn.Module | Place],
    targets: Tensor,
    vectors: Tensor,
    position: int | Sequence[int],
    batch: int | None = None,
) -> Iterator[None]:
    """Replace, row by row, what stands at one place, at one position or several (METHOD: h at i* becomes α·v).

    Args:
        places: the model's decoder blocks, in order, whose outputs are replaced; or other places.
        targets: (rows,) int64, which place each row is patched at; rows may differ, in any order.
        vectors: (rows, width), already amplified, or (rows, positions, width).
        position: of the patched tokens within the pass that runs inside the `with` block.
        batch: rows of that pass, if it has more than are patched.
    """
    places = [place if isinstance(place, Place) else Place(place) for place in places]
    positions = torch.tensor([position] if isinstance(position, int) else list(position))
    given = vectors[:, None] if vectors.dim() == 2 else vectors

    def replaced(hidden: Tensor, rows: Tensor, scale: float | Tensor) -> Tensor:
        hidden = hidden.clone()  # (batch, tokens, width), or all tokens of the batch in one line
        seen = hidden.view(batch or len(vectors), -1, hidden.shape[-1])
        wanted = given[rows].to(seen)
        wanted = wanted if isinstance(scale, float) and scale == 1 else wanted / scale
        seen[rows.to(seen.device)[:, None], positions.to(seen.device)] = wanted
        return hidden

    def of_output(rows, scale):
        def hook(module, args, output):
            hidden = replaced(_tensor_of(output), rows, scale)
            return type(output)((hidden, *output[1:])) if isinstance(output, (tuple, list)) else hidden

        return hook

    def of_input(rows, scale):
        def hook(module, args, kwargs):
            if args:
                return (replaced(args[0], rows, scale), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": replaced(kwargs["hidden_states"], rows, scale)}

        return hook

    with ExitStack() as registered:
        for number in targets.unique().tolist():
            rows, place = torch.nonzero(targets == number).squeeze(1), places[number]
            if place.receives:
                hook = place.module.register_forward_pre_hook(of_input(rows, place.scale), with_kwargs=True)
            else:
                hook = place.module.register_forward_hook(of_output(rows, place.scale))
            registered.callback(hook.remove)
        yield


@contextmanager
def ending_at(module: nn.Module | None) -> Iterator[None]:
    """End the forward pass inside the `with` block as soon as a module has returned; the block goes on after it.

    What `record` keeps of that module and of those before it is as of a whole pass, if it is entered first. What the
    pass would return is lost.

    Args:
        module: None lets the pass run to its end.
    """

    def end(module, args, output):
        raise _EndOfPass

    if module is None:
        yield
        return
    handle = module.register_forward_hook(end)
    try:
        yield
    except _EndOfPass:
        pass
    finally:
        handle.remove()


@contextmanager
def substitute(module: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Return `hidden` in place of a module's output, whatever its shape, in each pass inside the `with` block."""

    def hook(module, args, output):
        given = hidden.to(_tensor_of(output))
        return type(output)((given, *output[1:])) if isinstance(output, (tuple, list)) else given

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def trace(blocks: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Keep each block's output as the next block receives it, so that gradients reach it; the graph begins at the first.

    Yields:
        Blocks' outputs of the latest pass, (batch, tokens, width) each; the next block receives a copy, since some
        families add to it in place.
    """
    seen: list[Tensor] = []

    def hook(module, args, output):
        hidden = _tensor_of(output)
        if module is blocks[0]:
            seen.clear()
            hidden = hidden.detach().requires_grad_()
        seen.append(hidden)
        return type(output)((hidden.clone(), *output[1:])) if isinstance(output, (tuple, list)) else hidden.clone()

    with ExitStack() as registered:
        for block in blocks:
            registered.callback(block.register_forward_hook(hook).remove)
        yield seen


class _EndOfPass(Exception):
    """Leaves a forward pass whose rest nobody needs."""


def _tensor_of(output: Tensor | tuple) -> Tensor:
    """Return the hidden state; some families' modules return a tuple that begins with it."""
    return output[0] if isinstance(output, (tuple, list)) else output
