"""What the two evaluations share: a sweep of one component over all prompts, and how many prompts it interprets."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..words.components import COMPOSED, OUTPUT, PLACES
from ..words.decoding import decoding
from ..words.plans import Plan, make_plan
from ..words.prompts import read_categories, read_prompts
from ..words.settings import (
    NUM_PROMPTS,
    PROMPTS,
    STOP_AT_ITEM,
    Amplifiers,
    Count,
    FilePath,
    Flag,
    Layers,
    Place,
    ReadSettings,
    Seed,
    TargetLayers,
    TargetText,
    Temperature,
    Tokens,
    TopP,
    Way,
    setting,
)
from ._usual import described

if TYPE_CHECKING:
    import pandas as pd


class EvaluationSettings(ReadSettings):
    """The parameters of an evaluation; the amplifiers and the target layer are each evaluation's own."""

    prompts: FilePath = PROMPTS
    num_prompts: Count = NUM_PROMPTS
    token: Tokens = setting(-1, "inspected token: an index (negative from the end), its text, or a form of docs/any-vector.md")
    continue_tokens: Count = setting(0, "how many tokens the model writes on first, which can be inspected, too")
    layers: Layers = setting("1-7", 'source layers from 0: "1-7", "1-3,9", "all", "depth:0.1,0.5"')
    amplifiers: Amplifiers
    target_layer: TargetLayers
    target_component: Place = setting(OUTPUT, f"where in it a vector is put: {', '.join(PLACES)}")
    way: Way = setting("plain", f"what is put there: {', '.join(('plain', *COMPOSED))}; the amplifier is theirs (docs/places.md)")
    target_prompt: TargetText = setting(
        "", "a few-shot prompt that ends in its placeholder, or marks it with {braces}; empty is the paper's"
    )
    stop_at_item: Flag = STOP_AT_ITEM
    temperature: Temperature = setting(0.0, "0 is greedy; the paper's published runs were sampled at 0.6 with top_p 0.9")
    top_p: TopP = setting(0.9, "used when sampling")
    seed: Seed = setting(0, "used when sampling")


def plans(component: str, settings: EvaluationSettings) -> list[Plan]:
    """Ask for every combination of prompt, layer and amplifier of one component."""
    return [
        make_plan(
            read_prompts(settings.prompts, settings.num_prompts), component, settings.layers, settings.amplifiers, settings.token,
            settings.target_layer, settings.target_prompt or None, settings.max_new_tokens,
            decoding(settings.temperature, settings.top_p), settings.seed,
            target_component=settings.target_component, way=settings.way, stop_at_item=settings.stop_at_item,
            continue_tokens=settings.continue_tokens,
        )
    ]  # fmt: skip


gold = described


class Found(NamedTuple):
    """What the readings show.

    Attributes:
        per_layer, overall: of `judging.success_counts`, under each rule (column `judged by`).
    """

    per_layer: pd.DataFrame
    overall: pd.DataFrame


def tables(settings: EvaluationSettings, rows: pd.DataFrame) -> Found:
    """Count the interpreted prompts per layer, beside chance."""
    from ..judging.counts import counts_by_rule
    from ..judging.judge import Judge

    return Found(*counts_by_rule(rows, Judge(settings.judge), gold(settings), categories=read_categories(settings.prompts)))


def ladder(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the readings of one vector, amplifier by amplifier: of the first prompt and layer."""
    first = rows.iloc[0]
    same = ["source prompt", "position", "layer", "component", "target layer"]
    return rows[(rows[same] == first[same]).all(axis=1)][["amplification value", "rho", "result", "score"]]
