"""How early can hidden states be read, plain and amplified?"""

from __future__ import annotations

from functools import partial

from ..words.components import FINE_GRID
from ..words.settings import Amplifiers, TargetLayers, setting
from . import _evaluation
from ._evaluation import EvaluationSettings, gold, ladder, tables

PLACE, WHEN = 20, "default"
QUESTION = "the same for hidden states"
PAPER = "§4.2, Table 3's setting on all prompts"
TABLE = "hidden_state.csv"
NEEDS = ()


class Settings(EvaluationSettings):
    """The parameters of the notebook."""

    amplifiers: Amplifiers = setting(FINE_GRID, "1 is plain Patchscopes")
    target_layer: TargetLayers = setting(0, 'the patched layer: a number, or "same" as the source')


plans = partial(_evaluation.plans, "hidden_state")

__all__ = ["Settings", "gold", "ladder", "plans", "tables"]
