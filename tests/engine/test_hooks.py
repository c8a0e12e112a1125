"""A patch touches exactly its layer and position, and no hook survives its `with` block."""

import pytest
import torch
from conftest import count_hooks

from helpers.engine.hooks import patch, record
from helpers.engine.interpret import run
from helpers.engine.prompt import PatchedPrompt
from helpers.words.components import Site
from helpers.words.plans import make_plan
from helpers.words.target import TargetPrompt


def test_a_patch_touches_exactly_its_layer_and_position(tiny):
    ids = torch.tensor([tiny.token_ids("Diana, Princess of Wales")] * 2)
    outputs = dict(enumerate(tiny.blocks))
    vectors = torch.randn(2, tiny.width)
    with torch.inference_mode():
        with record(outputs) as plain:
            tiny.model(ids)
        with patch(tiny.blocks, torch.tensor([2, 1]), vectors, position=4), record(outputs) as patched:
            tiny.model(ids)
    for row, target in enumerate([2, 1]):
        for layer in range(tiny.num_layers):
            same = (plain[layer][row] == patched[layer][row]).all(-1).tolist()
            assert same[:4] == [True] * 4, "what stands before the placeholder can't see it"
            if layer < target:
                assert all(same)
            elif layer == target:
                assert same == [True, True, True, True, False, True]
                assert (patched[layer][row, 4] == vectors[row]).all()


def test_no_hook_survives_success_or_exception(tiny):
    before = count_hooks(tiny.model)
    with (
        patch(tiny.blocks, torch.tensor([0, 2]), torch.zeros(2, tiny.width), 0),
        record({0: tiny.blocks[0]}, {1: tiny.blocks[1]}),
    ):
        assert count_hooks(tiny.model) == before + 4
    assert count_hooks(tiny.model) == before
    with pytest.raises(RuntimeError, match="mine"), patch(tiny.blocks, torch.tensor([0]), torch.zeros(1, tiny.width), 0):
        raise RuntimeError("mine")
    with pytest.raises(IndexError), patch(tiny.blocks, torch.tensor([0, 99]), torch.zeros(2, tiny.width), 0):
        pass  # a later registration fails: the earlier hook must go too
    with pytest.raises(AttributeError), record({0: tiny.blocks[0], 1: None}):
        pass
    with pytest.raises(IndexError):  # the model fails in the middle of a patched pass
        PatchedPrompt(tiny, TargetPrompt(), 3).continue_from(torch.zeros(2, tiny.width), [Site("hidden_state", 0)] * 3)
    assert count_hooks(tiny.model) == before


def test_a_stopped_run_leaves_nothing_behind(tiny):
    before = count_hooks(tiny.model)
    batches = run(tiny, make_plan(["Titanic"], layers=[1, 2]), batch_size=4)
    assert len(next(batches).items) == 4
    assert not torch.is_inference_mode_enabled()
    batches.close()
    assert count_hooks(tiny.model) == before
