"""The settings of `./runme.sh bench`."""

from functools import partial
from pathlib import Path
from typing import Annotated

from ..words import grammar
from ..words.components import COMPONENTS
from ..words.files import at_home
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
    TargetText,
    check_one_of,
    setting,
)
from .tasks import ROWS

USABLE, ALL = ROWS
TargetLayers = Annotated[tuple[int | str, ...], Form(grammar.check_target_layers, grammar.read_list)]


class BenchSettings(ReadSettings):
    """Which benchmarks are measured, and how their vectors are read."""

    patchscopes: FilePath = setting("", "the folder of Patchscopes' attribute tasks", changes_results=False)
    lens: FilePath = setting("", "the folder of the Jacobian lens' evaluations", changes_results=False)
    workspace: FilePath = setting("", "the folder of workspace-bench's multi-token banks", changes_results=False)
    jacobian: FilePath = setting(
        "", "a Jacobian lens, beside the logit lens; empty is the one that `./runme.sh lens fit` has made, if it has"
    )
    rows: Annotated[str, Form(partial(check_one_of, ROWS))] = setting(
        USABLE, "usable: those whose answer the model gives itself, as published; or all, beside which text alone can be seen"
    )
    num_rows: Count = setting(20, "rows of a task that are read, of as many subjects as can be; 0 is all")
    num_asked: Count = setting(120, "rows of a task that the model is asked itself, at most; 0 is all")
    component: Annotated[str, Form(partial(check_one_of, tuple(COMPONENTS)))] = setting(
        "hidden_state", f"which vector is read: {', '.join(COMPONENTS)}"
    )
    layers: Layers = setting("depth:0.2,0.4,0.6,0.8", 'source layers, like "1-7", "all" or relative depths')
    target_layers: TargetLayers = setting(
        (0, 8, "same"), "the patched layers: the first is the one target layer, all of them are the K"
    )
    amplifiers: Amplifiers = setting((1, 1.5, 2), "1 is plain; among all of them one is chosen blind")
    target_prompt: TargetText = setting(
        "", "asks for what isn't asked by the task's own prompt (lens, workspace); empty is the paper's"
    )
    max_new_tokens: Positive = setting(20, "length of a reading and of a text, as in the published evaluation")
    threshold: Cosine = THRESHOLD

    def folder_of(self, name: str) -> Path:
        """Return the folder of a benchmark's files, as the shell means it."""
        return at_home(getattr(self, name)).resolve()
