"""ℓ_c by its rule, and what is legible before it, on tables whose answer is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from helpers.experiments import before_context
from helpers.experiments.before_context import (
    NEVER,
    Found,
    Settings,
    claims_before_context,
    contextualized,
    contextualized_by_chance,
    layers_earlier,
    plans,
    sentences,
    walkthrough,
)
from helpers.judging.effects import Judged, beside_chance, is_legible
from helpers.judging.judge import Judge
from helpers.words.methods import METHODS
from helpers.words.target import TargetPrompt

GOLD = {
    "Pink Floyd": "English rock band",
    "Titanic": "British passenger ship that sank in 1912",
    "Mount Fuji": "Volcano in Japan",
    "apple pie": "Dessert made of fruit",
}


def rows(lines, component="hidden_state", target=0):
    """Make rows of (prompt, layer, α, result, score gold)."""
    made = pd.DataFrame(lines, columns=["source prompt", "layer", "amplification value", "result", "score gold"])
    made["target layer"] = made["layer"] if target == "same" else target
    made["first item"] = [TargetPrompt().first_item(text) for text in made["result"]]
    return made.assign(component=component, status="ok", seed=None, token="x", **{"target prompt": "paper"})


def judged_by(prompts, amplifiers, cosines):
    """Make a table of readings in layers 0, 1, …: (prompts, layers, amplifiers, prompts) cosines."""
    tries = pd.DataFrame({"amplification value": amplifiers, "target prompt": "paper", "seed": None})
    chosen = {
        name: np.broadcast_to(method.choose(tries).to_numpy(), cosines.shape[:3]) for name, method in METHODS.items()
    }
    return Judged(tuple(prompts), tuple(range(cosines.shape[1])), tries, cosines, chosen, tuple(prompts))


def test_context_begins_at_the_first_of_two_legible_layers():
    lines = [
        ("Pink Floyd", layer, 1, ": rock band, Tesla", score)
        for layer, score in enumerate([0.1, 0.5, 0.2, 0.6, 0.7, 0.1])
    ]
    lines += [("Titanic", layer, 1, ": ship", score) for layer, score in enumerate([0.1, 0.5, 0.2, 0.4, 0.1, 0.9])]
    found = contextualized(rows(lines), Judge())
    assert found.to_dict() == {"Pink Floyd": 3, "Titanic": NEVER}, "a single legible layer doesn't count"
    assert contextualized(rows(lines), Judge(threshold=0.05))["Pink Floyd"] == 0


def test_an_echo_is_not_legible_whatever_its_score():
    made = rows([("Pink Floyd", 1, 1, ": Pink Floyd, Tesla", 0.9), ("Pink Floyd", 1, 1, ": the band, Tesla", 0.9)])
    assert is_legible(made).tolist() == [False, True]
    assert not is_legible(made.assign(status="nonfinite")).any()
    echoes = [("Pink Floyd", layer, 1, ": Floyd", 0.9) for layer in range(4)]
    assert contextualized(rows(echoes), Judge())["Pink Floyd"] == NEVER


def test_other_readings_say_nothing_about_context():
    lines = [("Pink Floyd", layer, 1, ": band", 0.1) for layer in range(4)]
    amplified = rows([("Pink Floyd", layer, 3, ": band", 0.9) for layer in range(4)])
    same = rows([("Pink Floyd", layer, 1, ": band", 0.9) for layer in range(1, 4)], target="same")
    mlp = rows([("Pink Floyd", layer, 1, ": band", 0.9) for layer in range(4)], component="mlp_output")
    assert contextualized(pd.concat([rows(lines), amplified, same, mlp]), Judge())["Pink Floyd"] == NEVER


def test_layers_earlier_are_counted_from_the_earliest_legible_one():
    cosines = np.full((2, 4, 2, 2), 0.0, dtype=np.float32)  # prompts, layers 0–3, plain and amplified, prompts
    cosines[0, 1, 1, 0] = cosines[0, 2, 1, 0] = 0.8  # amplified, layers 1 and 2: two layers before ℓ_c = 3
    cosines[0, 3, :, 0] = 0.9  # at ℓ_c itself: not earlier
    cosines[1, 0, 1, 0] = 0.8  # the other prompt's reading fits the first prompt's description: chance
    judged = judged_by("ab", [1.0, 3.0], cosines)
    context = np.array([3, 2])  # whoever judges
    assert layers_earlier(judged, "Superscopes", context).tolist() == [[2, 0], [2, 0]]
    assert layers_earlier(judged, "Patchscopes", context).tolist() == [[0, 0], [0, 0]]
    assert layers_earlier(judged, "Superscopes", np.array([NEVER, 0])).tolist() == [[0, 0], [0, 0]]


def test_reading_only_the_kind_is_chance_for_others_of_the_kind():
    """All bands read as bands one layer before ℓ_c: above chance of any other prompt, not of the category."""
    prompts, kinds = "abcdefgh", ("band",) * 4 + ("film",) * 4
    alike = np.array(kinds)[:, None] == np.array(kinds)
    cosines = np.zeros((8, 4, 2, 8), dtype=np.float32)
    cosines[:, 2, 1] = np.where(alike, 0.8, 0)  # amplified, in layer 2
    judged = replace(judged_by(prompts, [1.0, 3.0], cosines), categories=kinds)
    found = before_context._earlier(judged, "Superscopes", np.full(8, 3))["legible"]
    assert found["any"]["rate"] == 1 and found["any"]["low"] > 0 and found["any"]["p_value"] < 0.05
    assert found["same"]["null"] == 1 and found["same"]["effect"] == 0 and found["other"]["null"] == 0
    assert "what kind of thing it is" in before_context._level(found)
    cosines[:, 2, 1] = 0.8 * np.eye(8)
    found = before_context._earlier(judged, "Superscopes", np.full(8, 3))["legible"]
    assert found["same"]["effect"] == 1 and "the entity itself" in before_context._level(found)


def test_readings_that_hang_on_nothing_make_no_effect():
    """A prompt keeps its ℓ_c whoever judges, so that the selection favours no judge."""
    effects = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        judged = judged_by("abcdefghijklmnopqrstuvwx", [1.0, 3.0], (rng.random((24, 8, 2, 24)) < 0.35).astype(np.float32))
        layers = before_context.layers_earlier(judged, "Superscopes", rng.integers(-1, 8, 24))
        effects.append(beside_chance((layers > 0).astype(float), judged.others())["effect"])
    assert abs(np.mean(effects)) < 3 * np.std(effects) / np.sqrt(20) + 0.02


def test_claims_count_readings_before_context_only():
    """Four prompts with ℓ_c = 2; amplified hidden states fit their descriptions in layer 1, MLP outputs never.

    By chance there is a context, too: in the first layers each reads as the next prompt does.
    """
    lines, mlp, prompts = [], [], list(GOLD)
    for number, (prompt, gold) in enumerate(GOLD.items()):
        other = GOLD[prompts[(number + 1) % len(prompts)]]
        for layer in range(7):
            text = {0: "x", 1: "y", 2: gold, 3: gold, 4: other, 5: other, 6: "z"}[layer]
            lines += [(prompt, layer, 1, f": {text}", 0.9 if text == gold else 0.0)]
            lines += [(prompt, layer, 1.5, f": {gold}" if layer == 1 else ": nothing", 0.9 if layer == 1 else 0.0)]
            mlp += [(prompt, layer, a, ": nothing", 0.0) for a in (1, 3)]
    table = pd.concat([rows(lines), rows(mlp, "mlp_output", "same")], ignore_index=True)
    context = contextualized(table, Judge())
    assert context.tolist() == [2] * 4
    assert contextualized_by_chance(table, GOLD, Judge())[0] == pytest.approx(4 / 3, abs=0.01), "as the next prompt"
    earlier = claims_before_context(table, GOLD, {}, context, Judge())
    hidden = earlier["hidden_state"]["Superscopes"]
    assert hidden["n"] == 4 and hidden["legible"]["any"]["rate"] == hidden["layers"]["any"]["rate"] == 1
    assert hidden["legible"]["any"]["null"] == 0 and hidden["counts"] == {1: 4} and set(hidden["legible"]) == {"any"}
    assert earlier["hidden_state"]["Patchscopes"]["legible"]["any"]["rate"] == 0
    assert earlier["mlp_output"]["Superscopes"]["legible"]["any"]["rate"] == 0
    found = Found("m", table, context, (1.3, 0, 4), earlier)
    walked = walkthrough(Settings(), found, "Titanic", "hidden_state")
    assert walked["layer"].tolist() == [0, 1] and walked["legible"].tolist() == [False, True]
    never = walkthrough(Settings(), found._replace(context=context.replace(2, NEVER)), "Titanic", "hidden_state")
    assert len(never) == 7, "without ℓ_c, all layers are shown"
    strict = walkthrough(Settings(threshold=0.95), found, "Titanic", "hidden_state")
    assert not strict["legible"].any(), "the threshold counts in walkthroughs, too"


def test_layers_that_the_evaluation_has_not_amplified_do_not_count():
    """Plain hidden states are read in every layer, for ℓ_c; with `layers=1,4` amplified ones are not."""
    lines = [
        (prompt, layer, a, f": {gold}" if (layer, a) in ((5, 1), (6, 1), (4, 1.5)) else ": nothing", 0.9 if layer > 4 else 0)
        for prompt, gold in GOLD.items()
        for layer in range(7)
        for a in ([1, 1.5] if layer in (1, 4) else [1])
    ]
    mlp = [(prompt, layer, a, ": nothing", 0.0) for prompt in GOLD for layer in (1, 4) for a in (1, 3)]
    table = pd.concat([rows(lines), rows(mlp, "mlp_output", "same")], ignore_index=True)
    context = contextualized(table, Judge())
    earlier = claims_before_context(table, GOLD, {}, context, Judge())
    assert context.tolist() == [5] * 4
    assert earlier["hidden_state"]["Superscopes"]["counts"] == {1: 4}
    found = Found("m", table, context, (0, 0, 0), earlier)
    settings = Settings.of({"prompts": "data/prompts.csv"})
    said = before_context.caption(settings, found)
    assert "read in layers 1, 4." in said
    found = found._replace(rows=table[(table["component"] != "mlp_output") | (table["layer"] == 1)])
    assert "read in layers 1 (MLP outputs), 1, 4 (hidden states)." in before_context.caption(settings, found)


def test_sentences_say_how_many_and_by_chance(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,gold\n" + "".join(f"{prompt},{gold}\n" for prompt, gold in GOLD.items()))
    settings = Settings.of({"prompts": str(tmp_path / "p.csv")})
    found = Found("m", pd.DataFrame(), pd.Series([2, 2, 0, NEVER], list(GOLD)), (1.3, 0, 4), {})
    first, last = sentences(settings, found)
    assert first == (
        "Of 4 prompts, 3 are contextualized (ℓ_c exists; by chance 1.3, 0 to 4), 1 of them from layer 0 on; 1 never are."
    )
    assert last == "Too few have a layer before ℓ_c for anything to be compared."


def test_a_walkthrough_without_a_description_is_not_read():
    few = plans(Settings.of({"num_prompts": 8, "more_gold": {}}))
    assert len(few[0].prompts) == 8 and len(few) == 3, "of Table 3's prompts none is among the first eight"
    assert "Florence and the Machine" in plans(Settings())[-1].prompts
