"""A reading may end with its first list item: the text is the whole reading's, cut, and the numbers are of its tokens."""

import pytest
import torch
from reading import read, texts_of
from reference import plain_item, plain_vector

from helpers import InputError, make_plan
from helpers.engine.attention import SharedPrefixCache
from helpers.engine.interpret import interpret
from helpers.engine.prompt import PatchedPrompt
from helpers.runs.sweep import sweep
from helpers.words.components import Site
from helpers.words.decoding import Contrast, Sampling
from helpers.words.plans import check_comparable
from helpers.words.target import PAPER_TARGET_PROMPT, TargetPrompt

GRID = {"components": "hidden_state", "layers": [1, 9, 20], "amplifiers": [1, 3, 15]}
PROMPTS = ["Titanic", "Diana, Princess of Wales"]


def test_a_plan_equals_plain_way(lm):
    """Text, entropy and mean log-probability, of rows that leave the batch at different times."""
    ended = 0
    for item, reading in read(lm, PROMPTS, **GRID, stop_at_item=True):
        vector = item.amplifier * plain_vector(lm.model, lm.tokenizer, item.source_prompt, "hidden_state", item.layer, -1)
        text, entropy, told = plain_item(lm.model, lm.tokenizer, vector, item.target_layer, PAPER_TARGET_PROMPT, ", ")
        assert reading.result == text
        assert reading.entropy == pytest.approx(entropy, abs=2e-3)
        assert reading.log_prob == pytest.approx(sum(told) / len(told), abs=2e-3)
        ended += len(told) < 10
    assert 2 <= ended < 18, "some rows end early, and some don't"


@pytest.mark.parametrize("decoding", [None, Sampling(1.3, 0.95), Contrast(0.5)])
@pytest.mark.parametrize("size", [None, 7, 1])
def test_a_text_is_the_whole_one_cut(tiny, decoding, size):
    """A separator of one letter, so that rows of the random model end at all steps, in batches of any size."""
    target = TargetPrompt(stop="e")
    more = {"target_prompt": target, "decoding": decoding}
    # a sampled row's draws hang on its id, which is another one
    vectors, layers = torch.randn(23, tiny.width, generator=torch.Generator().manual_seed(0)), torch.arange(23) % 3
    whole = interpret(tiny, vectors, layers, **more)
    cut = interpret(tiny, vectors, layers, **more, batch_size=size, stop_at_item=True)
    assert cut == [text.split("e")[0] for text in whole] and len(set(map(len, cut))) > 5


def test_rows_that_have_ended_leave_the_batch(tiny, monkeypatch):
    rows_of_passes, usual = [], PatchedPrompt._next_logits

    def counted(prompt, ids, cache):
        rows_of_passes.append(len(ids))
        return usual(prompt, ids, cache)

    monkeypatch.setattr(PatchedPrompt, "_next_logits", counted)
    vectors = torch.randn(64, tiny.width, generator=torch.Generator().manual_seed(0))
    prompt = PatchedPrompt(tiny, TargetPrompt(stop="e"), 10)
    for _ in range(2):  # the room of the cache is whole again for the next batch
        rows_of_passes.clear()
        written = prompt.continue_from(vectors, [Site("hidden_state", 1)] * 64, stop_at_item=True)
        assert rows_of_passes[0] == 64 and rows_of_passes[-1] <= 16
        assert rows_of_passes == sorted(rows_of_passes, reverse=True)
        lengths = [len(tokens) for tokens in written.tokens]
        assert sum(rows_of_passes) < 0.8 * 64 * max(lengths)


def test_kept_rows_keep_their_keys_and_values(tiny):
    prompt = PatchedPrompt(tiny, TargetPrompt(), 4)
    cache = SharedPrefixCache(prompt.prefix, 5, 4, torch.float32)
    for layer in cache.layers:
        layer.keys.normal_(), layer.values.normal_()
    cache.suffix_tokens = 3
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    cache.reorder_cache(torch.tensor([1, 4]))
    for layer, (keys, values) in zip(cache.layers, before, strict=True):
        assert layer.keys.is_contiguous() and layer.keys.shape[2] == 2
        assert torch.equal(layer.keys[:3], keys[:3, :, [1, 4]]) and torch.equal(layer.values[:3], values[:3, :, [1, 4]])
    cache.forget_rows()
    assert {layer.keys.shape[2] for layer in cache.layers} == {5}


@pytest.mark.slow
def test_compiled_blocks_read_the_same(lm):
    """Whole batches run compiled, until rows leave."""
    vectors = torch.randn(16, lm.width, generator=torch.Generator().manual_seed(0))
    plain = interpret(lm, vectors, 3, batch_size=16, stop_at_item=True)
    assert interpret(lm, vectors, 3, batch_size=16, stop_at_item=True, fused=True) == plain


def test_ids_are_its_own_and_others_stay(tiny):
    def ids(**more):
        return [item.id for item in make_plan("Titanic", **GRID | {"layers": 1}, **more).items(tiny, tiny.identity)]

    assert ids() == ids(stop_at_item=False) == ids(target_prompt=TargetPrompt(stop="; "))
    other = TargetPrompt(stop="; ")  # where a reading ends is a part of it
    every = [*ids(), *ids(stop_at_item=True), *ids(stop_at_item=True, target_prompt=other)]
    assert len(set(every)) == len(every)


def test_it_is_described_and_not_compared_with_whole_readings(tiny):
    plan = make_plan("Titanic", stop_at_item=True)
    assert plan.describe()["stop_at_item"] is True and "stop_at_item" not in make_plan("Titanic").describe()
    check_comparable(make_plan("Titanic").describe(), 10)
    with pytest.raises(InputError, match="stop_at_item=True"):
        check_comparable(plan.describe(), 10)
    inside = make_plan("Titanic", target_component="mlp_output").describe()
    with pytest.raises(InputError, match="target_component=.*mlp_output.* is compared with was read with .*hidden_state"):
        check_comparable(inside, 10)
    with pytest.raises(InputError, match="stop_at_item='yes'"):
        make_plan("Titanic", stop_at_item="yes")


def test_first_items_are_the_same(tiny):
    """What is judged as the first item doesn't depend on where the reading ended."""
    settings = GRID | {"layers": "all", "target_prompt": TargetPrompt(stop="e")}
    whole, cut = sweep(tiny, PROMPTS, **settings), sweep(tiny, PROMPTS, **settings, stop_at_item=True)
    assert whole["first item"].tolist() == cut["first item"].tolist()
    assert whole["score first item"].equals(cut["score first item"])
    assert whole["entropy"].equals(cut["entropy"]) and (whole["result"] != cut["result"]).any()
    assert texts_of(tiny, PROMPTS, **settings) == whole["result"].tolist()
