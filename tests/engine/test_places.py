"""Where and how a vector is put, and several placeholders: each equal to a plain `generate` with one hook."""

import pytest
import torch
from families import small_model
from reading import read
from reference import blocks_of, plain_placed

from helpers import InputError
from helpers.engine.activations import capture
from helpers.engine.interpret import Reader, interpret
from helpers.engine.prompt import PatchedPrompt
from helpers.engine.teacher import relevancy
from helpers.words.components import PLACES, Site
from helpers.words.decoding import Contrast
from helpers.words.plans import make_plan
from helpers.words.target import TargetPrompt

TEXT = "Oslo: Capital of Norway, x or x: a"
ONE = TargetPrompt("Oslo: Capital of Norway, x")
TWO = TargetPrompt(TEXT, placeholder=("x",))
BRANCHES = {  # family -> attention and MLP modules of a block, and what their outputs are multiplied by
    "Llama": ("self_attn", "mlp", 1.0),
    "Gemma 2": ("post_attention_layernorm", "post_feedforward_layernorm", 1.0),
    "GPT-2": ("attn", "mlp", 1.0),
    "GPT-NeoX, Pythia": ("attention", "mlp", 1.0),
    "OPT": ("self_attn", "fc2", 1.0),
    "BLOOM": ("self_attention.dense", "mlp.dense_4h_to_h", 1.0),
    "Granite": ("self_attn", "mlp", 0.7),
    "Mixtral": ("self_attn", "mlp", 1.0),
}
WAYS = {
    "plain": lambda c, v, h: c * v,
    "add": lambda c, v, h: h + c * v,
    "norm": lambda c, v, h: c * h.norm() * v / v.norm(),
    "norm_add": lambda c, v, h: h + c * h.norm() * v / v.norm(),
    "fixed_norm": lambda c, v, h: c * v / v.norm(),
}


@pytest.fixture(scope="module")
def family(lm):
    def make(name):
        from helpers.models.families import find_parts

        model = small_model(name, lm.tokenizer)
        find_parts(name, model.model, model.device)
        return model

    return make


def module_of(model, name, place, layer):
    block = blocks_of(model)[layer]
    attention, mlp, factor = BRANCHES[name]
    return {
        "hidden_state": ("out", block),
        "block_input": ("in", block),
        "embedding": ("out", model.get_input_embeddings()),
        "attention_output": ("out", block.get_submodule(attention), factor),
        "mlp_output": ("out", block.get_submodule(mlp), factor),
    }[place]


def positions_of(lm, target):
    if target is ONE:
        return [len(lm.token_ids(ONE.text)) - 1]
    return [i for i, token in enumerate(lm.decoded_tokens(TEXT)) if token.strip() == "x"]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(name, target, id=f"{name}, {told}", marks=() if fast else pytest.mark.slow)
        for name in BRANCHES
        for target, told, fast in (
            (ONE, "one placeholder", name == "Llama"), (TWO, "two placeholders", name in ("Llama", "GPT-2", "BLOOM", "Granite"))
        )
    ],
)
def test_every_place_and_way_equals_a_plain_hook(family, name, target):
    lm, texts = family(name), []
    vectors = torch.randn(2, lm.width, generator=torch.Generator().manual_seed(3))
    for number, place in enumerate(PLACES):
        for way, formula in [*WAYS.items()][number % 2 :: 2] if name != "Llama" else WAYS.items():
            layers, c = [2, 1], 1.5
            found = interpret(lm, vectors, layers, target, 5, target_component=place, way=way, amplifier=c)
            for vector, layer, text in zip(vectors, layers, found, strict=True):
                plain = plain_placed(
                    lm.model, lm.tokenizer, lambda _, h, v=vector, f=formula: f(c, v, h),
                    module_of(lm.model, name, place, layer), layer, target.text, positions_of(lm, target), 5,
                )  # fmt: skip
                assert text == plain, (place, way, layer)
            texts += found
    assert len(set(texts)) > len(texts) / 6  # the draws are told apart


@pytest.mark.parametrize("place", PLACES)
def test_the_own_state_is_a_no_op_and_no_way_to_run_changes_a_text(tiny, place):
    target, prompt = TWO, PatchedPrompt(tiny, TWO, 5)
    own = torch.stack([prompt.placeholder_states[Site(place, 0)]] * 2)
    assert own.shape == (2, 2, tiny.width)
    nothing = interpret(tiny, own, 0, target, 5, target_component=place)
    ids = tiny.tokenizer(TEXT, return_tensors="pt")
    plain = tiny.model.generate(**ids, do_sample=False, max_new_tokens=5)[0, ids.input_ids.shape[1] :]
    assert set(nothing) == {tiny.tokenizer.decode(plain, skip_special_tokens=True)}
    vectors = torch.randn(7, 2, tiny.width, generator=torch.Generator().manual_seed(1))
    together = interpret(tiny, vectors, [0, 1, 2, 0, 1, 2, 0], target, 5, target_component=place)
    assert len(set(together)) > 3
    alone = interpret(tiny, vectors, [0, 1, 2, 0, 1, 2, 0], target, 5, batch_size=1, target_component=place)
    assert alone == together
    contrast = interpret(tiny, vectors, 1, target, 5, decoding=Contrast(0), target_component=place)
    assert contrast == interpret(tiny, vectors, 1, target, 5, target_component=place)
    prompt.shares_prefix = False
    targets = [Site(place, 0 if place == "embedding" else layer) for layer in (0, 1, 2, 0, 1, 2, 0)]
    usual = prompt.continue_from(vectors, targets).tokens
    assert tiny.tokenizer.batch_decode(usual, skip_special_tokens=True) == together


def test_each_placeholder_can_have_a_vector_of_its_own(family):
    for name in ("Llama", "GPT-2"):
        lm = family(name)
        vectors = torch.randn(3, 2, lm.width, generator=torch.Generator().manual_seed(2))
        found = interpret(lm, vectors, [0, 1, 2], TWO, 5)
        for own, layer, text in zip(vectors, range(3), found, strict=True):
            place = module_of(lm.model, name, "hidden_state", layer)
            positions = positions_of(lm, TWO)
            assert text == plain_placed(lm.model, lm.tokenizer, lambda n, h, v=own: v[n], place, layer, TEXT, positions, 5)
    with pytest.raises(InputError, match="vectors="):
        interpret(lm, torch.zeros(1, 3, lm.width), 0, TWO)


def test_a_plan_says_where_and_how_and_a_span_fills_the_placeholders(tiny):
    spread = TargetPrompt(TEXT, placeholder=("x",), span=True)
    states = capture(tiny, "Star Wars is a")["hidden_state"]
    assert states.shape[1] >= 3
    for target, span in ((TWO, False), (spread, True)):
        pairs = read(
            tiny, "Star Wars is a", "hidden_state", [0, 2], [1, 2], target_layer=[0, "same"], target_prompt=target,
            max_new_tokens=5, target_component=[*PLACES], way="norm_add",
        )  # fmt: skip
        assert len(pairs) == len({item.id for item, _ in pairs}) == 2 * 2 * 1 + 4 * 2 * (1 + 2)
        for item, reading in pairs:
            place = module_of(tiny.model, "Llama", item.target.component, item.target_layer)

            def put(number, h, item=item, span=span):
                v = states[item.layer, item.position - (1 - number if span else 0)]
                return h + item.amplifier * h.norm() * v / v.norm()

            positions = positions_of(tiny, target)
            plain = plain_placed(tiny.model, tiny.tokenizer, put, place, item.target_layer, TEXT, positions, 5)
            assert reading.result == plain and reading.rho > 0
    with pytest.raises(InputError, match="ends no span of 2 tokens"):
        make_plan("Star Wars", token=0, layers=0, target_prompt=spread).items(tiny)


def test_ids_tell_places_apart_and_those_of_before_are_kept(tiny):
    def ids(**more):
        plan = make_plan("Titanic", "hidden_state", 1, 2, max_new_tokens=3, **more)
        return [item.id for item in plan.items(tiny, tiny.identity)]

    assert ids() == ids(target_component="hidden_state") == ids(way="plain")
    assert ids(way="norm") == [
        item.id for item in make_plan("Titanic", "norm[hidden_state]", 1, 2, max_new_tokens=3).items(tiny, tiny.identity)
    ]
    every = [*(ids(target_component=place)[0] for place in PLACES), ids(target_prompt=TWO)[0], ids(way="add")[0]]
    every.append(ids(target_prompt=TargetPrompt(TEXT, ("x",), span=True))[0]) if len(tiny.token_ids("Titanic")) > 1 else None
    assert len(set(every)) == len(every)
    assert "target_component" not in make_plan("Titanic").describe()


def test_what_is_wrong_is_said_before_anything_runs(tiny):
    for more, word in (
        ({"target_component": "output"}, "target_component="),
        ({"way": "loud"}, "way="),
        ({"way": "norm", "components": "guidance"}, "way="),
        ({"way": "centred", "target_component": "embedding"}, "no mean of references"),
    ):
        with pytest.raises(InputError, match=word):
            make_plan(["Titanic"], **more)
    plan = make_plan("Titanic", layers=1, target_component="mlp_output")
    with pytest.raises(InputError, match="inside a block"):
        Reader(tiny, plan, fused=True)
    with pytest.raises(InputError, match="placeholder="):
        make_plan("Titanic", layers=1, target_prompt=TargetPrompt(TEXT, ("y",))).items(tiny)
    with pytest.raises(InputError, match="span="):
        TargetPrompt(TEXT, span=True)


def test_braces_and_texts_mark_several_placeholders(tiny):
    marked = TargetPrompt.of_text("Oslo: Capital of Norway, {x} or {x}: a")
    assert marked.located(tiny).placeholder == TWO.located(tiny).placeholder == tuple(positions_of(tiny, TWO))
    selfie = TargetPrompt.of_text("selfie").located(tiny)
    assert len(selfie.placeholder) == 5 and selfie.name == "selfie" and selfie == selfie.located(tiny)


@pytest.mark.parametrize("place", ["hidden_state", "mlp_output"])
def test_relevancy_is_what_two_plain_passes_say(tiny, place):
    vectors, texts = torch.randn(3, tiny.width, generator=torch.Generator().manual_seed(5)), [" a film", " a", " a film"]
    found = relevancy(tiny, vectors, [0, 1, 2], texts, TWO, target_component=place)
    prompt = tiny.token_ids(TEXT)

    def probabilities(text, handle=None):
        ids = tiny.tokenizer(text, add_special_tokens=False).input_ids
        try:
            with torch.no_grad():
                logits = tiny.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        finally:
            if handle:
                handle.remove()
        return logits.softmax(-1)[range(len(ids)), ids]

    for vector, layer, text, own in zip(vectors, range(3), texts, found, strict=True):
        _, module, *_ = module_of(tiny.model, "Llama", place, layer)

        def overwrite(module, args, output, vector=vector):
            output[0, positions_of(tiny, TWO)] = vector

        expected = (probabilities(text, module.register_forward_hook(overwrite)) - probabilities(text)).abs()
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-7)
        assert own.max() > 0
    null = PatchedPrompt(tiny, TWO, 2).placeholder_states[Site(place, 1)][None]
    [nothing] = relevancy(tiny, null, 1, [" a film"], TWO, target_component=place)
    assert nothing.max() < 1e-6
