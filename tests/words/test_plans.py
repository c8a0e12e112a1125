"""Plans: order, ids, and a sentence for every wrong setting."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from helpers import InputError
from helpers.words.components import COMPOSED
from helpers.words.decoding import Contrast, Sampling
from helpers.words.labels import LabelSettings
from helpers.words.plans import locate, make_plan
from helpers.words.prompts import OUR_PROMPTS, read_prompts
from helpers.words.rows import Identity, Site
from helpers.words.target import TargetPrompt

SOME = [f"Prompt {letter}" for letter in "abcdefghijkl"]  # twelve references
MODEL = Identity("a-model", "0123456789abcdef", "float32", "sdpa")


def test_the_papers_mlp_evaluation_is_the_default(card):
    items = make_plan(read_prompts("data/prompts.csv")).items(card)
    assert len(items) == 48 * 7 * 6
    assert all(item.layer == item.target_layer and item.component == "mlp_output" for item in items)
    assert list(dict.fromkeys(item.layer for item in items)) == [1, 2, 3, 4, 5, 6, 7]
    assert list(dict.fromkeys(item.amplifier for item in items)) == [1, 3, 6, 9, 12, 15]
    assert set(Counter(item.source_prompt for item in items).values()) == {42}
    tokens = {item.source_prompt: item.token for item in items}
    assert (tokens["Saturday Night Live"], tokens["Diana, Princess of Wales"]) == (" Live", " Wales")
    assert {item.seed for item in items} == {None} and {item.id for item in items} == {""}


def test_items_that_come_out_the_same_are_kept_once(card):
    tokens, targets = [-1, " Wars", 0], [0, "same"]
    items = make_plan(["Star Wars"], layers="0-1", amplifiers=1, token=tokens, target_layer=targets).items(card)
    assert [(item.position, item.layer, item.target_layer) for item in items] == [
        (1, 0, 0), (1, 1, 0), (1, 1, 1), (0, 0, 0), (0, 1, 0), (0, 1, 1)
    ]  # fmt: skip


def test_items_know_where_they_are_read_and_patched(card):
    [item] = make_plan(["Star Wars"], "hidden_state", 5, 2, target_layer=0).items(card)
    assert (item.source, item.target) == (Site("hidden_state", 5), Site("hidden_state", 0))
    [item] = make_plan(["Star Wars"], "mlp_sum[2-4]", "1-7", 2).items(card)
    assert (item.layer, item.target) == (4, Site("hidden_state", 4)), "a sum stands at its last block"


def test_controls_are_read_once_and_drawn_vectors_have_a_seed(card):
    items = make_plan(["Star Wars"], ["zero", "none", "random[mlp_output]"], 3, [1, 6], seed=7).items(card)
    assert [(item.component, item.amplifier, item.seed) for item in items] == [
        ("zero", 1, None), ("none", 1, None), ("random[mlp_output]", 1, 7), ("random[mlp_output]", 6, 7)
    ]  # fmt: skip
    sampled = make_plan(["Star Wars"], layers=3, amplifiers=1, decoding=Sampling(), seed=7).items(card)
    assert [item.seed for item in sampled] == [7]
    contrasted = make_plan(["Star Wars"], layers=3, amplifiers=1, decoding=Contrast(1), seed=7).items(card)
    assert [item.seed for item in contrasted] == [None]


def test_an_id_changes_with_everything_that_can_change_a_text(card):
    def id_of(model=MODEL, **settings):
        plan = make_plan(**{"prompts": ["Star Wars"], "layers": 2, "amplifiers": 3} | settings)
        return plan.items(card, model)[0].id

    variants = [
        id_of(),
        id_of(prompts=["Star Trek"]),
        id_of(token=0),
        id_of(components="hidden_state"),
        id_of(layers=1),
        id_of(amplifiers=3.5),
        id_of(target_layer=0),
        id_of(target_prompt="Syria: country, x"),
        id_of(target_prompt=TargetPrompt(placeholder=0)),
        id_of(max_new_tokens=9),
        id_of(decoding=Sampling()),
        id_of(decoding=Sampling(), seed=1),
        id_of(decoding=Sampling(0.7)),
        id_of(components="random[mlp_output]"),
        id_of(components="random[mlp_output]", seed=1),
        id_of(decoding=Contrast(0.7)),
        id_of(decoding=Contrast(0.7, 0.1)),
        id_of(decoding=Contrast(0.6, 0.9)),
        *(id_of(components=f"{way}[{of}]") for way in COMPOSED for of in ("mlp_output", "hidden_state")),
        id_of(components="centred[mlp_output]", references=SOME),
        id_of(components="centred[mlp_output]", references=SOME[1:]),
        *(id_of(model=MODEL._replace(**{field: "other"})) for field in ("fingerprint", "dtype", "attention")),
    ]
    assert len(set(variants)) == len(variants)
    assert id_of(components=["norm[mlp_output]"]) == id_of(components=["norm[mlp_output]", "centred[mlp_output]"])
    assert id_of(components="centred[mlp_output]", references=read_prompts(OUR_PROMPTS)) == id_of(components="centred[mlp_output]")
    assert id_of(decoding=Contrast(1)) == id_of(decoding=Contrast(1.0), seed=3)
    assert id_of(seed=5) == id_of(amplifiers=3.0) == id_of(), "a greedy text doesn't depend on a seed"
    assert id_of(model=MODEL._replace(name="another name")) == id_of(), "nor on what the model is called"
    assert id_of(target_prompt=TargetPrompt(name="mine", stop="; ")) == id_of(), "nor on how it is cut or called"


def test_ids_are_those_of_committed_results(card, lm):
    """Ids of rows that were made long ago are made again, letter for letter; a kept ledger depends on it."""
    [item] = make_plan(["Diana, Princess of Wales"], layers=1, amplifiers=1).items(card, lm.identity)
    assert item.id == "4d088af584577854355f"


def test_ids_of_rows_that_could_be_made_before_are_as_they_were(card):
    """Digests of ids that were computed before plans knew references and contrasts."""
    prompts = ["Star Wars", "Diana, Princess of Wales"]
    every = ["hidden_state", "pre_mlp_residual", "attention_output", "guidance", "mlp_sum[1-3]", "zero", "none"]
    plans = {
        "34e8dcb27759940c9547": make_plan(read_prompts("data/prompts.csv")),
        "db05f14c2133401f7b96": make_plan(prompts, every, "1,4", [0, 1, 1.5, 3], target_layer=[0, "same"]),
        "0bdf634b8a135acf6454": make_plan(prompts, ["mlp_output", "random"], 2, [1, 6], seed=3),
        "e52dc299d8fd3cd7194c": make_plan(prompts, layers=2, amplifiers=1, decoding=Sampling(), seed=7),
        "a8915b77866799e2e30f": make_plan(
            prompts, layers=2, amplifiers=2, target_prompt="Oslo: Capital of {x} in", max_new_tokens=4, token=[0, -1]
        ),
    }
    for digest, plan in plans.items():
        ids = "".join(item.id for item in plan.items(card, MODEL))
        assert hashlib.sha256(ids.encode()).hexdigest()[:20] == digest
    mixed = make_plan(prompts, ["mlp_output", "centred[mlp_output]"], layers=2, amplifiers=3).items(card, MODEL)
    alone = make_plan(prompts, "mlp_output", layers=2, amplifiers=3).items(card, MODEL)
    assert [item for item in mixed if item.component == "mlp_output"] == alone, "also beside a centred component"


def test_numbers_of_numpy_are_plain_numbers(card):
    one = np.int64(1)
    plan = make_plan(
        ["Star Wars"], layers=[one], amplifiers=[np.float32(3)], token=-one, target_layer=one - 1, seed=one
    )
    plain = make_plan(["Star Wars"], layers=[1], amplifiers=[3], token=-1, target_layer=0, seed=1)
    assert plan.items(card, MODEL) == plain.items(card, MODEL)
    assert json.dumps(plan.describe()) == json.dumps(plain.describe())


def test_a_plan_describes_itself(card):
    described = make_plan(["a", "b"], layers="1-3", amplifiers="1:3:1", decoding=Sampling(0.7), seed=3).describe()
    assert json.loads(json.dumps(described)) == {
        "prompts": 2,
        "components": ["mlp_output"],
        "layers": "1-3",
        "amplifiers": [1.0, 2.0, 3.0],
        "token": [-1],
        "target_layer": ["same"],
        "target_prompt": {"text": TargetPrompt().text, "placeholder": -1, "stop": ", ", "name": "paper"},
        "max_new_tokens": 10,
        "decoding": {"temperature": 0.7, "top_p": 0.9},
        "seed": 3,
    }
    assert make_plan(["a"]).describe()["seed"] is None and make_plan(["a"]).describe()["decoding"] == "greedy"


def test_a_plan_names_its_references():
    """The suite's own by their file; others by a digest."""
    assert "references" not in make_plan(["a"], ["norm[mlp_output]", "guidance"]).describe()
    usual = make_plan(["a"], "centred[mlp_output]")
    assert usual.references == tuple(read_prompts(OUR_PROMPTS)) and len(usual.references) == 48
    about = usual.describe()["references"]
    assert (about["count"], about["file"]) == (48, "data/prompts.csv")
    others = make_plan(["a"], "centred[mlp_output]", references=SOME).describe()["references"]
    assert others["count"] == 12 and others["digest"] != about["digest"] and "file" not in others
    described = make_plan(["a"], decoding=Contrast(2)).describe()
    assert described["decoding"] == {"weight": 2, "floor": 0.05} and described["seed"] is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"references": SOME}, "references=12: only centred components"),
        ({"components": "centred[mlp_output]", "references": []}, "references=.*at least one"),
        ({"components": "centred[mlp_output]", "references": SOME[:9]}, "references=9: expected at least 10 besides"),
        ({"components": "centred[mlp_output]", "references": [*SOME[:9], "Titanic"]}, "references=10: expected at least 10 besides"),
        ({"components": "centred[mlp_output]", "references": [*SOME, " "]}, r"references\[12\]=' '.*blank"),
        ({"components": "centred[mlp_output]", "references": "Titanic"}, "references=1: expected at least 10"),
        ({"prompts": []}, "prompts=.*at least one"),
        ({"prompts": [["a"]]}, "prompts=.*plain values"),
        ({"prompts": ["ok", "  "]}, r"prompts\[1\]=.*blank"),
        ({"prompts": ["ok", False]}, r"prompts\[1\]=False: expected text, got bool; quote it"),
        ({"prompts": ["nul\0"]}, "NUL"),
        ({"prompts": ["\ud800"]}, "surrogate"),
        ({"components": "mlp"}, "components='mlp': expected mlp_output"),
        ({"components": [["mlp_output"]]}, "components="),
        ({"layers": [["1"]]}, "layers="),
        ({"amplifiers": []}, "amplifiers="),
        ({"amplifiers": [1, float("nan")]}, "amplifiers=nan: expected finite"),
        ({"amplifiers": [1, float("inf")]}, "amplifiers=inf"),
        ({"amplifiers": [10**400]}, "amplifiers="),
        ({"amplifiers": True}, "amplifiers=True"),
        ({"token": 1.5}, "token="),
        ({"token": ""}, "token="),
        ({"target_layer": "last"}, "target_layer='last'"),
        ({"target_layer": -1}, "target_layer=-1"),
        ({"target_prompt": " "}, "target_prompt="),
        ({"target_prompt": "a, {x} and {y"}, "target_prompt=.*mark its placeholder"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"decoding": "greedy"}, "decoding="),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed="),
    ],
)
def test_wrong_settings_name_the_parameter_and_what_is_allowed(settings, words):
    with pytest.raises(InputError, match=words):
        make_plan(**{"prompts": ["Titanic"]} | settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": 30}, "layers=30: this model has layers 0–29"),
        ({"layers": "0-999999999999"}, "layers=999999999999: this model has layers 0–29"),
        ({"components": "mlp_sum[1-30]"}, r"components='mlp_sum\[1-30\]': this model has layers 0–29"),
        ({"target_layer": 30}, "target_layer=30: this model has layers 0–29"),
        ({"max_new_tokens": 9000}, "max_new_tokens=9000.*room for 8162"),
        ({"prompts": ["word " * 9000]}, "tokens, smollm2-135m reads 8192"),
        ({"components": "centred[mlp_output]", "references": [*SOME, "word " * 9000]}, "references='word .* reads 8192"),
        ({"token": 7}, "token=7: is outside 'Titanic'; its tokens are 0:'T' 1:'itan' 2:'ic'"),
        ({"token": "Zebra"}, "token='Zebra': is not in"),
        ({"prompts": ["to be or not to be"], "token": "be"}, "token='be': occurs 2 times in .* 1:' be' .* 5:' be'"),
        ({"target_prompt": TargetPrompt("a, b, x", ",")}, "placeholder=',': occurs 2 times"),
        ({"target_prompt": "Oslo: Cap{ital of} x"}, "target_prompt='{ital of}': mark one whole token"),
    ],
)
def test_what_the_model_lacks_is_refused_before_anything_runs(card, settings, words):
    plan = make_plan(**{"prompts": ["Titanic"]} | settings)
    with pytest.raises(InputError, match=words):
        plan.items(card)


def test_a_token_by_its_text_with_or_without_its_space(card):
    assert locate("token", "Princess", "Diana, Princess of Wales", card) == 3
    assert locate("token", " Princess", "Diana, Princess of Wales", card) == 3
    assert locate("token", -1, "Diana, Princess of Wales", card) == 5
    assert locate("token", " the", "the cat and the dog", card) == 3, "the first has no space, so it is another token"


def test_layers_may_be_numbers_and_depths_together(card):
    items = make_plan(["a"], layers="1-3,depth:0.5,0.9", amplifiers=1).items(card)
    assert [item.layer for item in items] == [1, 2, 3, 14, 26]  # round(0.5 · 29) and round(0.9 · 29), to even


@pytest.mark.parametrize(
    ("token", "places"),
    [("-2:", [3, 4]), (":2", [0, 1]), ("1::2", [1, 3]), ("1:-1", [1, 2, 3]), ("::4", [0, 4]), ("-99:", [0, 1, 2, 3, 4]),
     ("1-3", [1, 2, 3]), ("3-9", [3, 4]), ("every 2nd", [1, 3]), ("every 5", [4])],
)
def test_a_slice_of_tokens_is_each_of_them_with_the_id_that_it_has_alone(token, places, card):
    text, identity = "Diana, Princess of", Identity("m", "f", "float32", "sdpa")
    assert len(card.token_ids(text)) == 5
    items = make_plan(text, layers=1, amplifiers=1, token=token).items(card, identity)
    assert [item.position for item in items] == places
    assert [item.token for item in items] == [card.decoded_tokens(text)[place] for place in places]
    alone = [make_plan(text, layers=1, amplifiers=1, token=place).items(card, identity)[0].id for place in places]
    assert [item.id for item in items] == alone


def test_what_looks_like_a_slice_is_a_token_where_there_is_one(card):
    [item] = make_plan("At 7: dinner", layers=1, amplifiers=1, token=":").items(card)
    assert item.token == ":"
    with pytest.raises(InputError, match="no tokens there"):
        make_plan("Titanic", token="50:").items(card)
    for token in ("-:", "1:2:0", "a:"):
        with pytest.raises(InputError, match="is not in"):
            make_plan("Titanic", token=token).items(card)
    with pytest.raises(InputError, match="a single token"):
        LabelSettings.of({"token": "-2:"})
