"""Guidance, sums and controls: the vectors derived by hand, and their readings equal to the plain way's."""

import pytest
import torch
from reference import plain_interpret, plain_vector

from helpers import InputError
from helpers.activations import capture
from helpers.components import Component, parse_component
from helpers.plans import TargetPrompt, make_plan
from helpers.superscopes import run, sweep

PROMPT = "Diana, Princess of Wales"
T = TargetPrompt()


def rows_of(lm, components, amplifiers, layers=3, target_layer=0, **settings):
    return sweep(lm, [PROMPT], components, layers, amplifiers, target_layer=target_layer, **settings)


def test_guidance_passes_through_the_residual_and_the_hidden_state(lm):
    rows = rows_of(lm, "guidance", [0, 1, 2.5], layers=[2, 5], target_layer="same")
    plain = rows_of(lm, ["pre_mlp_residual", "hidden_state"], 1, layers=[2, 5], target_layer="same")
    for layer in (2, 5):
        at = rows[rows["layer"] == layer]["result"].tolist()
        assert at[:2] == plain[plain["layer"] == layer]["result"].tolist()
        pre, mlp = (
            plain_vector(lm.model, lm.tokenizer, PROMPT, c, layer, -1) for c in ("pre_mlp_residual", "mlp_output")
        )
        assert at[2] == plain_interpret(lm.model, lm.tokenizer, pre + 2.5 * mlp, layer, T.text)


def test_a_sum_of_mlp_outputs_is_one_amplified_vector_at_its_last_layer(lm):
    rows = rows_of(lm, "mlp_sum[2-4]", [1, 3], layers="1-7", target_layer=["same", 0])
    assert rows["layer"].tolist() == [4] * 4 and rows["target layer"].tolist() == [4, 4, 0, 0]
    total = sum(plain_vector(lm.model, lm.tokenizer, PROMPT, "mlp_output", layer, -1) for layer in (2, 3, 4))
    for row in rows.to_dict("records"):
        vector = row["amplification value"] * total
        assert row["result"] == plain_interpret(lm.model, lm.tokenizer, vector, row["target layer"], T.text)


def test_zero_and_none_are_single_readings(lm):
    rows = rows_of(lm, ["zero", "none"], [1, 3, 9], layers=[1, 4], target_layer="same")
    assert rows["component"].tolist() == ["zero", "zero", "none", "none"] and set(rows["amplification value"]) == {1}
    for row in rows.to_dict("records"):
        if row["component"] == "zero":
            text = plain_interpret(lm.model, lm.tokenizer, torch.zeros(lm.width), row["target layer"], T.text)
            assert row["result"] == text and row["rho"] == 0
        else:  # as if nothing had been patched at all
            inputs = lm.tokenizer(T.text, return_tensors="pt")
            tokens = lm.model.generate(**inputs, do_sample=False, max_new_tokens=10)[0, inputs.input_ids.shape[1] :]
            assert row["result"] == lm.tokenizer.decode(tokens, skip_special_tokens=True) and row["rho"] == 1


def test_a_random_vector_has_the_norm_of_what_it_stands_for():
    class Activations(dict):
        pass

    torch.manual_seed(0)
    activations = Activations(hidden_state=torch.randn(4, 3, 64), mlp_output=torch.randn(4, 3, 64))
    draw = parse_component("random[mlp_output]").vector
    own = torch.zeros(64)
    one, again, other = (draw(activations, 2, 1, 1, key, own) for key in ("a", "a", "b"))
    torch.testing.assert_close(one.norm(), activations["mlp_output"][2, 1].norm())
    assert torch.equal(one, again) and torch.nn.functional.cosine_similarity(one, other, dim=0).abs() < 0.5


def test_random_rows_say_their_seed_and_hang_on_it(lm):
    first, second = (rows_of(lm, "random[hidden_state]", [1, 4], seed=seed) for seed in (0, 1))
    assert set(first["seed"]) == {0} and set(second["seed"]) == {1} and not set(first["id"]) & set(second["id"])
    norm = plain_vector(lm.model, lm.tokenizer, PROMPT, "hidden_state", 3, -1).norm()
    own = capture(lm, T.text)["hidden_state"][0, -1].norm()
    assert first["rho"].tolist() == pytest.approx([float(norm / own), float(4 * norm / own)], rel=1e-3)
    assert first["result"].tolist() != second["result"].tolist()
    plain = [rows_of(lm, "hidden_state", 1, seed=seed)["id"].tolist() for seed in (0, 1)]
    assert plain[0] == plain[1], "a greedy reading doesn't hang on a seed"


def test_random_alone_takes_the_norm_of_the_plans_own_component(lm):
    assert make_plan(["a"], ("hidden_state", "random")).components == ("hidden_state", "random[hidden_state]")
    for components in ("random", ("mlp_output", "hidden_state", "random")):
        with pytest.raises(InputError, match="say whose norm it has"):
            make_plan(["a"], components)


@pytest.mark.parametrize("name", ["mlp", "mlp_sum[5-2]", "mlp_sum[a-b]", "random[zero]", "zeros", 3])
def test_an_unknown_component_is_refused(name):
    with pytest.raises(InputError, match="components="):
        make_plan(["a"], [name])


def test_a_sum_beyond_the_last_layer_is_refused(lm):
    with pytest.raises(InputError, match="layers 0–29"):
        next(run(lm, make_plan([PROMPT], "mlp_sum[1-30]")))


def test_parse_component():
    assert parse_component("mlp_sum[1-7]") == Component("mlp_sum", blocks=(1, 7))
    assert parse_component("random[mlp_output]") == Component("random", of="mlp_output")


def test_layers_may_be_numbers_and_depths_together(lm):
    items = make_plan(["a"], layers="1-3,depth:0.5,0.9", amplifiers=1).items(lm)
    assert items["layer"].tolist() == [1, 2, 3, 14, 26]  # round(0.5 · 29) and round(0.9 · 29), to even
    for wrong in ("1-3,depth", "depth:", "depth:2", "1,,2"):
        with pytest.raises(InputError, match="layers="):
            make_plan(["a"], layers=wrong)
