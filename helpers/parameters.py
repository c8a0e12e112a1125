"""The parameters of the notebooks: their names and defaults, NAME=VALUE texts, and the plans that they mean."""

import ast
import difflib
import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import nbformat

from . import ROOT, InputError
from .catalogue import CATALOGUE
from .decoding import sampling
from .experiments import EXPERIMENTS
from .plans import Plan, make_plan
from .results import read_prompts
from .sources import SourceOptions

FIXED = {"can_it_speak": {"components": "hidden_state", "amplifiers": 1, "target_layer": 0}}  # not its parameters
TEXT_TOO = ("token", "target_layer", "workers")  # parameters that take a number or a text
FIRST_CELLS = 4  # IPython's `In`: an empty one, the parameters, papermill's, this one
IPYTHONS = ("In", "Out", "exit", "quit", "open", "get_ipython", "check_parameters", "papermill_description")
KINDS = {float: (int, float), list: (list, tuple)}  # kinds of values that take others
SOURCE = {field.name: field.default for field in fields(SourceOptions)}  # names that go into source_options


def read_parameters(notebook: str) -> dict:
    """Names and defaults of a notebook's parameters cell: literals, one assignment a line."""
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    source = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    return {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(source).body}


def check_parameters(notebook: str, given: Mapping[str, object]) -> None:
    """Refuse a parameter that a notebook doesn't have, or one of another kind: papermill takes any name, and warns.

    Names are looked at when the notebook begins, not when its cells run again.

    Args:
        given: the notebook's globals, before it has imported anything else.

    Raises:
        InputError: names the parameter; says which are known, or what kind is expected.
    """
    known = read_parameters(notebook)
    own = {name: value for name, value in given.items() if not name.startswith("_") and name not in IPYTHONS}
    for name, value in own.items():
        if name not in known:
            if len(given.get("In", ())) > FIRST_CELLS:  # a kernel in which somebody plays has names of its own
                continue
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(name, value, f"unknown; {hint}known: {', '.join(known)}")
        default = known[name]
        kinds = KINDS.get(type(default), type(default))
        fits = isinstance(value, kinds) and (isinstance(default, bool) or not isinstance(value, bool))
        if name not in (*TEXT_TOO, "layers", "amplifiers") and not fits:  # what those take, make_plan says
            why = (
                f"expected a value like {default!r}, got {type(value).__name__} (papermill: -r a text, -y and -f YAML)"
            )
            raise InputError(name, value, why)


def parse_settings(settings: list[str], defaults: dict[str, dict]) -> dict:
    """NAME=VALUE texts as values of the kind that the notebooks' defaults have.

    Raises:
        InputError: not of that form, an unknown name (the known ones are listed), or another kind of value.
    """
    known = {name: value for parameters in defaults.values() for name, value in parameters.items()} | SOURCE
    known = {name: value for name, value in known.items() if not isinstance(value, dict)}  # by their own names, or not
    given = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError("setting", setting, "expected NAME=VALUE")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError("setting", name, f"unknown; {hint}known: {', '.join(known)}")
        if name in SOURCE:
            given.setdefault("source_options", {})[name] = _parse(name, text, known[name])
        else:
            given[name] = _parse(name, text, known[name])
    SourceOptions.of(given.get("source_options", {}))
    return given


def plans_of(notebook: str, parameters: dict) -> list[Plan]:
    """The plans that a notebook makes of its parameters, which bear the names of the experiment's, or of make_plan's."""
    make = EXPERIMENTS.get(notebook, make_plan)
    given = {name: parameters[name] for name in inspect.signature(make).parameters if name in parameters}
    given["max_new_tokens"] = parameters["max_new_tokens"]
    if "prompts" in given:
        given["prompts"] = read_prompts(parameters["prompts"], parameters.get("num_prompts", 0))
        given["prompts"] = given["prompts"][:: parameters.get("every", 1)]
    if notebook in EXPERIMENTS:
        return make(**given)
    given |= {  # one of the evaluations, or can_it_speak
        "components": notebook.removesuffix("_evaluation"),
        "target_prompt": parameters["target_prompt"] or None,
        "decoding": sampling(parameters.get("temperature", 0), parameters.get("top_p", 1)),
    }
    return [make_plan(**given | FIXED.get(notebook, {}))]


def _parse(name: str, text: str, default: object) -> object:
    """One value; numbers are plain ones (not nan, 1_000 or 007), lists are separated by commas."""
    if isinstance(default, list):
        text = text.strip()
        text = text[1:-1] if text.startswith("[") and text.endswith("]") else text  # mlp_sum[1-3] ends in one, too
        items = [item.strip() for item in text.split(",")]
        return [as_path(name, _number_or_text(item)) for item in items if item]
    if name in TEXT_TOO:
        return _number_or_text(text)
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise InputError(name, text, "expected true or false")
        return text.lower() == "true"
    if isinstance(default, str):
        return as_path(name, text)
    value = _number_or_text(text)
    if not isinstance(value, (int, type(default))):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise InputError(name, text, f"expected {kind}, like {default}")
    return value


def _number_or_text(text: str) -> int | float | str:
    if re.fullmatch(r"[+-]?(0|[1-9]\d*)", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=e))(e[+-]?\d+)?", text, re.IGNORECASE):
        return float(text)
    return text.strip("\"'") if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def as_path(name: str, value: object) -> object:
    """A file or folder that exists from where the user stands, made absolute; anything else as it is."""
    path = Path(str(value)).expanduser()
    named = name in ("prompts", "results", "reuse", "folders", "adapter") or (
        name == "model" and value not in CATALOGUE
    )
    return str(path.absolute()) if named and path.exists() else value
