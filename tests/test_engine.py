"""The engine against the plain way, and what a patch may and may not change."""

import random

import pandas as pd
import pytest
import torch
from conftest import count_hooks
from reference import plain_interpret, plain_vector

from helpers import InputError
from helpers.activations import capture
from helpers.decoding import Sampling
from helpers.engine import PatchedPrompt
from helpers.hooks import patch, record
from helpers.plans import COMPONENTS, PAPER_TARGET_PROMPT, TargetPrompt, make_plan
from helpers.results import read_prompts
from helpers.superscopes import interpret, run, sweep


def draw(lm, count, seed):
    """Random (prompt, component, layer, position, amplifier, target layer) of the method's whole range."""
    rng, prompts = random.Random(seed), read_prompts("data/prompts.csv")
    draws = []
    for _ in range(count):
        prompt = rng.choice(prompts)
        draws.append(
            (
                prompt,
                rng.choice(COMPONENTS),
                rng.randrange(lm.num_layers),
                rng.randrange(len(lm.token_ids(prompt))),
                rng.choice([1, 1.3, 2, 3, 6, 9, 12, 15, 40, 0, -1]),
                rng.randrange(lm.num_layers),
            )
        )
    return draws


def assert_engine_equals_plain_way(lm, draws):
    """All draws in mixed batches, their target layers in any order, against one `generate` each."""
    vectors, plain = [], []
    for prompt, component, layer, position, amplifier, target_layer in draws:
        vectors.append(amplifier * capture(lm, prompt)[component][layer, position])
        vector = amplifier * plain_vector(lm.model, lm.tokenizer, prompt, component, layer, position)
        plain.append(plain_interpret(lm.model, lm.tokenizer, vector, target_layer, PAPER_TARGET_PROMPT))
    texts = interpret(lm, torch.stack(vectors), [one[-1] for one in draws], batch_size=64)
    assert texts == plain
    assert len(set(texts)) > len(texts) / 2  # the draws exercise different vectors


def test_engine_equals_plain_way_sample(lm):
    assert_engine_equals_plain_way(lm, draw(lm, 20, seed=1))


@pytest.mark.slow
def test_engine_equals_plain_way_200_draws(lm):
    assert_engine_equals_plain_way(lm, draw(lm, 200, seed=2))


def test_sweep_equals_plain_way(lm):
    rows = sweep(lm, ["Titanic", "Diana, Princess of Wales"], layers=[2, 5], amplifiers=[1, 6], token=-1)
    for row in rows.to_dict("records"):
        vector = plain_vector(lm.model, lm.tokenizer, row["source prompt"], "mlp_output", row["layer"], row["position"])
        amplified = vector if row["amplification value"] == 1 else row["amplification value"] * vector  # 1: Patchscopes
        text = plain_interpret(lm.model, lm.tokenizer, amplified, row["target layer"], PAPER_TARGET_PROMPT)
        assert row["result"] == text
        assert row["target layer"] == row["layer"] and row["status"] == "ok"


@pytest.mark.parametrize("placeholder", [" actor", 0, -1])
def test_placeholder_anywhere_equals_plain_way(lm, placeholder):
    text = "Leonardo DiCaprio: American actor, Samsung: South Korean company, x"
    target = TargetPrompt(text, placeholder)
    decoded = lm.decoded_tokens(text)
    position = decoded.index(placeholder) if isinstance(placeholder, str) else placeholder
    vector = 3 * plain_vector(lm.model, lm.tokenizer, "Titanic", "hidden_state", 9, -1)
    plain = plain_interpret(lm.model, lm.tokenizer, vector, 4, text, placeholder=position)
    assert interpret(lm, vector[None], 4, target) == [plain]


def test_batch_size_never_changes_a_row(tiny, lm):
    for model in (tiny, lm):
        vectors = torch.randn(23, model.width, generator=torch.Generator().manual_seed(0))
        layers = torch.arange(23) % model.num_layers
        together = interpret(model, vectors, layers, max_new_tokens=6)
        assert interpret(model, vectors, layers, max_new_tokens=6, batch_size=1) == together
        assert interpret(model, vectors.flip(0), layers.flip(0), max_new_tokens=6, batch_size=5) == together[::-1]


def test_patching_a_vector_onto_itself_changes_no_token(lm):
    own = capture(lm, PAPER_TARGET_PROMPT)["hidden_state"][:, -1]
    ids = lm.tokenizer(PAPER_TARGET_PROMPT, return_tensors="pt")
    plain = lm.model.generate(**ids, do_sample=False, max_new_tokens=10)[0, ids.input_ids.shape[1] :]
    texts = interpret(lm, own, range(lm.num_layers))
    assert set(texts) == {lm.tokenizer.decode(plain, skip_special_tokens=True)}


def test_a_patch_touches_exactly_its_layer_and_position(lm):
    ids = torch.tensor([lm.token_ids("Diana, Princess of Wales")] * 2)
    outputs = {layer: block for layer, block in enumerate(lm.blocks)}
    vectors = torch.randn(2, lm.width)
    with torch.inference_mode():
        with record(outputs) as plain:
            lm.model(ids)
        with patch(lm.blocks, torch.tensor([7, 3]), vectors, position=4), record(outputs) as patched:
            lm.model(ids)
    for row, target in enumerate([7, 3]):
        for layer in range(lm.num_layers):
            same = (plain[layer][row] == patched[layer][row]).all(-1).tolist()
            assert same[:4] == [True] * 4, "what stands before the placeholder can't see it"
            if layer < target:
                assert all(same)
            elif layer == target:
                assert same == [True, True, True, True, False, True]
                assert (patched[layer][row, 4] == vectors[row]).all()


def test_no_hook_survives_success_or_exception(lm):
    before = count_hooks(lm.model)
    with (
        patch(lm.blocks, torch.tensor([0, 5]), torch.zeros(2, lm.width), 0),
        record({0: lm.blocks[0]}, {1: lm.blocks[1]}),
    ):
        assert count_hooks(lm.model) == before + 4
    assert count_hooks(lm.model) == before
    with pytest.raises(RuntimeError, match="mine"), patch(lm.blocks, torch.tensor([0]), torch.zeros(1, lm.width), 0):
        raise RuntimeError("mine")
    with pytest.raises(IndexError), patch(lm.blocks, torch.tensor([0, 99]), torch.zeros(2, lm.width), 0):
        pass  # a later registration fails: the earlier hook must go too
    with pytest.raises(AttributeError), record({0: lm.blocks[0], 1: None}):
        pass
    with pytest.raises(IndexError):  # the model fails in the middle of a patched pass
        PatchedPrompt(lm, TargetPrompt(), 3).continue_from(torch.zeros(2, lm.width), torch.tensor([0, 0, 0]))
    assert count_hooks(lm.model) == before


def test_a_stopped_run_leaves_nothing_behind(lm):
    batches = run(lm, make_plan(["Titanic"], layers=[1, 2]), batch_size=4)
    assert len(next(batches)) == 4
    assert not torch.is_inference_mode_enabled()
    batches.close()
    assert count_hooks(lm.model) == 0


def test_run_yields_batches_of_the_plan_in_order_with_progress(tiny):
    plan = make_plan(["Titanic", "Star Wars"], layers="0-2", amplifiers=[1, 2], max_new_tokens=3)
    seen = []
    batches = list(run(tiny, plan, batch_size=5, progress=lambda done, total: seen.append((done, total))))
    assert [len(batch) for batch in batches] == [5, 5, 2] and seen == [(5, 12), (10, 12), (12, 12)]
    whole = sweep(tiny, plan)
    for column in ("id", "result", "rho"):
        assert [value for batch in batches for value in batch[column]] == whole[column].tolist()
    assert whole["id"].is_unique


def test_run_passes_over_batches_that_are_done_and_takes_a_prompt_that_was_read(tiny):
    plan = make_plan(["Titanic", "Star Wars"], layers="0-2", amplifiers=[1, 2], max_new_tokens=3)
    batches, seen = list(run(tiny, plan, batch_size=5)), []
    done = {*batches[0]["id"], *batches[1]["id"][:4]}  # the second one is not whole
    read = PatchedPrompt(tiny, plan.target_prompt, plan.max_new_tokens)
    rest = list(run(tiny, plan, 5, lambda *told: seen.append(told), done=done, prompt=read))
    assert seen == [(5, 12), (10, 12), (12, 12)] and len(rest) == 2
    for again, first in zip(rest, batches[1:], strict=True):
        pd.testing.assert_frame_equal(again, first)
    other = PatchedPrompt(tiny, TargetPrompt("Oslo: Capital of x"), 3)  # not this plan's, so it is not used
    assert next(run(tiny, plan, 5, prompt=other))["result"].tolist() == batches[0]["result"].tolist()


def test_rho_is_the_norm_beside_the_placeholders_own(lm):
    row = sweep(lm, ["Titanic"], components="hidden_state", layers=5, amplifiers=3, target_layer=2).iloc[0]
    norm = capture(lm, "Titanic")["hidden_state"][5, -1].norm()
    own = capture(lm, PAPER_TARGET_PROMPT)["hidden_state"][2, -1].norm()
    assert row["rho"] == float(f"{3 * norm / own:.4g}")


def test_sampling_is_seeded_by_row_not_by_batch(lm):
    plan = make_plan(["Titanic", "Star Wars"], layers="1-4", amplifiers=[1, 3], decoding=Sampling(1.5, 0.95), seed=7)
    rows = sweep(lm, plan, batch_size=16)
    assert sweep(lm, plan, batch_size=3)["result"].tolist() == rows["result"].tolist()
    assert (rows["seed"] == 7).all()
    other = make_plan(["Titanic", "Star Wars"], layers="1-4", amplifiers=[1, 3], decoding=Sampling(1.5, 0.95), seed=8)
    assert sweep(lm, other)["result"].tolist() != rows["result"].tolist()


def test_sampling_draws_from_the_cut_distribution():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, -1)
    draws = [torch.Generator().manual_seed(seed) for seed in range(4000)]
    counts = torch.bincount(Sampling(1.0, 0.9).choose(logits, draws), minlength=4) / 4000
    expected = torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95  # the fourth is beyond top_p
    assert (counts - expected).abs().max() < 0.03
    greedy_like = Sampling(0.01, 1.0).choose(logits, draws)
    assert (greedy_like == 0).all()


def test_a_text_ends_at_end_of_sequence(lm):
    """A row that ends early beside one that does not: each equals the plain way."""
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nThe capital is Paris"
    target = TargetPrompt(text)
    vectors = torch.stack([capture(lm, text)["hidden_state"][5, -1], torch.ones(lm.width)])  # its own, and another
    plain = [plain_interpret(lm.model, lm.tokenizer, vector, 5, text) for vector in vectors]
    assert interpret(lm, vectors, 5, target) == plain
    tokens, finite = PatchedPrompt(lm, target, 10).continue_from(vectors, torch.tensor([5, 5]))
    assert len(tokens[0]) < len(tokens[1]) < 10 and all(finite)
    assert not set(tokens[0]) & lm.stop_tokens


def test_rows_with_nonfinite_logits_say_so(lm):
    rows = sweep(lm, ["Titanic"], layers=3, amplifiers=[1, 3e38], max_new_tokens=3)
    assert rows["status"].tolist() == ["ok", "nonfinite"]
    assert rows["result"].tolist()[1] == "" and "not finite" in rows["message"][1]
    assert rows["score"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("vectors", "layers", "word"),
    [
        (torch.zeros(2, 5), 0, "vectors"),
        (torch.zeros(576), 0, "vectors"),
        (torch.zeros(2, 576), 30, "target_layers"),
        (torch.zeros(2, 576), -1, "target_layers"),
        (torch.zeros(2, 576), [1, 2, 3], "target_layers"),
    ],
)
def test_interpret_refuses_shapes_and_layers(lm, vectors, layers, word):
    with pytest.raises(InputError, match=word):
        interpret(lm, vectors, layers)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_batch_size_is_a_whole_number(tiny, batch_size):
    with pytest.raises(InputError, match="batch_size"):
        interpret(tiny, torch.zeros(1, tiny.width), 0, batch_size=batch_size)
