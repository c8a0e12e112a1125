"""What is read: the vector that a component's name stands for."""

import hashlib
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from . import InputError

COMPONENTS = ("mlp_output", "hidden_state", "pre_mlp_residual", "attention_output")  # what a block is recorded by
IN_WORDS = {
    "mlp_output": "MLP outputs",
    "hidden_state": "hidden states",
    "pre_mlp_residual": "residuals before the MLP",
    "attention_output": "attention outputs",
}
ALLOWED = f"expected {', '.join(COMPONENTS)}, guidance, mlp_sum[a-b], random[one of the first four], zero or none"


@dataclass(frozen=True)
class Component:
    """A component by its parts; `parse_component` makes it of a name.

    Attributes:
        kind: one of COMPONENTS;
            "guidance", h_PreMLP + w·mlp with the amplifier as w: 0 is h_PreMLP, 1 the hidden state (paper §3.5);
            "mlp_sum", the sum of mlp_output over blocks a … b (§6);
            and controls: "random", a normal vector of the same norm as the vector that it stands for; "zero";
            "none", the placeholder's own hidden state, so that nothing is patched.
        of: of "random", whose norm it has.
        blocks: of "mlp_sum", (a, b).
    """

    kind: str
    of: str = ""
    blocks: tuple[int, int] | None = None

    @property
    def is_amplified(self) -> bool:
        """Whether α multiplies the vector; zeros and nothing at all are read once, and guidance has w instead."""
        return self.kind not in ("guidance", "zero", "none")

    @property
    def is_read_once(self) -> bool:
        return self.kind in ("zero", "none")

    def vector(self, activations, layer: int, position: int, amplifier: float, key: str, own: Tensor) -> Tensor:
        """(width,) float32 on the CPU: the vector, not yet multiplied by α.

        Args:
            activations: of the source prompt.
            amplifier: used by guidance, as w.
            key: what a random vector is drawn by; the same along a ladder of amplifiers.
            own: (width,) the placeholder's own hidden state at the target layer.
        """
        if self.kind == "zero":
            return torch.zeros_like(own)
        if self.kind == "none":
            return own
        if self.kind == "random":
            drawn = torch.randn(len(own), generator=torch.Generator().manual_seed(as_seed(key)))
            return drawn * (_at(activations, self.of, layer, position).norm() / drawn.norm())
        if self.kind == "guidance":  # h + (w − 1)·mlp: exact at w = 0 and w = 1
            mlp = _at(activations, "mlp_output", layer, position)
            return _at(activations, "hidden_state", layer, position) + (amplifier - 1) * mlp
        if self.kind == "mlp_sum":
            first, last = self.blocks
            return activations["mlp_output"][first : last + 1, position].float().sum(0).cpu()
        return _at(activations, self.kind, layer, position)


def parse_component(name: str) -> Component:
    """A component of its name.

    Raises:
        InputError: no such component.
    """
    if name in (*COMPONENTS, "guidance", "zero", "none"):
        return Component(name)
    if isinstance(name, str):
        if (found := re.fullmatch(r"random\[(\w+)\]", name)) and found[1] in COMPONENTS:
            return Component("random", of=found[1])
        if (found := re.fullmatch(r"mlp_sum\[(\d+)-(\d+)\]", name)) and int(found[1]) <= int(found[2]):
            return Component("mlp_sum", blocks=(int(found[1]), int(found[2])))
    raise InputError("components", name, ALLOWED)


def title(name: str) -> str:
    """A component as a title or a sentence begins with it."""
    words = IN_WORDS.get(name, name)
    return words[0].upper() + words[1:]


def as_seed(key: str) -> int:
    """A seed that depends on all of a text."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:15], 16)


def _at(activations, component: str, layer: int, position: int) -> Tensor:
    return activations[component][layer, position].float().cpu()
