"""The story of Figure 1 and the guidance of Figure 2, on tables whose answer is known."""

import pandas as pd
import pytest
from test_before_context import GOLD, rows

from helpers.experiments import guidance, story
from helpers.judging.judge import Judge
from helpers.words.components import MLP_GRID


def story_rows(pre, plain, amplified, hidden):
    """Make two layers: nothing in layer 0, the given scores in layer 1."""
    lines = []
    for layer in (0, 1):
        scores = (pre, plain, amplified, hidden) if layer else (0.0, 0.0, 0.0, 0.0)
        for component, alpha, score in zip(
            ("pre_mlp_residual", "mlp_output", "mlp_output", "hidden_state", "random[mlp_output]"), (1, 1, 9, 1, 9), (*scores, 0.0), strict=True
        ):  # fmt: skip
            lines.append(rows([("Pink Floyd", layer, alpha, ": a band", score)], component, "same"))
    return pd.concat(lines, ignore_index=True)


def said(told):
    found = story.Found("m", told, {}, None)
    return story.sentences(story.Settings(), found)[0]


def test_the_story_is_found_or_said_not_to_hold():
    told = story.find_story(story_rows(0.1, 0.1, 0.6, 0.7), Judge())
    assert told["holds"] and told["layer"] == 1 and told["amplifier"] == 9 and told["random readings"] == 2
    assert "not hold" not in said(told) and "layer 1" in said(told)
    known = story.find_story(story_rows(0.6, 0.1, 0.6, 0.7), Judge())
    assert not known["holds"] and known["missing"] == ["pre_mlp_residual"]
    assert "does not hold" in said(known) and "residual before the MLP is legible" in said(known)
    nothing = story.find_story(story_rows(0.0, 0.0, 0.0, 0.0), Judge())
    assert nothing["missing"] == ["amplified", "hidden_state"]
    assert not story.find_story(story_rows(0.1, 0.1, 0.6, 0.7), Judge(threshold=0.65))["holds"]


@pytest.mark.parametrize("same", [True, False])
def test_guidance_is_checked_against_the_plain_readings(same):
    made = [rows([("Pink Floyd", 5, w, f": band {w}", 0.09 * w)], "guidance", "same") for w in range(6)]
    made += [rows([("Pink Floyd", 5, a, f": x {a}", 0.1)], "mlp_output", "same") for a in range(6)]
    made.append(rows([("Pink Floyd", 5, 1, ": band 0", 0.0)], "pre_mlp_residual", "same"))
    made.append(rows([("Pink Floyd", 5, 1, ": band 1" if same else ": another", 0.1)], "hidden_state", "same"))
    table = pd.concat(made, ignore_index=True).assign(rho=1.0)
    table.attrs = {"model": {"name": "m"}}
    found = guidance.tables(guidance.Settings(), table)
    of_form = found.table.set_index("component")
    assert of_form.loc["guidance", "same_as_plain"] == same and of_form.loc["guidance", "legible"] == "4 5"
    assert guidance.sentences(guidance.Settings(), found)[-1].endswith(f"in {int(same)} of 1 layers.")
    strict = guidance.tables(guidance.Settings(threshold=0.4), table).table.set_index("component")
    assert strict.loc["guidance", "legible"] == "5"
    assert guidance.figure(guidance.Settings(), found).get_suptitle().startswith("m, “Red Hot Chili Peppers”")


def test_the_story_of_every_prompt_is_of_the_same_prompt(monkeypatch):
    """Files may hold the prompts in another order, and one may hold more of them."""
    monkeypatch.setattr("helpers.judging.effects.RESAMPLES", 199)
    monkeypatch.setattr("helpers.judging.chance.RESAMPLES", 199)
    soup, held, names = ": a kind of soup", list(GOLD)[:2], list(GOLD)

    def said(prompt, is_right):
        return f": {GOLD[prompt]}" if is_right else soup

    mlp = rows([(name, 2, α, said(name, name in held and α == 6), 0.0) for name in names[:3] for α in MLP_GRID], "mlp_output", "same")
    hidden = rows([(name, 2, 1, said(name, name in held), 0.0) for name in names[::-1]], "hidden_state", "same")
    before = rows([(name, 2, 1, soup, 0.0) for name in names], "pre_mlp_residual", "same")
    every = pd.concat([hidden, before, mlp], ignore_index=True)
    every = every.assign(id=[f"row {number}" for number in range(len(every))])
    numbers, best = story.stories(every, GOLD, Judge())
    assert numbers["holds"] == 2 and numbers["prompts"] == 3 and best["prompt"] in held
    assert story.stories(every, dict.fromkeys(GOLD, "a band"), Judge()) == ({}, None), "chance needs two descriptions"
