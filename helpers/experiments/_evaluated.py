"""The two evaluations' rows, for experiments that compare them with readings of their own."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ..words.files import results_folder

if TYPE_CHECKING:
    import pandas as pd

    from ..words.settings import ModelSettings

FILES = ("mlp_output.csv", "hidden_state.csv")


def folder_of(settings: ModelSettings) -> Path:
    """Return the folder of results that settings name."""
    return results_folder(settings.model, settings.out_dir, **settings.source_options.changed)


def evaluated_beside(settings: ModelSettings, rows: pd.DataFrame, prompts: Collection[str]) -> pd.DataFrame:
    """Return the evaluations' rows of some prompts: those that `results` names, or those in the folder of results.

    Args:
        rows: readings that they are compared with, of the same model, made in the same way.

    Raises:
        InputError: there are none, or they can't be compared.
    """
    from ..runs.results import evaluations, read_evaluations

    found = read_evaluations(settings.results or evaluations(folder_of(settings)), rows.attrs)
    return found[found["source prompt"].isin(prompts)]
