"""The settings of `./runme.sh bench`."""

from typing import Annotated

from ..words.grammar import check_components
from ..words.settings import (
    THRESHOLD,
    Amplifiers,
    Cosine,
    Count,
    FilePath,
    Form,
    Layers,
    Positive,
    ReadSettings,
    TargetLayers,
    TargetText,
    setting,
)
from .tasks import ROWS

USABLE, ALL = ROWS


def _check_rows(parameter: str, value: object) -> str:
    from .. import InputError

    if value not in ROWS:
        raise InputError(parameter, value, f"expected {' or '.join(ROWS)}")
    return value


class BenchSettings(ReadSettings):
    """Which benchmarks are measured, and how their vectors are read."""

    patchscopes: FilePath = setting("", "the folder of Patchscopes' attribute tasks", changes_results=False)
    lens: FilePath = setting("", "the folder of the Jacobian lens' evaluations", changes_results=False)
    workspace: FilePath = setting("", "the folder of workspace-bench's multi-token banks", changes_results=False)
    rows: Annotated[str, Form(_check_rows)] = setting(
        USABLE, "usable: those whose answer the model gives itself, as published; or all, beside which text alone can be seen"
    )
    num_rows: Count = setting(24, "rows of a task that are read, of as many subjects as can be; 0 is all")
    num_asked: Count = setting(120, "rows of a task that the model is asked itself, at most; 0 is all")
    component: Annotated[str, Form(lambda name, value: check_components(name, [value])[0])] = setting(
        "hidden_state", "which vector is read"
    )
    layers: Layers = setting("depth:0.1,0.3,0.5,0.7,0.9", 'source layers, like "1-7", "all" or relative depths')
    target_layers: TargetLayers = setting(
        (0, 4, 8, "same"), "the patched layers: the first is the one target layer, all of them are the K"
    )
    amplifiers: Amplifiers = setting((1, 1.5, 2, 3), "1 is plain; among all of them one is chosen blind")
    target_prompt: TargetText = setting(
        "", "asks for what isn't asked by the task's own prompt (lens, workspace); empty is the paper's"
    )
    max_new_tokens: Positive = setting(20, "length of a reading and of a text, as in the published evaluation")
    threshold: Cosine = THRESHOLD
