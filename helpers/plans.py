"""What to interpret: prompts × tokens × components × layers × amplifiers, checked, in order, with ids."""

import hashlib
import itertools
import json
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import pandas as pd

from . import InputError
from .components import COMPONENTS, parse_component
from .decoding import SAMPLING_VERSION, Sampling

METHOD_VERSION = 2  # part of every row's id; raised only when a result could change
MOST_AMPLIFIERS = 10_000  # of a text

PAPER_TARGET_PROMPT = (
    "Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South Korean multinational "
    "major appliance and consumer electronics corporation, x"
)


@dataclass(frozen=True)
class TargetPrompt:
    """The few-shot prompt T that asks the model to describe its placeholder.

    Attributes:
        text: default, letter for letter, the paper's.
        placeholder: index of the token that is overwritten (negative from the end), or its text if it occurs once.
        stop: the list separator; the first item of a continuation ends there.
        name: a short name for the rows; made from the text if left out.
    """

    text: str = PAPER_TARGET_PROMPT
    placeholder: int | str = -1
    stop: str = ", "
    name: str = ""

    def __post_init__(self):
        _check_text("target_prompt", self.text)
        if not self.name:
            paper = self.text == PAPER_TARGET_PROMPT and self.placeholder == -1
            digest = hashlib.sha256(f"{self.text}|{self.placeholder}".encode()).hexdigest()
            object.__setattr__(self, "name", "paper" if paper else f"custom-{digest[:6]}")

    def first_item(self, continuation: str) -> str:
        """The continuation up to `stop`, without a leading colon and space."""
        return continuation.split(self.stop, 1)[0].lstrip().removeprefix(":").lstrip()


@dataclass(frozen=True)
class Plan:
    """What to interpret, independent of a model: made and checked by `make_plan`."""

    prompts: tuple[str, ...]
    components: tuple[str, ...]
    layers: str | tuple[int, ...]
    amplifiers: tuple[float, ...]
    tokens: tuple[int | str, ...]
    target_layers: tuple[int | str, ...]
    target_prompt: TargetPrompt
    max_new_tokens: int
    decoding: Sampling | None
    seed: int

    def items(self, card) -> pd.DataFrame:
        """The plan on one model: a row per interpretation, in order, columns as in the row schema.

        Order: prompt, position, component, target layer, layer, amplifier. Items that come out the same (two
        tokens that are one position, target layers 0 and "same" at layer 0) are kept once. A sum of MLP outputs
        stands at its last block, whatever the layers; zeros and nothing at all are read once, at amplifier 1.

        Args:
            card: the model (`ModelCard` or `LanguageModel`); its weights are not needed.

        Raises:
            InputError: a layer, token or length that this model doesn't have.
        """
        layers = parse_layers(self.layers, card.num_layers)
        parsed = {name: parse_component(name) for name in self.components}
        for name, component in parsed.items():
            if component.blocks and component.blocks[1] >= card.num_layers:
                raise InputError("components", name, f"this model has layers 0–{card.num_layers - 1}")
        target_layers = [
            target if target == "same" else _check_layer("target_layer", target, card.num_layers - 1)
            for target in self.target_layers
        ]
        target_length = len(card.token_ids(self.target_prompt.text))
        locate("placeholder", self.target_prompt.placeholder, self.target_prompt.text, card)
        if target_length + self.max_new_tokens > card.context_length:
            room = card.context_length - target_length
            raise InputError("max_new_tokens", self.max_new_tokens, f"{card.name} has room for {room} after the prompt")

        rows = []
        for prompt in self.prompts:
            decoded = card.decoded_tokens(prompt)
            if len(decoded) > card.context_length:
                raise InputError(
                    "prompts", prompt[:40], f"{len(decoded)} tokens, {card.name} reads {card.context_length}"
                )
            for token in self.tokens:
                position = locate("token", token, prompt, card)
                for name, component in parsed.items():
                    own_layers = component.blocks[1:] if component.blocks else layers
                    amplifiers = (1.0,) if component.is_read_once else self.amplifiers
                    for target, layer, amplifier in itertools.product(target_layers, own_layers, amplifiers):
                        at = layer if target == "same" else target
                        rows.append((prompt, decoded[position], layer, amplifier, name, position, at))
        columns = ["source prompt", "token", "layer", "amplification value", "component", "position", "target layer"]
        items = pd.DataFrame(rows, columns=columns).drop_duplicates(ignore_index=True)
        items["target prompt"] = self.target_prompt.name
        drawn = [self.decoding or parsed[name].kind == "random" for name in items["component"]]
        items["seed"] = pd.array([self.seed if one else None for one in drawn], dtype="Int64")
        return items

    def describe(self) -> dict:
        """The settings, as the JSON beside a CSV tells them."""
        return {
            "prompts": len(self.prompts),
            "components": self.components,
            "layers": self.layers,
            "amplifiers": self.amplifiers,
            "token": self.tokens,
            "target_layer": self.target_layers,
            "target_prompt": vars(self.target_prompt),
            "max_new_tokens": self.max_new_tokens,
            "decoding": vars(self.decoding) if self.decoding else "greedy",
            "seed": self.seed if self.decoding or any("random" in name for name in self.components) else None,
        }

    def ids(self, items: pd.DataFrame, lm) -> list[str]:
        """For each item a hash of everything that can change its text (CSV column `id`)."""
        shared = [
            METHOD_VERSION,
            [self.target_prompt.text, self.target_prompt.placeholder],
            self.max_new_tokens,
            [self.decoding.temperature, self.decoding.top_p, self.seed, SAMPLING_VERSION] if self.decoding else None,
            [lm.fingerprint, lm.dtype, lm.attention],
        ]
        columns = ["source prompt", "position", "component", "layer", "amplification value", "target layer"]
        return [
            hashlib.sha256(json.dumps([*item, *shared, *self._drawn_by(item[2])]).encode()).hexdigest()[:20]
            for item in zip(*(items[column].tolist() for column in columns), strict=True)
        ]

    def _drawn_by(self, component: str) -> list:
        """What else a random vector depends on; nothing for the others."""
        return ["random", self.seed] if component.startswith("random") else []


def make_plan(
    prompts: str | Sequence[str],
    components: str | Sequence[str] = ("mlp_output",),
    layers: str | int | Sequence[int] = "1-7",
    amplifiers: str | float | Sequence[float] = (1, 3, 6, 9, 12, 15),
    token: int | str | Sequence[int | str] = -1,
    target_layer: int | str | Sequence[int | str] = "same",
    target_prompt: TargetPrompt | str | None = None,
    max_new_tokens: int = 10,
    decoding: Sampling | None = None,
    seed: int = 0,
) -> Plan:
    """Check the settings of a sweep; nothing is loaded or computed. Defaults: the paper's MLP evaluation (§4.1).

    Args:
        prompts: source prompts S.
        components: of "mlp_output", "hidden_state", "pre_mlp_residual", "attention_output"; "guidance",
            "mlp_sum[a-b]"; and controls "random[mlp_output]" (or of another; "random" is of the plan's own
            component), "zero", "none". See `components.Component`.
        layers: source layers ℓ, from 0: "1-7", "1-3,9", "all", "depth:0.1,0.5" (relative depth; "1-7,depth:0.5" is
            both), a number, a list.
        amplifiers: α; 1 is plain Patchscopes. Of guidance, w. Numbers, or a text: "1, 1.3, 1.5", "1:15:0.5" (from 1 to
            15 in steps of 0.5).
        token: the inspected token: index (negative from the end) or the text of a token that occurs once.
        target_layer: the patched block ℓ*: a number, or "same" for ℓ* = ℓ.
        target_prompt: T, or its text; the paper's if left out.
        max_new_tokens: how long a reading is, in tokens.
        decoding: None is greedy.
        seed: of the sampling, and of random vectors.

    Raises:
        InputError: names the parameter, what was given and what is allowed.
    """
    prompts = _once("prompts", prompts)
    for number, prompt in enumerate(prompts):
        _check_text(f"prompts[{number}]", prompt)

    components = _once("components", components)
    if "random" in components:
        read = [component for component in components if component in COMPONENTS]
        if len(read) != 1:
            raise InputError("components", "random", "say whose norm it has, as in random[mlp_output]")
        components = tuple(f"random[{read[0]}]" if component == "random" else component for component in components)
    for component in components:
        parse_component(component)

    layers = layers if isinstance(layers, str) else _once("layers", layers)
    parse_layers(layers, None)

    amplifiers = _once("amplifiers", parse_amplifiers(amplifiers) if isinstance(amplifiers, str) else amplifiers)
    for amplifier in amplifiers:
        if not isinstance(amplifier, Real) or isinstance(amplifier, bool) or not math.isfinite(amplifier):
            raise InputError(
                "amplifiers", amplifier, "expected finite numbers (in YAML 1e-3 is a text, 1.0e-3 a number)"
            )

    tokens = _once("token", token)
    for one in tokens:
        if not isinstance(one, (str, Integral)) or isinstance(one, bool) or one == "":
            raise InputError("token", one, "expected an index (negative from the end) or the text of a token")

    target_layers = _once("target_layer", target_layer)
    for target in target_layers:
        if target != "same" and (not isinstance(target, Integral) or isinstance(target, bool) or target < 0):
            raise InputError("target_layer", target, 'expected "same" or a layer, counted from 0')

    if not isinstance(target_prompt, TargetPrompt):
        target_prompt = TargetPrompt() if target_prompt is None else TargetPrompt(target_prompt)
    if not isinstance(max_new_tokens, Integral) or isinstance(max_new_tokens, bool) or max_new_tokens < 1:
        raise InputError("max_new_tokens", max_new_tokens, "expected a whole number, at least 1")
    if not (decoding is None or isinstance(decoding, Sampling)):
        raise InputError("decoding", decoding, "expected None (greedy) or Sampling(temperature, top_p)")
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError("seed", seed, "expected a whole number from 0 to 2³²−1")
    return Plan(
        prompts, components, layers, tuple(map(float, amplifiers)), tokens, target_layers,
        target_prompt, int(max_new_tokens), decoding, int(seed),
    )  # fmt: skip


def parse_amplifiers(text: str) -> list[float]:
    """Amplifiers of a text: numbers and ranges from:to:step (both ends included), separated by commas.

    Raises:
        InputError: not of that form, not finite, or more than MOST_AMPLIFIERS.
    """
    amplifiers = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            ends = [float(number) for number in part.split(":")]
        except ValueError:
            ends = []
        if len(ends) not in (1, 3) or not all(map(math.isfinite, ends)):
            raise InputError("amplifiers", part[:40], "expected numbers, or from:to:step, like 1, 1.5, 2:6:0.5")
        if len(ends) == 1:
            amplifiers += ends
            continue
        first, last, step = ends
        steps = (last - first) / step if step else -1.0
        if not 0 <= steps < MOST_AMPLIFIERS:
            why = f"expected from:to:step with a step that leads there, and at most {MOST_AMPLIFIERS:,} numbers"
            raise InputError("amplifiers", part, why)
        amplifiers += [float(f"{first + i * step:.12g}") for i in range(int(steps + 1e-9) + 1)]
        if len(amplifiers) > MOST_AMPLIFIERS:
            raise InputError("amplifiers", text[:40], f"more than {MOST_AMPLIFIERS:,} of them")
    return amplifiers


def parse_layers(layers: str | int | Sequence[int], num_layers: int | None) -> list[int]:
    """Layer numbers of a `layers` setting, in the order given, each once.

    Args:
        layers: see `make_plan`.
        num_layers: the model's; None checks the form alone and returns nothing.

    Raises:
        InputError: not of that form, or a layer that the model doesn't have.
    """
    form = 'expected "1-7", "1-3,9", "all", "depth:0.1,0.5", "1-7,depth:0.5", a layer from 0, or a list of them'
    last = (num_layers or 1 << 30) - 1
    if isinstance(layers, str):
        text = layers.replace(" ", "")
        try:
            if text == "all":
                ranges = [(0, last)]
            else:
                numbers, _, deep = text.partition("depth:")
                depths = [float(depth) for depth in deep.split(",")] if deep else []
                if not all(0 <= depth <= 1 for depth in depths) or ("depth" in text and not deep):
                    raise ValueError
                ranges = [
                    tuple(int(end) for end in part.split("-"))
                    for part in numbers.removesuffix(",").split(",")
                    if part or not depths
                ]
                ranges += [(round(depth * last),) * 2 for depth in depths]
        except ValueError:
            raise InputError("layers", layers, form) from None
    else:
        ranges = [(layer,) for layer in _listed(layers)]
    for ends in ranges:
        whole = all(isinstance(end, Integral) and not isinstance(end, bool) for end in ends)
        if not whole or len(ends) > 2 or ends[0] > ends[-1]:
            raise InputError("layers", layers, form)
        _check_layer("layers", ends[0], last)
        _check_layer("layers", ends[-1], last)
    if num_layers is None:
        return []
    return list(dict.fromkeys(layer for ends in ranges for layer in range(ends[0], ends[-1] + 1)))


def locate(parameter: str, token: int | str, text: str, card) -> int:
    """Absolute position of a token in a text, from 0, counted with every token the model sees.

    Raises:
        InputError: not there, or more than once; the message lists the tokens with their positions.
    """
    decoded = card.decoded_tokens(text)
    if isinstance(token, str):
        found = [i for i, one in enumerate(decoded) if one == token] or [
            i for i, one in enumerate(decoded) if one.strip() == token.strip()
        ]
        problem = "is not in" if not found else f"occurs {len(found)} times in"
    else:
        found = [token % len(decoded)] if -len(decoded) <= token < len(decoded) else []
        problem = "is outside"
    if len(found) == 1:
        return found[0]
    listing = " ".join(f"{i}:{one!r}" for i, one in enumerate(decoded))
    raise InputError(parameter, token, f"{problem} {text!r}; its tokens are {listing}")


def _check_layer(parameter: str, layer: int, last: int) -> int:
    if not 0 <= layer <= last:
        raise InputError(parameter, layer, f"this model has layers 0–{last}")
    return int(layer)


def _check_text(parameter: str, text: object) -> None:
    if not isinstance(text, str):
        raise InputError(parameter, text, f"expected text, got {type(text).__name__}; quote it")
    if not text.strip():
        raise InputError(parameter, text, "expected a text that is not empty or blank")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError(parameter, text, "NUL and lone surrogates can't be tokenized")


def _listed(values: object) -> list:
    """A setting that may be one value or several, as a list."""
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def _once(parameter: str, values: object) -> tuple:
    """The values without repeats, in order."""
    values = _listed(values)
    if not values:
        raise InputError(parameter, values, "expected at least one")
    once = tuple(dict.fromkeys(values))
    if len(once) < len(values):
        warnings.warn(f"{parameter}: {len(values) - len(once)} repeated value(s) merged", stacklevel=3)
    return once
