"""Given vectors through the engine: the same as a plain hook and `generate`, one by one; ids that see the numbers."""

import pickle

import pytest
import torch
from reference import plain_interpret, plain_vector
from safetensors.torch import save_file

from helpers import InputError, TargetPrompt, make_plan, run
from helpers.engine.given import GivenVectors, evaluate, fits, sources_of
from helpers.models.vector_files import VectorFile
from helpers.words.expressions import parse
from helpers.words.rows import NO_VECTOR
from helpers.words.target import PAPER_TARGET_PROMPT
from helpers.words.vectors import NO_LAYER, NOTHING, FileSource, make_vector_plan, of_expressions, random_like

TABLE = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
WAYS = {"vector": "plain", "norm[vector]": "norm", "norm_add[vector]": "norm_add"}


@pytest.fixture
def file(tmp_path):
    save_file({"directions": TABLE}, tmp_path / "some.safetensors")
    return VectorFile(FileSource(str(tmp_path / "some.safetensors")))


def plain(lm, prompt, layer, component="hidden_state", position=-1):
    return plain_vector(lm.model, lm.tokenizer, prompt, component, layer, position)


def placed(lm, way, vector, factor, target_layer):
    """Return what a way puts at the placeholder, written anew."""
    h = plain(lm, PAPER_TARGET_PROMPT, target_layer)
    return {
        "plain": factor * vector,
        "norm": factor * h.norm() * vector / vector.norm(),
        "norm_add": h + factor * h.norm() * vector / vector.norm(),
    }[way]


def expected(lm, way, vector, factor, target_layer):
    vector = placed(lm, way, vector, factor, target_layer)
    return plain_interpret(lm.model, lm.tokenizer, vector, target_layer, PAPER_TARGET_PROMPT, max_new_tokens=5)


def read(lm, plan, **options):
    """Return (source prompt, layer, target layer, amplifier, component) -> result."""
    return {
        (item.source_prompt, item.layer, item.target_layer, item.amplifier, item.component): reading.result
        for batch in run(lm, plan, batch_size=4, **options)
        for item, reading in zip(batch.items, batch.readings, strict=True)
    }


def test_rows_of_a_file_are_read_as_plainly_one_by_one(tiny, file):
    vectors = file.vectors(rows="0-3", layer=1)
    plan = make_vector_plan(vectors, tuple(WAYS), amplifiers=(1, 2.5), target_layer=(0, "same"), width=32, max_new_tokens=5)
    found = read(tiny, plan)
    assert len(found) == 4 * 3 * 2 * 2
    for (name, layer, target, factor, component), text in found.items():
        assert layer == 1 and name == f"some:{name[-1]}"
        assert text == expected(tiny, WAYS[component], TABLE[int(name[-1])], factor, target)


def test_expressions_are_read_as_plainly_one_by_one(tiny):
    text = '"King" - "Man" + "Woman"; 2 * unit("Titanic"(component=mlp_output, layer=2)) - mean("King"(token=0), "Man")/3'
    plan = make_vector_plan(of_expressions(text), "vector", "0,2", (1, 3), max_new_tokens=5)
    found = read(tiny, plan)
    assert len(found) == 2 * 2 * 2
    for (name, layer, target, factor, _), result in found.items():
        king, man = plain(tiny, "King", layer), plain(tiny, "Man", layer)
        if name.startswith('"King"'):
            vector = king - man + plain(tiny, "Woman", layer)
        else:
            mlp = plain(tiny, "Titanic", 2, "mlp_output")
            vector = 2 * mlp / mlp.norm() - (plain(tiny, "King", layer, position=0) + man) / 6
        assert result == expected(tiny, "plain", vector, factor, target)


@pytest.mark.slow
def test_a_model_with_real_weights_reads_an_expression_as_plainly(lm):
    plan = make_vector_plan(of_expressions('"King" - "Man" + "Woman"'), "vector", "3,9", (1, 2), max_new_tokens=5)
    for (_, layer, target, factor, _), result in read(lm, plan).items():
        vector = plain(lm, "King", layer) - plain(lm, "Man", layer) + plain(lm, "Woman", layer)
        assert result == expected(lm, "plain", vector, factor, target)


def test_the_difference_of_two_sets_is_that_of_their_means(tiny, tmp_path):
    sets = {"good": ["Good day", "Yes, please", "Well done then"], "bad": ["Bad day", "No"]}
    for name, prompts in sets.items():
        (tmp_path / f"{name}.csv").write_text("prompt\n" + "\n".join(f'"{one}"' for one in prompts))
    text = f'mean(prompts("{tmp_path}/good.csv")) - mean(prompts("{tmp_path}/bad.csv", component=mlp_output))'
    good = torch.stack([plain(tiny, one, 1) for one in sets["good"]]).mean(0)
    bad = torch.stack([plain(tiny, one, 1, "mlp_output") for one in sets["bad"]]).mean(0)
    torch.testing.assert_close(evaluate(tiny, parse(text))[1], good - bad, atol=1e-5, rtol=1e-4)
    both = f'mean("Titanic", prompts("{tmp_path}/bad.csv"))'  # each of the three counts as much
    three = torch.stack([plain(tiny, one, 2) for one in ("Titanic", *sets["bad"])]).mean(0)
    torch.testing.assert_close(evaluate(tiny, parse(both))[2], three, atol=1e-5, rtol=1e-4)


def test_a_weight_is_of_its_layer_and_a_sum_of_two_layers_of_none(tiny):
    [neuron] = of_expressions("mlp.down[2, 5]")
    [mixed] = of_expressions('mlp.down[2, 5] - mlp.down[1, 5] + head["x"]')
    assert (neuron.layer, neuron.token, mixed.layer, mixed.token) == (2, "weight", NO_LAYER, "expression")
    found = read(tiny, make_vector_plan([neuron, mixed], "norm[vector]", amplifiers=2, max_new_tokens=5))
    down = [block.mlp.down_proj.weight[:, 5].detach() for block in tiny.model.model.layers]
    head = tiny.model.lm_head.weight[tiny.tokenizer("x", add_special_tokens=False).input_ids[0]].detach()
    assert list(found.values()) == [
        expected(tiny, "norm", down[2], 2, 0),
        expected(tiny, "norm", down[2] - down[1] + head, 2, 0),
    ]


def test_ids_see_the_numbers_and_nothing_that_does_not_matter(tiny, tmp_path):
    def ids(table, name="x.safetensors", tensor="t", **settings):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_file({tensor: table}, tmp_path / name)
        vectors = VectorFile(FileSource(str(tmp_path / name))).vectors()
        plan = make_vector_plan(vectors, amplifiers=(1, 2), width=32, **settings)
        return [item.id for item in plan.items(tiny, tiny.identity)]

    usual, changed = ids(TABLE), TABLE.clone()
    changed[3, 7] += 1e-6
    assert len(set(usual)) == 10
    differ = [one != other for one, other in zip(usual, ids(changed), strict=True)]
    assert differ == [False] * 6 + [True] * 2 + [False] * 2
    assert ids(TABLE, "elsewhere/x.safetensors", "other name") == usual
    assert not set(ids(TABLE, "y.safetensors")) & set(usual) and not set(ids(TABLE, target_layer=1)) & set(usual)
    few = make_vector_plan(VectorFile(FileSource(str(tmp_path / "elsewhere/x.safetensors"))).vectors(rows="3"), amplifiers=2)
    assert [item.id for item in few.items(tiny, tiny.identity)] == [usual[7]]


def test_a_plan_of_prompts_has_the_ids_that_it_had(tiny):
    """Of the golden file's plans nothing changes; and a prompt's id isn't that of an expression of the same letters."""
    prompt = make_plan('"King"', "hidden_state", 1, 1).items(tiny, tiny.identity)
    vector = make_vector_plan(of_expressions('"King"'), "vector", 1, 1).items(tiny, tiny.identity)
    assert prompt[0].source_prompt == vector[0].source_prompt and prompt[0].id != vector[0].id


def test_random_directions_are_drawn_once_and_as_long_as_asked(tiny, file):
    [like] = file.vectors(rows="2")
    [expression] = of_expressions('"Titanic"')
    drawn = random_like([like, expression], 2, seed=7) + random_like([None], 2, seed=7)
    found = GivenVectors(tiny, drawn)
    numbers = {vector.name: found[vector.name]["vector"][1, 0] for vector in drawn}
    assert len({tuple(one.tolist()) for one in numbers.values()}) == 6
    for name, one in numbers.items():
        length = TABLE[2].norm() if "some" in name else plain(tiny, "Titanic", 1).norm() if "Titanic" in name else 1.0
        torch.testing.assert_close(one.norm(), torch.as_tensor(length))
    again = GivenVectors(tiny, drawn[::-1])
    assert all(torch.equal(again[name]["vector"][1, 3], one) for name, one in numbers.items())
    other = random_like([None], 1, seed=8)[0]
    assert not torch.equal(GivenVectors(tiny, [other])[other.name]["vector"][1, 0], numbers["random 1"])


def test_nothing_patched_is_what_the_model_writes_by_itself(tiny):
    [text] = read(tiny, make_vector_plan([NOTHING], "none", max_new_tokens=5)).values()
    inputs = tiny.tokenizer(PAPER_TARGET_PROMPT, return_tensors="pt")
    tokens = tiny.model.generate(**inputs, do_sample=False, max_new_tokens=5)
    assert text == tiny.tokenizer.decode(tokens[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def test_batches_workers_and_resumed_runs_see_the_same_vectors(tiny, file):
    plan = make_vector_plan(file.vectors(), amplifiers=(1, 2), width=32, max_new_tokens=5)
    usual = read(tiny, plan)
    again = pickle.loads(pickle.dumps(plan))  # as it goes to a worker
    assert again == plan and read(tiny, again) == usual
    sources = sources_of(tiny, plan)
    assert fits(sources, tiny, again) and not fits(sources, tiny, make_plan("Titanic")) and not fits(None, tiny, plan)
    done = {item.id for item in plan.items(tiny, tiny.identity)[:4]}
    assert read(tiny, plan, done=done, sources=sources) == dict(list(usual.items())[4:])


def test_a_file_that_changed_after_it_was_looked_up_is_not_read(tiny, file, tmp_path):
    plan = make_vector_plan(file.vectors(rows="0-1"), amplifiers=1, width=32, max_new_tokens=5)
    save_file({"directions": TABLE.flip(1)}, tmp_path / "new.safetensors")
    (tmp_path / "new.safetensors").replace(tmp_path / "some.safetensors")
    with pytest.raises(InputError, match="some:0.*has changed"):
        read(tiny, plan)


@pytest.mark.parametrize("component", ["vector", "norm[vector]"])
def test_an_expression_that_comes_out_as_zero_fails_alone_and_says_why(component, tiny):
    expressions = of_expressions('"King" - "King"; unit("King" - "King"); "King"')
    plan = make_vector_plan(expressions, component, 1, 1, max_new_tokens=5)
    readings = [reading for batch in run(tiny, plan, batch_size=3) for reading in batch.readings]
    assert [reading.status for reading in readings] == ["nonfinite", "nonfinite", "ok"]
    assert {reading.message for reading in readings[:2]} == {NO_VECTOR}


def test_what_does_not_fit_is_refused_before_anything_is_read(tiny, file):
    def refused(vectors, why, **settings):
        with pytest.raises(InputError, match=why):
            make_vector_plan(vectors, **settings).items(tiny)

    some = file.vectors(rows="0-1")
    refused(some, "32|is of no layer: say which", target_layer="same")
    refused(some, "16 numbers; .* width of 32", width=16)
    refused(file.vectors(rows="0", layer=3), "layers 0–2", width=32)
    refused(some, "a given vector is read as one of", components="mlp_output")
    refused(some, "a given vector is read as one of", components="guidance")
    refused(some, "centred", components="centred[vector]")
    refused(of_expressions('"King"(layer=9)'), "layers 0–2")
    refused(of_expressions('"King"(token=9)'), "its tokens are", layers=1)
    refused(of_expressions('"King"'), "layers 0–2", layers=7)
    refused(of_expressions('head["Superscopes"]'), "expected one token")
    refused(of_expressions(f'"{"long " * 99}"'), "tokens, .* reads 64", layers=1)
    with pytest.raises(InputError, match="neurons 0–63"):
        run(tiny, make_vector_plan(of_expressions("mlp.down[1, 99]")))
    with pytest.raises(InputError, match="prompts have no such vectors"):
        make_plan("King", "norm[vector]")


def test_another_target_prompt_and_placeholder(tiny, file):
    target = TargetPrompt.of_text("A {x} is a word")
    plan = make_vector_plan(file.vectors(rows="1"), "vector", amplifiers=1, width=32, target_prompt=target, max_new_tokens=5)
    [text] = read(tiny, plan).values()
    place = target.located(tiny).placeholder
    assert text == plain_interpret(tiny.model, tiny.tokenizer, TABLE[1], 0, target.text, place, 5)
