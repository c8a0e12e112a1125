"""ℓ_c by its rule, what is legible before it, and the story of Figure 1, on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from helpers.context import (
    NEVER,
    among_contextualized,
    claims_before_context,
    context_by_judge,
    contextualized,
    find_story,
    guidance_found,
    is_legible,
    layers_earlier,
    story_sentence,
    walkthrough,
)
from helpers.effects import Judged

GOLD = {
    "Pink Floyd": "English rock band",
    "Titanic": "British passenger ship that sank in 1912",
    "Mount Fuji": "Volcano in Japan",
    "apple pie": "Dessert made of fruit",
}


def rows(lines, component="hidden_state", target=0):
    """(prompt, layer, α, result, score gold)"""
    made = pd.DataFrame(lines, columns=["source prompt", "layer", "amplification value", "result", "score gold"])
    made["target layer"] = made["layer"] if target == "same" else target
    return made.assign(component=component, status="ok", seed=None, token="x", **{"target prompt": "paper"})


def test_context_begins_at_the_first_of_two_legible_layers():
    lines = [
        ("Pink Floyd", layer, 1, ": rock band, Tesla", score)
        for layer, score in enumerate([0.1, 0.5, 0.2, 0.6, 0.7, 0.1])
    ]
    lines += [("Titanic", layer, 1, ": ship", score) for layer, score in enumerate([0.1, 0.5, 0.2, 0.4, 0.1, 0.9])]
    found = contextualized(rows(lines))
    assert found.to_dict() == {"Pink Floyd": 3, "Titanic": NEVER}, "a single legible layer doesn't count"
    assert contextualized(rows(lines), threshold=0.05)["Pink Floyd"] == 0


def test_an_echo_is_not_legible_whatever_its_score():
    made = rows([("Pink Floyd", 1, 1, ": Pink Floyd, Tesla", 0.9), ("Pink Floyd", 1, 1, ": the band, Tesla", 0.9)])
    assert is_legible(made).tolist() == [False, True]
    assert not is_legible(made.assign(status="nonfinite")).any()
    echoes = [("Pink Floyd", layer, 1, ": Floyd", 0.9) for layer in range(4)]
    assert contextualized(rows(echoes))["Pink Floyd"] == NEVER


def test_other_readings_say_nothing_about_context():
    lines = [("Pink Floyd", layer, 1, ": band", 0.1) for layer in range(4)]
    amplified = rows([("Pink Floyd", layer, 3, ": band", 0.9) for layer in range(4)])
    same = rows([("Pink Floyd", layer, 1, ": band", 0.9) for layer in range(1, 4)], target="same")
    mlp = rows([("Pink Floyd", layer, 1, ": band", 0.9) for layer in range(4)], component="mlp_output")
    assert contextualized(pd.concat([rows(lines), amplified, same, mlp]))["Pink Floyd"] == NEVER


def test_layers_earlier_are_counted_from_the_earliest_legible_one():
    cosines = np.full((2, 4, 2, 2), 0.0, dtype=np.float32)  # prompts, layers 0–3, plain and amplified, prompts
    cosines[0, 1, 1, 0] = cosines[0, 2, 1, 0] = 0.8  # amplified, layers 1 and 2: two layers before ℓ_c = 3
    cosines[0, 3, :, 0] = 0.9  # at ℓ_c itself: not earlier
    cosines[1, 0, 1, 0] = 0.8  # the other prompt's reading fits the first prompt's description: chance
    grid = pd.DataFrame({"amplification value": [1.0, 3.0], "target prompt": "paper", "seed": None})
    judged = Judged(("a", "b"), (0, 1, 2, 3), grid, cosines)
    context = np.array([[3, NEVER], [2, 2]])  # ℓ_c as each prompt's description judges
    assert layers_earlier(judged, ~judged.plain, context).tolist() == [[2, 0], [2, 0]]
    assert layers_earlier(judged, judged.plain, context).tolist() == [[0, 0], [0, 0]]


def test_context_is_the_same_rule_for_every_judge():
    cosines = np.zeros((2, 5, 1, 2), dtype=np.float32)
    cosines[0, [1, 3, 4], 0, 0] = 0.8
    cosines[0, [0, 1], 0, 1] = 0.8
    cosines[1, [2], 0, :] = 0.8
    grid = pd.DataFrame({"amplification value": [1.0], "target prompt": "paper", "seed": None})
    assert context_by_judge(Judged(("a", "b"), tuple(range(5)), grid, cosines)).tolist() == [[3, 0], [NEVER, NEVER]]


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
        grid = pd.DataFrame({"amplification value": [1.0, 3.0], "target prompt": "paper", "seed": None})
        judged = Judged(tuple("abcdefghijklmnopqrstuvwx"), tuple(range(8)), grid, hits.astype(np.float32))
        context = context_by_judge(judged)
        effects.append(
            [
                among_contextualized(layers_earlier(judged, which, context), context)["effect"]
                for which in (judged.plain, ~judged.plain)
            ]
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
    context = contextualized(table)
    assert context.tolist() == [2] * 4
    earlier, sentences = claims_before_context(table, GOLD)
    hidden = earlier["hidden_state"]["Superscopes"]
    assert hidden["legible"]["n"] == 4 and hidden["legible"]["rate"] == hidden["layers"]["rate"] == 1
    assert hidden["legible"]["null"] == 0 and hidden["counts"] == {1: 4}
    assert earlier["hidden_state"]["Patchscopes"]["legible"]["rate"] == 0
    assert earlier["mlp_output"]["Superscopes"]["legible"]["rate"] == 0
    assert sentences[0].startswith(
        "Of 4 prompts, 4 are contextualized (ℓ_c exists; by chance 1.3, 0 to 4), 0 of them from layer 0 on"
    )
    shown = walkthrough(table[table["component"] == "hidden_state"], "Titanic", 2)
    assert shown["layer"].tolist() == [0, 1] and shown["legible"].tolist() == [False, True]
    never = walkthrough(table[table["component"] == "hidden_state"], "Titanic", NEVER)
    assert len(never) == 7, "without ℓ_c, all layers are shown"


def story_rows(pre, plain, amplified, hidden):
    """Two layers: nothing in layer 0, the given scores in layer 1."""
    lines = []
    for layer in (0, 1):
        scores = (pre, plain, amplified, hidden) if layer else (0.0, 0.0, 0.0, 0.0)
        for component, alpha, score in zip(
            ("pre_mlp_residual", "mlp_output", "mlp_output", "hidden_state", "random[mlp_output]"), (1, 1, 9, 1, 9), (*scores, 0.0), strict=True
        ):  # fmt: skip
            lines.append(rows([("Pink Floyd", layer, alpha, ": a band", score)], component, "same"))
    return pd.concat(lines, ignore_index=True)


def test_the_story_is_found_or_said_not_to_hold():
    told = find_story(story_rows(0.1, 0.1, 0.6, 0.7))
    assert told["holds"] and told["layer"] == 1 and told["amplifier"] == 9 and told["random readings"] == 2
    assert "holds" not in story_sentence(told, "m") and "layer 1" in story_sentence(told, "m")
    known = find_story(story_rows(0.6, 0.1, 0.6, 0.7))
    assert not known["holds"] and known["missing"] == ["pre_mlp_residual"]
    assert "does not hold" in story_sentence(known, "m") and "residual before the MLP is legible" in story_sentence(
        known, "m"
    )
    nothing = find_story(story_rows(0.0, 0.0, 0.0, 0.0))
    assert nothing["missing"] == ["amplified", "hidden_state"]


@pytest.mark.parametrize("same", [True, False])
def test_guidance_is_checked_against_the_plain_readings(same):
    made = [rows([("Pink Floyd", 5, w, f": band {w}", 0.09 * w)], "guidance", "same") for w in range(6)]
    made += [rows([("Pink Floyd", 5, a, f": x {a}", 0.1)], "mlp_output", "same") for a in range(6)]
    made.append(rows([("Pink Floyd", 5, 1, ": band 0", 0.0)], "pre_mlp_residual", "same"))
    made.append(rows([("Pink Floyd", 5, 1, ": band 1" if same else ": another", 0.1)], "hidden_state", "same"))
    table = pd.concat(made, ignore_index=True)
    found, sentences = guidance_found(table.assign(legible=is_legible(table)), 5)
    assert found.set_index("component").loc["guidance", "same_as_plain"] == same
    assert found.set_index("component").loc["guidance", "legible"] == "4 5"
    assert sentences[-1].endswith(f"in {int(same)} of 1 layers.")
