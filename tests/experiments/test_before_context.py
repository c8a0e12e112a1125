"""ℓ_c by its rule, and what is legible before it, on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from helpers.experiments.before_context import (
    NEVER,
    Found,
    Settings,
    among_contextualized,
    claims_before_context,
    context_by_judge,
    contextualized,
    layers_earlier,
    plans,
    sentences,
    walkthrough,
)
from helpers.judging.effects import Judged, is_legible
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
    return Judged(tuple(prompts), tuple(range(cosines.shape[1])), tries, cosines, chosen)


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
    context = np.array([[3, NEVER], [2, 2]])  # ℓ_c as each prompt's description judges
    assert layers_earlier(judged, "Superscopes", context).tolist() == [[2, 0], [2, 0]]
    assert layers_earlier(judged, "Patchscopes", context).tolist() == [[0, 0], [0, 0]]


def test_context_is_the_same_rule_for_every_judge():
    cosines = np.zeros((2, 5, 1, 2), dtype=np.float32)
    cosines[0, [1, 3, 4], 0, 0] = 0.8
    cosines[0, [0, 1], 0, 1] = 0.8
    cosines[1, [2], 0, :] = 0.8
    assert context_by_judge(judged_by("ab", [1.0], cosines)).tolist() == [[3, 0], [NEVER, NEVER]]


def test_only_pairs_with_an_earlier_layer_are_counted_own_and_by_chance():
    n = 20
    context = np.full((n, n), 3)
    context[:5] = NEVER
    context[5:8] = 0
    values = np.zeros((n, n))
    np.fill_diagonal(values, 1)
    found = among_contextualized(values, context)
    assert found["n"] == 12 and found["rate"] == 1 and found["null"] == 0 and found["low"] == 1
    assert found["p_value"] == pytest.approx(1 / n)
    even = among_contextualized(np.ones((n, n)), context)
    assert even["effect"] == 0 and even["p_value"] == 1


def test_the_selection_by_context_makes_no_effect_of_its_own():
    """Readings that hang on nothing: ℓ_c exists for some pairs by luck, and nothing is above chance, plain or not."""
    effects = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        hits = rng.random((24, 8, 2, 24)) < 0.35
        judged = judged_by("abcdefghijklmnopqrstuvwx", [1.0, 3.0], hits.astype(np.float32))
        context = context_by_judge(judged)
        effects.append(
            [among_contextualized(layers_earlier(judged, method, context), context)["effect"] for method in METHODS]
        )
    assert (np.abs(np.mean(effects, 0)) < 3 * np.std(effects, 0) / np.sqrt(30) + 0.02).all()


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
    chance, earlier = claims_before_context(table, GOLD, Judge())
    hidden = earlier["hidden_state"]["Superscopes"]
    assert hidden["legible"]["n"] == 4 and hidden["legible"]["rate"] == hidden["layers"]["rate"] == 1
    assert hidden["legible"]["null"] == 0 and hidden["counts"] == {1: 4}
    assert earlier["hidden_state"]["Patchscopes"]["legible"]["rate"] == 0
    assert earlier["mlp_output"]["Superscopes"]["legible"]["rate"] == 0
    found = Found("m", table, context, chance, earlier)
    walked = walkthrough(Settings(), found, "Titanic", "hidden_state")
    assert walked["layer"].tolist() == [0, 1] and walked["legible"].tolist() == [False, True]
    never = walkthrough(Settings(), found._replace(context=context.replace(2, NEVER)), "Titanic", "hidden_state")
    assert len(never) == 7, "without ℓ_c, all layers are shown"
    strict = walkthrough(Settings(threshold=0.95), found, "Titanic", "hidden_state")
    assert not strict["legible"].any(), "the threshold counts in walkthroughs, too"


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
