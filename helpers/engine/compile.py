"""Compiled decoder blocks (torch.compile): norms, rotary embedding, gates and sums become a few loops.

It is the model's own code, faster by a fifth in bfloat16 and a tenth in float32 on two CPU cores, after ten or twenty
seconds of compiling and trying (benchmarks/); so it is for long runs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

FROM_ROWS = 50_000  # a plan of so many rows takes minutes, and gets the seconds of compiling back (benchmarks/)


def compile_blocks(blocks: Sequence[nn.Module]) -> list[Callable]:
    """Return the blocks' forwards, to be compiled when they first run.

    A block that can't be compiled as a whole raises then, and never becomes a slow graph in pieces.

    Raises:
        RuntimeError: torch is installed where its compiler can't work.
    """
    if " " in (folder := str(Path(torch.__file__).parent)):  # it hands paths to the C++ compiler without quotes
        raise RuntimeError(f"torch compiles nothing in a folder whose path has a space: {folder}")
    return [torch.compile(block.forward, fullgraph=True) for block in blocks]


@contextmanager
def compiled(blocks: Sequence[nn.Module], forwards: Sequence[Callable]) -> Iterator[None]:
    """Let the blocks run these forwards inside the `with` block, hooks and all."""
    before = [block.__dict__.get("forward") for block in blocks]  # accelerate sets the attribute, too
    with ExitStack() as settings:
        # One graph for all blocks: a block's number is an input to it, not a constant that it is compiled for.
        settings.enter_context(torch._dynamo.config.patch(allow_unspec_int_on_nn_module=True, recompile_limit=16))
        settings.enter_context(torch._inductor.config.patch(compile_threads=1))  # no pool of processes
        try:
            for block, forward in zip(blocks, forwards, strict=True):
                block.forward = forward
            yield
        finally:
            for block, attribute in zip(blocks, before, strict=True):
                if attribute is None:
                    block.__dict__.pop("forward", None)
                else:
                    block.forward = attribute
