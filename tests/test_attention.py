"""The prefix is read once for all rows, and nothing but the time shows it."""

import pytest
import torch
from transformers import AttentionInterface

from helpers import InputError
from helpers.attention import shared_prefix_attention
from helpers.decoding import Sampling, greedy
from helpers.engine import PatchedPrompt
from helpers.fused import compile_blocks
from helpers.models import LanguageModel
from helpers.plans import TargetPrompt
from helpers.superscopes import interpret


def draw(model: LanguageModel, rows: int):
    generator = torch.Generator().manual_seed(0)
    vectors = 3 * torch.randn(rows, model.width, generator=generator)
    return vectors, torch.randint(model.num_layers, (rows,), generator=generator)


def test_both_kinds_of_attention_write_the_same(lm):
    vectors, layers = draw(lm, rows=24)
    for decoding in (None, Sampling(0.6, 0.9)):
        shared, usual = PatchedPrompt(lm, TargetPrompt(), 10), PatchedPrompt(lm, TargetPrompt(), 10)
        assert shared.shares_prefix
        usual.shares_prefix = False
        seeds = range(24)
        assert shared.continue_from(vectors, layers, decoding, seeds) == usual.continue_from(
            vectors, layers, decoding, seeds
        )


def test_one_new_token_is_enough(lm):
    prompt = PatchedPrompt(lm, TargetPrompt(), 1)
    assert prompt.shares_prefix
    vectors, layers = draw(lm, rows=3)
    longer = PatchedPrompt(lm, TargetPrompt(), 4).continue_from(vectors, layers)[0]
    assert prompt.continue_from(vectors, layers)[0] == [tokens[:1] for tokens in longer]


def test_room_is_used_again_without_a_trace(lm):
    prompt = PatchedPrompt(lm, TargetPrompt(), 5)
    vectors, layers = draw(lm, rows=6)
    first = prompt.continue_from(vectors, layers)
    room = prompt._room_made
    prompt.continue_from(-7 * vectors, layers)  # other rows, in the same room
    assert prompt._room_made is room
    assert prompt.continue_from(vectors, layers) == first
    assert prompt.continue_from(vectors[:2], layers[:2])[0] == first[0][:2]  # less room


def test_the_model_is_as_it_was(lm):
    usual = lm.attention
    with pytest.raises(ZeroDivisionError), shared_prefix_attention(lm.model):
        assert lm.attention != usual
        1 / 0  # noqa: B018
    assert lm.attention == usual
    PatchedPrompt(lm, TargetPrompt(), 2)
    assert lm.attention == usual


def test_in_lower_precision_attention_still_shares(lm):
    """On a copy of its own: float16 and bfloat16 of the real model."""
    import copy
    from dataclasses import replace

    for dtype in ("bfloat16", "float16"):
        model = copy.deepcopy(lm.model).to(getattr(torch, dtype))
        low = replace(lm, model=model, dtype=dtype)
        prompt = PatchedPrompt(low, TargetPrompt(), 3)
        assert prompt.shares_prefix, prompt.why_not
        tokens, finite = prompt.continue_from(*draw(lm, rows=8))
        prompt.shares_prefix = False
        usual = prompt.continue_from(*draw(lm, rows=8))[0]
        assert all(finite) and sum(a[0] == b[0] for a, b in zip(tokens, usual, strict=True)) >= 6


@pytest.fixture
def compiler():
    """A machine on which torch can compile; it can't without a C++ compiler, or in a folder with a space in its path."""
    try:
        compile_blocks([])
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(40))
    except Exception as error:
        pytest.skip(f"torch can't compile here: {str(error)[:100]}")


def test_compiled_blocks_write_the_same(lm, compiler):
    """float32, batches of the compiled size and a last one that is smaller; the model is its own again afterwards."""
    vectors, layers = draw(lm, rows=40)
    plain = interpret(lm, vectors, layers, batch_size=16)
    assert interpret(lm, vectors, layers, batch_size=16, fused=True) == plain
    assert not any("forward" in block.__dict__ for block in lm.blocks) and lm.attention == "sdpa"


@pytest.mark.parametrize("when", ["at once", "at the first pass"])
def test_a_model_that_cannot_be_compiled_is_run_as_it_is(lm, monkeypatch, when):
    def fails(*args, **kwargs):
        raise RuntimeError("Failed to find C++ compiler")

    def no_compiler(forward, **settings):
        return fails() if when == "at once" else fails

    vectors, layers = draw(lm, rows=4)
    plain = interpret(lm, vectors, layers)
    monkeypatch.setattr("helpers.superscopes.FROM_ROWS", 4)
    monkeypatch.setattr("torch.compile", no_compiler)
    with pytest.raises(InputError, match=r"fused=True: this model can't be compiled here \(.*(C\+\+ compiler|space)"):
        interpret(lm, vectors, layers, fused=True)
    assert interpret(lm, vectors, layers) == plain


@pytest.mark.parametrize("broken", ["other logits", "an error", "no memory"])
def test_a_way_that_is_not_right_is_not_taken(lm, monkeypatch, broken):
    """The trial sees a wrong result; running out of memory is not taken for one."""
    from helpers import attention

    def attend(*args, **kwargs):
        if broken == "an error":
            raise RuntimeError("a bug")
        if broken == "no memory":
            raise torch.OutOfMemoryError("too much")
        output, weights = attention.attend(*args, **kwargs)
        return output.roll(1, 0), weights  # each row reads its neighbour's

    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, attend)
    if broken == "no memory":
        with pytest.raises(torch.OutOfMemoryError):
            PatchedPrompt(lm, TargetPrompt(), 4)
    else:
        prompt = PatchedPrompt(lm, TargetPrompt(), 4)
        assert not prompt.shares_prefix and prompt.why_not
    assert lm.attention == "sdpa"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [49152, 32000, 151936, 50257, 40])
def test_greedy_is_the_first_of_the_largest(dtype, vocabulary):
    logits = torch.randn(7, vocabulary, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[1, 3] = logits[1, vocabulary - 1] = logits[1].max() + 1  # equals, far apart
    logits[2] = -torch.inf
    logits[3, 11] = torch.nan
    logits[4, -1] = torch.inf
    logits[5] = 0
    values, tokens = greedy(logits)
    expected = logits.max(-1)
    torch.testing.assert_close(values, expected.values, equal_nan=True, rtol=0, atol=0)
    assert tokens.tolist() == expected.indices.tolist()
    assert tokens.tolist()[1] == 3 and tokens.tolist()[3] == 11 and tokens.tolist()[5] == 0
