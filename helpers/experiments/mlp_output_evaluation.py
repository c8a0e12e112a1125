"""What do MLP outputs say, plain and amplified?"""

from __future__ import annotations

from functools import partial

from ..words.components import MLP_GRID
from ..words.settings import Amplifiers, TargetLayers, setting
from . import _evaluation
from ._evaluation import EvaluationSettings, gold, ladder, tables

PLACE, WHEN = 10, "default"
QUESTION = "the readings of Figure 3"
PAPER = "§4.1"
TABLE = "mlp_output.csv"
NEEDS = ()


class Settings(EvaluationSettings):
    """The parameters of the notebook."""

    amplifiers: Amplifiers = setting(MLP_GRID, "1 is plain Patchscopes")
    target_layer: TargetLayers = setting("same", 'the patched layer: "same" as the source, or a number')


plans = partial(_evaluation.plans, "mlp_output")

__all__ = ["Settings", "gold", "ladder", "plans", "tables"]
