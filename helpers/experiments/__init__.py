"""The paper's experiments and their controls: a module each, whose notebook bears its name.

An experiment's module holds, in this order:

    PLACE       where it stands among the others, in listings and when several run
    WHEN        "default" (./runme.sh), "paper" (--all as well), "study" (--study) or "check" (./runme.sh check)
    QUESTION    what it asks, in a line
    PAPER       where the paper asks it; "–" if nowhere
    TABLE       the file of its readings; "" if it reads nothing from a model. READ_BESIDE: the file of those that it
                makes itself while working on others'
    NEEDS       files of other experiments that it reads; WANTS: files that it uses where they are there
    Settings    its parameters with their defaults and meanings
    plans       (settings) -> what it asks a model for
    gold        (settings) -> prompt -> the true description that its readings are judged by
    tables, sentences, caption, figure, save: from rows to what is published

The command, the help, the README's table and the notebooks all ask this registry, so that an experiment is added by a
file here and a notebook. Modules import heavy libraries inside their functions: a wrong setting is refused before.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING

from .. import ROOT, InputError
from ..words.components import GRIDS
from ..words.plans import check_comparable
from ..words.settings import ModelSettings, ReadSettings, Record, SourceOptions

if TYPE_CHECKING:
    import nbformat


@cache
def _registry() -> dict[str, ModuleType]:
    names = [module.name for module in iter_modules(__path__) if not module.name.startswith("_")]
    modules = [import_module(f"{__name__}.{name}") for name in names]
    return {module.__name__.rpartition(".")[2]: module for module in sorted(modules, key=lambda one: one.PLACE)}


def __getattr__(name: str):
    if name == "EXPERIMENTS":  # made when first asked for, since the modules import this package
        return _registry()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get(name: str) -> ModuleType:
    """Return an experiment.

    Raises:
        InputError: there is none of that name.
    """
    if name not in _registry():
        raise InputError("--only", name, f"expected one of {', '.join(_registry())}")
    return _registry()[name]


def names(*when: str) -> tuple[str, ...]:
    """Return the names of the experiments that run then, in their order."""
    return tuple(name for name, experiment in _registry().items() if experiment.WHEN in when)


def check_together(settings: Mapping[str, Record]) -> None:
    """Check that the evaluations of a run can stand beside its other experiments, before anything is computed.

    Raises:
        InputError: a setting that only the evaluations have, or an amplifier that they lack.
    """
    compared = [own for name, own in settings.items() if get(name).NEEDS and get(name).TABLE]
    for name, own in settings.items():
        if compared and f"{name.removesuffix('_evaluation')}.csv" == get(name).TABLE:
            [plan] = get(name).plans(own)
            check_comparable(plan.describe(), compared[0].max_new_tokens)
            [component] = plan.components
            if missing := set(GRIDS[component]) - set(plan.amplifiers):
                why = f"lacks {sorted(missing)} for {component}; methods are compared on {GRIDS[component]}"
                raise InputError("amplifiers", list(plan.amplifiers), why)


# The notebooks' parameters cells


def parameters_cell(experiment: ModuleType) -> str:
    """Return the parameters cell of an experiment's notebook: an assignment a line, with its meaning as a comment.

    The model comes first, then what is the experiment's own, then how it runs.
    """
    fields = experiment.Settings.model_fields
    first = [name for name in ModelSettings.model_fields if name in fields]
    last = [name for name in ReadSettings.model_fields if name in fields and name not in first]
    own = [name for name in fields if name not in (*first, *last)]
    return "\n".join(
        f"{name} = {_literal(fields[name].default)}  # {fields[name].description}" for name in (*first, *own, *last)
    )


def _literal(value: object) -> str:
    if isinstance(value, SourceOptions):
        value = value.changed
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(name)}: {_literal(one)}" for name, one in value.items()) + "}"
    return repr(value)


def write_parameters_cells(check: bool = False) -> list[Path]:
    """Write each notebook's parameters cell from its experiment's settings.

    Args:
        check: write nothing.

    Returns:
        The notebooks whose cell was out of date.
    """
    import nbformat

    stale = []
    for name, experiment in _registry().items():
        path = ROOT / "notebooks" / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        cell = _parameters(notebook)
        if cell.source != (source := parameters_cell(experiment)):
            stale.append(path)
            cell.source = source
            if not check:
                nbformat.write(notebook, path)
    return stale


def _parameters(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    return next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
