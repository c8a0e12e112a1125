"""The prefix is read once for all rows, or blocks run compiled, and nothing but the time shows it."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import AttentionInterface

from helpers import InputError
from helpers.engine import attention
from helpers.engine.attention import shared_prefix_attention
from helpers.engine.interpret import Reader, interpret
from helpers.engine.prompt import PatchedPrompt, Written
from helpers.models.load import LanguageModel
from helpers.words.components import Site
from helpers.words.decoding import Sampling
from helpers.words.plans import make_plan
from helpers.words.target import TargetPrompt


def draw(model: LanguageModel, rows: int):
    """Return random vectors, and layers to patch them at."""
    generator = torch.Generator().manual_seed(0)
    vectors = 3 * torch.randn(rows, model.width, generator=generator)
    return vectors, torch.randint(model.num_layers, (rows,), generator=generator).tolist()


def draw_sites(model: LanguageModel, rows: int):
    vectors, layers = draw(model, rows)
    return vectors, [Site("hidden_state", layer) for layer in layers]


def assert_same(written: Written, expected: Written):
    assert written[:2] == expected[:2]
    for numbers, others in zip(written[2:], expected[2:], strict=True):
        assert numbers == pytest.approx(others, abs=1e-4)


def test_both_kinds_of_attention_write_the_same(lm):
    vectors, targets = draw_sites(lm, rows=4)
    shared, usual = PatchedPrompt(lm, TargetPrompt(), 6), PatchedPrompt(lm, TargetPrompt(), 6)
    assert shared.shares_prefix
    usual.shares_prefix = False
    for decoding in (None, Sampling(0.6, 0.9)):
        written, expected = (prompt.continue_from(vectors, targets, decoding, range(4)) for prompt in (shared, usual))
        assert_same(written, expected)


def test_a_single_new_token_is_enough(tiny):
    prompt = PatchedPrompt(tiny, TargetPrompt(), 1)
    assert prompt.shares_prefix
    vectors, targets = draw_sites(tiny, rows=3)
    longer = PatchedPrompt(tiny, TargetPrompt(), 4).continue_from(vectors, targets).tokens
    assert prompt.continue_from(vectors, targets).tokens == [tokens[:1] for tokens in longer]


def test_a_batch_leaves_no_trace_in_the_next(tiny):
    prompt = PatchedPrompt(tiny, TargetPrompt(), 5)
    vectors, targets = draw_sites(tiny, rows=6)
    first = prompt.continue_from(vectors, targets)
    prompt.continue_from(-7 * vectors, targets)
    assert prompt.continue_from(vectors, targets) == first
    assert prompt.continue_from(vectors[:2], targets[:2]).tokens == first.tokens[:2]


def test_the_model_is_as_it_was(tiny):
    usual = tiny.attention
    with pytest.raises(ZeroDivisionError), shared_prefix_attention(tiny.model):
        assert tiny.attention != usual
        1 / 0  # noqa: B018
    assert tiny.attention == usual
    PatchedPrompt(tiny, TargetPrompt(), 2)
    assert tiny.attention == usual


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_lower_precision_attention_still_shares(lm, dtype):
    model = copy.deepcopy(lm.model).to(getattr(torch, dtype))
    low = replace(lm, model=model, dtype=dtype)
    prompt = PatchedPrompt(low, TargetPrompt(), 3)
    assert prompt.shares_prefix, prompt.why_not
    written = prompt.continue_from(*draw_sites(lm, rows=8))
    prompt.shares_prefix = False
    usual = prompt.continue_from(*draw_sites(lm, rows=8)).tokens
    assert all(written.finite) and sum(a[0] == b[0] for a, b in zip(written.tokens, usual, strict=True)) >= 6


@pytest.mark.slow
def test_compiled_blocks_write_the_same(lm, compiler):
    """In float32, for batches of the compiled size and a last batch that is smaller; the model is left as it was."""
    vectors, layers = draw(lm, rows=40)
    plain = interpret(lm, vectors, layers, batch_size=16)
    assert interpret(lm, vectors, layers, batch_size=16, fused=True) == plain
    assert not any("forward" in block.__dict__ for block in lm.blocks) and lm.attention == "sdpa"


@pytest.mark.slow
def test_plans_that_share_a_prompt_are_each_compiled_or_not(tiny, compiler):
    plan = make_plan(["Titanic", "Star Wars"], layers="0-2", amplifiers=[1, 2], max_new_tokens=3)
    prompt = PatchedPrompt(tiny, plan.target_prompt, plan.max_new_tokens)
    fused, plain = (Reader(tiny, plan, batch_size=5, fused=fused, prompt=prompt) for fused in (True, False))
    for start in fused.starts:
        one, other = fused.read(start), plain.read(start)
        assert one.made["fused"] and not other.made["fused"]
        assert [reading.result for reading in one.readings] == [reading.result for reading in other.readings]


@pytest.mark.parametrize("when", ["at once", "at the first pass"])
def test_a_model_that_cannot_be_compiled_is_run_as_it_is(tiny, monkeypatch, when):
    def fails(*args, **kwargs):
        raise RuntimeError("Failed to find C++ compiler")

    def no_compiler(forward, **settings):
        return fails() if when == "at once" else fails

    vectors, layers = draw(tiny, rows=4)
    plain = interpret(tiny, vectors, layers)
    monkeypatch.setattr("helpers.engine.interpret.FROM_ROWS", 4)
    monkeypatch.setattr("torch.compile", no_compiler)
    with pytest.raises(InputError, match=r"fused=True: this model can't be compiled here \(.*(C\+\+ compiler|space)"):
        interpret(tiny, vectors, layers, fused=True)
    assert interpret(tiny, vectors, layers) == plain


@pytest.mark.parametrize("broken", ["other logits", "an error", "no memory"])
def test_a_way_that_is_not_right_is_not_taken(tiny, monkeypatch, broken):
    """The trial sees a wrong result; running out of memory doesn't count as one."""
    usual = attention.attend

    def attend(*args, **kwargs):
        if broken == "an error":
            raise RuntimeError("a bug")
        if broken == "no memory":
            raise torch.OutOfMemoryError("too much")
        output, weights = usual(*args, **kwargs)
        return output.roll(1, 0), weights  # each row gets its neighbour's

    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, attend)
    if broken == "no memory":
        with pytest.raises(torch.OutOfMemoryError):
            PatchedPrompt(tiny, TargetPrompt(), 4)
    else:
        prompt = PatchedPrompt(tiny, TargetPrompt(), 4)
        assert not prompt.shares_prefix and prompt.why_not
    assert tiny.attention == "sdpa"
