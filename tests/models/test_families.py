"""Every family: captured vectors are what its blocks add, a patch touches only its position, texts are the reference's.

And families that the table doesn't know, whose modules a user names.
"""

import copy
import re
from dataclasses import replace

import pytest
import torch
from conftest import count_hooks
from families import FAMILIES, GPT, SMALL, each, random_model, small_model
from reference import plain_interpret
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

from helpers import InputError
from helpers.engine.activations import capture, capture_batch
from helpers.engine.hooks import patch, record
from helpers.engine.interpret import interpret
from helpers.engine.prompt import PatchedPrompt
from helpers.models.families import CONVENTIONS, check_architecture, find_parts
from helpers.models.load import load_model, read_model
from helpers.words.components import COMPONENTS
from helpers.words.settings import SourceOptions, read_settings
from helpers.words.target import TargetPrompt

PROMPT = "Diana, Princess of Wales"
TARGETS = (TargetPrompt("Syria: Country in the Middle East, x"), TargetPrompt("One: two, three: four, x: y", 4))


@pytest.fixture(params=each())
def family(request, lm, status):
    status("family", request.param)
    return request.param


def test_a_family(family, lm):
    everything_holds(small_model(family, lm.tokenizer), shares_prefix=FAMILIES[family][2])


def everything_holds(model, shares_prefix):
    assert count_hooks(model.model) == 0
    parts_add_up(model)
    mlp_output_is_the_mlps(model)
    batches_equal_single_prompts(model)
    patch_touches_only_its_position(model)
    patch_of_the_same_vector_changes_nothing(model)
    texts_are_the_references(model, shares_prefix)
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
    """Check that it isn't attention's output, nor both: without the weights of block 0's MLP, nothing is left of it."""
    silenced = replace(model, model=copy.deepcopy(model.model))
    for name, weight in silenced.blocks[0].named_parameters():
        if re.match(r"(shared_)?mlp\.|ffn\.|fc[12]\.|feed_forward\.|block_sparse_moe\.|second\.", name):
            weight.data.zero_()
    usual, without = capture(model, PROMPT), capture(silenced, PROMPT)
    torch.testing.assert_close(without["attention_output"][0], usual["attention_output"][0])
    assert without["mlp_output"][0].norm() < 1e-3 * usual["mlp_output"][0].norm()


def batches_equal_single_prompts(model):
    prompts = [PROMPT, "Titanic", "A longer prompt of quite a few more tokens than the others", "Star Wars"]
    for prompt, batched in zip(prompts, capture_batch(model, prompts), strict=True):
        assert are_close(batched, capture(model, prompt), 1e-4)
    for whole, short in zip(capture_batch(model, prompts), capture_batch(model, prompts, deepest=0), strict=True):
        assert all(torch.equal(short[name], whole[name][:1]) for name in COMPONENTS)


def are_close(some, others, share: float) -> bool:
    """Tell whether no vector of two captures differs by more than a share of its length."""
    differences = [(some[name] - others[name]).norm(dim=-1) / others[name].norm(dim=-1) for name in COMPONENTS]
    return all((difference <= share).all() for difference in differences)  # (layers, tokens) each


@torch.inference_mode()
def patch_touches_only_its_position(model):
    ids = torch.tensor([model.token_ids(TARGETS[1].text)] * 2)
    layers, vectors, position = torch.tensor([2, 1]), torch.randn(2, model.width), 4
    with record(dict(enumerate(model.blocks))) as usual:
        model.model(ids)
    with patch(model.blocks, layers, vectors, position), record(dict(enumerate(model.blocks))) as patched:
        model.model(ids)
    for row, layer in enumerate(layers.tolist()):
        for block in range(model.num_layers):
            difference = (usual[block][row] - patched[block][row]).norm(dim=-1)  # (tokens,)
            differs = difference > 1e-5 * usual[block][row].norm(dim=-1)  # experts' sums round by what is in a batch
            assert not differs[:position].any()
            if block <= layer:
                assert not differs[position + 1 :].any() and differs[position] == (block == layer)
        assert (patched[layer][row, position] == vectors[row]).all()
        assert (usual[2][row, position:] != patched[2][row, position:]).any()


def patch_of_the_same_vector_changes_nothing(model):
    target = TARGETS[1]
    states = capture(model, target.text)["hidden_state"][:, target.placeholder]
    inputs = model.tokenizer(target.text, return_tensors="pt")
    tokens = model.model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs.input_ids.shape[1] :]
    unpatched = model.tokenizer.decode(tokens, skip_special_tokens=True)
    assert interpret(model, states, range(model.num_layers), target, 6) == [unpatched] * model.num_layers


def texts_are_the_references(model, shares_prefix):
    generator = torch.Generator().manual_seed(0)
    vectors = 3 * torch.randn(5, model.width, generator=generator)
    layers = torch.randint(model.num_layers, (5,), generator=generator)
    for target in TARGETS:
        assert PatchedPrompt(model, target, 6).shares_prefix == shares_prefix
        plain = [
            plain_interpret(model.model, model.tokenizer, vector, layer, target.text, target.placeholder, 6)
            for vector, layer in zip(vectors, layers.tolist(), strict=True)
        ]
        assert interpret(model, vectors, layers, target, max_new_tokens=6) == plain
        assert interpret(model, vectors, layers, target, max_new_tokens=6, batch_size=3) == plain
        ends = max(sorted(set("".join(plain))), key=lambda letter: sum(letter in text for text in plain))
        items = interpret(model, vectors, layers, replace(target, stop=ends), 6, stop_at_item=True)
        assert items == [text.split(ends)[0] for text in plain] != plain  # rows leave the batch while others write


LOADED = ("Gemma 3 (with images)", "GPT-2", "Falcon, several keys", "gpt-oss")  # whose files differ from one another's
MORE = ("BLOOM", "Phi-3, Phi-4", "OPT", "MPT", "Mixtral", "Llama 4 (text)", "Granite MoE", "DeepSeek 3", "Qwen3-Next", "LFM2",
        "MiniCPM3", "GLM-4")  # fmt: skip


@pytest.mark.parametrize("family", [*LOADED, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_a_family_loads_from_a_folder(family, lm, tmp_path):
    """As a user loads it: recognised by its config, no tensor missing, the same vectors."""
    model = small_model(family, lm.tokenizer)
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), device="cpu")
    assert loaded.parts.convention == model.parts.convention
    weights, read = model.model.state_dict(), loaded.model.state_dict()
    assert weights.keys() == read.keys() and all(torch.equal(weights[name], read[name]) for name in weights)
    assert are_close(capture(loaded, PROMPT), capture(model, PROMPT), 1e-5)  # where a tensor lies shows in last digits


@pytest.mark.parametrize("family", each())
def test_a_family_adds_up_in_lower_precision(family, lm):
    model = small_model(family, lm.tokenizer)
    for dtype in (torch.bfloat16, torch.float16):
        low = copy.deepcopy(model.model).to(dtype)
        assert find_parts(family, low, low.device).convention == model.parts.convention


@pytest.mark.slow
def test_every_convention_is_tested_with_a_family(lm):
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
        ("ctrl", {}, "ctrl: unknown modules in a block, which has multi_head_attention, ffn, layernorm1"),
        ("ctrl", {}, 'ctrl: .*parts={"attention": "NAME", "mlp": "NAME"} in Python, parts=attention:NAME,mlp:NAME in'),
        ("ctrl", {}, "ctrl: .*known: Llama, Mistral"),
    ],
)
def test_a_model_without_such_parts_is_refused_before_its_weights(kind, settings, words):
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
    """One block adds 3 % more or less of the MLP than its module gives; all names are right."""
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
    """In one block, attention also adds a share of the last token."""
    model = llama().to(dtype)
    attention = model.model.layers[layer].self_attn
    before = attention.forward

    def forward(hidden_states, **kwargs):
        output, weights = before(hidden_states, **kwargs)
        return output + share * output.norm(dim=-1, keepdim=True) * hidden_states[:, -1:], weights

    attention.forward = forward
    refused(model, f"llama, block {layer}: tokens see later ones; not a causal model")


def test_numbers_out_of_the_range_of_the_dtype_are_one_sentence():
    model = llama().to(torch.float16)
    model.model.layers[1].mlp.down_proj.weight.data.fill_(6e4)
    refused(model, "llama, block 1: its output is not finite in float16; try another")


# Families that the table doesn't know. CTRL is transformers'; Nova is made up, with all that a user can name.

NAMED = {
    "CTRL": {"attention": "multi_head_attention", "mlp": "ffn"},
    "Nova": {"attention": "first", "mlp": "second", "scale": "branch_scale", "blocks": "model.stack"},
}


class NovaConfig(LlamaConfig):
    model_type = "nova"


class NovaBlock(LlamaDecoderLayer):
    """Llama's block with its two branches under other names, each added by half."""

    branch_scale = 0.5

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.first, self.second = self._modules.pop("self_attn"), self._modules.pop("mlp")

    def forward(self, hidden_states, **settings):
        mixed, _ = self.first(hidden_states=self.input_layernorm(hidden_states), **settings)
        hidden_states = hidden_states + mixed * self.branch_scale
        return hidden_states + self.second(self.post_attention_layernorm(hidden_states)) * self.branch_scale


class NovaModel(LlamaModel):
    """Llama's model with its blocks in `stack`."""

    def __init__(self, config):
        super().__init__(config)
        del self._modules["layers"]
        self.stack = nn.ModuleList(NovaBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.post_init()

    @property
    def layers(self):
        return list(self.stack)  # Llama's forward pass goes through them


class NovaForCausalLM(LlamaForCausalLM):
    config_class = NovaConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = NovaModel(config)
        self.post_init()


AutoConfig.register("nova", NovaConfig)
AutoModelForCausalLM.register(NovaConfig, NovaForCausalLM)


def unknown_family(family: str, tokenizer, parts: dict):
    config = CONFIG_MAPPING["ctrl"](**GPT, dff=64) if family == "CTRL" else NovaConfig(**SMALL)
    return random_model(family, config, tokenizer, parts=parts)


@pytest.mark.parametrize("family", NAMED)
def test_a_family_whose_modules_a_user_names(family, lm, monkeypatch):
    if family == "Nova":
        monkeypatch.setattr("reference.blocks_of", lambda model: model.model.stack)
    everything_holds(unknown_family(family, lm.tokenizer, NAMED[family]), shares_prefix=True)


@pytest.mark.parametrize("family", NAMED)
def test_named_modules_from_python_and_from_the_shell(family, lm, tmp_path):
    """An unknown family in a folder: refused with a hint, then loaded as the hint says, with another fingerprint."""
    model = unknown_family(family, lm.tokenizer, NAMED[family])
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"parts=\{.*parts=attention:NAME,mlp:NAME") as error:
        read_model(str(tmp_path))
    assert "\n" not in str(error.value)
    text = ",".join(f"{key}:{name}" for key, name in NAMED[family].items())
    options = read_settings([f"parts={text}"], [])["source_options"]
    assert options == {"parts": NAMED[family]}
    loaded = load_model(str(tmp_path), **options)
    assert loaded.source.options == SourceOptions.of(options)
    assert are_close(capture(loaded, PROMPT), capture(model, PROMPT), 1e-5)
    by_hand = load_model(str(tmp_path), parts=NAMED[family])
    assert by_hand.fingerprint == loaded.fingerprint != replace(loaded.source, options=SourceOptions()).fingerprint()


def test_naming_the_modules_of_a_known_family_captures_the_same(tiny, tiny_folder):
    named = load_model(str(tiny_folder), parts={"attention": "self_attn", "mlp": "mlp"})
    plain = load_model(str(tiny_folder), parts={})
    assert named.fingerprint != plain.fingerprint == tiny.fingerprint
    assert are_close(capture(named, PROMPT), capture(plain, PROMPT), 1e-5)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("CTRL", {"attention": "attn"}, "block 0 has no module 'attn'; it has multi_head_attention, ffn, layernorm1"),
        ("CTRL", {"mlp": "ffn.up"}, "block 0 has no module 'ffn.up'; its ffn has 0, 1, 2"),
        ("CTRL", {"scale": "by"}, "block 0 has no number 'by'; its numbers are none"),
        ("CTRL", {"blocks": "transformer.w"}, "no list of blocks at 'transformer.w'; .* are transformer.h"),
        ("Nova", {"scale": "hidden"}, "block 0 has no number 'hidden'; its numbers are hidden_size"),
        ("Nova", {"scale": "first"}, "block 0 has no number 'first'"),
        ("Nova", {"blocks": ""}, "nova: no list of blocks where one is expected; give its path from"),
        ("Nova", {"mlp": ""}, "block 0 has no module ''; it has input_layernorm, post_attention_layernorm, first, second"),
    ],
)
def test_a_wrong_name_is_one_sentence_that_lists_what_there_is(family, changes, words, lm):
    model = unknown_family(family, lm.tokenizer, {})
    with pytest.raises(InputError, match=f"^parts=.*: {words}") as error:
        check_architecture("it", model.config, named=NAMED[family] | changes)  # before any weights
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("CTRL", {"mlp": "layernorm2"}, "ctrl, block 0: input . attention . MLP differs from the output by .*; it has"),
        ("CTRL", {"mlp": "multi_head_attention"}, "ctrl, block 0: input . attention . MLP differs"),
        ("CTRL", {"mlp": "ffn.0"}, "ctrl, block 0: the module of a branch doesn't run, or gives another shape"),
        ("Nova", {"scale": ""}, "nova, block 0: input . attention . MLP differs"),
        ("Nova", {"scale": "hidden_size"}, "nova, block 0: input . attention . MLP differs"),
    ],
)
def test_named_modules_that_do_not_add_up_are_refused(family, changes, words, lm):
    model = unknown_family(family, lm.tokenizer, NAMED[family] | changes)
    with pytest.raises(InputError, match=f"^parts=.*: {words}"):
        _ = model.parts
    assert count_hooks(model.model) == 0
