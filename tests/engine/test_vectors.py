"""Guidance, sums and controls: the vectors derived by hand, and their readings equal to the plain way's."""

import pytest
import torch
from reading import read
from reference import plain_interpret, plain_vector

from helpers import InputError
from helpers.engine.activations import Activations, capture
from helpers.engine.interpret import run
from helpers.engine.vectors import vector_of
from helpers.words.plans import make_plan
from helpers.words.rows import Item
from helpers.words.target import TargetPrompt

PROMPT = "Diana, Princess of Wales"
T = TargetPrompt()


def pairs_of(lm, components, amplifiers, layers=1, target_layer=0, **settings):
    return read(lm, [PROMPT], components, layers, amplifiers, target_layer=target_layer, **settings)


def test_guidance_passes_through_the_residual_and_the_hidden_state(tiny):
    guided = pairs_of(tiny, "guidance", [0, 1, 2.5], layers=2, target_layer="same")
    plain = pairs_of(tiny, ["pre_mlp_residual", "hidden_state"], 1, layers=2, target_layer="same")
    texts = [reading.result for _, reading in guided]
    assert texts[:2] == [reading.result for _, reading in plain]
    pre, mlp = (plain_vector(tiny.model, tiny.tokenizer, PROMPT, c, 2, -1) for c in ("pre_mlp_residual", "mlp_output"))
    assert texts[2] == plain_interpret(tiny.model, tiny.tokenizer, pre + 2.5 * mlp, 2, T.text)


def test_a_sum_of_mlp_outputs_is_a_single_amplified_vector_at_its_last_layer(tiny):
    pairs = pairs_of(tiny, "mlp_sum[0-1]", [1, 3], layers="0-2", target_layer=["same", 0])
    assert [(item.layer, item.target_layer) for item, _ in pairs] == [(1, 1), (1, 1), (1, 0), (1, 0)]
    total = sum(plain_vector(tiny.model, tiny.tokenizer, PROMPT, "mlp_output", layer, -1) for layer in (0, 1))
    for item, reading in pairs:
        vector = item.amplifier * total
        assert reading.result == plain_interpret(tiny.model, tiny.tokenizer, vector, item.target_layer, T.text)


def test_zero_and_none_are_single_readings(tiny):
    pairs = pairs_of(tiny, ["zero", "none"], [1, 3, 9], layers=[1, 2], target_layer="same")
    assert [(item.component, item.amplifier) for item, _ in pairs] == [("zero", 1)] * 2 + [("none", 1)] * 2
    for item, reading in pairs:
        if item.component == "zero":
            text = plain_interpret(tiny.model, tiny.tokenizer, torch.zeros(tiny.width), item.target_layer, T.text)
            assert reading.result == text and reading.rho == 0
        else:  # as if nothing had been patched at all
            inputs = tiny.tokenizer(T.text, return_tensors="pt")
            tokens = tiny.model.generate(**inputs, do_sample=False, max_new_tokens=10)[0, inputs.input_ids.shape[1] :]
            assert reading.result == tiny.tokenizer.decode(tokens, skip_special_tokens=True) and reading.rho == 1


def test_a_random_vector_has_the_norm_of_what_it_stands_for():
    torch.manual_seed(0)
    activations = Activations(["a", "b", "c"], *(torch.randn(4, 3, 64) for _ in range(3)))

    def drawn(amplifier=1.0, seed=0, position=1):
        item = Item("a b c", "b", 2, amplifier, "random[mlp_output]", position, 2, "paper", seed)
        return vector_of(item, activations, replaced=torch.zeros(64))

    torch.testing.assert_close(drawn().norm(), activations["mlp_output"][2, 1].norm())
    assert torch.equal(drawn(), drawn(amplifier=9.0)), "amplifiers multiply the same vector"
    for other in (drawn(seed=1), drawn(position=2)):
        assert torch.nn.functional.cosine_similarity(drawn(), other, dim=0).abs() < 0.5


def test_random_rows_name_their_seed_and_depend_on_it(tiny):
    first, second = (pairs_of(tiny, "random[hidden_state]", [1, 4], seed=seed) for seed in (0, 1))
    assert {item.seed for item, _ in first} == {0} and {item.seed for item, _ in second} == {1}
    assert not {item.id for item, _ in first} & {item.id for item, _ in second}
    norm = plain_vector(tiny.model, tiny.tokenizer, PROMPT, "hidden_state", 1, -1).norm()
    replaced = capture(tiny, T.text)["hidden_state"][0, -1].norm()
    rho = [float(norm / replaced), float(4 * norm / replaced)]
    assert [reading.rho for _, reading in first] == pytest.approx(rho, rel=1e-3)
    assert [reading.result for _, reading in first] != [reading.result for _, reading in second]


def test_a_sum_beyond_the_last_layer_is_refused_before_anything_runs(tiny):
    with pytest.raises(InputError, match="layers 0–2"):
        run(tiny, make_plan([PROMPT], "mlp_sum[1-30]"))
