"""What is read, and how it is amplified: each component's name, what it is called, and the paper's settings for it."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from .. import InputError

# The paper's amplifiers for MLP outputs (§4.1) and for hidden states (§4.2); and a gentle grid with as many amplified
# tries as the first, for vectors as long as a hidden state.
MLP_GRID = (1, 3, 6, 9, 12, 15)
FINE_GRID = (1, 1.3, 1.5, 1.7, 1.9, 2, 3, 4, 5, 6)
GENTLE_GRID = (1, 1.5, 2, 3, 4, 6)
NORM_GRID = (0.5, 1, 1.5, 2, 3, 4, 6)  # a length beside the placeholder's own fits all layers and models


class Kind(NamedTuple):
    """One kind of vector that a block produces.

    Attributes:
        singular, plural: in sentences.
        symbol: as the page heads a column.
        meaning: in a few words.
        grid: the amplifiers on which methods are compared: one plain, five amplified.
        target_layer: where the paper's evaluation patches it; None if it has none.
    """

    singular: str
    plural: str
    symbol: str
    meaning: str
    grid: tuple[float, ...]
    target_layer: str | int | None = None


COMPONENTS = {  # what a block is recorded by
    "mlp_output": Kind("MLP output", "MLP outputs", "MLP output", "what the MLP adds", MLP_GRID, "same"),
    "hidden_state": Kind(
        "hidden state", "hidden states", "hidden state", "the residual stream after the block", GENTLE_GRID, 0
    ),
    "pre_mlp_residual": Kind(
        "residual before the MLP", "residuals before the MLP", "h_PreMLP",
        "the residual stream before the MLP adds to it", GENTLE_GRID,
    ),
    "attention_output": Kind(
        "attention output", "attention outputs", "attention output", "what attention adds", MLP_GRID
    ),
}  # fmt: skip
GRIDS = {name: kind.grid for name, kind in COMPONENTS.items()}
EVALUATED = {name: kind.target_layer for name, kind in COMPONENTS.items() if kind.target_layer is not None}
GIVEN = "vector"  # what a file holds or an expression says, instead of a prompt (`words.vectors`)
READ_ONCE = ("zero", "none")  # no amplifier changes them


class Way(NamedTuple):
    """A way to amplify a vector v: what is put at the placeholder, in one line.

    h is the placeholder's own state where the vector is patched (PLACES). μ_h and μ_v are means over the last tokens of reference
    prompts, without the prompt itself: of hidden states at the target layer, and of the component at the source layer.

    Attributes:
        component: how such a component is named, X being one of COMPONENTS.
        formula: what is put at the placeholder.
        symbol: what the amplifier is called in it.
        grid: amplifiers to try; empty where they are the component's own (GRIDS).
    """

    component: str
    formula: str
    symbol: str
    grid: tuple[float, ...] = ()


WAYS = {
    "plain": Way("X", "α·v", "α"),  # the paper
    "centred": Way("centred[X]", "μ_h + α·(v − μ_v)", "α", GENTLE_GRID),
    "guidance": Way("guidance", "h_PreMLP + w·mlp", "w", MLP_GRID),  # the paper's §3.5
    "norm": Way("norm[X]", "ρ·‖h‖·v/‖v‖", "ρ", NORM_GRID),
    "norm_add": Way("norm_add[X]", "h + c·‖h‖·v/‖v‖", "c", NORM_GRID),
    "add": Way("add[X]", "h + α·v", "α"),  # steering
    "fixed_norm": Way("fixed_norm[X]", "n·v/‖v‖", "n"),  # a length of its own, whatever the placeholder's
}
COMPOSED = tuple(name for name, way in WAYS.items() if way.component == f"{name}[X]")
ALLOWED = (
    f"expected {', '.join(COMPONENTS)}, guidance, mlp_sum[a-b], zero, none, or "
    f"{', '.join(f'{name}[X]' for name in ('random', *COMPOSED))} of one of the first four"
)


OUTPUT = "hidden_state"  # where a vector is patched unless something else is said
PLACES = {  # where one can be patched, at the placeholder -> what is put in its place there
    OUTPUT: "what block ℓ* returns",
    "block_input": "what block ℓ* receives: its attention sees the vector at once, in keys and values of ℓ* too",
    "embedding": "what the embedding layer returns for the token, before any position, scale or norm; ℓ* is 0",
    "attention_output": "what attention adds in block ℓ*, as it is added; the residual stream beside it stays",
    "mlp_output": "what the MLP adds in block ℓ*, likewise",
}
INSIDE = ("attention_output", "mlp_output")  # a block, whose compiled code knows no hook within


class Site(NamedTuple):
    """A place in the model, where a vector is read or where one is patched in.

    Attributes:
        component: one of COMPONENTS where it is read, of PLACES where it is patched.
        layer: the block, from 0; of the embedding 0.
    """

    component: str
    layer: int


@dataclass(frozen=True)
class Component:
    """A component by its parts; `parse_component` makes it from a name.

    Attributes:
        kind: one of COMPONENTS; GIVEN, which no prompt has;
            "guidance", h_PreMLP + w·mlp with the amplifier as w: 0 is h_PreMLP, 1 the hidden state (paper §3.5);
            "mlp_sum", the sum of mlp_output over blocks a … b (§6);
            a way to amplify another component, one of COMPOSED (WAYS);
            and controls: "random", a normal vector of the same norm as the vector that it stands for; "zero";
            "none", the placeholder's own hidden state, so that nothing is patched.
        of: whose norm a "random" vector has; which component is amplified in a way of its own.
        blocks: the blocks (a, b) of "mlp_sum".
    """

    kind: str
    of: str = ""
    blocks: tuple[int, int] | None = None

    @property
    def is_amplified(self) -> bool:
        """Tell whether α multiplies the vector; zeros and nothing are read once, and other ways have their formulas."""
        return self.kind not in ("guidance", *COMPOSED) and not self.is_read_once

    @property
    def is_read_once(self) -> bool:
        return self.kind in READ_ONCE

    @property
    def is_given(self) -> bool:
        """Tell whether it is a given vector, in whatever way it is amplified."""
        return GIVEN in (self.kind, self.of)

    @property
    def is_centred(self) -> bool:
        """Tell whether its vectors depend on reference prompts."""
        return self.kind == "centred"


def parse_component(name: str) -> Component:
    """Parse a component's name.

    Raises:
        InputError: no such component.
    """
    if isinstance(name, str):
        if name in COMPONENTS or name in ("guidance", GIVEN, *READ_ONCE):
            return Component(name)
        if (found := re.fullmatch(r"(\w+)\[(\w+)\]", name)) and found[1] in ("random", *COMPOSED) and found[2] in COMPONENTS:
            return Component(found[1], of=found[2])
        if (found := re.fullmatch(r"(norm|norm_add|fixed_norm)\[(\w+)\]", name)) and found[2] == GIVEN:
            return Component(found[1], of=GIVEN)
        if (found := re.fullmatch(r"mlp_sum\[(\d{1,6})-(\d{1,6})\]", name)) and int(found[1]) <= int(found[2]):
            return Component("mlp_sum", blocks=(int(found[1]), int(found[2])))
    raise InputError("components", name, ALLOWED)


def in_way(way: str, name: str) -> str:
    """Name a component that is amplified in a way.

    Raises:
        InputError: no such way, or it isn't for this component.
    """
    if way not in ("plain", *COMPOSED):
        raise InputError("way", way, f"expected one of {', '.join(('plain', *COMPOSED))}")
    if way == "plain" or name in READ_ONCE:
        return name
    if name not in COMPONENTS:
        raise InputError("way", way, f"{name} has no such way; expected one of {', '.join(COMPONENTS)}")
    return f"{way}[{name}]"


def plural(name: str) -> str:
    """Name a component in a sentence, as in "MLP outputs" or "MLP outputs (centred)"; a control goes by its own name."""
    if name in COMPONENTS:
        return COMPONENTS[name].plural
    way, _, of = name.rstrip("]").partition("[")
    return f"{COMPONENTS[of].plural} ({way})" if way in COMPOSED else name


def title(name: str) -> str:
    """Name a component as a title or a sentence begins with it."""
    words = plural(name)
    return words[0].upper() + words[1:]


def into(target: object) -> str:
    """Say where vectors are patched, as in "into the same layer"."""
    return "into the same layer" if target == "same" else f"into layer {target}"
