"""What is captured is what the names say."""

from dataclasses import replace

import pytest
import torch
from conftest import count_hooks
from reading import read

from helpers import InputError
from helpers.engine import activations
from helpers.engine.activations import CapturedPrompts, capture, capture_batch
from helpers.engine.given import fits, sources_of
from helpers.engine.hooks import record
from helpers.words.plans import make_plan
from helpers.words.prompts import read_prompts
from helpers.words.target import TargetPrompt


@pytest.mark.parametrize("model", ["lm", "tiny"])
def test_input_plus_attention_plus_mlp_is_output(model, request):
    lm = request.getfixturevalue(model)
    prompt = "Diana, Princess of Wales"
    activations = capture(lm, prompt)
    with record({}, {layer: block for layer, block in enumerate(lm.blocks)}) as inputs, torch.inference_mode():
        lm.model(torch.tensor([lm.token_ids(prompt)]))
    for layer in range(lm.num_layers):
        total = inputs[layer][0] + activations["attention_output"][layer] + activations["mlp_output"][layer]
        torch.testing.assert_close(total, activations["hidden_state"][layer], rtol=1e-4, atol=1e-3)
        if layer:
            assert (inputs[layer][0] == activations["hidden_state"][layer - 1]).all()


def test_pre_mlp_residual_is_the_papers_formula(lm):
    activations = capture(lm, "Star Wars")
    difference = activations["hidden_state"] - activations["mlp_output"]
    assert (activations["pre_mlp_residual"] == difference).all()
    assert difference.shape == (lm.num_layers, len(activations.tokens), lm.width)


def test_of_a_long_prompt_only_the_inspected_tokens_are_kept(tiny, monkeypatch):
    """Their vectors are the same, bit for bit, and so are the rows, in every component and over spans of tokens."""
    prompts = ["Diana, Princess of Wales", "Titanic"]
    span = TargetPrompt("Oslo: Capital of x y", ("x", "y"), span=True)
    grids = [
        {"components": ["mlp_output", "pre_mlp_residual", "guidance", "mlp_sum[0-1]", "norm[attention_output]", "random[mlp_output]"]},
        {"components": ["hidden_state"], "target_prompt": span, "token": [1, "2:4"]},
    ]
    plans = [make_plan(prompts, layers="0-2", **{"token": ["1::2", -1]} | grid, max_new_tokens=2) for grid in grids]
    plans[1] = replace(plans[1], prompts=tuple(prompts[:1]))
    monkeypatch.setattr(activations, "TOKENS_PER_PASS", 4)  # so that a prompt of five is a long one
    with monkeypatch.context() as patch:
        patch.setattr(CapturedPrompts, "_kept_of", lambda *_: None)
        whole = [read(tiny, plan) for plan in plans]
    assert [read(tiny, plan) for plan in plans] == whole

    kept = sources_of(tiny, plans[0])
    states = kept[prompts[0]].hidden_state
    assert states.shape[1] == len(plans[0].inspected(tiny)[prompts[0]]) < len(tiny.token_ids(prompts[0]))
    assert states.untyped_storage().nbytes() == states.numel() * states.element_size(), "the others are not held"
    assert kept[prompts[1]].hidden_state.shape[1] == len(tiny.token_ids(prompts[1])), "a short one is kept whole"
    assert fits(kept, tiny, plans[0]) and fits(kept, tiny, replace(plans[0], tokens=(1,)))
    assert not fits(kept, tiny, replace(plans[0], tokens=(0,))), "another token is not there"


def test_last_hidden_state_is_before_the_final_norm(lm):
    last = capture(lm, "Star Wars")["hidden_state"][-1]
    with torch.inference_mode():
        normed = lm.model.model(torch.tensor([lm.token_ids("Star Wars")])).last_hidden_state[0]
    torch.testing.assert_close(lm.model.model.norm(last), normed, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(last, normed, atol=1e-2)


def test_a_batch_equals_single_prompts(lm):
    prompts = read_prompts("data/prompts.csv")[:5] + ["A longer prompt of quite a few more tokens than the others"]
    for prompt, batched in zip(prompts, capture_batch(lm, prompts), strict=True):
        alone = capture(lm, prompt)
        assert batched.tokens == alone.tokens == lm.decoded_tokens(prompt)
        for component in ("hidden_state", "mlp_output", "attention_output"):
            error = (batched[component] - alone[component]).norm(dim=-1) / alone[component].norm(dim=-1)
            assert error.max() < 1e-4


@pytest.mark.parametrize("model", ["lm", "tiny"])
def test_a_pass_ends_at_the_deepest_layer_that_is_needed(model, request):
    """Up to there it is the whole pass, bit for bit; the layers behind it never run, and no hook stays."""
    lm = request.getfixturevalue(model)
    prompts = ["Titanic", "Diana, Princess of Wales"]
    whole, ran = capture_batch(lm, prompts), []
    watch = [block.register_forward_pre_hook(lambda *_, layer=layer: ran.append(layer)) for layer, block in enumerate(lm.blocks)]
    hooks = count_hooks(lm.model)
    try:
        short = capture_batch(lm, prompts, deepest=1)
    finally:
        assert count_hooks(lm.model) == hooks
        for one in watch:
            one.remove()
    assert ran == [0, 1]
    for all_layers, first in zip(whole, short, strict=True):
        assert first.tokens == all_layers.tokens
        for component in ("hidden_state", "mlp_output", "attention_output", "pre_mlp_residual"):
            assert len(first[component]) == 2 and torch.equal(first[component], all_layers[component][:2])
    with pytest.raises(InputError, match=f"deepest={lm.num_layers}: expected a layer of 0–{lm.num_layers - 1}"):
        capture_batch(lm, prompts, deepest=lm.num_layers)


def test_hundreds_of_prompts_equal_single_prompts(tiny):
    """Of 1 to 40 tokens, so that most are padded and several passes are needed."""
    words = tiny.tokenizer.decode(torch.randint(400, 40000, (4000,), generator=torch.Generator().manual_seed(0)))
    prompts = [words[5 * i : 5 * i + 1 + i % 120] for i in range(0, 1000, 3)]
    assert len({len(tiny.token_ids(prompt)) for prompt in prompts}) > 20
    for prompt, batched in zip(prompts, capture_batch(tiny, prompts), strict=True):
        alone = capture(tiny, prompt)
        assert batched.tokens == alone.tokens
        for component in ("hidden_state", "mlp_output", "attention_output", "pre_mlp_residual"):
            error = (batched[component] - alone[component]).norm(dim=-1)
            assert (error <= 1e-5 * alone["hidden_state"].norm(dim=-1)).all()


def test_captured_prompts_are_those_of_the_whole_plan_in_any_order(tiny):
    """Prompts of several passes; a vector's last digit doesn't depend on which prompt was asked for first."""
    prompts = [f"{'A longer prompt, ' * 5}{number}" for number in range(60)]
    expected = dict(zip(prompts, capture_batch(tiny, prompts), strict=True))
    captured = CapturedPrompts(tiny, prompts)
    for prompt in (prompts[-1], prompts[0], prompts[30], prompts[-1]):
        assert captured[prompt].tokens == expected[prompt].tokens
        for component in ("hidden_state", "mlp_output", "attention_output"):
            assert torch.equal(captured[prompt][component], expected[prompt][component])


def test_captured_prompts_are_shared_by_the_very_same_prompts_only(tiny, lm):
    captured = CapturedPrompts(tiny, ("Titanic", "Star Wars"))
    assert captured.is_for(tiny, ["Titanic", "Star Wars"])
    assert not captured.is_for(tiny, ["Star Wars", "Titanic"]) and not captured.is_for(tiny, ["Titanic"])
    assert not captured.is_for(lm, ["Titanic", "Star Wars"])


def test_an_unknown_component_lists_the_known(lm):
    with pytest.raises(InputError, match="mlp_output.*hidden_state"):
        capture(lm, "Titanic")["mlp"]
