"""Tokens that the model writes itself: captured while they are written, as a capture of the whole text would be."""

import pytest
import torch
from families import small_model
from reference import blocks_of, plain_interpret

from helpers import InputError, make_plan, run, sweep
from helpers.engine.activations import ContinuedPrompts, capture, capture_continuation
from helpers.engine.given import fits, sources_of
from helpers.models.families import find_parts
from helpers.words.chats import chat
from helpers.words.rows import NOT_WRITTEN
from helpers.words.target import PAPER_TARGET_PROMPT

PROMPT = "Diana, Princess of"
CHAT = [{"role": "user", "content": "Hi"}]
TRIED = (
    "Llama", "Gemma 2", "GPT-2", "GPT-NeoX, Pythia", "OPT", "BLOOM", "Granite", "Mixtral", "Mistral, short window",
    "Qwen3-Next", "LFM2",
)  # fmt: skip


@torch.no_grad()
def plainly(lm, prompt, count):
    """Return the tokens that `generate` writes, and each block's input and output in a pass over the whole text."""
    ids = torch.tensor([lm.token_ids(prompt)])
    whole = lm.model.generate(ids, do_sample=False, num_beams=1, max_new_tokens=count, attention_mask=torch.ones_like(ids))
    seen, handles = {}, []
    for layer, block in enumerate(blocks_of(lm.model)):
        handles.append(block.register_forward_hook(
            lambda module, args, kwargs, output, layer=layer: seen.update({layer: (
                (args[0] if args else kwargs["hidden_states"]).clone(), (output[0] if isinstance(output, tuple) else output).clone()
            )}), with_kwargs=True,
        ))  # fmt: skip
    try:
        lm.model(whole, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return whole[0].tolist(), [seen[layer] for layer in range(lm.num_layers)]


@pytest.mark.parametrize("family", TRIED)
def test_what_is_captured_while_writing_is_what_the_whole_text_gives(family, lm):
    model = small_model(family, lm.tokenizer)
    find_parts(family, model.model, model.device)
    found = capture_continuation(model, PROMPT, 6)
    ids, blocks = plainly(model, PROMPT, 6)
    assert found.tokens[: len(ids)] == [lm.tokenizer.decode([token]) for token in ids]
    assert found["hidden_state"].shape == (model.num_layers, len(model.token_ids(PROMPT)) + 6, model.width)
    for layer, (entered, left) in enumerate(blocks):
        own = found["hidden_state"][layer, : len(ids)]
        torch.testing.assert_close(own, left[0], rtol=1e-3, atol=1e-3 * float(left.abs().max()))
        added = found["attention_output"][layer, : len(ids)] + found["mlp_output"][layer, : len(ids)]
        torch.testing.assert_close(entered[0] + added, own, rtol=1e-3, atol=1e-3 * float(left.abs().max()))


def test_each_token_is_read_once(tiny):
    """The prompt in one pass, then each new token alone; no pass reads anything again."""
    lengths = []
    handle = tiny.blocks[0].register_forward_pre_hook(lambda module, args: lengths.append(args[0].shape[1]))
    try:
        capture_continuation(tiny, PROMPT, 4)
    finally:
        handle.remove()
    assert lengths == [len(tiny.token_ids(PROMPT)), 1, 1, 1, 1]


@pytest.mark.parametrize("prompt", [PROMPT, chat(CHAT)])
def test_readings_of_written_tokens_are_those_of_a_plain_hook(tiny, prompt):
    plan = make_plan(prompt, ("hidden_state", "norm[mlp_output]"), (0, 2), (1, 2), "written", 0, max_new_tokens=4, continue_tokens=3)
    ids, blocks = plainly(tiny, prompt, 3)
    first = len(tiny.token_ids(prompt))
    read = [pair for batch in run(tiny, plan, batch_size=5) for pair in zip(batch.items, batch.readings, strict=True)]
    assert len(read) == 3 * 2 * 2 * 2
    for item, reading in read:
        assert reading.written == tiny.tokenizer.decode([ids[item.position]])
        assert item.token == f"written {item.position - first + 1}"
        if item.component == "hidden_state":
            vector = item.amplifier * blocks[item.layer][1][0, item.position]
            assert reading.result == plain_interpret(tiny.model, tiny.tokenizer, vector, 0, PAPER_TARGET_PROMPT, max_new_tokens=4)


def test_a_table_names_the_written_tokens_and_others_have_no_such_column(tiny, tmp_path):
    from helpers.runs.results import read_table, save_results

    shared = {"components": "hidden_state", "layers": 1, "amplifiers": 1, "target_layer": 0, "max_new_tokens": 2}
    rows = sweep(tiny, [CHAT], **shared, token=["last of user turn", "written"], continue_tokens=2)
    written = capture_continuation(tiny, chat(CHAT), 2).tokens[-2:]
    assert rows["written"].tolist() == ["", *written] and rows["token"].tolist()[1:] == ["written 1", "written 2"]
    save_results(rows, tmp_path / "rows.csv")
    again = read_table(tmp_path / "rows.csv").rows
    assert again["written"].tolist() == rows["written"].tolist() and list(again) == list(rows)
    save_results(sweep(tiny, "Titanic", **shared), tmp_path / "usual.csv")
    assert "written" not in (tmp_path / "usual.csv").read_text().splitlines()[0].split(",")
    assert list(read_table(tmp_path / "usual.csv").rows) == list(rows)


def test_tokens_after_the_end_of_the_text_have_no_vector(tiny, monkeypatch):
    ids, _ = plainly(tiny, PROMPT, 3)
    first = len(tiny.token_ids(PROMPT))
    monkeypatch.setitem(tiny.__dict__, "stop_tokens", {ids[first + 1]})
    found = capture_continuation(tiny, PROMPT, 4)
    assert found.tokens[first + 1 :] == [tiny.tokenizer.decode([ids[first + 1]]), "", ""]
    assert found["hidden_state"][:, first + 1].isfinite().all() and found["mlp_output"][:, first + 2 :].isnan().all()
    monkeypatch.setitem(tiny.__dict__, "stop_tokens", set())
    plan = make_plan(PROMPT, "hidden_state", 1, 1, "written", 0, max_new_tokens=2, continue_tokens=4)
    sources = ContinuedPrompts(tiny, plan.prompts, 4)
    sources._continued = lambda prompt: found
    readings = [reading for batch in run(tiny, plan, sources=sources) for reading in batch.readings]
    assert [reading.status for reading in readings] == ["ok", "ok", "nonfinite", "nonfinite"]
    assert {reading.message for reading in readings[2:]} == {NOT_WRITTEN}


def test_within_the_prompt_it_is_the_usual_capture(tiny):
    usual, continued = capture(tiny, PROMPT), capture_continuation(tiny, PROMPT, 2)
    for component in ("hidden_state", "mlp_output", "attention_output", "pre_mlp_residual"):
        torch.testing.assert_close(continued[component][:, : len(usual.tokens)], usual[component], rtol=1e-4, atol=1e-4)


def test_sources_are_made_again_for_another_length_and_a_bad_length_is_refused(tiny):
    plan = make_plan("Titanic", continue_tokens=2)
    sources = sources_of(tiny, plan)
    assert fits(sources, tiny, plan)
    assert not fits(sources, tiny, make_plan("Titanic")) and not fits(sources, tiny, make_plan("Titanic", continue_tokens=3))
    with pytest.raises(InputError, match="continue_tokens=-1: expected a whole number"):
        make_plan("Titanic", continue_tokens=-1)
    with pytest.raises(InputError, match="of them its own.*reads 64"):
        make_plan("Titanic", layers=1, continue_tokens=70).items(tiny)
