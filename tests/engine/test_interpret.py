"""The engine against the plain way, and what a run may and may not change."""

import random

import pytest
import torch
from reading import read, texts_of
from reference import plain_interpret, plain_vector

from helpers import InputError
from helpers.engine.activations import CapturedPrompts, capture
from helpers.engine.batches import SAME_FAILURES, SameFailures
from helpers.engine.interpret import Reader, interpret, run
from helpers.engine.prompt import PatchedPrompt
from helpers.words.components import COMPONENTS, Site
from helpers.words.decoding import Sampling
from helpers.words.plans import make_plan
from helpers.words.prompts import read_prompts
from helpers.words.target import PAPER_TARGET_PROMPT, TargetPrompt


def draw(lm, count, seed):
    """Draw (prompt, component, layer, position, amplifier, target layer) from the method's whole range."""
    rng, prompts = random.Random(seed), read_prompts("data/prompts.csv")
    draws = []
    for _ in range(count):
        prompt = rng.choice(prompts)
        draws.append(
            (
                prompt,
                rng.choice(list(COMPONENTS)),
                rng.randrange(lm.num_layers),
                rng.randrange(len(lm.token_ids(prompt))),
                rng.choice([1, 1.3, 2, 3, 6, 9, 12, 15, 40, 0, -1]),
                rng.randrange(lm.num_layers),
            )
        )
    return draws


def assert_engine_equals_plain_way(lm, draws):
    """Compare all draws, in mixed batches with target layers in any order, with a `generate` for each."""
    vectors, plain = [], []
    for prompt, component, layer, position, amplifier, target_layer in draws:
        vectors.append(amplifier * capture(lm, prompt)[component][layer, position])
        vector = amplifier * plain_vector(lm.model, lm.tokenizer, prompt, component, layer, position)
        plain.append(plain_interpret(lm.model, lm.tokenizer, vector, target_layer, PAPER_TARGET_PROMPT))
    texts = interpret(lm, torch.stack(vectors), [draw[-1] for draw in draws], batch_size=64)
    assert texts == plain
    assert len(set(texts)) > len(texts) / 2  # the draws exercise different vectors


def test_engine_equals_plain_way_sample(lm):
    assert_engine_equals_plain_way(lm, draw(lm, 4, seed=1))


@pytest.mark.slow
def test_engine_equals_plain_way_200_draws(lm):
    assert_engine_equals_plain_way(lm, draw(lm, 200, seed=2))


def test_a_plan_equals_plain_way(tiny):
    for item, reading in read(tiny, ["Titanic", "Diana, Princess of Wales"], layers=[0, 2], amplifiers=[1, 6]):
        vector = plain_vector(tiny.model, tiny.tokenizer, item.source_prompt, "mlp_output", item.layer, item.position)
        amplified = vector if item.amplifier == 1 else item.amplifier * vector  # 1 is plain Patchscopes
        text = plain_interpret(tiny.model, tiny.tokenizer, amplified, item.target_layer, PAPER_TARGET_PROMPT)
        assert reading.result == text
        assert item.target_layer == item.layer and reading.status == "ok"


@pytest.mark.parametrize("placeholder", [" actor", 0, -1])
def test_placeholder_anywhere_equals_plain_way(tiny, placeholder):
    text = "Leonardo DiCaprio: American actor, Samsung: South Korean company, x"
    target = TargetPrompt(text, placeholder)
    decoded = tiny.decoded_tokens(text)
    position = decoded.index(placeholder) if isinstance(placeholder, str) else placeholder
    vector = 3 * plain_vector(tiny.model, tiny.tokenizer, "Titanic", "hidden_state", 1, -1)
    plain = plain_interpret(tiny.model, tiny.tokenizer, vector, 2, text, placeholder=position)
    assert interpret(tiny, vector[None], 2, target) == [plain]
    if isinstance(placeholder, str):
        assert interpret(tiny, vector[None], 2, TargetPrompt.of_text(text.replace("actor", "{actor}"))) == [plain]


@pytest.mark.parametrize(("model", "rows"), [("tiny", 23), pytest.param("lm", 7, marks=pytest.mark.slow)])
def test_batch_size_never_changes_a_row(model, rows, request):
    model = request.getfixturevalue(model)
    vectors = torch.randn(rows, model.width, generator=torch.Generator().manual_seed(0))
    layers = torch.arange(rows) % model.num_layers
    together = interpret(model, vectors, layers, max_new_tokens=6)
    assert interpret(model, vectors, layers, max_new_tokens=6, batch_size=1) == together
    assert interpret(model, vectors.flip(0), layers.flip(0), max_new_tokens=6, batch_size=5) == together[::-1]


def test_patching_a_vector_onto_itself_changes_no_token(tiny):
    states = capture(tiny, PAPER_TARGET_PROMPT)["hidden_state"][:, -1]
    ids = tiny.tokenizer(PAPER_TARGET_PROMPT, return_tensors="pt")
    plain = tiny.model.generate(**ids, do_sample=False, max_new_tokens=10)[0, ids.input_ids.shape[1] :]
    texts = interpret(tiny, states, range(tiny.num_layers))
    assert set(texts) == {tiny.tokenizer.decode(plain, skip_special_tokens=True)}


def test_run_yields_batches_of_the_plan_in_order_with_progress(tiny):
    plan = make_plan(["Titanic", "Star Wars"], layers="0-2", amplifiers=[1, 2], max_new_tokens=3)
    seen = []
    batches = list(run(tiny, plan, batch_size=5, progress=lambda done, total: seen.append((done, total))))
    assert [len(batch.items) for batch in batches] == [5, 5, 2] and seen == [(5, 12), (10, 12), (12, 12)]
    pairs = [pair for batch in batches for pair in zip(batch.items, batch.readings, strict=True)]
    assert pairs == read(tiny, plan)
    assert [item for item, _ in pairs] == plan.items(tiny, tiny.identity)
    assert len({item.id for item, _ in pairs}) == 12
    assert batches[0].made == {
        "parts": 1, "batch_size": 5, "shares_prefix": True, "fused": False, "device": "cpu"
    }  # fmt: skip


def test_run_passes_over_batches_that_are_done(tiny):
    plan = make_plan(["Titanic", "Star Wars"], layers="0-2", amplifiers=[1, 2], max_new_tokens=3)
    batches, seen = list(run(tiny, plan, batch_size=5)), []
    done = {item.id for item in [*batches[0].items, *batches[1].items[:4]]}  # the second batch isn't whole
    rest = list(run(tiny, plan, 5, lambda *progress: seen.append(progress), done=done))
    assert seen == [(5, 12), (10, 12), (12, 12)]
    assert rest == batches[1:]


def test_what_was_read_before_is_used_only_if_it_fits_the_plan(tiny):
    plan = make_plan(["Titanic", "Star Wars"], layers="0-2", amplifiers=[1, 2], max_new_tokens=3)
    expected = list(run(tiny, plan, 5))
    fitting = PatchedPrompt(tiny, TargetPrompt(), 3), CapturedPrompts(tiny, plan.prompts)
    others = [
        (PatchedPrompt(tiny, TargetPrompt("Oslo: Capital of x"), 3), CapturedPrompts(tiny, plan.prompts[::-1])),
        (PatchedPrompt(tiny, TargetPrompt(), 4), CapturedPrompts(tiny, ["Titanic"])),
    ]
    for prompt, sources in (fitting, *others):
        assert list(run(tiny, plan, 5, prompt=prompt, sources=sources, items=expected[0].items)) == expected[:1]
        assert list(run(tiny, plan, 5, prompt=prompt, sources=sources)) == expected


def test_a_reader_reads_any_batch_alone(tiny):
    plan = make_plan(["Titanic", "Star Wars"], layers="0-2", amplifiers=[1, 2], max_new_tokens=3)
    reader, batches = Reader(tiny, plan, batch_size=5), list(run(tiny, plan, batch_size=5))
    assert [reader.read(start) for start in reversed(reader.starts)] == batches[::-1]


def test_rho_is_the_norm_beside_the_placeholders_own(tiny):
    [(_, reading)] = read(tiny, ["Titanic"], "hidden_state", 1, 3, target_layer=2)
    norm = capture(tiny, "Titanic")["hidden_state"][1, -1].norm()
    replaced = capture(tiny, PAPER_TARGET_PROMPT)["hidden_state"][2, -1].norm()
    assert reading.rho == float(f"{3 * norm / replaced:.4g}")


def test_a_text_ends_at_end_of_sequence(lm):
    """A row that ends early beside a row that doesn't: each equals the plain way."""
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nThe capital is Paris"
    target = TargetPrompt(text)
    vectors = torch.stack([capture(lm, text)["hidden_state"][5, -1], torch.ones(lm.width)])  # its state, and another
    plain = [plain_interpret(lm.model, lm.tokenizer, vector, 5, text) for vector in vectors]
    assert interpret(lm, vectors, 5, target) == plain
    written = PatchedPrompt(lm, target, 10).continue_from(vectors, [Site("hidden_state", 5)] * 2)
    short, long = written.tokens
    assert len(short) < len(long) < 10 and all(written.finite)
    assert not set(short) & lm.stop_tokens


def test_rows_with_nonfinite_logits_are_marked(tiny):
    (_, ok), (_, failed) = read(tiny, ["Titanic"], layers=1, amplifiers=[1, 3e38], max_new_tokens=3)
    assert (ok.status, failed.status, failed.result) == ("ok", "nonfinite", "")
    assert ok.message == "" and "not finite" in failed.message


def test_only_a_bad_row_fails_and_its_neighbours_are_the_same(tiny, monkeypatch):
    """A fault in the model for a single row of a batch."""
    plan = make_plan(["Titanic", "Star Wars"], layers="0-2", amplifiers=[1, 2], max_new_tokens=3)
    expected = [reading for _, reading in read(tiny, plan)]
    reader = Reader(tiny, plan, batch_size=12)
    usual = PatchedPrompt.continue_from

    def fails(prompt, vectors, *settings, **more):
        if ((vectors - bad).norm(dim=-1) < 1e-3 * bad.norm()).any():
            raise ValueError("a bug")
        return usual(prompt, vectors, *settings, **more)

    bad = 2 * capture(tiny, "Titanic")["mlp_output"][1, -1]  # the fourth row
    monkeypatch.setattr(PatchedPrompt, "continue_from", fails)
    batch = reader.read(0)
    assert batch.made["parts"] > 1
    assert [reading.status for reading in batch.readings] == ["ok"] * 3 + ["error"] + ["ok"] * 8
    assert batch.readings[3].message == "ValueError: a bug" and batch.readings[3].result == ""
    assert batch.readings[:3] + batch.readings[4:] == expected[:3] + expected[4:]


def test_a_fault_of_all_rows_ends_the_run(tiny, monkeypatch):
    def fails(*arguments, **settings):
        raise KeyError("a bug")

    plan = make_plan(["Titanic", "Star Wars"], layers="0-2", amplifiers=range(1, SAME_FAILURES), max_new_tokens=3)
    batches = run(tiny, plan, batch_size=7)
    monkeypatch.setattr(PatchedPrompt, "continue_from", fails)
    with pytest.raises(SameFailures, match="20 rows in a row ended with the same error: KeyError: 'a bug'"):
        list(batches)


@pytest.mark.parametrize(
    ("vectors", "layers", "word"),
    [
        (torch.zeros(2, 5), 0, "vectors"),
        (torch.zeros(32), 0, "vectors"),
        (torch.zeros(2, 32), 3, "target_layers"),
        (torch.zeros(2, 32), -1, "target_layers"),
        (torch.zeros(2, 32), [1, 2, 3], "target_layers"),
        (torch.zeros(2, 32), [0.0, 1.5], "target_layers"),
        (torch.zeros(2, 32), "same", "target_layers"),
    ],
)
def test_interpret_refuses_shapes_and_layers(tiny, vectors, layers, word):
    with pytest.raises(InputError, match=word):
        interpret(tiny, vectors, layers)


def test_interpret_takes_vectors_of_any_dtype(tiny):
    vectors = torch.randint(-3, 3, (4, tiny.width), generator=torch.Generator().manual_seed(0))
    texts = interpret(tiny, vectors.float(), 1)
    assert interpret(tiny, vectors, 1) == interpret(tiny, vectors.half(), [1] * 4) == texts


def test_interpret_refuses_a_wrong_batch_size(tiny):
    with pytest.raises(InputError, match="batch_size="):
        interpret(tiny, torch.zeros(1, tiny.width), 0, batch_size=0)


def test_interpret_refuses_what_would_only_show_as_empty_texts(tiny):
    vectors = torch.ones(3, tiny.width)
    with pytest.raises(InputError, match="seeds='2 seeds': expected one for each of 3 vectors"):
        interpret(tiny, vectors, 0, decoding=Sampling(), seeds=[1, 2])
    with pytest.raises(InputError, match="max_new_tokens=0"):
        interpret(tiny, vectors, 0, max_new_tokens=0)
    with pytest.raises(InputError, match="target_component="):
        interpret(tiny, vectors, 0, target_component=["hidden_state", "mlp_output"])
    assert interpret(tiny, vectors[:0], []) == []


def test_a_braced_target_prompt_is_patched_at_its_mark(tiny):
    marked = texts_of(tiny, ["Titanic"], layers=1, amplifiers=3, target_prompt="Oslo: Capital of Norway, {x}: a")
    explicit = TargetPrompt("Oslo: Capital of Norway, x: a", placeholder=" x")
    assert marked == texts_of(tiny, ["Titanic"], layers=1, amplifiers=3, target_prompt=explicit)


def test_a_stop_is_obeyed_at_the_next_token(tiny):
    """Within a batch: its rows are not returned, and the same plan goes on afterwards as if nothing had happened."""
    plan = make_plan("Titanic", "hidden_state", "all", (1, 2), max_new_tokens=6)
    whole = [batch.readings for batch in run(tiny, plan, 2)]
    asked = []

    def stop():
        asked.append(len(asked))
        return len(asked) > 8  # in the second batch

    assert [batch.readings for batch in run(tiny, plan, 2, stop=stop)] == whole[:1] and len(asked) == 9
    assert [batch.readings for batch in run(tiny, plan, 2)] == whole
