"""Every family: what is captured is what its blocks add, a patch touches its place, and the engine is the plain way."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from conftest import count_hooks
from families import FAMILIES, SMALL, small_model
from reference import plain_interpret
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from helpers import InputError
from helpers.activations import capture, capture_batch
from helpers.engine import PatchedPrompt
from helpers.families import CONVENTIONS, check_architecture, find_parts
from helpers.hooks import patch, record
from helpers.models import load_model
from helpers.plans import COMPONENTS, TargetPrompt
from helpers.superscopes import interpret

PROMPT = "Diana, Princess of Wales"
TARGETS = (TargetPrompt("Syria: Country in the Middle East, x"), TargetPrompt("One: two, three: four, x: y", 4))


@pytest.fixture(params=FAMILIES)
def family(request, lm, status):
    status("family", request.param)
    return request.param


def test_a_family(family, lm):
    model = small_model(family, lm.tokenizer)
    assert count_hooks(model.model) == 0
    parts_add_up(model)
    mlp_output_is_the_mlps(model)
    batches_equal_one_at_a_time(model)
    patch_touches_exactly_its_place(model)
    patch_of_its_own_vector_changes_nothing(model)
    engine_is_the_plain_way(model, shares=FAMILIES[family][2])
    assert count_hooks(model.model) == 0


def parts_add_up(model):
    activations = capture(model, PROMPT)
    with record({}, dict(enumerate(model.blocks))) as inputs, torch.inference_mode():
        model.model(torch.tensor([model.token_ids(PROMPT)]))
    for layer in range(model.num_layers):
        attention, mlp, out = (activations[name][layer] for name in ("attention_output", "mlp_output", "hidden_state"))
        assert attention.norm() > 0 and mlp.norm() > 0
        torch.testing.assert_close(inputs[layer][0] + attention + mlp, out, rtol=1e-5, atol=1e-5)
        assert layer == 0 or (inputs[layer][0] == activations["hidden_state"][layer - 1]).all()
    assert (activations["pre_mlp_residual"] == activations["hidden_state"] - activations["mlp_output"]).all()


def mlp_output_is_the_mlps(model):
    """Not attention's, and not both: without the weights of block 0's MLP it is what the norm makes of nothing."""
    silenced = replace(model, model=copy.deepcopy(model.model))
    for name, weight in silenced.blocks[0].named_parameters():
        if re.match(r"(shared_)?mlp\.|ffn\.|fc[12]\.|feed_forward\.|block_sparse_moe\.", name):
            weight.data.zero_()
    usual, without = capture(model, PROMPT), capture(silenced, PROMPT)
    torch.testing.assert_close(without["attention_output"][0], usual["attention_output"][0])
    assert without["mlp_output"][0].norm() < 1e-3 * usual["mlp_output"][0].norm()


def batches_equal_one_at_a_time(model):
    prompts = [PROMPT, "Titanic", "A longer prompt of quite a few more tokens than the others", "Star Wars"]
    for prompt, batched in zip(prompts, capture_batch(model, prompts), strict=True):
        alone = capture(model, prompt)
        for component in COMPONENTS:
            torch.testing.assert_close(batched[component], alone[component], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def patch_touches_exactly_its_place(model):
    ids = torch.tensor([model.token_ids(TARGETS[1].text)] * 2)
    layers, vectors, position = torch.tensor([2, 1]), torch.randn(2, model.width), 4
    with record(dict(enumerate(model.blocks))) as usual:
        model.model(ids)
    with patch(model.blocks, layers, vectors, position), record(dict(enumerate(model.blocks))) as patched:
        model.model(ids)
    for row, layer in enumerate(layers.tolist()):
        for block in range(model.num_layers):
            differs = (usual[block][row] != patched[block][row]).any(-1)  # (tokens,)
            assert not differs[:position].any()
            if block <= layer:
                assert not differs[position + 1 :].any() and differs[position] == (block == layer)
        assert (patched[layer][row, position] == vectors[row]).all()
        assert (usual[2][row, position:] != patched[2][row, position:]).any()


def patch_of_its_own_vector_changes_nothing(model):
    target = TARGETS[1]
    own = capture(model, target.text)["hidden_state"][:, target.placeholder]
    inputs = model.tokenizer(target.text, return_tensors="pt")
    tokens = model.model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs.input_ids.shape[1] :]
    unpatched = model.tokenizer.decode(tokens, skip_special_tokens=True)
    assert interpret(model, own, range(model.num_layers), target, 6) == [unpatched] * model.num_layers


def engine_is_the_plain_way(model, shares):
    generator = torch.Generator().manual_seed(0)
    vectors = 3 * torch.randn(8, model.width, generator=generator)
    layers = torch.randint(model.num_layers, (8,), generator=generator)
    for target in TARGETS:
        assert PatchedPrompt(model, target, 6).shares_prefix == shares
        plain = [
            plain_interpret(model.model, model.tokenizer, vector, layer, target.text, target.placeholder, 6)
            for vector, layer in zip(vectors, layers.tolist(), strict=True)
        ]
        assert interpret(model, vectors, layers, target, max_new_tokens=6) == plain
        assert interpret(model, vectors, layers, target, max_new_tokens=6, batch_size=3) == plain


FEW = ("Gemma 3 (with images)", "GPT-2", "BLOOM", "Falcon, several keys", "gpt-oss")


@pytest.mark.parametrize(
    "family", [one if one in FEW else pytest.param(one, marks=pytest.mark.slow) for one in FAMILIES]
)
def test_a_family_loads_from_a_folder(family, lm, tmp_path):
    """As a user loads it: known by its config, all its tensors there, the same vectors."""
    model = small_model(family, lm.tokenizer)
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), device="cpu")
    assert loaded.parts.convention == model.parts.convention
    ours, theirs = capture(model, PROMPT), capture(loaded, PROMPT)
    for component in COMPONENTS:
        assert torch.equal(ours[component], theirs[component])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_family_adds_up_in_lower_precision(lm, dtype):
    for family in FAMILIES:
        model = small_model(family, lm.tokenizer)
        low = copy.deepcopy(model.model).to(dtype)
        assert find_parts(family, low, low.device).convention == model.parts.convention


def test_every_convention_has_a_family_here(lm):
    used = {small_model(family, lm.tokenizer).parts.convention for family in FAMILIES}
    assert used == set(CONVENTIONS)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("t5", {}, "t5 is an encoder-decoder"),
        ("bart", {}, "bart is an encoder-decoder"),
        ("bert", {}, "bert is an encoder"),
        ("vit", {}, "vit is no causal language model"),
        ("mamba", {}, "mamba is a state-space model"),
        ("jamba", {}, "jamba is a state-space model"),
        ("diffusion_gemma", {}, "diffusion_gemma is no causal language model"),
        ("opt", {"do_layer_norm_before": False}, "opt with do_layer_norm_before=False puts a norm after"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "bloom with apply_residual_connection_post"),
        ("ctrl", {}, r"ctrl: unknown parts in a block \(multi_head_attention, ffn"),
    ],
)
def test_what_has_no_such_parts_is_refused_before_its_weights(kind, settings, words):
    with pytest.raises(InputError, match=rf"model='it': {words}") as error:
        check_architecture("it", CONFIG_MAPPING[kind](**settings))
    assert "\n" not in str(error.value)


def llama(**settings):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**SMALL | settings)).eval()


def refused(model, words):
    before = count_hooks(model)
    with pytest.raises(InputError, match=words):
        find_parts("it", model, model.device)
    assert count_hooks(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", [-1.0, -0.03, 0.03, 1.0])
def test_a_branch_that_is_not_what_is_added_is_refused(dtype, share):
    """In one block, 3 % of an MLP more or less than its module gives; all names are right."""
    model = llama().to(dtype)
    block = model.model.layers[1]
    usual, mlp = block.forward, block.mlp

    def forward(hidden_states, **kwargs):
        out = usual(hidden_states, **kwargs)
        return out + share * type(mlp).forward(mlp, out)  # past its hooks

    block.forward = forward
    refused(model, r"llama, block 1: input \+ attention \+ MLP differs from the output by .*known to add up: Llama")


def test_a_family_whose_parts_do_not_add_up_is_refused():
    """MiniMax scales the residual stream itself."""
    kind, settings, _ = FAMILIES["Mixtral"]
    refused(
        AutoModelForCausalLM.from_config(CONFIG_MAPPING["minimax"](**settings)).eval(),
        r"minimax, block 1: input \+ attention \+ MLP differs from the output by \d\.\de",
    )


def test_a_wrong_number_of_blocks_is_refused():
    model = llama()
    model.config.num_hidden_layers = 4
    refused(model, "llama: 3 blocks, but its config says 4")


def test_a_wrong_width_is_refused():
    model = llama()
    model.config.hidden_size = 64
    refused(model, r"llama, block 0: gives \(2, 3, 32\), not 64 numbers a token")


def test_something_between_two_blocks_is_refused():
    model = llama()
    model.model.layers[1].register_forward_pre_hook(lambda module, args: (args[0] + 1, *args[1:]), prepend=True)
    refused(model, "llama, block 1: doesn't receive what the block before it gives")


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.01), (torch.bfloat16, 0.3), (torch.float16, 0.1)])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_model_that_looks_ahead_is_refused(dtype, share, layer):
    """In one block, attention also reads a share of the last token."""
    model = llama().to(dtype)
    attention = model.model.layers[layer].self_attn
    before = attention.forward

    def forward(hidden_states, **kwargs):
        output, weights = before(hidden_states, **kwargs)
        return output + share * output.norm(dim=-1, keepdim=True) * hidden_states[:, -1:], weights

    attention.forward = forward
    refused(model, f"llama, block {layer}: tokens see later ones; not a causal model")


def test_numbers_out_of_the_range_of_the_dtype_are_said():
    model = llama().to(torch.float16)
    model.model.layers[1].mlp.down_proj.weight.data.fill_(6e4)
    refused(model, "llama, block 1: its output is not finite in float16; try another")
