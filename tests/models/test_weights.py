"""Rows of weight matrices, on small random models of every family: against what the model does, not against names."""

import pytest
import torch
from families import FAMILIES, each, small_model

from helpers import InputError
from helpers.engine.hooks import record
from helpers.models.weights import NEURONS, weight_of
from helpers.words.components import Site
from helpers.words.expressions import Weight, parse

EXPERTS = ("Llama 4 (text)", "Mixtral", "Qwen 2 MoE", "Qwen 3 MoE", "Granite MoE", "Qwen3-Next", "gpt-oss")
NORM_AFTER = ("Gemma 2", "Gemma 3 (text)", "Gemma 3 (with images)", "OLMo 2", "OLMo 3", "GLM-4", "EXAONE 4")
LAYER, NEURON = 1, 7
DENSE = [name for name in FAMILIES if name not in EXPERTS]


def matrices(lm) -> dict[str, torch.nn.Module]:
    """Return block LAYER's modules of the row of NEURONS that fits it, found here by the attribute path alone."""
    block = lm.blocks[LAYER]
    for row in NEURONS:
        try:
            return {kind: block.get_submodule(name) for kind, name in row._asdict().items() if name}
        except AttributeError:
            continue
    raise LookupError(lm.name)


@torch.no_grad()
def gain(lm, module: torch.nn.Module, rise: float) -> torch.Tensor:
    """Return by how much the last token's MLP output rises when NEURON's activation, an input of `module`, does."""
    ids = torch.tensor([[5, 6, 7]])
    sites, found = lm.parts.modules(), []
    for more in (0.0, rise):

        def raise_it(module, args, more=more):
            activation = args[0].clone()
            activation.reshape(-1, activation.shape[-1])[-1, NEURON] += more
            return (activation, *args[1:])

        handle = module.register_forward_pre_hook(raise_it)
        try:
            with record({site: sites[site] for site in (Site("mlp_output", LAYER), Site("hidden_state", LAYER))}) as seen:
                lm.model(ids, use_cache=False)
        finally:
            handle.remove()
        added = lm.parts.added(seen[Site("mlp_output", LAYER)], LAYER, seen[Site("hidden_state", LAYER)])
        found.append(added[0, -1].double())
    return found[1] - found[0]


@pytest.mark.parametrize("family", each(name for name in DENSE if name not in NORM_AFTER))
def test_output_weights_are_what_the_mlp_output_gains_when_the_activation_rises_by_one(family, lm):
    model = small_model(family, lm.tokenizer)
    row = weight_of(model, Weight("mlp.down", (LAYER, NEURON)))
    assert row.shape == (32,) and row.dtype == torch.float32
    torch.testing.assert_close(gain(model, matrices(model)["down"], 1.0), row.double(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", each(NORM_AFTER))
@torch.no_grad()
def test_where_a_norm_follows_the_output_weights_are_what_enters_it(family, lm):
    model = small_model(family, lm.tokenizer)
    row, down = weight_of(model, Weight("mlp.down", (LAYER, NEURON))), matrices(model)["down"]
    one = torch.zeros(1, down.in_features)
    one[0, NEURON] = 1
    torch.testing.assert_close(down(one)[0], row)


@pytest.mark.parametrize("family", each(DENSE))
@torch.no_grad()
def test_keys_are_what_the_neuron_looks_for(family, lm):
    """The neuron's pre-activation rises by a·k, k its key, when the MLP's input rises by a."""
    model = small_model(family, lm.tokenizer)
    found, a = matrices(model), torch.randn(32, generator=torch.Generator().manual_seed(0))
    width = found["down"].weight.shape[1 if isinstance(found["down"], torch.nn.Linear) else 0]
    up = found["up"](a) - found["up"](torch.zeros(32))
    fused = found.get("gate") is found["up"]
    place = {"up": width + NEURON if fused else NEURON, "gate": NEURON}
    torch.testing.assert_close(weight_of(model, Weight("mlp.up", (LAYER, NEURON))) @ a, up[place["up"]], atol=1e-5, rtol=1e-4)
    if "gate" in found:
        gate = found["gate"](a) - found["gate"](torch.zeros(32))
        key = weight_of(model, Weight("mlp.gate", (LAYER, NEURON)))
        torch.testing.assert_close(key @ a, gate[place["gate"]], atol=1e-5, rtol=1e-4)
    else:
        with pytest.raises(InputError, match="no gate"):
            weight_of(model, Weight("mlp.gate", (LAYER, NEURON)))


@pytest.mark.parametrize("family", ["Phi-3, Phi-4", "GLM-4"])
@torch.no_grad()
def test_of_a_fused_matrix_the_gate_is_the_half_that_is_activated(family, lm):
    """The activation of the one key's product times the other's is what goes into `down_proj`."""
    model = small_model(family, lm.tokenizer)
    block, seen = model.blocks[LAYER], {}
    gate = weight_of(model, Weight("mlp.gate", (LAYER, NEURON)))
    up = weight_of(model, Weight("mlp.up", (LAYER, NEURON)))
    handle = block.mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.update(neurons=args[0]))
    try:
        x = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(0))
        block.mlp(x)
    finally:
        handle.remove()
    activated = block.mlp.activation_fn(x[0, 0] @ gate) * (x[0, 0] @ up)
    torch.testing.assert_close(seen["neurons"][0, 0, NEURON], activated, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", each())
@torch.no_grad()
def test_embedding_and_head_are_rows_of_the_models_own(family, lm):
    model = small_model(family, lm.tokenizer)
    token = lm.tokenizer(" cat", add_special_tokens=False).input_ids[0]
    head = model.model.get_output_embeddings()
    state = torch.randn(32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(weight_of(model, Weight("head", (" cat",))) @ state, (head(state) - head(state * 0))[token])
    row = model.model.get_input_embeddings().weight[token]
    assert torch.equal(weight_of(model, Weight("embedding", (" cat",))), row.float())
    assert torch.equal(weight_of(model, Weight("embedding", (token,))), row.float())


@pytest.mark.parametrize("family", each(EXPERTS))
def test_neurons_of_a_mixture_of_experts_are_refused(family, lm):
    model = small_model(family, lm.tokenizer)
    with pytest.raises(InputError, match="mixture of experts"):
        weight_of(model, Weight("mlp.down", (LAYER, NEURON)))


def test_what_the_model_does_not_have_is_refused(tiny):
    for text, why in (
        ("mlp.down[1, 64]", "neurons 0–63"),
        ("head[49152]", "tokens 0–49,151"),
        ('embedding["Superscopes"]', "expected one token"),
    ):
        with pytest.raises(InputError, match=why):
            weight_of(tiny, parse(text).node)
