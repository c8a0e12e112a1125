"""How a setting is written, in the shell, a notebook, a link or Python, and what each kind of value may be."""

import math
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

from .. import InputError
from .components import COMPONENTS, PLACES, parse_component
from .files import at_home

MOST_AMPLIFIERS = 10_000
SLICE = re.compile(r"(?!:$)(-?\d+)?:(-?\d+)?(?::([1-9]\d*))?")  # of tokens; a colon alone is one
RANGE = re.compile(r"(\d+)-(\d+)")  # of tokens, both ends included, as of layers
EVERY = re.compile(r"every ([1-9]\d*)(?:st|nd|rd|th)?")
TURN = re.compile(r"last of (?:([1-9]\d*)(?:st|nd|rd|th) )?(\w+) turn")
LAYERS_FORM = 'expected "1-7", "1-3,9", "all", "depth:0.1,0.5", "1-7,depth:0.5", a layer from 0, or a list of them'


# From text


def read_number(text: str) -> int | float | str:
    """Read a plain number (not nan, 1_000 or 007); return any other text as it is, without its quotes."""
    if re.fullmatch(r"[+-]?(0|[1-9]\d*)", text, re.ASCII):
        return int(text) if len(text) < 20 else float(text)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=e))(e[+-]?\d+)?", text, re.IGNORECASE | re.ASCII):
        return float(text)
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def read_list(text: str) -> list:
    """Read numbers or texts that are separated by commas, with or without brackets around them."""
    text = text.strip()
    text = text[1:-1] if text.startswith("[") and text.endswith("]") else text  # mlp_sum[1-3] ends in one, too
    items = (item.strip() for item in text.split(","))
    return [read_number(item) for item in items if item]


def read_flag(text: str) -> bool | str:
    """Read true or false; return any other text as it is."""
    return {"true": True, "false": False}.get(text.lower(), text)


def read_mapping(text: str) -> dict[str, str] | str:
    """Read NAME:VALUE pairs that are separated by commas; return a text of another form as it is."""
    pairs = [part.partition(":") for part in text.split(",") if part.strip()]
    if not all(colon for _, colon, _ in pairs):
        return text
    return {name.strip(): value.strip() for name, _, value in pairs}


def read_path(text: str) -> str:
    """Make the name of a file or folder that exists from where the user stands absolute; return others as they are."""
    path = at_home(text)
    return str(path.absolute()) if text and os.path.exists(path) else text  # not `path.exists`: it raises for long texts


# Kinds of values


def check_text(parameter: str, text: object) -> str:
    """Return a text that can be tokenized.

    Raises:
        InputError: not a text, blank, or with letters that no tokenizer takes.
    """
    if not isinstance(text, str):
        raise InputError(parameter, text, f"expected text, got {type(text).__name__}; quote it")
    if not text.strip():
        raise InputError(parameter, text, "expected a text that is not empty or blank")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError(parameter, text, "NUL and lone surrogates can't be tokenized")
    return text


def check_string(parameter: str, text: object) -> str:
    """Return a text that may be empty."""
    if not isinstance(text, str):
        raise InputError(parameter, text, f"expected text, got {type(text).__name__} (papermill: -r gives a text)")
    return text


def check_whole(parameter: str, value: object, least: int = 0, most: float = math.inf) -> int:
    """Return a whole number within limits."""
    if not is_whole(value) or not least <= value <= most:
        limits = f"from {least} to {most:,}" if most < math.inf else f"{least} or more"
        raise InputError(parameter, value, f"expected a whole number, {limits}")
    return int(value)


def check_real(parameter: str, value: object, least: float, most: float, words: str) -> float:
    """Return a number within limits, which `words` tell."""
    if not isinstance(value, Real) or isinstance(value, bool) or not least <= value <= most:  # also of nan
        raise InputError(parameter, value, f"expected a number, {words}")
    return value


def check_flag(parameter: str, value: object) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise InputError(parameter, value, "expected true or false")
    return value


def check_strings(parameter: str, values: object) -> tuple[str, ...]:
    """Return texts as a tuple; a single text is one of them."""
    return tuple(check_string(parameter, value) for value in listed(values))


def check_mapping(parameter: str, value: object) -> dict[str, str]:
    """Return a mapping of texts to texts."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for pair in value.items() for text in pair):
        raise InputError(parameter, value, "expected a mapping of texts to texts")
    return value


def check_components(parameter: str, values: object) -> tuple[str, ...]:
    """Return components, each once; a bare "random" is as long as the one other component that is recorded.

    Raises:
        InputError: an unknown one, or a "random" that could be as long as several.
    """
    components = once(parameter, values)
    if "random" in components:
        recorded = [component for component in components if component in COMPONENTS]
        if len(recorded) != 1:
            raise InputError(parameter, "random", "say whose norm it has, as in random[mlp_output]")
        components = tuple(f"random[{recorded[0]}]" if one == "random" else one for one in components)
    for component in components:
        parse_component(component)
    return components


def check_amplifiers(parameter: str, values: object) -> tuple[float, ...]:
    """Return amplifiers, each once: numbers, or a text as `parse_amplifiers` reads it."""
    given = []
    for value in listed(values):
        if not isinstance(value, str):
            if not isinstance(value, Real) or isinstance(value, bool) or not _is_finite(value):
                raise InputError(parameter, value, "expected finite numbers (in YAML 1e-3 is a text, 1.0e-3 a number)")
            given.append(float(value))
        else:
            given += parse_amplifiers(value, parameter)
    return once(parameter, given)


def _is_finite(number: Real) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond every float
        return False


def parse_amplifiers(text: str, parameter: str = "amplifiers") -> list[float]:
    """Parse amplifiers: numbers and ranges from:to:step (both ends included), separated by commas.

    Raises:
        InputError: not of that form, not finite, or more than MOST_AMPLIFIERS.
    """
    amplifiers = []
    text = text.strip()
    for part in filter(None, (part.strip() for part in text.removeprefix("[").removesuffix("]").split(","))):
        ends = [read_number(number.strip()) for number in part.split(":")]
        if len(ends) not in (1, 3) or not all(isinstance(end, int | float) and _is_finite(end) for end in ends):
            raise InputError(parameter, part[:40], "expected finite numbers, or from:to:step, like 1, 1.5, 2:6:0.5")
        if len(ends) == 1:
            amplifiers += map(float, ends)
            continue
        first, last, step = ends
        steps = (last - first) / step if step else -1.0
        if not 0 <= steps < MOST_AMPLIFIERS:
            why = f"expected from:to:step with a step that leads there, and at most {MOST_AMPLIFIERS:,} numbers"
            raise InputError(parameter, part, why)
        amplifiers += [float(f"{first + i * step:.12g}") for i in range(int(steps + 1e-9) + 1)]
        if len(amplifiers) > MOST_AMPLIFIERS:
            raise InputError(parameter, text[:40], f"more than {MOST_AMPLIFIERS:,} of them")
    return amplifiers


def check_tokens(parameter: str, values: object) -> tuple[int | str, ...]:
    """Return inspected tokens, each once: indexes, or texts of tokens."""
    tokens = once(parameter, values)
    for token in tokens:
        if not (is_whole(token) or isinstance(token, str)) or token == "":
            raise InputError(parameter, token, "expected an index (negative from the end) or the text of a token")
    return tuple(int(token) if is_whole(token) else token for token in tokens)


def slice_of(token: object) -> slice | None:
    """Return the slice of tokens that a setting means: "-5:", "1::3", "3-7", both ends included, or "every 10th", the
    10th, 20th, …; None of a single token.
    """
    text = token.strip() if isinstance(token, str) else ""
    if found := SLICE.fullmatch(text):
        return slice(*(int(end) if end else None for end in found.groups()))
    if found := RANGE.fullmatch(text):
        return slice(int(found[1]), int(found[2]) + 1)
    found = EVERY.fullmatch(text)
    return slice(int(found[1]) - 1, None, int(found[1])) if found else None


def token_turn(token: object) -> tuple[str, int] | None:
    """Return the turn of a chat that a text means, as in "last of user turn" or "last of 2nd user turn": the role, and
    the number among those of this role, 0 for the last of them; None of others.
    """
    found = TURN.fullmatch(token.strip()) if isinstance(token, str) else None
    return (found[2], int(found[1] or 0)) if found else None


def check_target_layers(parameter: str, values: object) -> tuple[int | str, ...]:
    """Return target layers, each once: "same", or numbers from 0."""
    targets = once(parameter, values)
    for target in targets:
        if target != "same" and not (is_whole(target) and target >= 0):
            raise InputError(parameter, target, 'expected "same" or a layer, counted from 0')
    return tuple(target if target == "same" else int(target) for target in targets)


def check_places(parameter: str, values: object) -> tuple[str, ...]:
    """Return places where a vector is patched, each once."""
    places = once(parameter, values)
    for place in places:
        if place not in PLACES:
            raise InputError(parameter, place, f"expected one of {', '.join(PLACES)}")
    return places


def check_layers(parameter: str, layers: object) -> str | tuple[int, ...]:
    """Return a setting of layers in its form; whether the model has them is for `parse_layers`."""
    layers = layers if isinstance(layers, str) else once(parameter, layers)
    parse_layers(layers, None, parameter)
    return layers if isinstance(layers, str) else tuple(map(int, layers))


def parse_layers(layers: str | int | Sequence[int], num_layers: int | None, parameter: str = "layers") -> list[int]:
    """Return the layer numbers of a setting, in the order given, each once.

    Args:
        layers: "1-7", "1-3,9", "all", "depth:0.1,0.5" (relative depth; "1-7,depth:0.5" is both), a number, a list.
        num_layers: the model's; None checks the form alone and returns nothing.

    Raises:
        InputError: not of that form, or a layer that the model doesn't have.
    """
    last = (num_layers or 1) - 1
    if isinstance(layers, str):
        try:
            ranges = _ranges(layers.replace(" ", ""), last)
        except ValueError:
            raise InputError(parameter, layers, LAYERS_FORM) from None
    else:
        ranges = [(layer,) for layer in listed(layers)]
    for ends in ranges:
        if not all(map(is_whole, ends)) or len(ends) > 2 or ends[0] > ends[-1]:
            raise InputError(parameter, layers, LAYERS_FORM)
        for end in ends if num_layers else ():
            check_layer(parameter, end, num_layers)
        if ends[0] < 0:
            raise InputError(parameter, ends[0], "layers are counted from 0")
    if num_layers is None:
        return []
    return list(dict.fromkeys(layer for ends in ranges for layer in range(ends[0], ends[-1] + 1)))


def _ranges(text: str, last: int) -> list[tuple[int, ...]]:
    if text == "all":
        return [(0, last)]
    numbers, _, deep = text.partition("depth:")
    depths = [float(depth) for depth in deep.split(",")] if deep else []
    if not all(0 <= depth <= 1 for depth in depths) or ("depth" in text and not deep):
        raise ValueError
    parts = [part for part in numbers.removesuffix(",").split(",") if part or not depths]
    return [tuple(int(end) for end in part.split("-")) for part in parts] + [(round(d * last),) * 2 for d in depths]


def check_layer(parameter: str, layer: int, num_layers: int) -> int:
    """Return a layer that the model has."""
    if not 0 <= layer < num_layers:
        raise InputError(parameter, layer, f"this model has layers 0–{num_layers - 1}")
    return int(layer)


def is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def listed(values: object) -> list:
    """Return a setting that may be one value or several as a list."""
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def once(parameter: str, values: object) -> tuple:
    """Return the values without repeats, in order.

    Raises:
        InputError: there are none, or they are lists themselves.
    """
    values = listed(values)
    if not values:
        raise InputError(parameter, values, "expected at least one")
    try:
        distinct = tuple(dict.fromkeys(values))
    except TypeError:  # a list or a mapping in it
        raise InputError(parameter, values, "expected plain values, not lists of them") from None
    if len(distinct) < len(values):
        warnings.warn(f"{parameter}: {len(values) - len(distinct)} repeated value(s) merged", stacklevel=4)
    return distinct
