"""Other ways to amplify, and contrast decoding: each equal to the plain way, one vector at a time."""

import pickle
from dataclasses import replace

import pytest
import torch
from reading import read, texts_of
from reference import plain_contrast, plain_interpret, plain_vector

from helpers.engine.activations import Activations, capture
from helpers.engine.interpret import Reader, interpret, run
from helpers.engine.prompt import PatchedPrompt
from helpers.engine.references import References
from helpers.engine.sampling import contrasted
from helpers.engine.vectors import amplified_vectors
from helpers.runs.session import Session
from helpers.words.components import COMPONENTS, COMPOSED, Site
from helpers.words.decoding import Contrast
from helpers.words.plans import make_plan
from helpers.words.prompts import read_prompts
from helpers.words.rows import NO_VECTOR, Item
from helpers.words.settings import ModelSettings
from helpers.words.target import PAPER_TARGET_PROMPT

PROMPTS = ["Titanic", "Diana, Princess of Wales"]  # the first is one of the references, the second is not
REFERENCES = ["Titanic", *(prompt for prompt in read_prompts("data/prompts.csv") if prompt not in PROMPTS)][:13]

READ = {}  # by `plain_way`


def plain_way(lm, way, item):
    """Return a way's vector, from vectors that are read one prompt at a time."""

    def of(prompt, component, layer, position=-1):
        key = lm.name, prompt, component, layer, position
        if key not in READ:
            READ[key] = plain_vector(lm.model, lm.tokenizer, prompt, component, layer, position)
        return READ[key]

    v = of(item.source_prompt, component := item.component.partition("[")[2][:-1], item.layer, item.position)
    h = of(PAPER_TARGET_PROMPT, "hidden_state", item.target_layer)
    if way == "norm":
        return item.amplifier * h.norm() * v / v.norm()
    if way == "norm_add":
        return h + item.amplifier * h.norm() * v / v.norm()
    if way == "add":
        return h + item.amplifier * v
    if way == "fixed_norm":
        return item.amplifier * v / v.norm()
    others = [prompt for prompt in REFERENCES if prompt != item.source_prompt]
    there = sum(of(prompt, "hidden_state", item.target_layer) for prompt in others) / len(others)
    return there + item.amplifier * (v - sum(of(prompt, component, item.layer) for prompt in others) / len(others))


@pytest.mark.parametrize("way", COMPOSED)
def test_a_way_equals_plain_way(tiny, way):
    """Every component into another layer and its own."""
    equals_plain_way(tiny, way, COMPONENTS, [0, 2], ["same", 1], [3])
    equals_plain_way(tiny, way, ["mlp_output"], [1], [1], [0.5])


@pytest.mark.parametrize("way", ["centred", *(pytest.param(way, marks=pytest.mark.slow) for way in COMPOSED if way != "centred")])
def test_a_way_equals_plain_way_on_the_real_model(lm, way):
    equals_plain_way(lm, way, ["mlp_output"], [5], [5], [3])


def equals_plain_way(model, way, components, layers, targets, amplifiers):
    references = REFERENCES if way == "centred" else None
    names = [f"{way}[{component}]" for component in components]
    settings = {"target_layer": targets, "references": references, "max_new_tokens": 6}
    pairs = read(model, PROMPTS, names, layers, amplifiers, **settings)
    assert len(pairs) == 2 * len(names) * len(layers) * len(targets) * len(amplifiers)
    for item, reading in pairs:
        vector = plain_way(model, way, item)
        text = plain_interpret(
            model.model, model.tokenizer, vector, item.target_layer, PAPER_TARGET_PROMPT, max_new_tokens=6
        )
        assert reading.result == text and reading.status == "ok"
    assert len({reading.result for _, reading in pairs}) > len(pairs) / 4


def test_an_inspected_token_in_the_middle_is_centred_on_last_tokens(tiny):
    for item, reading in read(
        tiny, PROMPTS, "centred[hidden_state]", 1, 2, token=0, references=REFERENCES, max_new_tokens=6
    ):
        assert item.position == 0
        vector = plain_way(tiny, "centred", item)
        text = plain_interpret(tiny.model, tiny.tokenizer, vector, 1, PAPER_TARGET_PROMPT, max_new_tokens=6)
        assert reading.result == text


def test_a_prompt_is_left_out_of_its_own_mean(tiny):
    means, site = References(tiny, REFERENCES), Site("mlp_output", 1)
    last = torch.stack([capture(tiny, prompt)["mlp_output"][1, -1] for prompt in REFERENCES])
    torch.testing.assert_close(means.mean(site), last.mean(0))
    torch.testing.assert_close(means.mean(site, without="Diana, Princess of Wales"), last.mean(0))
    torch.testing.assert_close(means.mean(site, without="Titanic"), last[1:].mean(0))
    assert means.is_for(tiny, REFERENCES) and not means.is_for(tiny, REFERENCES[1:])


def test_references_are_read_once_for_all_plans_of_a_session(tiny_folder, monkeypatch):
    from helpers.engine import references

    read_, session = [], Session(ModelSettings.of({"model": str(tiny_folder)}))
    usual = references.CapturedPrompts
    monkeypatch.setattr(references, "CapturedPrompts", lambda lm, prompts: read_.append(prompts) or usual(lm, prompts))
    first = make_plan(PROMPTS, "centred[mlp_output]", 1, 2, references=REFERENCES, max_new_tokens=3)
    for plan in (first, replace(first, amplifiers=(3.0,)), make_plan(PROMPTS, layers=1, max_new_tokens=3)):
        items = plan.items(session.lm, session.identity)
        [batches] = session.batches(plan, items, None, ())
        assert batches == list(run(session.lm, plan, items=items, references=session.references_for(plan)))
    assert len(read_) == 1 and session.references_for(make_plan(PROMPTS)) is None
    assert Reader(session.lm, first, references=session.references_for(first)).read(0) == Reader(session.lm, first).read(0)
    other = replace(first, references=tuple(REFERENCES[:12]))
    assert Reader(session.lm, other, references=session.references_for(first)).read(0) == Reader(session.lm, other).read(0)


def test_a_dask_worker_reads_centred_and_contrasted_plans_as_one_process_does(tiny_folder):
    cluster = pytest.importorskip("helpers.runs.cluster", reason="Dask isn't installed: requirements-cluster.txt")
    held, plan = cluster.Held(), make_plan(PROMPTS, "centred[mlp_output]", 1, [2, 3], references=REFERENCES, max_new_tokens=3)
    for plan in (plan, replace(plan, decoding=Contrast(1))):  # as it arrives in a message
        session = held.session(ModelSettings.of({"model": str(tiny_folder)}))
        batch = held.reader(session, pickle.loads(pickle.dumps(plan)), 4).read(0)
        assert [*zip(batch.items, batch.readings, strict=True)] == read(session.lm, plan)


@pytest.mark.parametrize("way", ["norm", "norm_add"])
def test_a_zero_vector_has_no_direction_and_its_row_says_so(tiny, monkeypatch, way):
    zeros = Activations(["a", "b"], *(torch.zeros(3, 2, 8) for _ in range(3)))
    item = Item("a b", "b", 1, 2.0, f"{way}[mlp_output]", 1, 1, "paper", None)
    assert amplified_vectors([item], {"a b": zeros}, {item.target: torch.ones(8)}).isnan().all()
    usual = PatchedPrompt.continue_from
    plan = make_plan(PROMPTS, f"{way}[mlp_output]", 1, [1, 2], max_new_tokens=3)
    expected = [reading for _, reading in read(tiny, plan)]

    def one_is_zero(some, *given):
        made = amplified_vectors(some, *given)
        made[1] = torch.nan
        return made

    monkeypatch.setattr("helpers.engine.interpret.amplified_vectors", one_is_zero)
    readings = [reading for _, reading in read(tiny, plan)]
    assert (readings[1].status, readings[1].message, readings[1].result) == ("nonfinite", NO_VECTOR, "")
    assert readings[:1] + readings[2:] == expected[:1] + expected[2:] and PatchedPrompt.continue_from is usual


# Contrast


@pytest.mark.parametrize(("weight", "floor"), [(0.5, 0.05), (2, 0.05), (1, 0), (3, 0.5)])
def test_contrast_equals_a_plain_loop(tiny, weight, floor):
    vectors = torch.randn(6, tiny.width, generator=torch.Generator().manual_seed(1)) * 2
    layers = [0, 1, 2] * 2
    texts = interpret(tiny, vectors, layers, max_new_tokens=6, decoding=Contrast(weight, floor), batch_size=4)
    for vector, layer, text in zip(vectors, layers, texts, strict=True):
        model = tiny.model, tiny.tokenizer
        assert text == plain_contrast(*model, vector, layer, PAPER_TARGET_PROMPT, weight, floor, 6)
    assert texts != interpret(tiny, vectors, layers, max_new_tokens=6)


def test_contrast_equals_a_plain_loop_on_the_real_model(lm):
    plan = make_plan("Titanic", "norm[hidden_state]", 5, 3, target_layer=0, max_new_tokens=4, decoding=Contrast(1))
    prompt = PatchedPrompt(lm, plan.target_prompt, plan.max_new_tokens)
    for item, reading in read(lm, plan):
        vector = amplified_vectors(
            [item], {item.source_prompt: capture(lm, item.source_prompt)}, prompt.placeholder_states
        )[0]
        assert reading.result == plain_contrast(lm.model, lm.tokenizer, vector, 0, PAPER_TARGET_PROMPT, 1, 0.05, 4)


def test_without_weight_or_with_the_highest_floor_contrast_is_greedy(tiny):
    settings = {"components": ["mlp_output", "norm[mlp_output]"], "layers": "0-2", "amplifiers": [1, 3], "max_new_tokens": 6}
    greedy = texts_of(tiny, PROMPTS, **settings)
    assert texts_of(tiny, PROMPTS, **settings, decoding=Contrast(0)) == greedy
    assert texts_of(tiny, PROMPTS, **settings, decoding=Contrast(5, 1)) == greedy
    assert texts_of(tiny, PROMPTS, **settings, decoding=Contrast(5)) != greedy


CONTRASTED = {"layers": "0-2", "amplifiers": [1, 3, 9], "max_new_tokens": 6, "decoding": Contrast(1.5)}


def test_a_contrasted_text_depends_on_no_batch_and_no_prefix(tiny):
    plan = make_plan(PROMPTS, **CONTRASTED)
    expected = [reading for _, reading in read(tiny, plan)]
    for size in (1, 5):
        assert [reading for _, reading in read(tiny, plan, batch_size=size)] == expected
    usual = PatchedPrompt(tiny, plan.target_prompt, plan.max_new_tokens)
    usual.shares_prefix = False
    assert [reading for batch in run(tiny, plan, prompt=usual) for reading in batch.readings] == expected


@pytest.mark.slow
def test_a_contrasted_text_is_the_same_of_compiled_blocks(tiny, compiler):
    plan = make_plan(PROMPTS, **CONTRASTED)
    fused = list(run(tiny, plan, batch_size=9, fused=True))
    assert all(batch.made["fused"] for batch in fused)
    assert [reading for batch in fused for reading in batch.readings] == [reading for _, reading in read(tiny, plan)]


def test_a_row_whose_logits_are_not_finite_is_marked_in_contrast_too(tiny):
    (_, ok), (_, failed) = read(tiny, ["Titanic"], layers=1, amplifiers=[1, 3e38], max_new_tokens=3, decoding=Contrast(1))
    assert (ok.status, failed.status, failed.result) == ("ok", "nonfinite", "")


def test_unlikely_tokens_are_left_out_and_a_nan_stays_one():
    logits = torch.tensor([[4.0, 3.0, -9.0], [torch.nan, 1.0, 2.0], [torch.inf, 0.0, 0.0]])
    null = torch.tensor([[4.0, 0.0, -99.0]]).expand(3, -1)
    made = contrasted(Contrast(1, 0.05), logits, null)
    assert made[0].tolist() == [4.0, 6.0, -torch.inf], "e^-13 of the largest probability"
    assert contrasted(Contrast(1, 0), logits, null)[0].argmax() == 2
    assert made[1].isnan().any() and not made[2].max().isfinite()


def test_how_sure_the_model_was_is_told_by_its_own_distribution_not_by_the_contrast(tiny):
    settings = {"layers": "0-2", "amplifiers": [1, 3], "max_new_tokens": 6}
    greedy = [reading for _, reading in read(tiny, PROMPTS, **settings)]
    assert [reading for _, reading in read(tiny, PROMPTS, **settings, decoding=Contrast(0))] == greedy
    contrasted_ = [reading for _, reading in read(tiny, PROMPTS, **settings, decoding=Contrast(5))]
    assert [reading.entropy for reading in contrasted_] == [reading.entropy for reading in greedy]
    assert all(reading.log_prob < 0 for reading in contrasted_)
